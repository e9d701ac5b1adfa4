"""Attention of short rows on a processor: a few products for all rows of about one length, in the place of a kernel's many
small ones for each row and head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sawyer.models.laid import Group, Layout, Places


class Products(torch.autograd.Function):
    """query (H, N, D), key (H', N, D), value (H', N, E) -> (N, H, E), 0 where a token does not attend.

    The weights W = softmax(scale Q K' + bias) are kept for the backward pass: dV = W' dO, and with dW = dO V' and
    dS = W (dW - sum(dW W)) dQ = scale dS K, dK = scale dS' Q.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        heads, tokens, _ = query.shape
        queries, keys, values = _taken(query, layout.queries), _taken(key, layout.keys), _taken(value, layout.keys)
        queries.mul_(scale)
        found = query.new_empty(len(queries), value.shape[2])
        saved: list[Tensor] = []
        for group in layout.groups:
            parts = queries[group.queries], keys[group.keys], values[group.keys]
            q, k, v = (_by_head(x, group, heads) for x in parts)
            scores = torch.bmm(q, k.transpose(1, 2)).view(-1, heads, *group.bias.shape[2:])
            weights = scores.add_(group.bias).softmax(-1).flatten(0, 1)
            torch.bmm(weights, v, out=_by_head(found[group.queries], group, heads))
            saved += [q, k, v, weights]
        ctx.save_for_backward(*saved)
        ctx.layout, ctx.scale, ctx.shapes = layout, scale, [x.shape for x in (query, key, value)]
        return _put_back(found, layout, tokens, heads)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layout, saved, (shape, key_shape, value_shape) = ctx.layout, ctx.saved_tensors, ctx.shapes
        heads, tokens, width = shape
        grads = _taken(grad.transpose(0, 1), layout.queries).index_fill_(0, layout.padding, 0.0)
        grad_query = grad.new_empty(len(grads), width)
        grad_key, grad_value = (grad.new_empty(len(layout.order), x[2]) for x in (key_shape, value_shape))
        for number, group in enumerate(layout.groups):
            q, k, v, weights = saved[4 * number : 4 * number + 4]
            out = _by_head(grads[group.queries], group, heads)
            scores = torch.ops.aten._softmax_backward_data(torch.bmm(out, v.transpose(1, 2)), weights, -1, weights.dtype)
            torch.bmm(scores, k, out=_by_head(grad_query[group.queries], group, heads))
            torch.bmm(scores.transpose(1, 2), q, out=_by_head(grad_key[group.keys], group, heads))
            torch.bmm(weights.transpose(1, 2), out, out=_by_head(grad_value[group.keys], group, heads))
        of_query = _put_back(grad_query, layout, tokens, heads).mul_(ctx.scale).transpose(0, 1)
        return of_query, _summed(grad_key, layout, key_shape), _summed(grad_value, layout, value_shape), None, None


def _taken(x: Tensor, places: Places) -> Tensor:
    """(H, N, D) -> (P, D): what is at the places, however heads and tokens lie in memory."""
    width = x.shape[2]
    if x.stride(2) != 1 or x.stride(0) % width or x.stride(1) % width:
        x = x.contiguous()
    by_head, by_token = x.stride(0) // width, x.stride(1) // width
    table = x.as_strided(((len(x) - 1) * by_head + (x.shape[1] - 1) * by_token + 1, width), (width, 1))
    return table.index_select(0, places.among(by_token, by_head))


def _by_head(x: Tensor, group: Group, heads: int) -> Tensor:
    """(R x H x T, D) -> (R x H, T, D)."""
    return x.view(len(group.bias) * heads, -1, x.shape[1])


def _put_back(x: Tensor, layout: Layout, tokens: int, heads: int) -> Tensor:
    """(A, D) of the queries -> (N, H, D), 0 where a token does not attend."""
    found = x.index_select(0, layout.places).view(-1, heads, x.shape[1])
    return found if layout.tokens is None else found.new_zeros(tokens, heads, x.shape[1]).index_copy_(0, layout.tokens, found)


def _summed(x: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
    """(P, D) of the keys -> (H', N, D), summed over all rows and heads that attend to one."""
    heads, tokens, width = shape
    found = embedding_bag(layout.order, x, layout.starts, mode="sum")  # the fastest sum of rows (LAB.md)
    return found.view(tokens, heads, width).transpose(0, 1)
