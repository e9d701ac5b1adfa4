"""Reward models: transformers' own score of the same text, the head's beginning, the order of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from sawyer.models import RewardScorer, ValueNetwork, load_tokenizer, new_reward, read_extra, save_model, sequence_logits
from sawyer.models.fast import packing
from sawyer.records import prompt_of
from sawyer.text import PromptEncoder, pad_right

Make = Callable[[str], Path]
PROMPTS = [prompt_of(text) for text in ("Up?", "What is the opposite?", "", "Where?", "Up?")]
ANSWERS = ["Down.", "", "Down, the opposite", "the opposite of up is down.", "Up."]
TEXTS = [
    "Question: Up?\nResponse: Down.<|endoftext|>",
    "Question: What is the opposite?\nResponse:<|endoftext|>",
    "Question: \nResponse: Down, the opposite<|endoftext|>",
    "Question: Where?\nResponse: the opposite of up is down.<|endoftext|>",
    "Question: Up?\nResponse: Up.<|endoftext|>",
]


@pytest.fixture
def saved(make: Make, tmp_path: Path) -> Callable[..., Path]:
    """`saved("gpt2", reward_shift=1.0)`: a reward model's folder."""

    def save(name: str, **extra: Any) -> Path:
        tokenizer = load_tokenizer(make(name))
        save_model(tmp_path, new_reward(make(name), tokenizer, seed=3), tokenizer, extra)
        return tmp_path

    return save


def transformers_scores(folder: Path, scorer: RewardScorer) -> tuple[list[float], list[float]]:
    """(each row alone, all rows padded in one batch), by a model that transformers loads and the templated text."""
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, padding_side="right")
    # Rows' ids are the codec's: tokenised in one piece the text may fall into other tokens.
    rows = [scorer.prompt_encoder.answer(prompt, answer).ids for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert [tokenizer.decode(ids) for ids in rows] == TEXTS
    padded = tokenizer.pad({"input_ids": [list(ids) for ids in rows]}, return_tensors="pt")
    with torch.no_grad():
        alone = [float(model(torch.tensor([ids])).logits) for ids in rows]
        return alone, model(**padded).logits[:, 0].tolist()


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_transformers_gives_the_same_scores(saved: Callable[..., Path], name: str) -> None:
    folder = saved(name)
    scorer = RewardScorer.load(folder)
    found = scorer(PROMPTS, ANSWERS)
    alone, together = transformers_scores(folder, scorer)
    assert found == pytest.approx(alone, abs=1e-5)
    assert found == pytest.approx(together, abs=1e-5)
    assert len({round(score, 3) for score in found}) == 5


def test_scores_of_other_tokens_differ(saved: Callable[..., Path]) -> None:
    """Read at the token before the last one, or at the padding, the score is another: the comparison above can fail."""
    scorer = RewardScorer.load(saved("gpt2"))
    rows = [scorer.prompt_encoder.answer(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    model: Any = scorer.model
    batch = pad_right(rows, scorer.prompt_encoder.pad_id)
    with torch.no_grad():
        everywhere = model.score(model.transformer(input_ids=batch.ids).last_hidden_state)[..., 0]
    last = batch.mask.sum(1) - 1
    right = torch.tensor(scorer(PROMPTS, ANSWERS))
    rows_at = torch.arange(len(rows))
    assert torch.allclose(everywhere[rows_at, last], right, atol=1e-5)
    assert not torch.isclose(everywhere[rows_at, last - 1], right, atol=1e-2).any()
    padded = last < batch.ids.shape[1] - 1
    assert not torch.isclose(everywhere[rows_at, -1], right, atol=1e-2)[padded].any()


def test_a_folder_may_be_named_by_its_path_as_text(saved: Callable[..., Path]) -> None:
    folder = saved("gpt2", reward_shift=0.5)
    assert RewardScorer.load(str(folder))(PROMPTS, ANSWERS) == RewardScorer.load(folder)(PROMPTS, ANSWERS)
    assert read_extra(str(folder)) == {"reward_shift": 0.5}


def test_shift_and_scale(saved: Callable[..., Path]) -> None:
    folder = saved("gpt2", reward_shift=2.0, reward_scale=0.5, loss="squared")
    scorer = RewardScorer.load(folder)
    alone, _ = transformers_scores(folder, scorer)
    assert scorer(PROMPTS, ANSWERS) == pytest.approx([(raw - 2.0) / 0.5 for raw in alone], abs=1e-4)
    assert read_extra(folder) == {"reward_shift": 2.0, "reward_scale": 0.5, "loss": "squared"}


def test_answers_that_are_cut_are_counted(saved: Callable[..., Path]) -> None:
    scorer = RewardScorer.load(saved("gpt2"))
    scorer([prompt_of("Up?")] * 2, ["Down.", "Up."])
    assert scorer.cut == 0
    scorer([prompt_of("Up?")] * 3, ["Down.", "word " * 100, "word " * 200])
    scorer([prompt_of("Up?")], ["word " * 100])
    assert scorer.cut == 3


def test_a_reward_model_from_elsewhere(saved: Callable[..., Path]) -> None:
    scorer = RewardScorer.load(saved("gpt2"))
    assert (scorer.shift, scorer.scale) == (0.0, 1.0)


def test_order_and_batches_change_nothing(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = RewardScorer.load(saved("gpt2"))
    whole = scorer(PROMPTS, ANSWERS)
    assert scorer(PROMPTS[::-1], ANSWERS[::-1])[::-1] == pytest.approx(whole, abs=1e-6)
    for budget in (1, 60, 100):
        monkeypatch.setattr("sawyer.models.scoring.TOKEN_BUDGET", budget)
        assert scorer(PROMPTS, ANSWERS) == pytest.approx(whole, abs=1e-6)
    assert scorer([], []) == []
    with pytest.raises(ValueError, match="shorter"):
        scorer(PROMPTS, ANSWERS[:2])


def test_an_answer_that_comes_several_times_is_read_once(saved: Callable[..., Path]) -> None:
    scorer = RewardScorer.load(saved("gpt2"))
    prompts, answers = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]], [ANSWERS[0], ANSWERS[0], ANSWERS[0], "word " * 100]
    expected = [scorer([prompt], [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)]
    scorer.cut, read = 0, []
    handle = scorer.model.base_model.register_forward_hook(lambda _module, _inputs, out: read.append(out.last_hidden_state))
    assert scorer([*prompts, prompts[3]], [*answers, answers[3]]) == pytest.approx([*expected, expected[3]], abs=1e-6)
    handle.remove()
    longest = max(
        len(scorer.prompt_encoder.answer(prompt, answer).ids) for prompt, answer in zip(prompts, answers, strict=True)
    )
    assert 0 < sum(states.shape[:2].numel() for states in read) <= 3 * longest
    assert scorer.cut == 2


@pytest.mark.fast_path
def test_a_prompt_is_read_once_for_all_its_answers(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """By length alone the two prompts' answers would be read in turn, and prompts again with each part."""
    monkeypatch.setitem(packing.CALL_COST, "cpu", 0.0)  # sharing pays however small the network is
    scorer = RewardScorer.load(saved("gpt2"))
    prompts, answers = [PROMPTS[0], PROMPTS[1]] * 3, ["a", "a b", "a b c d", "", "a b c", "a b c d e"]
    rows = [scorer.prompt_encoder.answer(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    alone = [scorer([prompt], [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)]
    shared = sum(rows[i].prompt_length for i in (0, 1))
    monkeypatch.setattr("sawyer.models.scoring.TOKEN_BUDGET", 3 * max(len(row.ids) for row in rows[1::2]))
    read: list[int] = []
    handle = scorer.model.base_model.register_forward_hook(lambda _module, _given, out: read.append(out[0].shape[1]))
    assert scorer(prompts, answers) == pytest.approx(alone, abs=1e-6)
    handle.remove()
    assert len(read) == 2 and sum(read) == shared + sum(len(row.ids) - row.prompt_length for row in rows)


def test_poisoned_padding(saved: Callable[..., Path]) -> None:
    scorer = RewardScorer.load(saved("gpt2"))
    whole = scorer(PROMPTS, ANSWERS)
    model: Any = scorer.model
    with torch.no_grad():
        model.get_input_embeddings().weight[scorer.prompt_encoder.pad_id] = torch.nan
    assert scorer(PROMPTS, ANSWERS) == whole


def test_the_head_begins_small_and_seeded(make: Make) -> None:
    tokenizer = load_tokenizer(make("opt"))
    models: list[Any] = [new_reward(make("opt"), tokenizer, seed=seed) for seed in range(24)]
    drawn = torch.cat([model.score.weight.detach().flatten() for model in models])
    assert drawn.shape == (24 * 16,)
    # The mean square of n normal numbers lies within 4 sqrt(2 / n) of 1, in units of the variance.
    bound = 4 * (2 / len(drawn)) ** 0.5
    assert float(drawn.square().mean()) * 17**2 == pytest.approx(1, abs=bound)
    assert all(abs((other * 17) ** 2 - 1) > bound for other in (0.02, 17**-0.5))  # transformers' own; Stiennon et al.'s
    assert all(model.score.bias is None or not model.score.bias.any() for model in models)
    again: Any = new_reward(make("opt"), tokenizer, seed=5)
    assert torch.equal(again.score.weight, models[5].score.weight)
    assert not torch.equal(models[5].score.weight, models[6].score.weight)


def test_the_trunk_is_the_source_s(make: Make, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make("gpt2"))
    theirs = hf.AutoModelForCausalLM.from_pretrained(make("gpt2")).transformer.state_dict()
    reward: Any = new_reward(make("gpt2"), tokenizer, seed=0)
    save_model(tmp_path, reward, tokenizer, {})
    for trunk in (reward.transformer, ValueNetwork.from_reward(tmp_path).trunk, ValueNetwork.from_policy(make("gpt2")).trunk):
        ours = trunk.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_values_begin_at_zero_and_can_be_learnt(make: Make, saved: Callable[..., Path]) -> None:
    network = ValueNetwork.from_reward(saved("llama"))
    prompt_encoder = PromptEncoder(tokenizer=load_tokenizer(make("llama")), context=40)
    batch = pad_right(
        [prompt_encoder.answer(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)], prompt_encoder.pad_id
    )
    values = network(batch.ids)
    assert torch.equal(values, torch.zeros(batch.ids.shape))
    (values - 1).square().mean().backward()
    assert float(network.head.weight.grad.abs().max()) > 0  # type: ignore[union-attr]


def test_sequence_scores_are_fp32_and_differentiable(saved: Callable[..., Path]) -> None:
    scorer = RewardScorer.load(saved("gpt2"))
    model: Any = scorer.model
    batch = pad_right(
        [scorer.prompt_encoder.answer(PROMPTS[0], "Down."), scorer.prompt_encoder.answer(PROMPTS[1], "")],
        scorer.prompt_encoder.pad_id,
    )
    scores = sequence_logits(model, batch)[:, 0]
    assert scores.shape == (2,) and scores.dtype == torch.float32
    scores.sum().backward()
    assert float(model.get_input_embeddings().weight.grad[scorer.prompt_encoder.pad_id].abs().max()) == 0.0
