"""Rows end to end against rows padded and rows alone: states, gradients, and which architectures can."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from sawyer.models.fast import attention, packing
from sawyer.models.fast.packing import packs_exactly, real_states, tail_of
from sawyer.models.fast.packing_layout import PackedLayout, PrefixGroup
from sawyer.models.forward import before_trained, trunk_of
from sawyer.text import Batch, Row, pad_right

Speakers = Callable[[str], Any]


def row(*ids: int) -> Row:
    return Row(ids=ids, trained=(True,) * len(ids), prompt_length=1, cut=False)


ROWS = [row(50, 60, 70, 80, 90, 0), row(51, 61, 0), row(1, 52, 62, 0, 72, 1, 82, 92, 0), row(53, 63, 71)]
BATCH = pad_right(ROWS, 1)


@pytest.fixture(params=["packed", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Models this small are never worth the calls; here they are either always or never."""
    monkeypatch.setitem(packing.CALLS, "cpu", 0.0 if request.param == "packed" else float("inf"))
    return str(request.param)


def alone(trunk: Any) -> Tensor:
    """Each row by itself, in float64, by the model's own attention."""
    exact = deepcopy(trunk).double()
    return torch.cat([exact(input_ids=torch.tensor([r.ids]), use_cache=False).last_hidden_state[0] for r in ROWS])


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

    monkeypatch.setattr(packing, "SIZES", 8)
    filled = read()
    monkeypatch.setattr(packing, "SIZES", 1)
    plain = read()
    real_states(trunk, BATCH)
    count = {"packed": 21, "padded": 36}[way]
    assert sizes == [(1, -(-count // 8) * 8), (1, count), (1, count)]
    for mine, theirs in zip(filled, plain, strict=True):
        assert torch.allclose(mine, theirs, atol=0.02 * float(theirs.abs().max()))


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
        return packing._pays(trunk, batch, packing._plan(batch))

    assert not pays(BATCH)  # 16 hidden units: the calls cost more than the padding
    trunk.config.n_embd = 768
    assert pays(BATCH)
    assert not pays(pad_right([ROWS[0]] * 3, 1))  # no padding, nothing to save
    assert pays(pad_right(ANSWERS[:1] * 3, 1))  # no padding either, but one prompt instead of three


# One prompt with several answers


def answer(prompt: tuple[int, ...], *response: int) -> Row:
    marks = (False,) * len(prompt) + (True,) * len(response)
    return Row(ids=prompt + response, trained=marks, prompt_length=len(prompt), cut=False)


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
WAYS = ["rows", "bins", "kernel"]


@pytest.fixture(params=WAYS)
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Prompts are shared whatever it costs; attention row by row as other devices have it, or on a processor."""
    monkeypatch.setitem(packing.CALLS, "cpu", 0.0)
    monkeypatch.setattr(attention, "_way", lambda *_: request.param)
    return str(request.param)


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
@pytest.mark.parametrize("bins", [False, True])
def test_bf16_attention_is_rounded_once(bins: bool, read: int) -> None:
    """What comes back for bf16 is the fp32 answer rounded, gradients too: the sums are made in fp32."""
    torch.manual_seed(0)
    families = (PrefixGroup(shared=5, own=(3, 4)), PrefixGroup(shared=0, own=(6,)), PrefixGroup(shared=0, own=(6,)))
    given = [torch.randn(heads, 24, 8).bfloat16().requires_grad_() for heads in (2, read, read)]
    exact = [x.detach().float().requires_grad_() for x in given]
    aim = torch.randn(24, 2, 8)
    whole = attention._OnProcessor.apply(*exact, families, 0.3)
    if bins:
        found = attention.Binned.apply(*given, PackedLayout(families=families).bins(torch.nn.Identity()), 0.3)
    else:
        found = attention._OnProcessor.apply(*given, families, 0.3)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), whole, atol=2e-2, rtol=1e-2)
    (found.float() * aim).sum().backward()
    (whole * aim).sum().backward()
    for mine, theirs in zip(given, exact, strict=True):
        assert torch.allclose(mine.grad.float(), theirs.grad, atol=3e-2, rtol=2e-2)


def test_rows_of_about_one_length_are_padded_together() -> None:
    """Lengths 4, 6, 7 and 9 of which two share a prompt: 6 is 1.5 times 4 and goes with it, 7 does not."""
    families = (PrefixGroup(shared=3, own=(1, 4)), PrefixGroup(shared=0, own=(6,)), PrefixGroup(shared=0, own=(9,)))
    whole = PackedLayout(families=families).whole
    assert [places.tolist() for places in whole.places] == [
        [[0, 1, 2, 3, 0, 0], [8, 9, 10, 11, 12, 13]],
        [[0, 1, 2, 4, 5, 6, 7, 0, 0], [14, 15, 16, 17, 18, 19, 20, 21, 22]],
    ]
    flat = torch.cat([places.flatten() for places in whole.places])
    assert flat[whole.found].tolist() == list(range(23))
    assert whole.found[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("width", "length", "dtype", "dropout", "expected"),
    [
        (64, 128, torch.float32, 0.0, "bins"),
        (65, 128, torch.float32, 0.0, "kernel"),  # wide
        (64, 129, torch.float32, 0.0, "kernel"),  # long
        (64, 128, torch.bfloat16, 0.0, "bins"),
        (64, 128, torch.float32, 0.1, "rows"),
    ],
)
def test_which_attention_a_processor_gets(width: int, length: int, dtype: torch.dtype, dropout: float, expected: str) -> None:
    part = torch.zeros(1, 4, length, width, dtype=dtype)
    laid = PackedLayout(families=(PrefixGroup(shared=length - 2, own=(2,)),))
    assert attention._way(part, part, laid, dropout) == expected
    assert attention._way(part, part[..., :-1], laid, dropout) == "rows"


@pytest.mark.parametrize("way_taken", WAYS)
def test_positions_turned_in_fp32_meet_values_in_bf16(monkeypatch: pytest.MonkeyPatch, way_taken: str) -> None:
    """As Llama's queries and keys do under autocast: attention is that of all three in bf16, on each way."""
    monkeypatch.setattr(attention, "_way", lambda *_: way_taken)
    torch.manual_seed(0)
    given = [torch.randn(1, 2, 9, 8) for _ in range(3)]
    laid = PackedLayout(families=(PrefixGroup(shared=0, own=(4,)), PrefixGroup(shared=0, own=(5,))))
    query, key, value = given[0], given[1], given[2].bfloat16()
    found, _ = attention.attend(torch.nn.Module(), query, key, value, None, laid=laid)
    rounded = [x.bfloat16().float() for x in given]
    exact, _ = attention.attend(torch.nn.Module(), *rounded, None, laid=laid)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), exact, atol=2e-2)


# What comes after the last attention


def some_of(batch: Batch) -> Tensor:
    """Each row's last token, and the second of all."""
    read = torch.zeros_like(batch.mask)
    read[range(len(batch.ids)), batch.mask.sum(1) - 1] = True
    read[:, 1] = True
    return read & batch.mask


@pytest.mark.parametrize(
    ("name", "modules", "last"),
    [
        ("gpt2", ["h.1.attn.c_proj", "h.1.mlp"], "h.1.attn"),
        ("llama", ["layers.1.self_attn.o_proj", "layers.1.mlp"], "layers.1.self_attn"),
        ("neox", ["layers.1.attention.dense", "layers.1.mlp"], "layers.1.attention"),
        ("phi", ["layers.1.self_attn.dense", "layers.1.mlp"], "layers.1.self_attn"),
        ("opt", [f"decoder.layers.1.{x}" for x in ("self_attn.out_proj", "fc1", "fc2")], "decoder.layers.1.self_attn"),
    ],
)
@pytest.mark.parametrize("bins", [True, False])
def test_states_that_nobody_reads_are_not_computed(
    speaker: Speakers, way: str, monkeypatch: pytest.MonkeyPatch, name: str, modules: list[str], last: str, bins: bool
) -> None:
    """What is read, and every weight's gradient, are as if all were computed; the matrices of the last layer see what is read
    alone."""
    monkeypatch.setattr(attention, "NARROW", 10**9 if bins else 0)
    trunk = trunk_of(speaker(name).model)
    tail = tail_of(trunk)
    assert tail is not None
    names = {module: called for called, module in trunk.named_modules()}
    assert ([names[module] for module in tail.modules], names[tail.last]) == (modules, last)
    read = some_of(BATCH)
    count = int(read.sum())
    seen: list[int] = []
    hooks = [module.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[-2])) for module in tail.modules]
    aim = torch.linspace(-1, 1, count * 16).view(count, 16)

    def found(states: Tensor) -> list[Tensor]:
        trunk.zero_grad()
        (states * aim).sum().backward()
        return [states.detach(), *(weight.grad for weight in trunk.parameters())]

    some = found(real_states(trunk, BATCH, read))
    assert seen == [count] * len(modules)
    for hook in hooks:
        hook.remove()
    every = found(real_states(trunk, BATCH)[read[BATCH.mask]])
    for mine, theirs in zip(some, every, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4 * float(theirs.abs().max()) + 1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trunk.modules())


def test_where_nearly_all_are_read_all_are_computed(speaker: Speakers, way: str) -> None:
    trunk = trunk_of(speaker("gpt2").model)
    seen: list[int] = []
    tail_of(trunk)
    trunk.h[-1].mlp.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    read = BATCH.mask.clone()
    read[0, 0] = False
    real_states(trunk, BATCH, read)
    assert seen == [{"packed": 21, "padded": 20}[way]]  # 20 of 21, and of 36 with padding


@pytest.mark.parametrize("padded", ["gemma2", "neo"])
def test_rows_that_stay_padded_give_what_is_read(speaker: Speakers, padded: str) -> None:
    trunk = trunk_of(speaker(padded).model)
    assert tail_of(trunk) is None
    read = some_of(BATCH)
    assert torch.equal(real_states(trunk, BATCH, read), real_states(trunk, BATCH)[read[BATCH.mask]])


def test_a_prompt_s_state_that_several_rows_read(speaker: Speakers, shared: str) -> None:
    """The prompt's last token, computed once, is what each of its answers' first token is predicted from."""
    trunk = trunk_of(speaker("gpt2").model).double()
    batch = pad_right(ANSWERS, 1)
    read = before_trained(batch)
    every = real_states(trunk, batch)[read[batch.mask]]
    assert torch.allclose(real_states(trunk, batch, read), every, atol=1e-12)


@pytest.mark.parametrize("twice", ["a module that is called again", "an attention that attends again"])
def test_layers_that_are_gone_through_twice_are_left_whole(speaker: Speakers, twice: str) -> None:
    """Where weights are shared between layers, a hook for the last one would be at work in the first."""
    trunk = trunk_of(speaker("gpt2").model)
    first, last = trunk.h
    if twice.startswith("a module"):
        first.mlp = last.mlp
    else:
        first.attn = last.attn
    tail = tail_of(trunk)
    assert tail is not None and tail.modules == ()
    read = some_of(BATCH)
    assert torch.allclose(real_states(trunk, BATCH, read), alone(trunk)[read[BATCH.mask]].float(), atol=1e-4)


def test_a_layer_that_is_not_a_token_s_own_affair_is_left_whole(speaker: Speakers) -> None:
    """One after the last attention that does something else with some tokens than with all."""
    trunk = trunk_of(speaker("gpt2").model)
    mlp = trunk.h[-1].mlp

    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = mlp

        def forward(self, x: Tensor) -> Tensor:
            return self.mlp(x) * (30.0 if x.shape[1] == 4 else 1.0)

    trunk.h[-1].mlp = Counting()
    tail = tail_of(trunk)
    assert tail is not None and tail.modules == ()


def test_sizes_come_again_among_what_is_read_too(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 some more are computed than are read; states and gradients are as if all were."""
    monkeypatch.setattr(packing, "SIZES", 3)
    monkeypatch.setitem(packing.CALLS, "cpu", 0.0)
    trunk = trunk_of(speaker("gpt2").model)
    read = some_of(BATCH)
    count, seen = int(read.sum()), list[int]()
    tail_of(trunk)
    trunk.h[-1].mlp.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    aim = torch.linspace(-1, 1, count * 16).view(count, 16)

    def found(required_section: Tensor | None) -> list[Tensor]:
        trunk.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            states = real_states(trunk, BATCH, required_section)
        states = states if required_section is not None else states[read[BATCH.mask]]
        (states.float() * aim).sum().backward()
        return [states.detach().float(), *(weight.grad for weight in trunk.parameters())]

    some, every = found(read), found(None)
    assert seen == [count + 1, 21] and count % 3 == 2
    for mine, theirs in zip(some, every, strict=True):
        assert torch.allclose(mine, theirs, atol=0.02 * float(theirs.abs().max()))


def test_the_trial_keeps_no_network(speaker: Speakers) -> None:
    """transformers keeps the function by which the trial listens."""
    model = speaker("gpt2").model
    packs_exactly(trunk_of(model))
    kept = weakref.ref(trunk_of(model).h[-1].mlp)
    del model
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("tried", ["before the adapters", "with them"])
def test_adapters_after_the_last_attention(speaker: Speakers, tried: str) -> None:
    """What is read, and the adapters' gradients, are as if all states were computed."""
    model = speaker("gpt2").model
    trunk = trunk_of(model)
    if tried.startswith("before"):
        tail_of(trunk)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True), model)
    for name, weight in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.3)
    read = some_of(BATCH)
    count = int(read.sum())
    aim = torch.linspace(-1, 1, count * 16).view(count, 16)

    def found(states: Tensor) -> list[Tensor]:
        trunk.zero_grad()
        (states * aim).sum().backward()
        return [states.detach(), *(weight.grad for weight in trunk.parameters() if weight.requires_grad)]

    tail = tail_of(trunk)
    assert tail is not None and len(tail.modules) == 2
    some, every = found(real_states(trunk, BATCH, read)), found(real_states(trunk, BATCH)[read[BATCH.mask]])
    assert len(some) > 8
    for mine, theirs in zip(some, every, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4 * float(theirs.abs().max()) + 1e-6)
