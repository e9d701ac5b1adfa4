"""Linear layers whose weights lie in the processor's own blocks for as long as the same weights are read again and again.

A product of few rows spends much of its time on laying its weights out, and does so at each call. Here it is done once. What is
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

from sawyer.models.fast.cpu_features import precision, products_in_blocks
from sawyer.models.forward import network_of

# From how many passes on it pays: laying out takes 0.13 to 0.2 s on 124 M parameters (the first time up to 0.5), and 32 rows
# save 0.01 (with AMX), 0.02 (AVX512) or 0.04 s (fp32) a pass (lab/speed.md#prepacked-weights).
PAYS = 24
# Weights of a layer from which on it pays in fp32, where PyTorch's other library need not lay out small ones.
LARGE = 2**20
ROWS = 32  # for which the blocks are made; they serve as well for one row and for a thousand
TILE = 32  # rows and columns that are turned at once
# How far a trial's products may lie from fp32 ones, as a share of the largest.
NEAR = {torch.bfloat16: 0.02, torch.float32: 1e-5}

_only_read: WeakSet[nn.Module] = WeakSet()


def freeze_for_inference(model: nn.Module) -> None:
    """Say that nobody changes this model's weights any more: what is laid out for its first answers then stays for the next
    ones, as long as somebody holds the model. Its weights ask for no gradients from here on."""
    model.requires_grad_(False)
    _only_read.add(model)


@contextmanager
def prepacked(model: nn.Module, passes: int) -> Iterator[None]:
    """Within it, and for good after `freeze_for_inference`, its linear layers have their weights, of now, in blocks, where
    this processor gains by it, in the precision of now, and up to `passes` passes make it worth it. They give no gradients, and
    the same numbers to rounding; GPT-2's GELU is applied before a bf16 product is rounded, not after.

    It takes the memory of a copy of these weights in that precision; in bf16 so does autocast, where it keeps what it has cast.
    Where there is not so much, layers stay as they are.
    """
    pays = passes >= PAYS and products_in_blocks() and _works(precision())
    instead = _instead(model, precision()) if pays else {}
    for module, forward in instead.items():
        module.forward = forward
    try:
        yield
    finally:
        if model not in _only_read:
            for module in instead:
                del module.forward


def _instead(model: nn.Module, dtype: torch.dtype) -> dict[Any, Callable[[Tensor], Tensor]]:
    """What the modules do in the place of their own forward pass; nothing where memory ends."""
    found: dict[Any, Callable[[Tensor], Tensor]] = {}
    try:
        for layer, after in _products(model):
            if dtype == torch.float32 and layer.weight.numel() < LARGE:
                continue
            found[layer] = _product(layer, "none" if after is None else "gelu", dtype)
            if after is not None:
                found[after] = _done(after, dtype)
    except (MemoryError, RuntimeError):  # PyTorch's allocator raises the latter
        return {}
    return found


def _products(model: nn.Module) -> list[tuple[Any, Any]]:
    """Each linear layer on a processor, with the GELU that reads it alone; None where none is known to."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
    from transformers.pytorch_utils import Conv1D

    modules = list(network_of(model).modules())
    mlps = (module for module in modules if type(module) is GPT2MLP)
    after = {mlp.c_fc: mlp.act for mlp in mlps if _is_gelu(mlp.act)}
    linear = (module for module in modules if type(module) in (nn.Linear, Conv1D) and "forward" not in vars(module))
    return [(layer, after.get(layer)) for layer in linear if _is_fp32_on_a_processor(layer.weight)]


def _is_fp32_on_a_processor(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _is_gelu(module: nn.Module) -> bool:
    return type(module) is nn.GELU and module.approximate == "tanh" and "forward" not in vars(module)


@torch.no_grad()
def _product(layer: Any, after: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    weight = layer.weight.detach().to(dtype)
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight if isinstance(layer, nn.Linear) else _turned(weight), ROWS)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    exact = layer.forward

    def forward(x: Tensor) -> Tensor:
        if precision() != dtype:  # such as where a network is tried in fp32
            return exact(x)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(dtype), blocks, bias, after, [], "tanh")
        return found

    return forward


def _turned(weight: Tensor) -> Tensor:
    """(in, out) -> (out, in), laid out so. In tiles, which all threads turn; a whole matrix PyTorch turns on one of them."""
    side = math.gcd(TILE, *weight.shape)
    tiles = weight.unflatten(1, (-1, side)).unflatten(0, (-1, side)).permute(2, 0, 3, 1)  # (outs, ins, out, in)
    return tiles.contiguous().transpose(1, 2).flatten(2).flatten(0, 1)


def _done(activation: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Of an activation that has been applied where the product was made."""
    exact = activation.forward

    def forward(x: Tensor) -> Tensor:
        return x if precision() == dtype else exact(x)

    return forward


@lru_cache(maxsize=2)
def _works(dtype: torch.dtype) -> bool:
    """PyTorch's compiler uses these operators; whoever builds PyTorch may leave them out, or change them. So they are tried."""
    with torch.no_grad():
        for bias in (True, False):
            layer = nn.utils.skip_init(nn.Linear, 96, 80, bias=bias)  # draws no numbers
            layer.weight.copy_(_scattered(80, 96) / 10)
            if bias:
                layer.bias.copy_(_scattered(80))
            for after, rows in (("none", 3), ("gelu", 40)):
                x = _scattered(2, rows, 96)
                with torch.autocast("cpu", enabled=False):
                    known = layer(x) if after == "none" else nn.functional.gelu(layer(x), approximate="tanh")
                try:
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                        found = _product(layer, after, dtype)(x)
                except Exception:  # each version refuses in its own way
                    return False
                if found.shape != known.shape or not bool((found - known).abs().max() <= NEAR[dtype] * known.abs().max()):
                    return False
    return True


def _scattered(*shape: int) -> Tensor:
    """Numbers between -1 and 1 without order, the same each time."""
    return (12.9898 * torch.arange(math.prod(shape)).double() ** 1.5).sin().float().view(shape)
