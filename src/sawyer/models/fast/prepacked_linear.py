"""Linear layers whose weights lie in oneDNN's own blocks for as long as the same weights are read again and again.

A product of few rows spends much of its time on reordering its weights, and does so at each call. Here it is done once. What is
multiplied, and in which precision, stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from sawyer.models.fast.compat import gpt2_mlps, is_conv1d, prepack_weight, prepacked_product
from sawyer.models.fast.cpu_features import multiplies_in_blocks, product_dtype
from sawyer.models.fast.switch import fast_enabled
from sawyer.models.network_parts import network_of

# From how many passes on it pays: prepacking 124 M parameters takes 0.13 to 0.2 s (the first time up to 0.5), and saves 32 rows
# 0.01 (with AMX), 0.02 (AVX512) or 0.04 s (fp32) a pass (lab/speed.md#prepacked-weights).
MIN_PASSES = 24
# Weights of a layer from which on it pays in fp32, where PyTorch's other library does not reorder small ones.
LARGE = 2**20
ROWS = 32  # for which the blocks are made; they serve as well for one row and for a thousand
TILE = 32  # rows and columns that are transposed at once
# How far a trial's products may lie from fp32 ones, as a share of the largest.
CLOSE = {torch.bfloat16: 0.02, torch.float32: 1e-5}

_frozen: WeakSet[nn.Module] = WeakSet()


def freeze_for_inference(model: nn.Module) -> None:
    """Declare that this model's weights no longer change: what is prepacked for its first answers then stays for the next ones,
    as long as the model lives. Its weights require no gradients from here on."""
    model.requires_grad_(False)
    _frozen.add(model)


@contextmanager
def prepack_weights(model: nn.Module, passes: int) -> Iterator[None]:
    """Within it, and for good after `freeze_for_inference`, the model's linear layers read prepacked copies of their weights,
    where this CPU gains by it in the precision of now, and up to `passes` passes make it worth it. They give no gradients, and
    the same numbers to rounding; GPT-2's GELU is applied before a bf16 product is rounded, not after.

    It takes the memory of a copy of these weights in that precision; in bf16 autocast's own cache of them takes as much.
    Where memory does not suffice, layers stay as they are.
    """
    pays = fast_enabled() and passes >= MIN_PASSES and multiplies_in_blocks() and _operators_work(product_dtype())
    forwards = _prepacked_forwards(model, product_dtype()) if pays else {}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        if model not in _frozen:
            for module in forwards:
                del module.forward


def _prepacked_forwards(model: nn.Module, dtype: torch.dtype) -> dict[Any, Callable[[Tensor], Tensor]]:
    """The forward passes that replace the modules' own; none where memory does not suffice."""
    forwards: dict[Any, Callable[[Tensor], Tensor]] = {}
    try:
        for layer, gelu in _linear_layers(model):
            if dtype == torch.float32 and layer.weight.numel() < LARGE:
                continue
            forwards[layer] = _prepacked_forward(layer, "none" if gelu is None else "gelu", dtype)
            if gelu is not None:
                forwards[gelu] = _skipped_forward(gelu, dtype)
    except (MemoryError, RuntimeError):  # PyTorch's allocator raises the latter
        return {}
    return forwards


def _linear_layers(model: nn.Module) -> list[tuple[Any, Any]]:
    """Each fp32 linear layer on the CPU, with the GELU that reads nothing else; None where there is none."""
    modules = list(network_of(model).modules())
    gelus = {mlp.c_fc: mlp.act for mlp in gpt2_mlps(modules) if _is_plain_gelu(mlp.act)}
    # One with a forward pass among its attributes is replaced already, by an outer `prepack_weights` or another library.
    linear = (m for m in modules if (type(m) is nn.Linear or is_conv1d(m)) and "forward" not in vars(m))
    return [(m, gelus.get(m)) for m in linear if m.weight.device.type == "cpu" and m.weight.dtype == torch.float32]


def _is_plain_gelu(module: nn.Module) -> bool:
    return type(module) is nn.GELU and module.approximate == "tanh" and "forward" not in vars(module)


@torch.no_grad()
def _prepacked_forward(layer: Any, activation: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    weight = layer.weight.detach().to(dtype)
    blocks = prepack_weight(weight if isinstance(layer, nn.Linear) else _transpose(weight), ROWS)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    own_forward = layer.forward

    def forward(x: Tensor) -> Tensor:
        if product_dtype() != dtype:  # such as the trials of `network_parts`, which run in fp32
            return own_forward(x)
        return prepacked_product(x.to(dtype), blocks, bias, activation)

    return forward


def _transpose(weight: Tensor) -> Tensor:
    """(in, out) -> (out, in), contiguous. In tiles, which all threads transpose; a whole matrix PyTorch transposes on one."""
    side = math.gcd(TILE, *weight.shape)
    tiles = weight.unflatten(1, (-1, side)).unflatten(0, (-1, side)).permute(2, 0, 3, 1)  # (outs, ins, out, in)
    return tiles.contiguous().transpose(1, 2).flatten(2).flatten(0, 1)


def _skipped_forward(activation: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Of an activation that the product before it has applied."""
    own_forward = activation.forward

    def forward(x: Tensor) -> Tensor:
        return x if product_dtype() == dtype else own_forward(x)

    return forward


@lru_cache(maxsize=2)
def _operators_work(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators give what a plain layer gives. They are PyTorch's own affair, which its compiler uses: a build
    may lack them, or a new version change them. So they are tried."""
    with torch.no_grad():
        for bias in (True, False):
            layer = nn.utils.skip_init(nn.Linear, 96, 80, bias=bias)  # draws no random numbers: a run's stay what they are
            layer.weight.copy_(_irregular(80, 96) / 10)
            if bias:
                layer.bias.copy_(_irregular(80))
            for activation, rows in (("none", 3), ("gelu", 40)):
                x = _irregular(2, rows, 96)
                with torch.autocast("cpu", enabled=False):
                    expected = layer(x) if activation == "none" else nn.functional.gelu(layer(x), approximate="tanh")
                try:
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                        actual = _prepacked_forward(layer, activation, dtype)(x)
                except Exception:  # each version refuses in its own way
                    return False
                close = CLOSE[dtype] * expected.abs().max()
                if actual.shape != expected.shape or not bool((actual - expected).abs().max() <= close):
                    return False
    return True


def _irregular(*shape: int) -> Tensor:
    """Numbers between -1 and 1 without order, the same each time."""
    return (12.9898 * torch.arange(math.prod(shape)).double() ** 1.5).sin().float().view(shape)
