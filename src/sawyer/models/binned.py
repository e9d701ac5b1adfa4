"""Attention of short rows on a processor: several rows in each of a few bins, and one call of the kernel for all bins, in the
place of one for each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sawyer.models.fast.packing_layout import Bins

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Binned(torch.autograd.Function):
    """query (H, N, D), key and value (H', N, D) -> (N, H, D), 0 where a token does not attend.

    In fp32 also where they are bf16: the kernel's bf16 backward takes several times as long (LAB.md, "What do bins give?").
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bins: Bins, scale: float) -> Tensor:
        heads, tokens, width = query.shape
        q = _taken(query, bins.asking, bins.count)
        k, v = (read_by(_taken(x, bins.tokens, bins.count), heads) for x in (key, value))
        bias = bins.bias.to(q.dtype)
        said, sums = flash(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
        ctx.save_for_backward(q, k, v, said, sums)
        ctx.bins, ctx.bias, ctx.scale, ctx.key_heads, ctx.tokens = bins, bias, scale, key.shape[0], tokens
        found = _rows(said).index_select(0, bins.found).view(-1, heads, width).to(query.dtype)
        if bins.attending is None:
            return found
        return found.new_zeros(tokens, heads, width).index_copy_(0, bins.attending, found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        bins, heads, width = ctx.bins, grad.shape[1], grad.shape[2]
        q, k, v, said, sums = ctx.saved_tensors
        asked = (grad.flatten(1) if bins.attending is None else grad.flatten(1).index_select(0, bins.attending)).to(said.dtype)
        # What fills up, and a prompt's copies, say nothing, so that nobody's gradient comes by them twice.
        slope = asked.new_zeros(len(bins.asking), asked.shape[1]).index_copy_(0, bins.found, asked)
        slope = slope.view(bins.count, -1, heads, width).transpose(1, 2)
        of_query, *others = flash_backward(slope, q, k, v, said, sums, 0.0, False, attn_mask=ctx.bias, scale=ctx.scale)
        mine = _rows(of_query).index_select(0, bins.found).view(-1, heads, width)
        if bins.attending is not None:
            mine = mine.new_zeros(ctx.tokens, heads, width).index_copy_(0, bins.attending, mine)
        found = (mine.transpose(0, 1), *(_summed(x, bins, ctx.key_heads) for x in others))
        return *(x.to(grad.dtype) for x in found), None, None


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """That in which sums are made: fp32, or float64 where it is."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _taken(x: Tensor, places: Tensor, count: int) -> Tensor:
    """(H, N, D) -> (B, H, T, D): the tokens at the places of each bin."""
    found = x.transpose(0, 1).flatten(1).index_select(0, places).to(exact_dtype(x.dtype))
    return found.view(count, -1, x.shape[0], x.shape[2]).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B x T, H x D)."""
    return x.transpose(1, 2).flatten(2).flatten(0, 1)


def read_by(x: Tensor, heads: int) -> Tensor:
    """(B, H', T, D) -> (B, H, T, D): each head as often as there are heads that read it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _summed(x: Tensor, bins: Bins, heads: int) -> Tensor:
    """(B, H, W, D) -> (H', N, D), summed over all heads and places that show the same key."""
    if x.shape[1] != heads:
        x = x.unflatten(1, (heads, -1)).sum(2)
    found = embedding_bag(bins.order, _rows(x), bins.starts, mode="sum")  # the fastest sum of rows (LAB.md)
    return found.view(-1, heads, x.shape[3]).transpose(0, 1)
