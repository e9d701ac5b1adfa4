"""A padded batch through a decoder's trunk without its padding: rows end to end, each attending to itself alone, and a prefix
that several rows begin with only once.

All layers but attention treat tokens one by one, so packed rows give what the padded batch gives; and in a causal network a
prompt's states are the same whatever follows, so that its gradient is the sum of its answers' gradients. Attention is replaced
through the interface that transformers' architectures share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sawyer.models.attention_span import long_range
from sawyer.models.fast.attention import attend
from sawyer.models.fast.compat import use_attention
from sawyer.models.fast.packing_layout import PackedLayout, PrefixGroup
from sawyer.models.fast.switch import OFF, fast_enabled
from sawyer.models.network_parts import fill_padding, network_of, padded_states, width_of
from sawyer.text import Batch, Row, pad_right, whole_numbers

CLOSE = 1e-4  # how far packed states may lie from padded ones, as a share of the largest
# The price of one call of attention, in multiplications of a layer (tokens x width^2) that take as long
# (lab/speed.md#padding-and-packing). A card does a thousand times as many while a call starts.
CALL_COST = {"cpu": 1.4e5, "cuda": 1.7e8}
# In bf16 a CPU gets batches of a multiple of so many tokens: oneDNN makes a program for each new size of a product, which takes
# longer than the product itself (lab/speed.md#new-sizes).
MULTIPLE = 64

_problems: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def packing_problem(trunk: Any) -> str:
    """Why rows of this trunk stay padded, in words; empty where packed rows give what padded ones give.

    Tried once, on three short rows: it fails where attention is not transformers' own or adds biases (ALiBi), and where a layer
    looks at its neighbours (recurrences, convolutions). What three short rows cannot show, windows and chunks, the config
    names (`attention_span.long_range`).
    """
    if not fast_enabled():
        return OFF
    trunk = network_of(trunk)  # adapters change nothing of how a network is built
    if trunk not in _problems:
        span = long_range(trunk.config)
        _problems[trunk] = f"its config names {span}" if span else _try_packing(trunk)
    return _problems[trunk]


def packs_exactly(trunk: Any) -> bool:
    """Whether packed rows give what padded rows give (`packing_problem`)."""
    return not packing_problem(trunk)


def real_states(trunk: Any, batch: Batch, read: Tensor | None = None) -> Tensor:
    """(n, d): a causal trunk's last hidden states of the tokens `read` (B, T) of a right-padded batch, row after row; None: of
    all real ones. Packed where the trunk can be and the batch has something to save."""
    read = batch.mask if read is None else read
    if packing_problem(trunk):
        return padded_states(trunk, batch.ids, batch.mask)[read]
    plan, ids = _pack(batch), batch.ids
    if not _pays(trunk, batch, plan):
        # Padded rows, but by our attention: rows of one length are one call of its kernel, whose backward pass is the faster.
        plan, ids = _pack_unshared(torch.ones_like(batch.mask), batch.mask), fill_padding(batch.ids, batch.mask)
    return _packed_states(trunk, ids, replace(plan, positions=plan.positions[read[batch.mask]]))


@torch.no_grad()
def _try_packing(trunk: Any) -> str:
    """Why packed rows of this trunk are not exact; empty where they are."""
    device = next(trunk.parameters()).device
    # Three lengths, so that there is padding; the first and the last share the prefix `0 1`.
    texts = ((0, 1, 2, 3, 1, 0), (2, 1, 3), (0, 1, 3, 2))
    rows = [Row(ids=ids, loss_mask=(False, False, *[True] * (len(ids) - 2)), prompt_length=2, cut=False) for ids in texts]
    batch = pad_right(rows, 0).to(device)
    with torch.autocast(device.type, enabled=False):
        try:
            padded_rows = padded_states(trunk, batch.ids, batch.mask)[batch.mask]
            plans = _pack_unshared(batch.mask, batch.mask), _pack(batch)
            packed_rows = [_packed_states(trunk, batch.ids, plan) for plan in plans]
        except Exception as error:  # each architecture refuses in its own way what it does not know
            return f"its layers refuse packed rows ({type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]})"
    close = CLOSE * padded_rows.abs().max()
    exact = all(padded_rows.shape == x.shape and bool((padded_rows - x).abs().max() <= close) for x in packed_rows)
    return "" if exact else "packed rows give other states than padded ones"


@dataclass(frozen=True, slots=True, kw_only=True)
class _PackingPlan:
    """Where each of n packed tokens comes from in a padded batch of N real ones. n < N where prefixes are shared, n > N where
    padding stays."""

    groups: tuple[PrefixGroup, ...]
    rows: Tensor  # (n,) int64
    columns: Tensor  # (n,) int64
    positions: (
        Tensor  # (N,) int64: where each real token of the batch lies among the packed ones, row after row; or some of them
    )


def _pack(batch: Batch) -> _PackingPlan:
    """Rows with the same tokens before their first trained one share them; each row keeps at least one token of its own."""
    ids, mask = batch.ids, batch.mask
    lengths = mask.sum(1).tolist()
    first = torch.where(batch.loss_mask & mask, torch.arange(ids.shape[1], device=ids.device), ids.shape[1]).amin(1).tolist()
    rows_of: dict[tuple[int, ...], list[int]] = {}  # by their prompt
    for number, row in enumerate(ids.tolist()):
        rows_of.setdefault(tuple(row[: min(first[number], lengths[number] - 1)]), []).append(number)
    if all(len(numbers) == 1 or not prompt for prompt, numbers in rows_of.items()):
        return _pack_unshared(mask, mask)
    groups: list[PrefixGroup] = []
    rows, columns = list[int](), list[int]()
    positions: list[Sequence[int]] = [()] * (2 * len(lengths))  # of each row the prefix's, then the suffix's
    for prompt, numbers in rows_of.items():
        prefix = len(prompt) if len(numbers) > 1 else 0
        groups.append(PrefixGroup(prefix=prefix, suffixes=tuple(lengths[n] - prefix for n in numbers)))
        begin = len(rows)
        rows += [numbers[0]] * prefix
        columns += range(prefix)
        for number in numbers:
            suffix = lengths[number] - prefix
            positions[2 * number : 2 * number + 2] = range(begin, begin + prefix), range(len(rows), len(rows) + suffix)
            rows += [number] * suffix
            columns += range(prefix, lengths[number])
    tensors = (whole_numbers(x).to(ids.device) for x in (rows, columns, chain.from_iterable(positions)))
    return _PackingPlan(groups=tuple(groups), **dict(zip(("rows", "columns", "positions"), tensors, strict=True)))


def _pack_unshared(mask: Tensor, real: Tensor) -> _PackingPlan:
    """The tokens of `mask` (B, T), of which the `real` ones are read."""
    rows, columns = mask.nonzero(as_tuple=True)
    groups = tuple(PrefixGroup(prefix=0, suffixes=(length,)) for length in mask.sum(1).tolist())
    return _PackingPlan(groups=groups, rows=rows, columns=columns, positions=real[mask].nonzero()[:, 0])


def _pays(trunk: Any, batch: Batch, plan: _PackingPlan) -> bool:
    """Whether the tokens that packing saves take longer than the calls of attention that it adds."""
    tokens_less = batch.ids.numel() - len(plan.rows)
    calls = sum(len(group.suffixes) + 2 * (group.prefix > 0) for group in plan.groups)
    return tokens_less * width_of(trunk) ** 2 > CALL_COST.get(batch.ids.device.type, float("inf")) * calls


def _packed_states(trunk: Any, ids: Tensor, plan: _PackingPlan) -> Tensor:
    """(m, d): the states at the plan's m positions."""
    tokens, positions, groups = pad_to_multiple(ids[plan.rows, plan.columns], plan.columns, plan.groups)
    with use_attention(attend, trunk):
        out = trunk(
            input_ids=tokens.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            layout=PackedLayout(groups=tuple(groups)),
        )
    states: Tensor = out.last_hidden_state[0].index_select(0, plan.positions)
    return states


def pad_to_multiple(
    tokens: Tensor, positions: Tensor, groups: Sequence[PrefixGroup]
) -> tuple[Tensor, Tensor, Sequence[PrefixGroup]]:
    """Packed tokens, `missing_to_multiple` more of them: the added ones are a row of their own, which no other row sees."""
    if missing := missing_to_multiple(len(tokens), tokens.device.type):
        tokens, positions = (torch.cat([x, x[:1].expand(missing)]) for x in (tokens, positions))
        groups = (*groups, PrefixGroup(prefix=0, suffixes=(missing,)))
    return tokens, positions, groups


def missing_to_multiple(count: int, device: str, of: int | None = None) -> int:
    """How many rows or tokens are missing to a multiple of `of` (None: `MULTIPLE`), where new sizes are slow, else 0."""
    slow = device == "cpu" and torch.is_autocast_enabled(device) and fast_enabled()
    return -count % (of or MULTIPLE) if slow else 0
