"""Weights in blocks: the same numbers, the weights of now, and only where they pay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sawyer.models import blocked, open_speaker, processor
from sawyer.models.blocked import PAYS, in_blocks, only_read

Speakers = Callable[[str], Any]
IDS = torch.tensor([[50, 60, 70, 80], [51, 61, 71, 81]])


@dataclass(frozen=True)
class Asked:
    rank: int = 3
    alpha: float = 6.0
    targets: list[str] | None = None


@pytest.fixture(autouse=True)
def reads_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor whose bf16 products read weights from blocks."""
    monkeypatch.setattr(processor, "multiplies_bf16_in_blocks", lambda: True)
    blocked._works.cache_clear()
    if not blocked._works():
        pytest.skip("this PyTorch cannot lay out weights")
    blocked._works.cache_clear()
    yield
    blocked._works.cache_clear()


def said(model: Any) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        return model(input_ids=IDS, use_cache=False).logits


def overridden(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("name", ["gpt2", "tied", "llama", "neox", "phi", "opt"])
def test_the_same_numbers(speaker: Speakers, name: str) -> None:
    model = speaker(name).model
    before = said(model)
    with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
        assert len(overridden(model)) >= 9  # four or more products in each of two layers, and the vocabulary's
        assert torch.allclose(said(model).float(), before.float(), atol=0.02 * float(before.abs().max()))
    assert overridden(model) == []
    assert torch.equal(said(model), before)


def test_the_weights_of_now(speaker: Speakers) -> None:
    model = speaker("llama").model
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
            assert overridden(model)
            inside = said(model)
        assert torch.allclose(inside.float(), said(model).float(), atol=0.02 * float(inside.abs().max()))
        with torch.no_grad():
            model.lm_head.weight.mul_(-3)


def test_what_is_only_read_stays_in_blocks(speaker: Speakers, laid_out: list[Any]) -> None:
    """It alone, laid out once, with the same numbers, and exact outside of autocast."""
    read, other = speaker("gpt2").model, speaker("gpt2").model
    before = said(read)
    with torch.no_grad():
        exact = read(input_ids=IDS, use_cache=False).logits
    only_read(read)
    assert not any(weight.requires_grad for weight in read.parameters()) and overridden(read) == []
    for model in (read, other) * 2:
        with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
            assert overridden(model)
    assert overridden(read) and overridden(other) == []
    assert len(laid_out) == 3 * 9  # once, and the other's twice
    assert torch.allclose(said(read).float(), before.float(), atol=0.02 * float(before.abs().max()))
    assert torch.equal(read(input_ids=IDS, use_cache=False).logits, exact)


def test_outside_of_autocast_a_layer_is_exact(speaker: Speakers) -> None:
    """Networks are tried in fp32, perhaps for the first time within."""
    model = speaker("gpt2").model
    with torch.no_grad():
        known = model(input_ids=IDS, use_cache=False).logits
        with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS), torch.autocast("cpu", enabled=False):
            assert overridden(model)
            assert torch.equal(model(input_ids=IDS, use_cache=False).logits, known)


def test_what_an_adapter_adds_is_added(make: Callable[[str], Any]) -> None:
    model = open_speaker(make("llama"), lora=Asked()).model
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3)
    before = said(model)
    with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
        assert overridden(model)
        assert torch.allclose(said(model).float(), before.float(), atol=0.02 * float(before.abs().max()))


def test_only_where_it_pays(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    model = speaker("gpt2").model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with in_blocks(model, PAYS - 1):
            assert overridden(model) == []
        with in_blocks(model, PAYS):
            assert overridden(model)
    with in_blocks(model, PAYS):
        assert overridden(model) == []  # fp32
    with torch.autocast("cpu", dtype=torch.float16), in_blocks(model, PAYS):
        assert overridden(model) == []
    monkeypatch.setattr(processor, "multiplies_bf16_in_blocks", lambda: False)
    with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
        assert overridden(model) == []


def wrong(how: str, layer: Any, after: str) -> Callable[[Tensor], Tensor]:
    known = layer.forward if after == "none" else lambda x: nn.functional.gelu(layer(x), approximate="tanh")
    if how == "other columns":
        return lambda x: known(x.flip(-1))
    if how == "no bias":
        return lambda x: known(x) - (0.0 if layer.bias is None else layer.bias)
    if how == "no activation":
        return layer.forward
    raise AttributeError("no such operator")


@pytest.mark.parametrize("how", ["absent", "other columns", "no bias", "no activation"])
def test_without_the_operators_layers_stay(speaker: Speakers, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(blocked, "_product", lambda layer, after: wrong(how, layer, after))
    model = speaker("gpt2").model
    with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
        assert overridden(model) == []


def test_without_the_memory_layers_stay(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    model, product = speaker("gpt2").model, blocked._product
    assert blocked._works()
    made: list[Any] = []

    def full(layer: Any, after: str) -> Callable[[Tensor], Tensor]:
        if len(made) == 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        made.append(product(layer, after))
        return made[-1]

    monkeypatch.setattr(blocked, "_product", full)
    with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
        assert overridden(model) == [] and len(made) == 5


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_an_activation_is_applied_once(make: Callable[[str], Any], tmp_path: Path, activation: str) -> None:
    """Within the product, of GPT-2's either name."""
    folder = shutil.copytree(make("gpt2"), tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "activation_function": activation}))
    model = open_speaker(folder).model
    before = said(model)
    with torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
        assert sum(name.endswith("mlp.act") for name in overridden(model)) == 2
        assert torch.allclose(said(model).float(), before.float(), atol=0.02 * float(before.abs().max()))


@pytest.mark.parametrize("shape", [(96, 160), (32, 7), (5, 64), (48, 80), (1, 1)])
def test_a_matrix_is_turned(shape: tuple[int, int]) -> None:
    """Whatever tiles its sides have, in memory too."""
    matrix = torch.arange(shape[0] * shape[1]).view(shape)
    turned = blocked._turned(matrix)
    assert torch.equal(turned, matrix.t()) and turned.is_contiguous()


def test_the_trial_draws_no_numbers() -> None:
    state = torch.random.get_rng_state()
    assert blocked._works()
    assert torch.equal(state, torch.random.get_rng_state())


def test_layers_are_themselves_again_after_an_error(speaker: Speakers) -> None:
    model = speaker("gpt2").model
    with pytest.raises(KeyError), torch.autocast("cpu", dtype=torch.bfloat16), in_blocks(model, PAYS):
        assert overridden(model)
        raise KeyError
    assert overridden(model) == []
