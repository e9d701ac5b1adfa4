"""Sampling against the model's own softmax, transformers' generate, and itself with other rows around."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from sawyer.errors import TrainingError
from sawyer.models import Completion, beam_search, decoding, policy_logprobs, sample
from sawyer.models.decoding import PaddedDecoder, new_decoder
from sawyer.models.fast import attention, cpu_features, kv_cache, prepacked_linear
from sawyer.models.fast.kv_cache import StaticCacheDecoder
from sawyer.text import pad_right

MODULE = import_module("sawyer.models.sampling")  # the package exports the function under this name
Speakers = Callable[[str], Any]
PROMPTS = [[50, 60, 70], [51], [52, 62, 72, 82, 92, 53, 63], [54, 64], [55, 65, 75, 85], [56]]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(speaker: Any, prompts: list[list[int]], *, seed: int = 3, new: int = 12, **named: Any) -> list[Completion]:
    named = {"temperature": 1.0, **named}
    return sample(
        speaker.model, prompts, prompt_encoder=speaker.prompt_encoder, max_new_tokens=new, generator=seeded(seed), **named
    )


def with_bias(speaker: Any, token: int, size: float) -> Any:
    """The speaker with one token made likelier."""
    with torch.no_grad():
        speaker.model.lm_head.bias[token] += size
    return speaker


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_are_those_of_training(speaker: Speakers, temperature: float) -> None:
    opened = with_bias(speaker("phi"), 0, 4.0)
    found = drawn(opened, PROMPTS, temperature=temperature)
    rows = [opened.prompt_encoder.answer_ids(p, c.ids) for p, c in zip(PROMPTS, found, strict=True)]
    batch = pad_right(rows, opened.prompt_encoder.pad_id)
    again = policy_logprobs(opened.model, batch, temperature=temperature).logprobs
    other = policy_logprobs(opened.model, batch, temperature=1.3).logprobs
    for r, completion in enumerate(found):
        assert len(completion.logprobs) == len(completion.ids)
        told = torch.tensor(completion.logprobs)
        assert torch.allclose(told, again[r][batch.loss_mask[r]], atol=1e-4)
        assert not torch.allclose(told, other[r][batch.loss_mask[r]], atol=1e-2)


def chi_square(found: list[int], shares: Tensor) -> float:
    """How many deviations Pearson's statistic lies above its mean, over tokens expected at least five times."""
    expected = shares * len(found)
    counted = torch.bincount(torch.tensor(found), minlength=len(shares)).double()
    usual = expected >= 5
    tail = torch.tensor([float(expected[~usual].sum())]).double()
    expected, seen = torch.cat([expected[usual], tail]), torch.cat([counted[usual], counted[~usual].sum().view(1)])
    kept = expected > 0
    statistic = float(((seen - expected)[kept] ** 2 / expected[kept]).sum())
    freedom = int(kept.sum()) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_come_as_often_as_the_softmax_says(speaker: Speakers, temperature: float) -> None:
    opened = speaker("gpt2")
    prompts = [[50, 60, 70], [51]] * 3000  # two lengths: half of the rows are padded
    found = drawn(opened, prompts, new=1, temperature=temperature, seed=5)
    for start, prompt in enumerate(prompts[:2]):
        logits = opened.model(torch.tensor([prompt])).logits[0, -1].detach().double()
        logits[opened.prompt_encoder.pad_id] = -torch.inf
        logits[opened.prompt_encoder.size :] = -torch.inf
        tokens = [completion.ids[0] for completion in found[start::2]]
        assert chi_square(tokens, torch.softmax(logits / temperature, 0)) < 4
        assert chi_square(tokens, torch.softmax(logits / temperature / 2, 0)) > 8
        assert chi_square(tokens, torch.softmax(logits.roll(1) / temperature, 0)) > 8


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_each_token_of_each_row_has_a_number_of_its_own(speaker: Speakers) -> None:
    """Where each token lies in its distribution says nothing of the next token's place, nor of the next row's."""
    opened = speaker("gpt2")
    found = [c for c in drawn(opened, [[50, 60]] * 3000, new=2) if len(c.ids) == 2]
    ids = torch.tensor([[50, 60, *completion.ids] for completion in found])
    with torch.no_grad():
        shares = torch.softmax(opened.model(ids[:, :3]).logits[:, 1:].double(), -1)
    below = shares.cumsum(-1) - shares / 2
    places = below.gather(-1, ids[:, 2:].unsqueeze(-1)).squeeze(-1)
    bound = 4 / math.sqrt(len(found))
    assert abs(correlation(places[:, 0], places[:, 1])) < bound
    assert abs(correlation(places[1:, 0], places[:-1, 0])) < bound
    assert abs(correlation(places[1:, 0], places[:-1, 1])) < bound
    assert abs(correlation(places[:, 0], places[:, 0].square())) > bound  # the bound can be broken


def test_which_token_a_number_means() -> None:
    """Shares 0 (a token that is never drawn), four times 1/4, 0: a number on a border opens the next token; no number means a
    share of 0."""
    logits = torch.tensor([5.0, 0.0, 0.0, 0.0, 0.0, 9.0])
    numbers = [0.0, 0.2, 0.25, 0.49, 0.5, 0.75, 0.99, 1 - 2**-53, 1.0]
    drawn, logprobs = MODULE._draw(
        logits.repeat(len(numbers), 1), torch.tensor(numbers, dtype=torch.float64), torch.tensor([0, 5])
    )
    assert drawn.tolist() == [1, 1, 2, 2, 3, 4, 4, 4, 4]
    assert torch.allclose(logprobs, torch.log_softmax(logits, 0)[drawn], atol=1e-6)
    greedy = torch.tensor([[0.0, 1e-8, 2e-8, -1.0, 9.0, 1.0]])  # two of them the same in fp32 once exponentiated
    assert MODULE._draw(greedy, None, torch.tensor([4, 5]))[0].tolist() == [2]


def test_an_answer_does_not_depend_on_its_neighbours(speaker: Speakers) -> None:
    opened = with_bias(speaker("phi"), 0, 3.0)
    found = drawn(opened, PROMPTS)
    others = [PROMPTS[0], *([[57, 67, 77, 87, 97, 58, 68, 78, 88]] * 5)]
    assert drawn(opened, others)[0].ids == found[0].ids
    for count in range(1, len(PROMPTS)):
        assert [c.ids for c in drawn(opened, PROMPTS[:count])] == [c.ids for c in found[:count]]
    same = drawn(opened, [PROMPTS[0]] * 6)
    assert same[0].ids == found[0].ids
    assert len({completion.ids for completion in same}) > 1  # each row has its own numbers


# Of 32 tokens of 16 units: keys and values in two layers, and twelve states; three copies of 288 logits; fp32.
A_ROW = 4 * ((2 * 2 + 12) * 16 * 32 + 3 * 288)


@pytest.mark.fast_path
@pytest.mark.parametrize(
    ("rows", "held", "parts"), [(4, 0, [4, 4, 4, 4, 2]), (4, 7 * A_ROW, [7, 7, 4]), (8, 7 * A_ROW, [8, 8, 2])]
)
def test_many_rows_are_sampled_in_parts(
    speaker: Speakers, monkeypatch: pytest.MonkeyPatch, rows: int, held: int, parts: list[int]
) -> None:
    opened = speaker("gpt2")
    whole = drawn(opened, PROMPTS * 3)
    seen: list[int] = []
    plain = MODULE.new_decoder
    monkeypatch.setattr(MODULE, "ROWS", rows)
    monkeypatch.setattr(MODULE, "CACHE_BYTES", held)
    monkeypatch.setattr(
        MODULE, "new_decoder", lambda model, asked, room: seen.append(len(asked)) or plain(model, asked, room=room)
    )
    assert [c.ids for c in drawn(opened, PROMPTS * 3)] == [c.ids for c in whole]
    assert seen == parts


@pytest.mark.fast_path
def test_rows_within_some_memory(speaker: Speakers) -> None:
    model = speaker("gpt2").model
    assert [kv_cache.rows_that_fit(3 * A_ROW + more, model, 32) for more in (-1, 0, A_ROW - 1)] == [2, 3, 3]
    assert kv_cache.rows_that_fit(3 * A_ROW, model, 33) == 3 * A_ROW // (A_ROW + 4 * (2 * 2 + 12) * 16 * 32) == 1
    assert kv_cache.rows_that_fit(2**40, speaker("gemma2").model, 1) == 0  # its cache is transformers' own


def test_the_seed_decides(speaker: Speakers) -> None:
    opened, state = speaker("gpt2"), torch.random.get_rng_state()
    assert drawn(opened, PROMPTS, seed=1) == drawn(opened, PROMPTS, seed=1) != drawn(opened, PROMPTS, seed=2)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("leave", [0.01, 0.25, 1.1])
def test_rows_that_leave(speaker: Speakers, monkeypatch: pytest.MonkeyPatch, leave: float) -> None:
    """Rows end at different steps; whether those that ended stay in the batch shows in nothing."""
    opened = with_bias(speaker("phi"), 0, 4.0)
    monkeypatch.setattr(MODULE, "LEAVE", leave)
    found = drawn(opened, PROMPTS * 2, new=20)
    assert len({len(completion.ids) for completion in found}) > 3
    assert any(completion.ended for completion in found) and any(not completion.ended for completion in found)
    for completion in found:
        assert completion.ended == (completion.ids[-1] == 0)
        assert 0 not in completion.ids[:-1]
        assert completion.ended or len(completion.ids) == 20
    monkeypatch.setattr(MODULE, "LEAVE", 0.5)
    assert [c.ids for c in drawn(opened, PROMPTS * 2, new=20)] == [c.ids for c in found]


@pytest.mark.fast_path
def test_rows_leave_in_numbers_that_come_again(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 a batch of thirty shrinks to multiples of four, filled up by rows that have ended, which shows in no answer but
    by rounding; in fp32 to any number."""
    opened, counts = with_bias(speaker("phi"), 0, 4.0), []
    monkeypatch.setattr(MODULE, "ROWS_OF", 4)
    monkeypatch.setattr(MODULE, "LEAVE", 0.01)
    took = StaticCacheDecoder.next_logits
    monkeypatch.setattr(
        StaticCacheDecoder, "next_logits", lambda rows, chosen: counts.append(len(chosen)) or took(rows, chosen)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = drawn(opened, PROMPTS * 5, new=20)
        filled, counts[:] = counts[:], []
        monkeypatch.setattr(MODULE, "ROWS_OF", 1)
        plain = drawn(opened, PROMPTS * 5, new=20)
    assert sum(mine.ids == theirs.ids for mine, theirs in zip(found, plain, strict=True)) > 25
    assert len(filled) == len(counts) and len(set(filled)) > 3
    assert all(has == 30 or has == -(-needs // 4) * 4 for has, needs in zip(filled, counts, strict=True))
    assert set(counts) - set(filled)
    monkeypatch.setattr(MODULE, "ROWS_OF", 4)
    counts.clear()
    drawn(opened, PROMPTS * 5, new=20)
    assert any(count % 4 for count in counts if count < 30)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gemma2"])
def test_greedy_is_transformers_greedy(speaker: Speakers, name: str) -> None:
    opened = speaker(name)
    found = drawn(opened, PROMPTS, greedy=True)
    never = [opened.prompt_encoder.pad_id, *range(opened.prompt_encoder.size, 288)]
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        out = opened.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, suppress_tokens=never
        )
        assert tuple(out[0, len(prompt) :].tolist()) == completion.ids
    assert [c.ids for c in drawn(opened, PROMPTS, greedy=True, temperature=0.3, seed=9)] == [c.ids for c in found]
    assert [c.ids for c in drawn(opened, PROMPTS)] != [c.ids for c in found]


@pytest.mark.parametrize("greedy", [True, False])
def test_pad_and_unknown_tokens_are_never_drawn(speaker: Speakers, greedy: bool) -> None:
    opened = speaker("phi")
    assert opened.prompt_encoder.size == 280  # the model has rows that no token means
    for token in (opened.prompt_encoder.pad_id, *range(opened.prompt_encoder.size, 288)):
        with_bias(opened, token, 12.0)
    found = drawn(opened, PROMPTS, greedy=greedy)
    ids = {i for completion in found for i in completion.ids}
    assert opened.prompt_encoder.pad_id not in ids and max(ids) < opened.prompt_encoder.size
    assert all(value < -5 for completion in found for value in completion.logprobs)  # over the whole vocabulary


def test_a_certain_end(speaker: Speakers) -> None:
    found = drawn(with_bias(speaker("phi"), 0, 200.0), PROMPTS)
    assert [(c.ids, c.ended) for c in found] == [((0,), True)] * len(PROMPTS)
    assert all(abs(c.logprobs[0]) < 1e-6 for c in found)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neo", "opt"])
def test_the_context_s_end(speaker: Speakers, name: str) -> None:
    """A short prompt beside a long one is padded; neither the padding nor a row that ended outgrows the context of 40."""
    opened = speaker(name)
    prompts = [[50, 60], list(range(60, 98)), list(range(60, 100)), list(range(60, 105)), [51, 61, 71], list(range(70, 90))]
    found = drawn(opened, prompts, new=33, seed=4)
    room = [33, 2, 0, 0, 33, 20]
    assert all(c.ended == (0 in c.ids) and (c.ended or len(c.ids) == limit) for c, limit in zip(found, room, strict=True))
    assert len(found[0].ids) == 33 > 40 - len(prompts[5])
    for i in (0, 1, 5):
        row = opened.prompt_encoder.answer_ids(prompts[i], found[i].ids)
        batch = pad_right([row], opened.prompt_encoder.pad_id)
        again = policy_logprobs(opened.model, batch).logprobs[0][batch.loss_mask[0]]
        assert torch.allclose(torch.tensor(found[i].logprobs), again, atol=1e-4)
    alone = drawn(opened, [prompts[0]], new=33, seed=4)
    assert alone[0].ids == found[0].ids


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("greedy", [False, True])
def test_logits_that_are_no_numbers(speaker: Speakers, bad: float, greedy: bool) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        drawn(with_bias(speaker("phi"), 70, bad), PROMPTS, greedy=greedy)
    # One impossible token is no fault.
    drawn(with_bias(speaker("phi"), 70, -math.inf), PROMPTS, greedy=greedy)


def test_nothing_to_sample(speaker: Speakers) -> None:
    assert drawn(speaker("gpt2"), []) == []


def test_poisoned_padding(speaker: Speakers) -> None:
    opened = speaker("llama")
    whole = drawn(opened, PROMPTS)
    with torch.no_grad():
        opened.model.get_input_embeddings().weight[opened.prompt_encoder.pad_id] = torch.nan
    assert drawn(opened, PROMPTS) == whole
    padded = PaddedDecoder(opened.model, [[50, 60], [51]])
    assert padded.ids.tolist() == [[50, 60], [51, 51]] and padded.mask.tolist() == [[True, True], [False, True]]


@pytest.mark.fast_path
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "phi"])
def test_both_ways_of_decoding_say_the_same(speaker: Speakers, name: str) -> None:
    """Without padding and into room for the answers, or padded into transformers' own cache; equal prompts, rows that leave."""
    model = speaker(name).model
    prompts = [[50, 60, 70], [51], [50, 60, 70], [52, 62, 72, 82, 92]]
    roomy, padded = new_decoder(model, prompts, room=4), PaddedDecoder(model, prompts)
    assert type(roomy) is StaticCacheDecoder and len(roomy.prompts) == 3
    assert torch.allclose(roomy.prompt_logits(), padded.prompt_logits(), atol=1e-4)
    for step, kept in enumerate(([0, 1, 2, 3], [0, 2, 3], [1, 2])):
        rows = torch.tensor(kept)
        roomy.keep(rows)
        padded.keep(rows)
        chosen = torch.arange(60 + step, 60 + step + len(kept))
        mine, theirs = roomy.next_logits(chosen), padded.next_logits(chosen)
        assert torch.allclose(mine, theirs, atol=1e-4) and not torch.allclose(mine, theirs.roll(1, 0), atol=1e-2)
        assert roomy.width == padded.width


@pytest.mark.fast_path
def test_prompts_that_are_filled_up_to_a_size_say_the_same(speaker: Speakers) -> None:
    """In bf16 sixty-four tokens are read in the place of nine, and the cache holds the nine."""
    model, prompts = speaker("gpt2").model, [[50, 60, 70], [51], [52, 62, 72, 82, 92]]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        roomy, padded = new_decoder(model, prompts, room=4), PaddedDecoder(model, prompts)
        assert type(roomy) is StaticCacheDecoder
        for chosen in (None, torch.tensor([60, 61, 62]), torch.tensor([63, 64, 65])):
            mine, theirs = (rows.prompt_logits() if chosen is None else rows.next_logits(chosen) for rows in (roomy, padded))
            assert torch.allclose(mine, theirs, atol=0.1) and not torch.allclose(mine, theirs.roll(1, 0), atol=0.2)


@pytest.mark.fast_path
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "phi"])
@pytest.mark.parametrize("by_rows", [False, True])
def test_whatever_the_processor_multiplies(
    speaker: Speakers, monkeypatch: pytest.MonkeyPatch, name: str, by_rows: bool
) -> None:
    """In bf16, by products or by the fused kernel, past where room is made anew, after rows have left: what fp32 says."""
    monkeypatch.setattr(cpu_features, "multiplies_bf16_by_rows", lambda: by_rows)
    monkeypatch.setattr(kv_cache, "ROOM", 4)
    model, prompts = speaker(name).model, [[50, 60, 70], [51], [52, 62, 72, 82, 92]]
    exact = PaddedDecoder(model, prompts)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            roomy = new_decoder(model, prompts, room=9)
            found = [roomy.prompt_logits()]
        known = [exact.prompt_logits()]
        assert isinstance(roomy, StaticCacheDecoder) and roomy.by_products == by_rows
        for step in range(9):
            if step == 6:
                for rows in (roomy, exact):
                    rows.keep(torch.tensor([2, 0]))
            chosen = torch.arange(3 if step < 6 else 2) + 60 + step
            with torch.autocast("cpu", torch.bfloat16):
                found.append(roomy.next_logits(chosen))
            known.append(exact.next_logits(chosen))
    near = 0.02 * max(float(logits.abs().max()) for logits in known)
    for mine, theirs in zip(found, known, strict=True):
        assert torch.allclose(mine, theirs, atol=near) and not torch.allclose(mine, theirs.roll(1, 0), atol=2 * near)


@pytest.mark.fast_path
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "phi"])
@pytest.mark.parametrize("narrow", [0, 10**9])
def test_narrow_models_attend_by_products_in_fp32(
    speaker: Speakers, monkeypatch: pytest.MonkeyPatch, name: str, narrow: int
) -> None:
    """Either way what transformers' own cache says, past where room is made anew, after rows have left."""
    monkeypatch.setattr(attention, "NARROW", narrow)
    monkeypatch.setattr(kv_cache, "ROOM", 4)
    model, prompts = speaker(name).model, [[50, 60, 70], [51], [52, 62, 72, 82, 92]]
    with torch.no_grad():
        roomy, padded = new_decoder(model, prompts, room=9), PaddedDecoder(model, prompts)
        assert isinstance(roomy, StaticCacheDecoder) and roomy.by_products == (narrow > 0)
        assert torch.allclose(roomy.prompt_logits(), padded.prompt_logits(), atol=1e-4)
        for step in range(9):
            if step == 6:
                for rows in (roomy, padded):
                    rows.keep(torch.tensor([2, 0]))
            chosen = torch.arange(3 if step < 6 else 2) + 60 + step
            mine, theirs = roomy.next_logits(chosen), padded.next_logits(chosen)
            assert torch.allclose(mine, theirs, atol=1e-4) and not torch.allclose(mine, theirs.roll(1, 0), atol=1e-2)


@pytest.mark.parametrize("name", ["gpt2", "phi"])
@pytest.mark.parametrize(("prepacked", "by_rows"), [(False, False), (True, False), (True, True)])
def test_in_bf16_logprobs_are_those_of_training(
    speaker: Speakers, monkeypatch: pytest.MonkeyPatch, name: str, prepacked: bool, by_rows: bool
) -> None:
    """To rounding, wherever weights lie and by whatever kernel attention goes."""
    opened = speaker(name)
    monkeypatch.setattr(cpu_features, "multiplies_bf16_in_blocks", lambda: prepacked)
    monkeypatch.setattr(cpu_features, "multiplies_bf16_by_rows", lambda: by_rows)
    with torch.autocast("cpu", torch.bfloat16):
        found = drawn(opened, PROMPTS, new=prepacked_linear.MIN_PASSES)
    rows = [opened.prompt_encoder.answer_ids(p, c.ids) for p, c in zip(PROMPTS, found, strict=True)]
    batch = pad_right(rows, opened.prompt_encoder.pad_id)
    known = policy_logprobs(opened.model, batch).logprobs[batch.loss_mask]
    told = torch.tensor([value for completion in found for value in completion.logprobs])
    assert len(told) > 20
    near = (told - known).abs().mean()
    assert near < 0.03 < (told - known.roll(1)).abs().mean()


@pytest.mark.fast_path
@pytest.mark.parametrize("precision", ["fp32"], indirect=True)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_in_fp32_answers_are_the_same_wherever_weights_lie(
    speaker: Speakers, monkeypatch: pytest.MonkeyPatch, name: str, laid_out: list[Any]
) -> None:
    opened = speaker(name)
    found = drawn(opened, PROMPTS, new=prepacked_linear.MIN_PASSES)
    assert len(laid_out) >= 9
    laid_out.clear()
    monkeypatch.setattr(cpu_features, "multiplies_fp32_in_blocks", lambda: False)
    known = drawn(opened, PROMPTS, new=prepacked_linear.MIN_PASSES)
    assert laid_out == []
    assert [completion.ids for completion in found] == [completion.ids for completion in known]
    for mine, theirs in zip(found, known, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


@pytest.mark.fast_path
@pytest.mark.parametrize("new", [prepacked_linear.MIN_PASSES, prepacked_linear.MIN_PASSES - 1])
@pytest.mark.usefixtures("laid_out")
def test_weights_lie_in_blocks_while_answers_are_written(speaker: Speakers, precision: str, new: int) -> None:
    """Where they pay, for sampling and for beam search, and not a moment longer."""
    opened, seen = speaker("gpt2"), []
    opened.model.transformer.register_forward_hook(lambda *_: seen.append("forward" in vars(opened.model.lm_head)))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for way, named in ((sample, {"temperature": 1.0}), (beam_search, {})):
            way(
                opened.model,
                PROMPTS[:2],
                prompt_encoder=opened.prompt_encoder,
                max_new_tokens=new,
                generator=seeded(4),
                **named,
            )
            assert seen.pop() == (new >= prepacked_linear.MIN_PASSES)
            assert "forward" not in vars(opened.model.lm_head)
            seen.clear()


@pytest.mark.parametrize("name", ["gemma2", "neo"])
def test_what_cannot_be_packed_is_padded(speaker: Speakers, name: str) -> None:
    assert type(new_decoder(speaker(name).model, PROMPTS, room=4)) is PaddedDecoder


def test_the_running_sum_over_blocks(generator: torch.Generator) -> None:
    """Against one float64 sum over everything, over a vocabulary of several blocks and a rest."""
    logits = 4 * torch.randn(64, 3 * 256 + 9, generator=generator)
    numbers = torch.rand(64, generator=generator, dtype=torch.float64)
    shares = torch.softmax(logits, 1)
    whole = shares.double().cumsum(1)
    expected = torch.searchsorted(whole, numbers.unsqueeze(1) * whole[:, -1:], right=True).squeeze(1)
    assert MODULE._inverse(shares, MODULE._running_sums(shares), numbers).tolist() == expected.tolist()
    assert MODULE._inverse(shares, MODULE._running_sums(shares), 1 - numbers).tolist() != expected.tolist()


def beams(opened: Any, prompts: list[list[int]], new: int) -> list[tuple[int, ...]]:
    """transformers' own beams for prompts padded on the left by hand."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[1] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = opened.model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        temperature=0.5,
        top_k=10,
        num_beams=5,
        no_repeat_ngram_size=2,
        max_new_tokens=new,
        suppress_tokens=[opened.prompt_encoder.pad_id, *range(opened.prompt_encoder.size, 288)],
    )
    return [tuple(row) for row in out[:, longest:].tolist()]


def test_deliberate_is_transformers_generate(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = speaker("gpt2")
    monkeypatch.setattr(MODULE, "BEAM_PROMPTS", 2)
    prompts, context = [*PROMPTS[:5], list(range(60, 95))], opened.prompt_encoder.context
    state = torch.random.get_rng_state()
    found = beam_search(opened.model, prompts, prompt_encoder=opened.prompt_encoder, max_new_tokens=10, generator=seeded(4))
    assert torch.equal(state, torch.random.get_rng_state())
    seeds, told = seeded(4), dict[int, tuple[int, ...]]()
    for together in ([1, 3], [0, 4], [2], [5]):  # of one room by length, two and two; the last has less room than the others
        new = min(10, context - len(prompts[together[-1]]))
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=seeds)))
            told |= zip(together, beams(opened, [prompts[i] for i in together], new), strict=True)
    assert [c.ids for c in found] == [told[i] for i in range(6)]
    for prompt, completion in zip(prompts, found, strict=True):
        pairs = list(zip([*prompt, *completion.ids], [*prompt, *completion.ids][1:], strict=False))
        assert len(pairs) == len(set(pairs))
        assert completion.logprobs == () and not completion.ended
        assert len(completion.ids) == min(10, context - len(prompt))


def test_where_chance_has_no_say_beams_answer_together_as_alone(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = speaker("gpt2")
    with torch.no_grad():
        opened.model.lm_head.weight *= 200.0  # the likeliest token of a state is as good as sure
    asked = {"prompt_encoder": opened.prompt_encoder, "max_new_tokens": 8}
    found = beam_search(opened.model, PROMPTS, **asked, generator=seeded(4))
    assert len({c.ids for c in found}) > 3
    for prompt, completion in zip(PROMPTS, found, strict=True):
        assert beam_search(opened.model, [prompt], **asked, generator=seeded(9)) == [completion]
    # Told without the mask, the padding would be read.
    whole = MODULE.pad_left
    monkeypatch.setattr(MODULE, "pad_left", lambda rows, pad: replace(whole(rows, pad), mask=whole(rows, pad).ids > -1))
    assert beam_search(opened.model, PROMPTS, **asked, generator=seeded(4)) != found


def test_deliberate_never_says_the_pad_or_an_unknown_token(speaker: Speakers) -> None:
    opened = speaker("phi")
    for token in (opened.prompt_encoder.pad_id, *range(opened.prompt_encoder.size, 288)):
        with_bias(opened, token, 12.0)
    found = beam_search(opened.model, PROMPTS[:2], prompt_encoder=opened.prompt_encoder, max_new_tokens=8, generator=seeded(4))
    ids = {i for completion in found for i in completion.ids}
    assert opened.prompt_encoder.pad_id not in ids and max(ids) < opened.prompt_encoder.size
    assert all(completion.ended or len(completion.ids) == 8 for completion in found)


def test_deliberate_ends(speaker: Speakers) -> None:
    opened = with_bias(speaker("phi"), 0, 200.0)
    prompts = [[50, 60], list(range(60, 98)), list(range(60, 100))]
    found = beam_search(opened.model, prompts, prompt_encoder=opened.prompt_encoder, max_new_tokens=5, generator=seeded(4))
    assert [(c.ids, c.ended) for c in found] == [((0,), True), ((0,), True), ((), False)]
    with_bias(opened, 0, -400.0)
    found = beam_search(opened.model, prompts, prompt_encoder=opened.prompt_encoder, max_new_tokens=5, generator=seeded(4))
    assert [(len(c.ids), c.ended) for c in found] == [(5, False), (2, False), (0, False)]


def test_of_prompts_answered_together_one_may_end_before_the_other(speaker: Speakers) -> None:
    """What fills up the shorter answer belongs to nobody."""
    opened = with_bias(speaker("phi"), 0, 2.0)
    found = beam_search(
        opened.model,
        [[50 + i, 60 + i] for i in range(8)],
        prompt_encoder=opened.prompt_encoder,
        max_new_tokens=6,
        generator=seeded(4),
    )
    lengths = {len(c.ids) for c in found if c.ended}
    assert len(lengths) > 1 and min(lengths) < 6 and not all(c.ended for c in found), [c.ids for c in found]
    for completion in found:
        assert opened.prompt_encoder.pad_id not in completion.ids and completion.ids.count(0) == completion.ended
        assert completion.ids[-1] == 0 if completion.ended else len(completion.ids) == 6


def test_the_trial_of_a_cache_is_quiet(speaker: Speakers, caplog: pytest.LogCaptureFixture) -> None:
    """Its ids may begin with the pad token's: transformers would warn a user who can do nothing about it."""
    from transformers.utils import logging

    network = speaker("gpt2").model
    network.config.pad_token_id = 1  # the trial's first id
    decoding._exact_caches.pop(network, None)
    logging.warning_once.cache_clear()
    assert decoding.caches_exactly(network)
    assert "attention_mask" not in caplog.text
