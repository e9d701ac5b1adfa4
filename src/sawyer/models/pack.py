"""A padded batch through a decoder's trunk without its padding: rows end to end, each attending to itself alone.

All layers but attention treat tokens one by one, so a row of real tokens gives what the padded batch gives, and padding costs
nothing. Attention is asked row by row, through the interface that transformers' architectures share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sawyer.text import Batch

ROWS = "sawyer_rows"  # the name under which transformers knows our attention
CLOSE = 1e-4  # how far packed states may lie from padded ones, as a share of the largest
# What a row's own attention calls cost, in multiplications of a layer's tokens (tokens x width^2): estimated in LAB.md,
# "What does padding cost?"; a card does a thousand times as many in the time that a call takes.
CALLS = {"cpu": 1.4e5, "cuda": 1.7e8}
# What our attention does not do: sliding windows, caps, sinks, biases. A model that asks for one of them is padded.
UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias", "attention_bias")

_packs: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def real_states(trunk: Any, batch: Batch) -> Tensor:
    """(N, d): the trunk's last hidden states of the N real tokens of a right-padded batch, row after row.

    The trunk must be causal: then no attention mask is needed, since a padded token comes after all real ones.
    """
    if not packs_exactly(trunk):
        return _padded(trunk, batch.ids, batch.mask)
    if _pays(trunk, batch):
        return _packed(trunk, batch.ids, batch.mask)
    return _packed(trunk, readable(batch.ids, batch.mask), torch.ones_like(batch.mask))[batch.mask.flatten()]


def row_starts(batch: Batch) -> Tensor:
    """(B,): where each row's first token lies among the real tokens."""
    lengths = batch.mask.sum(1)
    return lengths.cumsum(0) - lengths


def packs_exactly(trunk: Any) -> bool:
    """Whether rows end to end give what padded rows give: tried once, on two rows. Not so where attention is not transformers'
    own, adds biases of its own (ALiBi), or where a layer looks at its neighbours (recurrences, convolutions)."""
    if trunk not in _packs:
        _packs[trunk] = _tried(trunk)
    return _packs[trunk]


@torch.no_grad()
def _tried(trunk: Any) -> bool:
    device = next(trunk.parameters()).device
    ids = torch.tensor([[0, 1, 2, 3, 1, 0], [2, 1, 3, 0, 0, 0], [1, 1, 2, 3, 0, 0]], device=device)
    mask = torch.arange(6, device=device) < torch.tensor([[6], [3], [4]], device=device)
    try:
        with torch.autocast(device.type, enabled=False):
            padded, packed = _padded(trunk, ids, mask), _packed(trunk, ids, mask)
    except Exception:  # each architecture refuses in its own way what it does not know
        return False
    return padded.shape == packed.shape and bool((padded - packed).abs().max() <= CLOSE * padded.abs().max())


def _pays(trunk: Any, batch: Batch) -> bool:
    rows, longest = batch.ids.shape
    width = trunk.config.get_text_config().hidden_size if hasattr(trunk, "config") else 0
    saved = rows * longest - int(batch.mask.sum())
    return saved * width**2 > CALLS.get(batch.ids.device.type, float("inf")) * rows


def readable(ids: Tensor, mask: Tensor) -> Tensor:
    """The ids with each row's first token in the place of padding, which then cannot matter, not even as NaN in embeddings."""
    return torch.where(mask, ids, ids[:, :1])


def _padded(trunk: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return trunk(input_ids=readable(ids, mask), use_cache=False).last_hidden_state[mask]


def _packed(trunk: Any, ids: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    with row_attention(trunk):
        out = trunk(
            input_ids=ids[mask].unsqueeze(0),
            position_ids=places[mask].unsqueeze(0),
            use_cache=False,
            row_lengths=mask.sum(1).tolist(),
        )
    return out.last_hidden_state[0]


@contextmanager
def row_attention(trunk: Any) -> Iterator[None]:
    """Within it the trunk takes rows end to end, told where they end by `row_lengths`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ROWS, _attend)
    before = trunk.config._attn_implementation
    trunk.config._attn_implementation = ROWS  # a name without a mask function: transformers then makes no mask
    try:
        yield
    finally:
        trunk.config._attn_implementation = before


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: Sequence[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """query, key, value (1, H, N, D) -> (1, N, H, D): causal attention within each row; rows of one length go together."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if refused := [name for name in UNKNOWN if asked.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(refused)}")
    given = value.dtype
    if query.device.type == "cpu":  # whose bf16 kernel takes four times as long backward as the fp32 one (LAB.md)
        query, key, value = query.float(), key.float(), value.float()
    found, start = [], 0
    for length, same in groupby(row_lengths):
        count = len(list(same))
        here = slice(start, start + count * length)
        q, k, v = (x[0, :, here].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value))
        out, _ = sdpa_attention_forward(module, q, k, v, None, dropout=dropout, scaling=scaling, is_causal=True)
        found.append(out.flatten(0, 1))
        start = here.stop
    return (found[0] if len(found) == 1 else torch.cat(found)).unsqueeze(0).to(given), None
