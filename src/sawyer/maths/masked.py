"""Masked reductions: the one place where anything over response tokens is summed or averaged.

A mask is bool and True counts. A value at a False position, NaN and infinity included, changes neither the result
nor its gradient: it is replaced before any arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where the mask is True, 0 elsewhere. Shapes equal (or broadcastable)."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """sum_i m_i x_i over all positions, or along `dim`."""
    values = keep(values, mask)
    return values.sum() if dim is None else values.sum(dim)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """sum_i m_i x_i / sum_i m_i over all positions. ValueError for an empty mask: a mean of nothing is no number."""
    values = keep(values, mask)
    count = mask.expand_as(values).sum()
    if count == 0:
        raise ValueError("masked_mean of an empty mask")
    return values.sum() / count


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """The population variance sum_i m_i (x_i - mean)^2 / sum_i m_i."""
    return masked_mean((keep(values, mask) - masked_mean(values, mask)) ** 2, mask)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) of the counted positions, 0 elsewhere; mean and variance over them."""
    mean, var = masked_mean(values, mask), masked_var(values, mask)
    return keep((keep(values, mask) - mean) * torch.rsqrt(var + EPS), mask)
