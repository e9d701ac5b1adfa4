"""Rows end to end against rows padded and rows alone: states, gradients, and which architectures can."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from sawyer.models.fast import attention, packing
from sawyer.models.fast.packing import packing_problem, packs_exactly, real_states
from sawyer.models.fast.packing_layout import PackedLayout, PrefixGroup
from sawyer.models.forward import before_trained
from sawyer.models.network_parts import trunk_of
from sawyer.text import Batch, Row, pad_right

Speakers = Callable[[str], Any]


def row(*ids: int) -> Row:
    return Row(ids=ids, loss_mask=(True,) * len(ids), prompt_length=1, cut=False)


ROWS = [row(50, 60, 70, 80, 90, 0), row(51, 61, 0), row(1, 52, 62, 0, 72, 1, 82, 92, 0), row(53, 63, 71)]
BATCH = pad_right(ROWS, 1)


@pytest.fixture(params=["packed", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Models this small are never worth the calls; here they are either always or never."""
    monkeypatch.setitem(packing.CALL_COST, "cpu", 0.0 if request.param == "packed" else float("inf"))
    return str(request.param)


def alone(trunk: Any) -> Tensor:
    """Each row by itself, in float64, by the model's own attention."""
    exact = deepcopy(trunk).double()
    return torch.cat([exact(input_ids=torch.tensor([r.ids]), use_cache=False).last_hidden_state[0] for r in ROWS])


def test_the_trial_keeps_no_network(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers keeps the function by which the trial listens, and a trunk's problem is remembered."""
    monkeypatch.delenv("SAWYER_FAST", raising=False)
    model = speaker("gpt2").model
    assert packing_problem(trunk_of(model)) == ""
    last_layer = weakref.ref(trunk_of(model).h[-1].mlp)
    del model
    gc.collect()
    assert last_layer() is None


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "neox", "phi", "opt", "gemma2", "neo"])
def test_states_are_those_of_rows_alone(speaker: Speakers, way: str, name: str) -> None:
    trunk = trunk_of(speaker(name).model)
    before = trunk.config._attn_implementation
    found = real_states(trunk, BATCH)
    assert torch.allclose(found.double(), alone(trunk), atol=1e-4)
    assert trunk.config._attn_implementation == before


def test_gradients_are_those_of_rows_alone(speaker: Speakers, way: str) -> None:
    trunk = trunk_of(speaker("llama").model)
    aim = torch.linspace(-1, 1, 21 * 16).view(21, 16)
    (real_states(trunk, BATCH) * aim).sum().backward()
    exact = deepcopy(trunk).double()
    exact.zero_grad()
    parts = [exact(input_ids=torch.tensor([r.ids]), use_cache=False).last_hidden_state[0] for r in ROWS]
    (torch.cat(parts) * aim.double()).sum().backward()
    for mine, theirs in zip(trunk.parameters(), exact.parameters(), strict=True):
        assert torch.allclose(mine.grad.double(), theirs.grad, atol=1e-3, rtol=1e-4)


def test_a_row_does_not_see_its_neighbours(speaker: Speakers, way: str) -> None:
    """One long row of the same tokens, which is what forgetting the borders would give, is something else."""
    trunk = trunk_of(speaker("gpt2").model)
    found = real_states(trunk, BATCH)
    joined = pad_right([row(*(token for r in ROWS for token in r.ids))], 1)
    assert torch.allclose(found[:6], real_states(trunk, joined)[:6], atol=1e-4)
    assert not torch.allclose(found[6:], real_states(trunk, joined)[6:], atol=1e-1)


@pytest.mark.fast_path
def test_sizes_come_again_where_each_new_one_costs(speaker: Speakers, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 multiples of 8 here, filled up by what nobody sees: states and gradients are as without; none are in fp32."""
    trunk, sizes = trunk_of(speaker("gpt2").model), []
    packs_exactly(trunk)
    trunk.register_forward_pre_hook(lambda _, __, named: sizes.append(named["input_ids"].shape), with_kwargs=True)
    aim = torch.linspace(-1, 1, 21 * 16).view(21, 16)

    def read() -> list[Tensor]:
        trunk.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            states = real_states(trunk, BATCH)
        (states.float() * aim).sum().backward()
        return [states.detach().float(), *(weight.grad for weight in trunk.parameters())]

    monkeypatch.setattr(packing, "MULTIPLE", 8)
    filled = read()
    monkeypatch.setattr(packing, "MULTIPLE", 1)
    plain = read()
    real_states(trunk, BATCH)
    count = {"packed": 21, "padded": 36}[way]
    assert sizes == [(1, -(-count // 8) * 8), (1, count), (1, count)]
    for mine, theirs in zip(filled, plain, strict=True):
        assert torch.allclose(mine, theirs, atol=0.02 * float(theirs.abs().max()))


@pytest.mark.fast_path
@pytest.mark.parametrize(
    ("name", "can"), [("gpt2", True), ("llama", True), ("opt", True), ("phi", True), ("gemma2", False), ("neo", False)]
)
def test_which_architectures_can(speaker: Speakers, name: str, can: bool) -> None:
    """Gemma 2 has sliding windows and caps, GPT-Neo an attention of its own."""
    trunk = trunk_of(speaker(name).model)
    assert packs_exactly(trunk) is can


def test_when_it_pays(speaker: Speakers) -> None:
    trunk = trunk_of(speaker("gpt2").model)

    def pays(batch: Batch) -> bool:
        return packing._pays(trunk, batch, packing._pack(batch))

    assert not pays(BATCH)  # 16 hidden units: the calls cost more than the padding
    trunk.config.n_embd = 768
    assert pays(BATCH)
    assert not pays(pad_right([ROWS[0]] * 3, 1))  # no padding, nothing to save
    assert pays(pad_right(ANSWERS[:1] * 3, 1))  # no padding either, but one prompt instead of three


# One prompt with several answers


def answer(prompt: tuple[int, ...], *response: int) -> Row:
    marks = (False,) * len(prompt) + (True,) * len(response)
    return Row(ids=prompt + response, loss_mask=marks, prompt_length=len(prompt), cut=False)


LONG, SHORT = (50, 60, 70, 80, 90), (51, 61)
ANSWERS = [
    answer(LONG, 52, 62, 0),
    answer(SHORT, 53, 0),
    answer(LONG, 54, 0),
    answer((*SHORT, 70), 53, 0),  # begins like another prompt and is none
    answer(LONG, 55, 65, 75, 85, 0),
    answer(SHORT, 56, 66, 0),
    answer(LONG),  # cut before its answer: the prompt and nothing else
    answer((57,), 0),
]
WAYS = ["rows", "kernel"]


@pytest.fixture(params=WAYS)
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Prompts are shared whatever it costs; attention row by row as other devices have it, or on a processor."""
    monkeypatch.setitem(packing.CALL_COST, "cpu", 0.0)
    monkeypatch.setattr(attention, "_kernel_fits", lambda *_: request.param == "kernel")
    return str(request.param)


@pytest.mark.fast_path
@pytest.mark.parametrize(("name", "close"), [("gpt2", 1e-10), ("opt", 1e-10), ("llama", 1e-5)])
def test_answers_that_share_their_prompt_are_what_each_is_alone(
    speaker: Speakers, shared: str, name: str, close: float
) -> None:
    """In float64 (Llama's norms are fp32 inside) against transformers' own attention on each row by itself: states, and every
    weight's gradient."""
    trunk = trunk_of(speaker(name).model).double()
    plain = deepcopy(trunk)
    aim = torch.linspace(-1, 1, sum(len(r.ids) for r in ANSWERS) * 16, dtype=torch.float64).view(-1, 16)
    read: list[int] = []
    assert packs_exactly(trunk)
    hook = trunk.register_forward_pre_hook(lambda _, __, n: read.append(n["input_ids"].shape[1]), with_kwargs=True)
    found = real_states(trunk, pad_right(ANSWERS, 1))
    hook.remove()
    assert read == [5 + (3 + 2 + 5) + 2 + (2 + 3) + 5 + 5 + 2]
    exact = torch.cat([plain(input_ids=torch.tensor([r.ids]), use_cache=False).last_hidden_state[0] for r in ANSWERS])
    assert torch.allclose(found, exact, atol=close)
    (found * aim).sum().backward()
    (exact * aim).sum().backward()
    for mine, theirs in zip(trunk.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=close, rtol=close)


def test_an_answer_does_not_see_those_before_it(speaker: Speakers, shared: str) -> None:
    """Answers one after another, which is what forgetting their borders would give, are something else."""
    trunk = trunk_of(speaker("gpt2").model)
    found = real_states(trunk, pad_right([ANSWERS[0], ANSWERS[2]], 1))
    joined = real_states(trunk, pad_right([answer(LONG, 52, 62, 0, 54, 0)], 1))
    assert torch.allclose(found[:8], joined[:8], atol=1e-5)
    assert not torch.allclose(found[13:], joined[8:], atol=1e-2)


@pytest.mark.parametrize("read", [2, 1])
def test_bf16_attention_is_rounded_once(read: int) -> None:
    """What comes back for bf16 is the fp32 answer rounded, gradients too: the sums are made in fp32."""
    torch.manual_seed(0)
    groups = (
        PrefixGroup(prefix=5, suffixes=(3, 4)),
        PrefixGroup(prefix=0, suffixes=(6,)),
        PrefixGroup(prefix=0, suffixes=(6,)),
    )
    given = [torch.randn(heads, 24, 8).bfloat16().requires_grad_() for heads in (2, read, read)]
    exact = [x.detach().float().requires_grad_() for x in given]
    aim = torch.randn(24, 2, 8)
    whole = attention._KernelAttention.apply(*exact, groups, 0.3)
    found = attention._KernelAttention.apply(*given, groups, 0.3)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), whole, atol=2e-2, rtol=1e-2)
    (found.float() * aim).sum().backward()
    (whole * aim).sum().backward()
    for mine, theirs in zip(given, exact, strict=True):
        assert torch.allclose(mine.grad.float(), theirs.grad, atol=3e-2, rtol=2e-2)


def test_rows_of_about_one_length_are_padded_together() -> None:
    """Lengths 4, 6, 7 and 9 of which two share a prompt: 6 is 1.5 times 4 and goes with it, 7 does not."""
    groups = (
        PrefixGroup(prefix=3, suffixes=(1, 4)),
        PrefixGroup(prefix=0, suffixes=(6,)),
        PrefixGroup(prefix=0, suffixes=(9,)),
    )
    whole = PackedLayout(groups=groups).padded_layout
    assert [places.tolist() for places in whole.tokens] == [
        [[0, 1, 2, 3, 0, 0], [8, 9, 10, 11, 12, 13]],
        [[0, 1, 2, 4, 5, 6, 7, 0, 0], [14, 15, 16, 17, 18, 19, 20, 21, 22]],
    ]
    flat = torch.cat([places.flatten() for places in whole.tokens])
    assert flat[whole.position].tolist() == list(range(23))
    assert whole.position[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("width", "length", "dtype", "dropout", "fits"),
    [
        (64, 128, torch.float32, 0.0, False),
        (65, 128, torch.float32, 0.0, True),  # wide
        (64, 129, torch.float32, 0.0, True),  # long
        (64, 128, torch.bfloat16, 0.0, True),
        (65, 128, torch.float32, 0.1, False),
    ],
)
def test_when_the_kernel_fits(width: int, length: int, dtype: torch.dtype, dropout: float, fits: bool) -> None:
    query = torch.zeros(1, 4, length, width, dtype=dtype)
    layout = PackedLayout(groups=(PrefixGroup(prefix=length - 2, suffixes=(2,)),))
    assert attention._kernel_fits(query, query, layout, dropout) is fits
    assert not attention._kernel_fits(query, query[..., :-1], layout, dropout)


@pytest.mark.parametrize("way_taken", WAYS)
def test_positions_turned_in_fp32_meet_values_in_bf16(monkeypatch: pytest.MonkeyPatch, way_taken: str) -> None:
    """As Llama's queries and keys do under autocast: attention is that of all three in bf16, on each way."""
    monkeypatch.setattr(attention, "_kernel_fits", lambda *_: way_taken == "kernel")
    torch.manual_seed(0)
    given = [torch.randn(1, 2, 9, 8) for _ in range(3)]
    layout = PackedLayout(groups=(PrefixGroup(prefix=0, suffixes=(4,)), PrefixGroup(prefix=0, suffixes=(5,))))
    query, key, value = given[0], given[1], given[2].bfloat16()
    found, _ = attention.attend(torch.nn.Module(), query, key, value, None, layout=layout)
    rounded = [x.bfloat16().float() for x in given]
    exact, _ = attention.attend(torch.nn.Module(), *rounded, None, layout=layout)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), exact, atol=2e-2)


# Some states of all


def some_of(batch: Batch) -> Tensor:
    """Each row's last token, and the second of all."""
    read = torch.zeros_like(batch.mask)
    read[range(len(batch.ids)), batch.mask.sum(1) - 1] = True
    read[:, 1] = True
    return read & batch.mask


@pytest.mark.parametrize("padded", ["gemma2", "neo"])
def test_rows_that_stay_padded_give_what_is_read(speaker: Speakers, padded: str) -> None:
    trunk = trunk_of(speaker(padded).model)
    assert not packs_exactly(trunk)
    read = some_of(BATCH)
    assert torch.equal(real_states(trunk, BATCH, read), real_states(trunk, BATCH)[read[BATCH.mask]])


def test_a_prompt_s_state_that_several_rows_read(speaker: Speakers, shared: str) -> None:
    """The prompt's last token, computed once, is what each of its answers' first token is predicted from."""
    trunk = trunk_of(speaker("gpt2").model).double()
    batch = pad_right(ANSWERS, 1)
    read = before_trained(batch)
    every = real_states(trunk, batch)[read[batch.mask]]
    assert torch.allclose(real_states(trunk, batch, read), every, atol=1e-12)
