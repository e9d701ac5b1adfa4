"""A padded batch through a decoder's trunk without its padding: rows end to end, each attending to itself alone, and a prompt
that several rows begin with only once.

All layers but attention treat tokens one by one, so a row of real tokens gives what the padded batch gives, and padding costs
nothing; and in a causal network a prompt's states are the same whatever follows, so that its gradient is the sum of what all
its answers say. Attention is asked row by row, through the interface that transformers' architectures share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sawyer.models.attend import Family, attend, attends_by
from sawyer.text import Batch, Row, pad_right

CLOSE = 1e-4  # how far packed states may lie from padded ones, as a share of the largest
# What a row's own attention calls cost, in multiplications of a layer's tokens (tokens x width^2): estimated in LAB.md,
# "What does padding cost?"; a card does a thousand times as many in the time that a call takes.
CALLS = {"cpu": 1.4e5, "cuda": 1.7e8}

# Where products are bf16 on a processor, a multiple of so many tokens goes through a network: a product of a new size has a
# program made for it first, which takes longer than the product itself (LAB.md, "What does a new size cost?").
SIZES = 64

_packs: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def real_states(trunk: Any, batch: Batch) -> Tensor:
    """(N, d): the trunk's last hidden states of the N real tokens of a right-padded batch, row after row.

    The trunk must be causal: then no attention mask is needed, since a padded token comes after all real ones.
    """
    if not packs_exactly(trunk):
        return _padded(trunk, batch.ids, batch.mask)
    plan = _plan(batch)
    if _pays(trunk, batch, plan):
        return _packed(trunk, batch.ids, plan)
    return _packed(trunk, readable(batch.ids, batch.mask), _unshared(torch.ones_like(batch.mask)))[batch.mask.flatten()]


def row_starts(batch: Batch) -> Tensor:
    """(B,): where each row's first token lies among the real tokens."""
    lengths = batch.mask.sum(1)
    return lengths.cumsum(0) - lengths


def packs_exactly(trunk: Any) -> bool:
    """Whether rows end to end give what padded rows give: tried once, on two rows. Not so where attention is not transformers'
    own, adds biases of its own (ALiBi), or where a layer looks at its neighbours (recurrences, convolutions)."""
    trunk = getattr(trunk, "network", trunk)  # adapters change nothing of how a network is built
    if trunk not in _packs:
        _packs[trunk] = _tried(trunk)
    return _packs[trunk]


@torch.no_grad()
def _tried(trunk: Any) -> bool:
    device = next(trunk.parameters()).device
    # The first and the last share `0 1`.
    texts = ((0, 1, 2, 3, 1, 0), (2, 1, 3), (0, 1, 3, 2))
    rows = [Row(ids=ids, trained=(False, False, *[True] * (len(ids) - 2)), prompt_length=2, cut=False) for ids in texts]
    batch = pad_right(rows, 0).to(device)
    try:
        with torch.autocast(device.type, enabled=False):
            padded = _padded(trunk, batch.ids, batch.mask)
            packed = [_packed(trunk, batch.ids, plan) for plan in (_unshared(batch.mask), _plan(batch))]
    except Exception:  # each architecture refuses in its own way what it does not know
        return False
    near = CLOSE * padded.abs().max()
    return all(padded.shape == found.shape and bool((padded - found).abs().max() <= near) for found in packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How a batch's N real tokens lie end to end. Where prompts are shared, those are n < N."""

    families: tuple[Family, ...]
    rows: Tensor  # (n,) int64, each one's place in the padded batch
    columns: Tensor  # (n,) int64
    found: Tensor | None  # (N,) int64, where each real token's state lies, row after row; None: as they are


def _plan(batch: Batch) -> _Plan:
    """Rows with the same tokens before their first trained one share them; of each row at least one token is its own."""
    ids, mask = batch.ids, batch.mask
    lengths = mask.sum(1).tolist()
    began = torch.where(batch.trained & mask, torch.arange(ids.shape[1], device=ids.device), ids.shape[1]).amin(1).tolist()
    prompts: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(ids.tolist()):
        prompts.setdefault(tuple(row[: min(began[number], lengths[number] - 1)]), []).append(number)
    if all(len(rows) == 1 or not prompt for prompt, rows in prompts.items()):
        return _unshared(mask)
    families: list[Family] = []
    places: list[tuple[int, int]] = []
    found: list[list[int]] = [[] for _ in lengths]
    for prompt, numbers in prompts.items():
        shared = len(prompt) if len(numbers) > 1 else 0
        families.append(Family(shared=shared, own=tuple(lengths[n] - shared for n in numbers)))
        begin = len(places)
        places += [(numbers[0], column) for column in range(shared)]
        for number in numbers:
            found[number] = [*range(begin, begin + shared), *range(len(places), len(places) + lengths[number] - shared)]
            places += [(number, column) for column in range(shared, lengths[number])]
    rows, columns = torch.tensor(places, device=ids.device).unbind(1)
    where = torch.tensor([place for row in found for place in row], device=ids.device)
    return _Plan(families=tuple(families), rows=rows, columns=columns, found=where)


def _unshared(mask: Tensor) -> _Plan:
    rows, columns = mask.nonzero(as_tuple=True)
    families = tuple(Family(shared=0, own=(length,)) for length in mask.sum(1).tolist())
    return _Plan(families=families, rows=rows, columns=columns, found=None)


def _pays(trunk: Any, batch: Batch, plan: _Plan) -> bool:
    width = trunk.config.get_text_config().hidden_size if hasattr(trunk, "config") else 0
    saved = batch.ids.numel() - len(plan.rows)
    calls = sum(len(family.own) + 2 * (family.shared > 0) for family in plan.families)
    return saved * width**2 > CALLS.get(batch.ids.device.type, float("inf")) * calls


def readable(ids: Tensor, mask: Tensor) -> Tensor:
    """The ids with each row's first token in the place of padding, which then cannot matter, not even as NaN in embeddings."""
    return torch.where(mask, ids, ids[:, :1])


def _padded(trunk: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return trunk(input_ids=readable(ids, mask), use_cache=False).last_hidden_state[mask]


def _packed(trunk: Any, ids: Tensor, plan: _Plan) -> Tensor:
    tokens, positions, families = filled_up(ids[plan.rows, plan.columns], plan.columns, plan.families)
    with attends_by(attend, trunk):
        out = trunk(input_ids=tokens.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, families=families)
    states: Tensor = out.last_hidden_state[0, : len(plan.rows)]
    return states if plan.found is None else states.index_select(0, plan.found)


def filled_up(tokens: Tensor, positions: Tensor, families: Sequence[Family]) -> tuple[Tensor, Tensor, Sequence[Family]]:
    """Tokens end to end, as many as there are or as `spare` says; what is added is a row of its own, which nobody sees."""
    if missing := spare(len(tokens), tokens.device.type):
        tokens, positions = (torch.cat([x, x[:1].expand(missing)]) for x in (tokens, positions))
        families = (*families, Family(shared=0, own=(missing,)))
    return tokens, positions, families


def spare(count: int, device: str, of: int | None = None) -> int:
    """How many more make a multiple of `of` (None: `SIZES`), where that matters, else 0."""
    return -count % (of or SIZES) if device == "cpu" and torch.is_autocast_enabled(device) else 0
