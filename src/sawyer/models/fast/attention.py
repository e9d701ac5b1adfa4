"""Causal attention of packed rows, each of which sees itself and the prefix that it shares with others; and attention of each
row's last token to its cached keys. Both have the signature that transformers' architectures call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from sawyer.models.fast.compat import flash_attention, flash_attention_backward, sdpa_attention
from sawyer.models.fast.packing_layout import PackedLayout, PrefixGroup
from sawyer.models.network_parts import width_of

# Keywords of attention that this one does not compute: windows, caps, sinks, biases. A model that passes one stays padded.
NOT_COMPUTED = ("sliding_window", "softcap", "s_aux", "position_bias", "attention_bias")
# Hidden units (and tokens of the longest row) up to which a call of the fused kernel for each row costs more than its work: in
# fp32 such rows attend padded together, and a row's last token by two matrix products (lab/speed.md#narrow-steps).
NARROW, SHORT = 256, 128


def attends_by_products(trunk: Any) -> bool:
    """Whether the last token of each row attends faster by matrix products (`attend_last`) than by the fused kernel: in fp32
    and in a narrow trunk, where the kernel's start costs more than its work."""
    dtype = next(trunk.parameters()).dtype
    narrow = 0 < width_of(trunk) <= NARROW and not torch.is_autocast_enabled("cpu")
    return narrow and sum_dtype(dtype) == dtype


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: PackedLayout,
    dropout: float = 0.0,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """query, key, value (1, H, N, D) -> (1, N, H, D): causal attention within each row of the layout. Raises
    NotImplementedError for what it does not compute (`NOT_COMPUTED`)."""
    _check_supported(settings)
    # Under autocast rotary embeddings leave query and key in fp32 beside a bf16 value.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if not _kernel_fits(query, value, layout, dropout):
        return _attend_by_rows(module, query, key, value, layout, dropout, scaling), None
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    out: Tensor = _KernelAttention.apply(query.squeeze(0), key.squeeze(0), value.squeeze(0), layout.groups, scale)
    return out.unsqueeze(0), None


def _kernel_fits(query: Tensor, value: Tensor, layout: PackedLayout, dropout: float) -> bool:
    """Whether the CPU's kernel computes it (it has no dropout, and one width for keys and values), and pays."""
    _, heads, _, width = query.shape
    if query.device.type != "cpu" or dropout or width != value.shape[3]:
        return False
    short = heads * width <= NARROW and layout.longest <= SHORT
    return not short or sum_dtype(value.dtype) != value.dtype  # in bf16 the other way's backward pass is the slower


def attend_last(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    bias: Tensor,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """query (B, H, 1, D), key (B, H', T, D), value (B, H', T, E) -> (B, 1, H, E): each row's last token attends to the row's
    cached tokens, H / H' heads to the same keys.

    `bias` (B, 1, 1, T) fp32 is added to the scores: -inf at empty columns, else 0. Raises NotImplementedError for what it does
    not compute (`NOT_COMPUTED`).
    """
    _check_supported(settings)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    # Heads that read the same keys become rows of one product: keys need not be repeated for each of them.
    query_groups = query.to(value.dtype).unflatten(1, (key.shape[1], -1)).squeeze(3)  # (B, H', H / H', D)
    scores = torch.matmul(query_groups, key.to(value.dtype).transpose(2, 3))
    weights = torch.add(bias, scores, alpha=scale).softmax(-1)  # in fp32: bias is
    out = torch.matmul(weights.to(value.dtype), value)
    return out.flatten(1, 2).unsqueeze(1), None


def _check_supported(settings: Mapping[str, Any]) -> None:
    if unsupported_names := [name for name in NOT_COMPUTED if settings.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(unsupported_names)}")


def _attend_by_rows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, dropout: float, scaling: float | None
) -> Tensor:
    """Whole rows, each with its prefix, through the device's own attention; rows of about one length go together, padded at
    their ends, which no token before them sees."""
    out = []
    for tokens in layout.padded_layout.tokens:
        index = tokens.to(query.device)
        # By `embedding`, not by indexing: its backward pass adds up a prefix's gradients from all its rows faster.
        flat = (embedding(index, x[0].transpose(0, 1).flatten(1)) for x in (query, key, value))
        q, k, v = (
            part.unflatten(2, (-1, x.shape[3])).transpose(1, 2) for part, x in zip(flat, (query, key, value), strict=True)
        )
        out.append(sdpa_attention(module, q, k, v, dropout=dropout, scaling=scaling).flatten(0, 1))
    return torch.cat(out)[layout.padded_layout.position.to(query.device)].unsqueeze(0)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which sums are made: fp32, or float64 where the tensors are."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class _KernelAttention(torch.autograd.Function):
    """By the CPU's fused kernel, called for some rows at a time.

    Why not autograd through `scaled_dot_product_attention`: its gradient of a slice is a tensor of all tokens filled with
    zeros, once a row; here gradients are written in place. And where products are bf16 the forward pass is bf16, which takes
    half the time, but the backward pass fp32, because the kernel's bf16 backward takes longer
    (lab/speed.md#attention-row-by-row).

    A row with a shared prefix attends in two calls, to the prefix and to itself, which are merged by their log-sum-exps (as in
    arXiv 2310.01889); given the merged one, the kernel's backward of each call is right as it stands.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[PrefixGroup], scale: float) -> Tensor:
        heads, tokens, width = query.shape
        out = query.new_empty(tokens, heads, width)
        log_sums = torch.empty(tokens, heads, dtype=sum_dtype(query.dtype), device=query.device)
        for call in _kernel_calls(groups):
            part, sums = flash_attention(*_inputs(query, key, value, call), causal=call.causal, scale=scale)
            part, sums = part.transpose(1, 2).flatten(0, 1), sums.transpose(1, 2).flatten(0, 1)  # (n, H, D), (n, H)
            if call.merges:
                before = log_sums[call.queries]
                joint = torch.logaddexp(before, sums)
                part = part * (sums - joint).exp().unsqueeze(2)
                part += out[call.queries] * (before - joint).exp().unsqueeze(2)
                sums = joint
            out[call.queries], log_sums[call.queries] = part, sums
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.groups, ctx.scale = groups, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, log_sums = ctx.saved_tensors
        heads = query.shape[0]
        grads = [x.new_empty(x.shape[1], x.shape[0], x.shape[2]) for x in (query, key, value)]
        for call in _kernel_calls(ctx.groups):
            q, k, v = (x.to(log_sums.dtype) for x in _inputs(query, key, value, call))
            slope, part = (_tokens(x.transpose(0, 1), call.queries, call.rows).to(log_sums.dtype) for x in (grad, out))
            sums = log_sums[call.queries].unflatten(0, (call.rows, -1)).transpose(1, 2)
            slopes = flash_attention_backward(slope, q, k, v, part, sums, causal=call.causal, scale=ctx.scale)
            targets = ((call.queries, call.merges), (call.keys, call.adds), (call.keys, call.adds))
            for whole, one, (tokens, adds) in zip(grads, slopes, targets, strict=True):
                one = one.transpose(1, 2).flatten(0, 1)  # (n, H, D)
                if whole.shape[1] != heads:  # several heads read one key
                    one = one.unflatten(1, (whole.shape[1], -1)).sum(2)
                if adds:
                    whole[tokens] += one
                else:
                    whole[tokens] = one
        return *(x.transpose(0, 1) for x in grads), None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _KernelCall:
    """The tokens `queries` attend to the tokens `keys`."""

    queries: slice
    keys: slice
    rows: int = 1  # of one length, end to end
    causal: bool = True
    merges: bool = False  # an earlier call has written these queries' output
    adds: bool = False  # an earlier call has written these keys' gradient


def _kernel_calls(groups: Sequence[PrefixGroup]) -> list[_KernelCall]:
    """One call for each run of rows of one length that share nothing; of a group one for its prefix, one in which all suffixes
    attend to it, and one for each suffix."""
    calls: list[_KernelCall] = []
    start = 0
    for group, same in groupby(groups):
        count = len(list(same))
        if group.prefix == 0 and len(group.suffixes) == 1:
            tokens = slice(start, start + count * group.tokens)
            calls.append(_KernelCall(queries=tokens, keys=tokens, rows=count))
            start = tokens.stop
            continue
        for _ in range(count):
            prefix = slice(start, start + group.prefix)
            start += group.tokens
            if group.prefix:
                calls.append(_KernelCall(queries=prefix, keys=prefix))
                calls.append(_KernelCall(queries=slice(prefix.stop, start), keys=prefix, causal=False, adds=True))
            begin = prefix.stop
            for length in group.suffixes:
                suffix = slice(begin, begin + length)
                calls.append(_KernelCall(queries=suffix, keys=suffix, merges=group.prefix > 0))
                begin = suffix.stop
    return calls


def _inputs(query: Tensor, key: Tensor, value: Tensor, call: _KernelCall) -> list[Tensor]:
    """Query, key and value (rows, H, n, D) of a call, each key and value as often as there are heads that read it."""
    repeats = query.shape[0] // key.shape[0]
    keys = (_tokens(x, call.keys, call.rows) for x in (key, value))
    return [
        _tokens(query, call.queries, call.rows),
        *(x if repeats == 1 else x.repeat_interleave(repeats, 1) for x in keys),
    ]


def _tokens(x: Tensor, tokens: slice, rows: int) -> Tensor:
    """(H, N, D) -> (rows, H, n, D): some tokens."""
    return x[:, tokens].unflatten(1, (rows, -1)).transpose(0, 1)
