"""How the rows of a batch lie end to end, and how they lie padded, where that is quicker to attend in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import compress

import torch
from torch import Tensor, nn

ALIKE = 1.5  # how much longer than another one a row may be with which it is padded
SCORES = 2**17  # of one head, that are made at once: what the processor's cache holds of several heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A prompt of `shared` tokens and, end to end after it, what each of its rows adds: `own` tokens each.

    Example: the rows `5 6 7` and `5 6 8 9` as `5 6 | 7 | 8 9` -> shared 2, own (1, 2). A row alone has shared 0 and
    own (its length,).
    """

    shared: int
    own: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens lie end to end."""
        return self.shared + sum(self.own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """N tokens as padded rows, each with its prompt."""

    places: tuple[Tensor, ...]  # (R, T) int64 each: the tokens of R rows; a row's first token again where it is padded
    found: Tensor  # (N,) int64: where each token lies, first, in all of those one after another


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """P places, each of one head of a token."""

    tokens: Tensor  # (P,) int64
    heads: Tensor  # (P,) int64
    _found: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def among(self, by_token: int, by_head: int) -> Tensor:
        """(P,) int64: where they are if tokens lie so far apart, and heads so far."""
        if (by_token, by_head) not in self._found:  # all layers ask the same
            self._found[by_token, by_head] = self.tokens * by_token + self.heads * by_head
        return self._found[by_token, by_head]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """R rows padded together, in each of which Q tokens attend to K, with H heads."""

    queries: slice  # R x H x Q of `Layout.queries`
    keys: slice  # R x H x K of `Layout.keys`
    bias: Tensor  # (R, 1, Q, K) fp32: 0 where a token attends to itself or one before it, else -inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """N tokens end to end as padded rows in which n of them attend, each once: a prompt that is shared is a row of its own."""

    groups: tuple[Group, ...]
    queries: Places  # (A,) which tokens attend, group after group; where a row has fewer, others of its tokens fill it up
    keys: Places  # (P,) to which, of H' heads of keys and values; where a row has fewer, its first token fills it up
    padding: Tensor  # (E,) int64: which of `queries` fill up
    places: Tensor  # (n x H,) int64: where in `queries` each token and head is
    tokens: Tensor | None  # (n,) int64, ascending: which tokens attend; None: all
    order: Tensor  # (P,) int64: `keys` by token and head
    starts: Tensor  # (N x H',) int64: where in `order` each token and head begins


# Compared by identity: one of these goes through all layers of a pass.
@dataclass(frozen=True, kw_only=True, eq=False)
class EndToEnd:
    """N tokens of families end to end. `read`, (n,) int64 and ascending, are those whose states count behind the module `last`,
    the last one to attend; None: all of them."""

    families: tuple[Family, ...]
    read: Tensor | None = None
    last: nn.Module | None = None

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row, its prompt included."""
        return max(family.shared + max(family.own) for family in self.families)

    @cached_property
    def whole(self) -> Whole:
        """Each row with its prompt."""
        rows = torch.tensor([*_rows(self.families)])
        tokens, _ = _tokens(rows)
        groups = list(_alike(range(len(rows)), rows[:, 3].tolist()))
        places = tuple(tokens[numbers, : int(rows[numbers[-1], 3])] for numbers in groups)
        owners, again = torch.cat([x.flatten() for x in places]).sort(stable=True)
        found = again[torch.searchsorted(owners, torch.arange(sum(family.tokens for family in self.families)))]
        return Whole(places=places, found=found)

    def layout(self, module: nn.Module, heads: int, key_heads: int) -> Layout:
        """The rows as `module` is to read them, with so many heads, and so many of keys and values."""
        return _layout(self.families, self._read if module is self.last else None, heads, key_heads)

    @cached_property
    def _read(self) -> tuple[int, ...] | None:
        return None if self.read is None else tuple(self.read.tolist())


# A row: where its prompt begins, how many tokens that has, where its own begin, how many it has in all.
_Row = tuple[int, int, int, int]


@lru_cache(maxsize=8)  # all layers ask the same, and often several networks one after another
def _layout(families: tuple[Family, ...], read: tuple[int, ...] | None, heads: int, key_heads: int) -> Layout:
    count, attending = sum(family.tokens for family in families), None if read is None else torch.tensor(read)
    # Prompts and rows alone before what is behind a shared prompt, each by length: what goes together is a slice.
    sizes = sorted([*_prompts(families), *_rows(families)], key=lambda row: (row[1] > 0, row[3]))
    rows = torch.tensor(sizes)
    tokens, real = _tokens(rows)
    attend = real & (torch.arange(tokens.shape[1]) >= rows[:, 1:2])
    if attending is not None:
        attend &= torch.zeros(count, dtype=torch.bool).index_fill_(0, attending, True)[tokens]
        some = attend.any(1)
        tokens, attend, sizes = tokens[some], attend[some], list(compress(sizes, some.tolist()))
    counts, each = attend.sum(1), torch.arange(heads)[:, None]
    columns = (~attend).long().argsort(dim=1, stable=True)  # those that attend first
    asking = tokens.gather(1, columns)[:, None] * heads + each  # (R, H, T): token x heads + head
    asked = tokens[:, None] * heads + each
    filling = (torch.arange(tokens.shape[1]) >= counts[:, None])[:, None].expand(-1, heads, -1)
    groups: list[Group] = []
    queries, keys, padding = list[Tensor](), list[Tensor](), list[Tensor]()  # each in the order (R, H, T)
    most, lengths = counts.tolist(), [row[3] for row in sizes]
    alone = sum(row[1] == 0 for row in sizes)
    attended = seen = 0
    for kind in (range(alone), range(alone, len(sizes))):
        for numbers in _alike(kind, lengths, SCORES):
            here = slice(numbers[0], numbers[-1] + 1)
            q, k = max(most[here]), lengths[numbers[-1]]
            queries.append(asking[here, :, :q].flatten())
            keys.append(asked[here, :, :k].flatten())
            padding.append(filling[here, :, :q].flatten())
            bias = torch.where(torch.arange(k) > columns[here, :q, None], -torch.inf, 0.0).unsqueeze(1)
            ends = attended + len(queries[-1]), seen + len(keys[-1])
            groups.append(Group(queries=slice(attended, ends[0]), keys=slice(seen, ends[1]), bias=bias))
            attended, seen = ends
    every, fills, read_keys = torch.cat(queries), torch.cat(padding), torch.cat(keys)
    places = torch.empty(count * heads, dtype=torch.long)
    places[every[~fills]] = (~fills).nonzero()[:, 0]
    whose = Places(tokens=read_keys // heads, heads=read_keys % heads // (heads // key_heads))
    owners = whose.tokens * key_heads + whose.heads
    met = torch.bincount(owners, minlength=count * key_heads)
    return Layout(
        groups=tuple(groups),
        queries=Places(tokens=every // heads, heads=every % heads),
        keys=whose,
        padding=fills.nonzero()[:, 0],
        places=places if attending is None else places.view(count, heads)[attending].flatten(),
        tokens=attending,
        order=owners.argsort(stable=True),
        starts=met.cumsum(0) - met,
    )


def _rows(families: Sequence[Family]) -> Iterator[_Row]:
    start = 0
    for family in families:
        own = start + family.shared
        for length in family.own:
            yield start if family.shared else own, family.shared, own, family.shared + length
            own += length
        start = own


def _prompts(families: Sequence[Family]) -> Iterator[_Row]:
    """Those that are shared, as rows of their own."""
    start = 0
    for family in families:
        if family.shared:
            yield start, 0, start, family.shared
        start += family.tokens


def _tokens(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(R, T) each: the rows' tokens, filled up by the first one, and which of them are real."""
    begin, shared, own, length = rows.T.unsqueeze(2)
    columns = torch.arange(int(length.max()))
    real = columns < length
    return torch.where(columns < shared, begin + columns, own + columns - shared).where(real, begin), real


def _alike(numbers: Sequence[int], lengths: Sequence[int], most: float = torch.inf) -> Iterator[list[int]]:
    """Rows by length: the longest of those that go together is at most `ALIKE` times as long as the shortest; several rows have
    at most `most` pairs of tokens, padding included."""
    taken: list[int] = []
    for number in sorted(numbers, key=lambda number: lengths[number]):
        longest = lengths[number]
        if taken and (longest > ALIKE * lengths[taken[0]] or (len(taken) + 1) * longest**2 > most):
            yield taken
            taken = []
        taken.append(number)
    if taken:
        yield taken
