"""Weights in blocks: the same numbers, the weights of now, and only where they pay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sawyer.models import open_language_model
from sawyer.models.fast import cpu_features, prepacked_linear
from sawyer.models.fast.prepacked_linear import MIN_PASSES, freeze_for_inference, prepack_weights

pytestmark = pytest.mark.fast_path

Speakers = Callable[[str], Any]
IDS = torch.tensor([[50, 60, 70, 80], [51, 61, 71, 81]])


@dataclass(frozen=True)
class Asked:
    rank: int = 3
    alpha: float = 6.0
    targets: list[str] | None = None


BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture
def dtype(precision: str) -> torch.dtype:
    return {"bf16": BF16, "fp32": FP32}[precision]


@pytest.fixture(autouse=True)
def reads_blocks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor whose products read weights from blocks, in fp32 those of small layers too."""
    monkeypatch.setattr(cpu_features, "multiplies_bf16_in_blocks", lambda: True)
    monkeypatch.setattr(cpu_features, "multiplies_fp32_in_blocks", lambda: True)
    monkeypatch.setattr(prepacked_linear, "LARGE", 0)
    prepacked_linear._operators_work.cache_clear()
    if not prepacked_linear._operators_work(dtype):
        pytest.skip(f"this PyTorch cannot lay out weights here for products in {dtype}")
    prepacked_linear._operators_work.cache_clear()
    yield
    prepacked_linear._operators_work.cache_clear()


def made_in(dtype: torch.dtype) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=BF16, enabled=dtype == BF16)


def another(dtype: torch.dtype) -> torch.dtype:
    return FP32 if dtype == BF16 else BF16


def said(model: Any, dtype: torch.dtype) -> Tensor:
    with torch.no_grad(), made_in(dtype):
        return model(input_ids=IDS, use_cache=False).logits


def are_near(found: Tensor, known: Tensor, dtype: torch.dtype) -> bool:
    return torch.allclose(found.float(), known.float(), atol=prepacked_linear.CLOSE[dtype] * float(known.abs().max()))


def overridden(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("name", ["gpt2", "tied", "llama", "neox", "phi", "opt"])
def test_the_same_numbers(speaker: Speakers, name: str, dtype: torch.dtype) -> None:
    model = speaker(name).model
    before = said(model, dtype)
    with made_in(dtype), prepack_weights(model, MIN_PASSES):
        assert len(overridden(model)) >= 9  # four or more products in each of two layers, and the vocabulary's
        assert are_near(said(model, dtype), before, dtype)
    assert overridden(model) == []
    assert torch.equal(said(model, dtype), before)


def test_the_weights_of_now(speaker: Speakers, dtype: torch.dtype) -> None:
    model = speaker("llama").model
    for _ in range(2):
        with made_in(dtype), prepack_weights(model, MIN_PASSES):
            assert overridden(model)
            inside = said(model, dtype)
        assert are_near(inside, said(model, dtype), dtype)
        with torch.no_grad():
            model.lm_head.weight.mul_(-3)


def test_what_is_only_read_stays_in_blocks(speaker: Speakers, dtype: torch.dtype, laid_out: list[Any]) -> None:
    """It alone, laid out once, with the same numbers, and exact in the other precision."""
    read, other = speaker("gpt2").model, speaker("gpt2").model
    before, exact = said(read, dtype), said(read, another(dtype))
    freeze_for_inference(read)
    assert not any(weight.requires_grad for weight in read.parameters()) and overridden(read) == []
    for model in (read, other) * 2:
        with made_in(dtype), prepack_weights(model, MIN_PASSES):
            assert overridden(model)
    assert overridden(read) and overridden(other) == []
    assert len(laid_out) == 3 * 9  # once, and the other's twice
    assert are_near(said(read, dtype), before, dtype)
    assert torch.equal(said(read, another(dtype)), exact)


def test_in_another_precision_a_layer_is_exact(speaker: Speakers, dtype: torch.dtype) -> None:
    """Networks are tried in fp32, perhaps for the first time within."""
    model = speaker("gpt2").model
    known = said(model, another(dtype))
    with made_in(dtype), prepack_weights(model, MIN_PASSES):
        assert overridden(model)
        assert torch.equal(said(model, another(dtype)), known)


def test_what_an_adapter_adds_is_added(make: Callable[[str], Any], dtype: torch.dtype) -> None:
    model = open_language_model(make("llama"), lora=Asked()).model
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3)
    before = said(model, dtype)
    with made_in(dtype), prepack_weights(model, MIN_PASSES):
        assert overridden(model)
        assert are_near(said(model, dtype), before, dtype)


def test_only_where_it_pays(speaker: Speakers, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = speaker("gpt2").model
    with made_in(dtype):
        with prepack_weights(model, MIN_PASSES - 1):
            assert overridden(model) == []
        with prepack_weights(model, MIN_PASSES):
            assert overridden(model)
    with torch.autocast("cpu", dtype=torch.float16), prepack_weights(model, MIN_PASSES):
        assert overridden(model) == []
    monkeypatch.setattr(cpu_features, f"multiplies_{'bf16' if dtype == BF16 else 'fp32'}_in_blocks", lambda: False)
    with made_in(dtype), prepack_weights(model, MIN_PASSES):
        assert overridden(model) == []


def test_in_fp32_large_layers_alone(speaker: Speakers, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = speaker("gpt2").model
    wide, narrow = "transformer.h.0.mlp.c_fc", "transformer.h.0.attn.c_proj"
    monkeypatch.setattr(prepacked_linear, "LARGE", model.get_submodule(wide).weight.numel())
    with made_in(dtype), prepack_weights(model, MIN_PASSES):
        found = overridden(model)
        assert wide in found and (narrow in found) == (dtype == BF16)


def wrong(how: str, layer: Any, after: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    known = layer.forward if after == "none" else lambda x: nn.functional.gelu(layer(x), approximate="tanh")
    if how == "other columns":
        return lambda x: known(x.flip(-1))
    if how == "no bias":
        return lambda x: known(x) - (0.0 if layer.bias is None else layer.bias)
    if how == "no activation":
        return layer.forward
    raise AttributeError("no such operator")


@pytest.mark.parametrize("how", ["absent", "other columns", "no bias", "no activation"])
def test_without_the_operators_layers_stay(
    speaker: Speakers, monkeypatch: pytest.MonkeyPatch, how: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(prepacked_linear, "_prepacked_forward", lambda *given: wrong(how, *given))
    model = speaker("gpt2").model
    with made_in(dtype), prepack_weights(model, MIN_PASSES):
        assert overridden(model) == []


def test_without_the_memory_layers_stay(speaker: Speakers, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model, product = speaker("gpt2").model, prepacked_linear._prepacked_forward
    assert prepacked_linear._operators_work(dtype)
    made: list[Any] = []

    def full(layer: Any, after: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        if len(made) == 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        made.append(product(layer, after, dtype))
        return made[-1]

    monkeypatch.setattr(prepacked_linear, "_prepacked_forward", full)
    with made_in(dtype), prepack_weights(model, MIN_PASSES):
        assert overridden(model) == [] and len(made) == 5


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_an_activation_is_applied_once(make: Callable[[str], Any], tmp_path: Path, activation: str, dtype: torch.dtype) -> None:
    """Within the product, of GPT-2's either name."""
    folder = shutil.copytree(make("gpt2"), tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "activation_function": activation}))
    model = open_language_model(folder).model
    before = said(model, dtype)
    with made_in(dtype), prepack_weights(model, MIN_PASSES):
        assert sum(name.endswith("mlp.act") for name in overridden(model)) == 2
        assert are_near(said(model, dtype), before, dtype)


@pytest.mark.parametrize("shape", [(96, 160), (32, 7), (5, 64), (48, 80), (1, 1)])
def test_a_matrix_is_turned(shape: tuple[int, int]) -> None:
    """Whatever tiles its sides have, in memory too."""
    matrix = torch.arange(shape[0] * shape[1]).view(shape)
    turned = prepacked_linear._transpose(matrix)
    assert torch.equal(turned, matrix.t()) and turned.is_contiguous()


def test_the_trial_draws_no_numbers(dtype: torch.dtype) -> None:
    state = torch.random.get_rng_state()
    assert prepacked_linear._operators_work(dtype)
    assert torch.equal(state, torch.random.get_rng_state())


def test_layers_are_themselves_again_after_an_error(speaker: Speakers, dtype: torch.dtype) -> None:
    model = speaker("gpt2").model
    with pytest.raises(KeyError), made_in(dtype), prepack_weights(model, MIN_PASSES):
        assert overridden(model)
        raise KeyError
    assert overridden(model) == []
