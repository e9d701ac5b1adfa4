"""Our attention, in the interface of transformers: causal, of rows that lie end to end, each row seeing itself alone and the
prompt that it shares with others; and each row's last token attending to what is kept of those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from sawyer.models.binned import Binned, exact_dtype, flash, flash_backward, read_by
from sawyer.models.fast.packing_layout import PackedLayout, PrefixGroup

# What our attention does not do: sliding windows, caps, sinks, biases. A model that asks for one of them is padded.
UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias", "attention_bias")
# Heads x width, and tokens of the longest row, up to which a processor attends faster in bins of rows than in a call of its
# kernel for each row; and heads x width up to which a row's last token attends faster by products
# (lab/speed.md#narrow-steps).
NARROW, SHORT = 256, 128


def is_narrow(trunk: Any) -> bool:
    """Whether each row's last token attends in this trunk by products rather than by the processor's kernel, here and now: in
    fp32."""
    fits = 0 < width_of(trunk) <= NARROW and not torch.is_autocast_enabled("cpu")
    return fits and exact_dtype(next(trunk.parameters()).dtype) == next(trunk.parameters()).dtype


def width_of(trunk: Any) -> int:
    """Hidden units, as the trunk's config says; 0 where it says nothing."""
    return trunk.config.get_text_config().hidden_size if hasattr(trunk, "config") else 0


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    laid: PackedLayout,
    dropout: float = 0.0,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """query, key, value (1, H, N, D) -> (1, N, H, D): causal attention within each row; of what nobody reads behind the module
    perhaps 0."""
    _refuse(asked)
    query, key = query.to(value.dtype), key.to(value.dtype)  # positions that are turned in fp32 leave them so
    way, scale = _way(query, value, laid, dropout), query.shape[3] ** -0.5 if scaling is None else scaling
    found: Tensor
    if way == "rows":
        found = _by_rows(module, query, key, value, laid, dropout, scaling)
    elif way == "bins":
        found = Binned.apply(query.squeeze(0), key.squeeze(0), value.squeeze(0), laid.bins(module), scale).unsqueeze(0)
    else:
        found = _OnProcessor.apply(query.squeeze(0), key.squeeze(0), value.squeeze(0), laid.families, scale).unsqueeze(0)
    return found, None


def _way(query: Tensor, value: Tensor, laid: PackedLayout, dropout: float) -> Literal["rows", "bins", "kernel"]:
    """Row by row through whatever attention the device has, or on a processor by its kernel, in bins or row by row."""
    _, heads, _, width = query.shape
    if query.device.type != "cpu" or dropout or width != value.shape[3]:
        return "rows"
    return "bins" if heads * width <= NARROW and laid.longest <= SHORT else "kernel"


def attend_last(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    hidden: Tensor,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """query (B, H, 1, D), key (B, H', T, D), value (B, H', T, E) -> (B, 1, H, E): each row's last token attends to what is kept
    of the row, H / H' heads to the same keys.

    `hidden` (B, 1, 1, T) fp32 is added to the scores: -inf where nothing is kept, else 0. Keys and values had best be whole
    tensors: a part of one is copied before it is multiplied. Raises NotImplementedError for what it does not do (`UNKNOWN`).
    """
    _refuse(asked)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    together = query.to(value.dtype).unflatten(1, (key.shape[1], -1)).squeeze(3)  # (B, H', heads, D)
    scores = torch.matmul(together, key.to(value.dtype).transpose(2, 3))
    shares = torch.add(hidden, scores, alpha=scale).softmax(-1)  # in fp32
    found = torch.matmul(shares.to(value.dtype), value)
    return found.flatten(1, 2).unsqueeze(1), None


@contextmanager
def attends_by(way: Callable[..., tuple[Tensor, None]], trunk: Any) -> Iterator[None]:
    """Within it the trunk attends by `attend` or `attend_last`, given their keywords."""
    from transformers import AttentionInterface

    name = f"sawyer_{way.__name__}"
    AttentionInterface.register(name, way)
    before = trunk.config._attn_implementation
    trunk.config._attn_implementation = name  # one without a mask function: transformers then makes no mask
    try:
        yield
    finally:
        trunk.config._attn_implementation = before


def _refuse(asked: Mapping[str, Any]) -> None:
    """What our attention does not do."""
    if refused := [name for name in UNKNOWN if asked.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(refused)}")


def _by_rows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, laid: PackedLayout, dropout: float, scaling: float | None
) -> Tensor:
    """The rows whole, each with its prompt, through the attention that the device knows; rows of about one length go together,
    padded at their ends, which no token before them sees."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    found = []
    for places in laid.whole.places:
        here = places.to(query.device)
        # An embedding's backward pass adds up faster than an index's what a shared prompt gets from each of its rows.
        parts = (embedding(here, x[0].transpose(0, 1).flatten(1)) for x in (query, key, value))
        q, k, v = (
            part.unflatten(2, (-1, x.shape[3])).transpose(1, 2) for part, x in zip(parts, (query, key, value), strict=True)
        )
        out, _ = sdpa_attention_forward(module, q, k, v, None, dropout=dropout, scaling=scaling, is_causal=True)
        found.append(out.flatten(0, 1))
    return torch.cat(found)[laid.whole.found.to(query.device)].unsqueeze(0)


class _OnProcessor(torch.autograd.Function):
    """By the processor's fused kernel. Where products are bf16 it goes forward in bf16, which takes half the time, and backward
    in fp32, since its own bf16 backward takes longer (lab/speed.md#attention-row-by-row); its sums are fp32 either way. Nothing
    is saved but what is there anyway, and gradients are written in place: autograd's own would fill a tensor of all tokens
    with zeros for each row.

    A row that shares its prompt attends in two parts, to the prompt and to itself, which are joined by their log-sum-exps
    (as in arXiv 2310.01889); given the joint one, the kernel's backward of each part is right as it stands.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, families: Sequence[PrefixGroup], scale: float) -> Tensor:
        heads, tokens, width = query.shape
        out = query.new_empty(tokens, heads, width)
        whole = torch.empty(tokens, heads, dtype=exact_dtype(query.dtype), device=query.device)  # log-sum-exps
        for part in _parts(families):
            q, k, v = _asked(query, key, value, part)
            said, sums = flash(q, k, v, 0.0, part.causal, scale=scale)
            said, sums = said.transpose(1, 2).flatten(0, 1), sums.transpose(1, 2).flatten(0, 1)  # (n, H, D), (n, H)
            if part.joins:
                before = whole[part.asks]
                joint = torch.logaddexp(before, sums)
                said = said * (sums - joint).exp().unsqueeze(2)
                said += out[part.asks] * (before - joint).exp().unsqueeze(2)
                sums = joint
            out[part.asks], whole[part.asks] = said, sums
        ctx.save_for_backward(query, key, value, out, whole)
        ctx.families, ctx.scale = families, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, whole = ctx.saved_tensors
        heads = query.shape[0]
        found = [x.new_empty(x.shape[1], x.shape[0], x.shape[2]) for x in (query, key, value)]
        for part in _parts(ctx.families):
            q, k, v = (x.to(whole.dtype) for x in _asked(query, key, value, part))
            slope, said = (_piece(x.transpose(0, 1), part.asks, part.rows).to(whole.dtype) for x in (grad, out))
            sums = whole[part.asks].unflatten(0, (part.rows, -1)).transpose(1, 2)
            slopes = flash_backward(slope, q, k, v, said, sums, 0.0, part.causal, scale=ctx.scale)
            targets = ((part.asks, part.joins), (part.reads, part.again), (part.reads, part.again))
            for mine, theirs, (place, adds) in zip(found, slopes, targets, strict=True):
                theirs = theirs.transpose(1, 2).flatten(0, 1)  # (n, H, D)
                if mine.shape[1] != heads:  # several heads read one
                    theirs = theirs.unflatten(1, (mine.shape[1], -1)).sum(2)
                if adds:
                    mine[place] += theirs
                else:
                    mine[place] = theirs
        return *(x.transpose(0, 1) for x in found), None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One call of the kernel: the tokens `asks` attend to the tokens `reads`."""

    asks: slice
    reads: slice
    rows: int = 1  # of one length, end to end
    causal: bool = True
    joins: bool = False  # the same tokens have asked before
    again: bool = False  # the same tokens have been read before


def _parts(families: Sequence[PrefixGroup]) -> list[_Part]:
    found: list[_Part] = []
    start = 0
    for family, same in groupby(families):
        count = len(list(same))
        if family.shared == 0 and len(family.own) == 1:
            here = slice(start, start + count * family.tokens)
            found.append(_Part(asks=here, reads=here, rows=count))
            start = here.stop
            continue
        for _ in range(count):
            prompt = slice(start, start + family.shared)
            start += family.tokens
            if family.shared:
                found.append(_Part(asks=prompt, reads=prompt))
                found.append(_Part(asks=slice(prompt.stop, start), reads=prompt, causal=False, again=True))
            place = prompt.stop
            for length in family.own:
                here = slice(place, place + length)
                found.append(_Part(asks=here, reads=here, joins=family.shared > 0))
                place = here.stop
    return found


def _asked(query: Tensor, key: Tensor, value: Tensor, part: _Part) -> list[Tensor]:
    """Query, key and value (rows, H, n, D) of a call, each key and value as often as there are heads that read it."""
    heads = query.shape[0]
    read = (read_by(_piece(x, part.reads, part.rows), heads) for x in (key, value))
    return [_piece(query, part.asks, part.rows), *read]


def _piece(x: Tensor, here: slice, rows: int) -> Tensor:
    """(H, N, D) -> (rows, H, n, D): some tokens."""
    return x[:, here].unflatten(1, (rows, -1)).transpose(0, 1)
