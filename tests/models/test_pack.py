"""Rows end to end against rows padded and rows alone: states, gradients, and which architectures can."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from sawyer.models import pack
from sawyer.models.forward import trunk_of
from sawyer.models.pack import packs_exactly, real_states, row_starts
from sawyer.text import Row, pad_right

Speakers = Callable[[str], Any]


def row(*ids: int) -> Row:
    return Row(ids=ids, trained=(True,) * len(ids), prompt_length=1, cut=False)


ROWS = [row(50, 60, 70, 80, 90, 0), row(51, 61, 0), row(1, 52, 62, 0, 72, 1, 82, 92, 0), row(53, 63, 71)]
BATCH = pad_right(ROWS, 1)


@pytest.fixture(params=["packed", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Models this small are never worth the calls; here they are either always or never."""
    monkeypatch.setitem(pack.CALLS, "cpu", 0.0 if request.param == "packed" else float("inf"))
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
    starts = row_starts(BATCH)
    assert starts.tolist() == [0, 6, 9, 18]


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


@pytest.mark.parametrize(
    ("name", "can"), [("gpt2", True), ("llama", True), ("opt", True), ("phi", True), ("gemma2", False), ("neo", False)]
)
def test_which_architectures_can(speaker: Speakers, name: str, can: bool) -> None:
    """Gemma 2 has sliding windows and caps, GPT-Neo an attention of its own."""
    trunk = trunk_of(speaker(name).model)
    assert packs_exactly(trunk) is can


def test_when_it_pays(speaker: Speakers) -> None:
    trunk = trunk_of(speaker("gpt2").model)
    assert not pack._pays(trunk, BATCH)  # 16 hidden units: the calls cost more than the padding
    trunk.config.n_embd = 768
    assert pack._pays(trunk, BATCH)
    assert not pack._pays(trunk, pad_right([ROWS[0]] * 3, 1))  # no padding, nothing to save
