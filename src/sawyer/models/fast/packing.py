"""A padded batch through a decoder's trunk without its padding: rows end to end, each attending to itself alone, and a prompt
that several rows begin with only once.

All layers but attention treat tokens one by one, so a row of real tokens gives what the padded batch gives, and padding costs
nothing; and in a causal network a prompt's states are the same whatever follows, so that its gradient is the sum of what all
its answers say. Attention is asked row by row or in bins, through the interface that transformers' architectures share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sawyer.models.attention_span import long_range
from sawyer.models.fast.attention import attend, attends_by, width_of
from sawyer.models.fast.packing_layout import PackedLayout, PrefixGroup
from sawyer.text import Batch, Row, pad_right, whole_numbers

CLOSE = 1e-4  # how far packed states may lie from padded ones, as a share of the largest
# What a row's own attention calls cost, in multiplications of a layer's tokens (tokens x width^2): estimated in
# lab/speed.md#padding-and-packing; a card does a thousand times as many in the time that a call takes. Rows in bins make
# no such calls; for them it is no more than a rule.
CALLS = {"cpu": 1.4e5, "cuda": 1.7e8}

# Where products are bf16 on a processor, a multiple of so many tokens goes through a network: a product of a new size has a
# program made for it first, which takes longer than the product itself (lab/speed.md#new-sizes).
SIZES = 64

MOST = 0.9  # of a pass's tokens, up to which it pays to compute the states of some alone

_packs: WeakKeyDictionary[nn.Module, tuple[str, ...] | None] = WeakKeyDictionary()


def real_states(trunk: Any, batch: Batch, read: Tensor | None = None) -> Tensor:
    """(n, d): the trunk's last hidden states of the tokens `read` (B, T) of a right-padded batch, row after row; None: of all
    real ones.

    The trunk must be causal: then no attention mask is needed, since a padded token comes after all real ones.
    """
    tail = tail_of(trunk)
    if tail is None:
        return _padded(trunk, batch.ids, batch.mask, batch.mask if read is None else read)
    plan, ids = _plan(batch), batch.ids
    if not _pays(trunk, batch, plan):
        plan, ids = _unshared(torch.ones_like(batch.mask), batch.mask), readable(batch.ids, batch.mask)
    if read is not None:
        plan = replace(plan, found=plan.found[read[batch.mask]])
    return _packed(trunk, ids, plan, tail)


def packs_exactly(trunk: Any) -> bool:
    """Whether rows end to end give what padded rows give: tried once, on three rows. Not so where attention is not
    transformers' own, adds biases of its own (ALiBi), or where a layer looks at its neighbours (recurrences, convolutions), nor
    where the config names what three short rows cannot show (windows, chunks: `reach.long_range`)."""
    return tail_of(trunk) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What comes after the last attention of a trunk, where each token's state depends on nothing but that token's: where
    nobody reads a state, nobody need compute it."""

    last: nn.Module | None = None  # what attends last
    modules: tuple[nn.Module, ...] = ()  # those with matrices, outermost ones


def tail_of(trunk: Any) -> Tail | None:
    """The trunk's tail, as far as it can be told; None where rows end to end are not exact."""
    trunk = getattr(trunk, "network", trunk)  # adapters change nothing of how a network is built
    if trunk not in _packs:
        _packs[trunk] = None if long_range(trunk.config) else _tried(trunk)
    names = _packs[trunk]
    if names is None:
        return None
    found = [trunk.get_submodule(name) for name in names]  # adapters may stand where a layer stood
    return Tail(last=found[0], modules=tuple(found[1:])) if found else Tail()


@torch.no_grad()
def _tried(trunk: Any) -> tuple[str, ...] | None:
    """The names of what attends last and of the modules after it; none where they cannot be told."""
    device = next(trunk.parameters()).device
    # The first and the last share `0 1`.
    texts = ((0, 1, 2, 3, 1, 0), (2, 1, 3), (0, 1, 3, 2))
    rows = [Row(ids=ids, trained=(False, False, *[True] * (len(ids) - 2)), prompt_length=2, cut=False) for ids in texts]
    batch = pad_right(rows, 0).to(device)
    plans = _unshared(batch.mask, batch.mask), _plan(batch)
    with torch.autocast(device.type, enabled=False):
        try:
            padded = _padded(trunk, batch.ids, batch.mask, batch.mask)
            packed = [_packed(trunk, batch.ids, plan, Tail()) for plan in plans]
        except Exception:  # each architecture refuses in its own way what it does not know
            return None
        near = CLOSE * padded.abs().max()
        if not all(padded.shape == found.shape and bool((padded - found).abs().max() <= near) for found in packed):
            return None
        some = torch.tensor([1, 5, 6, 11], device=device)
        try:
            tail = _listened(trunk, batch.ids, plans[1])
            found = _packed(trunk, batch.ids, replace(plans[1], found=plans[1].found[some]), tail)
        except Exception:
            return ()
    if tail.last is None or bool((padded[some] - found).abs().max() > near):
        return ()
    names = {module: name for name, module in trunk.named_modules()}
    return names[tail.last], *(names[module] for module in tail.modules)


def _listened(trunk: Any, ids: Tensor, plan: _Plan) -> Tail:
    """Which modules come after the last attention, told from one pass."""
    heard: list[nn.Module] = []
    attended: list[tuple[int, nn.Module]] = []  # how many modules were heard before, which attends

    def listening(module: nn.Module, *given: Any, **named: Any) -> tuple[Tensor, None]:
        attended.append((len(heard), module))
        return attend(module, *given, **named)

    with ExitStack() as stack:
        for module in trunk.modules():
            if any(weight.dim() > 1 for weight in module.parameters()):
                stack.callback(module.register_forward_pre_hook(lambda module, _: heard.append(module)).remove)
        stack.callback(heard.clear)  # transformers keeps what listened, and that keeps the lists
        stack.callback(attended.clear)
        _packed(trunk, ids, plan, Tail(), listening)
        count, last = attended[-1]
        after: list[nn.Module] = []
        for module in heard[count:]:
            if not any(module is inner for outer in after for inner in outer.modules()):
                after.append(module)
        once = [module for _, module in attended].count(last) == 1 and all(heard.count(module) == 1 for module in after)
        return Tail(last=last, modules=tuple(after)) if once else Tail()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How a batch's N real tokens lie end to end. Where prompts are shared, those are n < N; where padding stays, more."""

    families: tuple[PrefixGroup, ...]
    rows: Tensor  # (n,) int64, each one's place in the padded batch
    columns: Tensor  # (n,) int64
    found: Tensor  # (m,) int64, where the states lie that are asked for, row after row


def _plan(batch: Batch) -> _Plan:
    """Rows with the same tokens before their first trained one share them; of each row at least one token is its own."""
    ids, mask = batch.ids, batch.mask
    lengths = mask.sum(1).tolist()
    began = torch.where(batch.trained & mask, torch.arange(ids.shape[1], device=ids.device), ids.shape[1]).amin(1).tolist()
    prompts: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(ids.tolist()):
        prompts.setdefault(tuple(row[: min(began[number], lengths[number] - 1)]), []).append(number)
    if all(len(rows) == 1 or not prompt for prompt, rows in prompts.items()):
        return _unshared(mask, mask)
    families: list[PrefixGroup] = []
    rows, columns = list[int](), list[int]()
    found: list[Sequence[int]] = [()] * (2 * len(lengths))  # of each row the prompt's places, then its own
    for prompt, numbers in prompts.items():
        shared = len(prompt) if len(numbers) > 1 else 0
        families.append(PrefixGroup(shared=shared, own=tuple(lengths[n] - shared for n in numbers)))
        begin = len(rows)
        rows += [numbers[0]] * shared
        columns += range(shared)
        for number in numbers:
            own = lengths[number] - shared
            found[2 * number : 2 * number + 2] = range(begin, begin + shared), range(len(rows), len(rows) + own)
            rows += [number] * own
            columns += range(shared, lengths[number])
    places, among, where = (whole_numbers(x).to(ids.device) for x in (rows, columns, chain.from_iterable(found)))
    return _Plan(families=tuple(families), rows=places, columns=among, found=where)


def _unshared(mask: Tensor, real: Tensor) -> _Plan:
    """The tokens of `mask` (B, T), of which the `real` ones are asked for."""
    rows, columns = mask.nonzero(as_tuple=True)
    families = tuple(PrefixGroup(shared=0, own=(length,)) for length in mask.sum(1).tolist())
    return _Plan(families=families, rows=rows, columns=columns, found=real[mask].nonzero()[:, 0])


def _pays(trunk: Any, batch: Batch, plan: _Plan) -> bool:
    saved = batch.ids.numel() - len(plan.rows)
    calls = sum(len(family.own) + 2 * (family.shared > 0) for family in plan.families)
    return saved * width_of(trunk) ** 2 > CALLS.get(batch.ids.device.type, float("inf")) * calls


def readable(ids: Tensor, mask: Tensor) -> Tensor:
    """The ids with each row's first token in the place of padding, which then cannot matter, not even as NaN in embeddings."""
    return torch.where(mask, ids, ids[:, :1])


def _padded(trunk: Any, ids: Tensor, mask: Tensor, read: Tensor) -> Tensor:
    return trunk(input_ids=readable(ids, mask), use_cache=False).last_hidden_state[read]


def _packed(trunk: Any, ids: Tensor, plan: _Plan, tail: Tail, way: Any = attend) -> Tensor:
    tokens, positions, families = pad_to_multiple(ids[plan.rows, plan.columns], plan.columns, plan.families)
    with reading(plan.found, len(tokens), tail) as read, attends_by(way, trunk):
        out = trunk(
            input_ids=tokens.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            laid=PackedLayout(families=tuple(families), read=read, last=tail.last),
        )
    return out.last_hidden_state[0].index_select(0, plan.found)


@contextmanager
def reading(places: Tensor, count: int, tail: Tail) -> Iterator[Tensor | None]:
    """Within it the tail works on those of `count` tokens end to end that are at `places` alone; the states of the others mean
    nothing. Given is which those are, (n,) ascending, with some more where their number matters; None: all."""
    read = places.unique()
    if more := spare(len(read), places.device.type):
        others = torch.ones(count, dtype=torch.bool).index_fill_(0, read, False)
        read = torch.cat([read, others.nonzero()[:more, 0]]).sort().values
    if not tail.modules or not 0 < len(read) <= MOST * count:
        yield None
        return

    def taken(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return given[0].index_select(-2, read), *given[1:]

    def put_back(_module: nn.Module, _given: Any, out: Tensor) -> Tensor:
        return out.new_zeros(*out.shape[:-2], count, out.shape[-1]).index_copy(-2, read, out)

    with ExitStack() as stack:
        for module in tail.modules:
            stack.callback(module.register_forward_pre_hook(taken).remove)
            stack.callback(module.register_forward_hook(put_back).remove)
        yield read


def pad_to_multiple(
    tokens: Tensor, positions: Tensor, families: Sequence[PrefixGroup]
) -> tuple[Tensor, Tensor, Sequence[PrefixGroup]]:
    """Tokens end to end, as many as there are or as `spare` says; what is added is a row of its own, which nobody sees."""
    if missing := spare(len(tokens), tokens.device.type):
        tokens, positions = (torch.cat([x, x[:1].expand(missing)]) for x in (tokens, positions))
        families = (*families, PrefixGroup(shared=0, own=(missing,)))
    return tokens, positions, families


def spare(count: int, device: str, of: int | None = None) -> int:
    """How many more make a multiple of `of` (None: `SIZES`), where that matters, else 0."""
    return -count % (of or SIZES) if device == "cpu" and torch.is_autocast_enabled(device) else 0
