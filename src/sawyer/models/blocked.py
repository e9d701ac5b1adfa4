"""Linear layers whose weights lie in the processor's own blocks for as long as the same weights are read again and again.

A product of few rows spends much of its time on laying its weights out, and does so at each call. Here it is done once. What is
multiplied, and in which precision, stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.models.forward import network_of
from sawyer.models.processor import multiplies_bf16_by_rows

PAYS = 24  # from how many passes on; laying out takes as long as it saves in seven to twenty (LAB.md)
ROWS = 32  # for which the blocks are made; they serve as well for one row and for a thousand
NEAR = 0.02  # how far a trial's bf16 products may lie from fp32 ones, as a share of the largest


@contextmanager
def in_blocks(model: nn.Module, passes: int) -> Iterator[None]:
    """Within it the model's linear layers have their weights, of now, in blocks, if it is worth it for so many passes under
    bf16 autocast. They give no gradients, and the same numbers but for GPT-2's GELU, which is applied before the product is
    rounded, not after."""
    pays = passes >= PAYS and torch.is_autocast_enabled("cpu") and multiplies_bf16_by_rows() and _works()
    products = _products(model) if pays else []
    activations = [after for _, after in products if after is not None]
    try:
        for layer, after in products:
            layer.forward = _product(layer, "none" if after is None else "gelu")
        for activation in activations:
            activation.forward = _done(activation)
        yield
    finally:
        for module in (*(layer for layer, _ in products), *activations):
            vars(module).pop("forward", None)


def _products(model: nn.Module) -> list[tuple[Any, Any]]:
    """Each linear layer on a processor, with the GELU that reads it alone; None where none is known to."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
    from transformers.pytorch_utils import Conv1D

    modules = [module for module in network_of(model).modules() if "forward" not in vars(module)]
    after = {
        module.c_fc: module.act
        for module in modules
        if type(module) is GPT2MLP and type(module.act) is nn.GELU and module.act.approximate == "tanh"
    }
    linear = (module for module in modules if type(module) in (nn.Linear, Conv1D))
    return [(layer, after.get(layer)) for layer in linear if layer.weight.device.type == "cpu"]


@torch.no_grad()
def _product(layer: Any, after: str = "none") -> Callable[[Tensor], Tensor]:
    weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()  # (out, in)
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16), ROWS)
    bias = None if layer.bias is None else layer.bias.to(torch.bfloat16)
    exact = layer.forward

    def forward(x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):  # such as where a network is tried in fp32
            return exact(x)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), blocks, bias, after, [], "tanh")
        return found

    return forward


def _done(activation: Any) -> Callable[[Tensor], Tensor]:
    """Of an activation that has been applied where the product was made."""
    exact = activation.forward

    def forward(x: Tensor) -> Tensor:
        return x if torch.is_autocast_enabled("cpu") else exact(x)

    return forward


@lru_cache(maxsize=1)
def _works() -> bool:
    """PyTorch's compiler uses these operators; whoever builds PyTorch may leave them out, or change them. So they are tried."""
    x, weight = torch.linspace(-1, 1, 3 * 5 * 96).view(3, 5, 96), torch.linspace(-1, 1, 80 * 96).cos().view(80, 96)
    layer = nn.utils.skip_init(nn.Linear, 96, 80)  # draws no numbers
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(10 * weight[:, 0])
        known = layer(x)
        known = torch.stack([known, nn.functional.gelu(known, approximate="tanh")])
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = torch.stack([_product(layer, after)(x) for after in ("none", "gelu")])
        except Exception:  # each version refuses in its own way
            return False
    return found.shape == known.shape and bool((found - known).abs().max() <= NEAR * known.abs().max())
