"""Networks that nobody trains, held in the precision in which their products are computed."""

from __future__ import annotations

import torch
from torch import nn

from sawyer.models.fast.packing import packs_exactly
from sawyer.models.forward import splits_exactly, trunk_of


def hold_in_bf16(model: nn.Module) -> None:
    """Keep the weights of a decoder's linear layers in bf16, where they take half the memory, for good.

    Under bf16 autocast, and only there, it goes on saying the very same numbers: it is what autocast makes of these weights at
    each call. Embeddings, norms and a projection tied to the embeddings are read in fp32 and stay so. An architecture whose
    layers cannot be told to be transformers' own is left as it is.
    """
    from transformers.pytorch_utils import Conv1D

    trunk = trunk_of(model)
    if not packs_exactly(trunk):
        return
    splits_exactly(model)  # both are found out in fp32, once
    products = [module for module in model.modules() if type(module) in (nn.Linear, Conv1D)]
    others = {id(weight) for module in model.modules() if module not in products for weight in module.parameters(recurse=False)}
    for module in products:
        for weight in module.parameters(recurse=False):
            if id(weight) not in others:
                weight.requires_grad_(False)
                weight.data = weight.data.to(torch.bfloat16)
