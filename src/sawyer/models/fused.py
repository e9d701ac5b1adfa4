"""Layers that compute the same in fewer kernels. What a model's config says of itself stays as it was."""

from __future__ import annotations

from torch import nn


def fuse_activations(model: nn.Module) -> None:
    """GPT-2's GELU, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in one kernel instead of six (LAB.md, "GELU in one
    kernel"). Both of its names in transformers become the same layer."""
    from transformers.activations import ACT2FN

    kinds = {type(ACT2FN[name]) for name in ("gelu_new", "gelu_pytorch_tanh")}
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in kinds:
                setattr(module, name, nn.GELU(approximate="tanh"))
