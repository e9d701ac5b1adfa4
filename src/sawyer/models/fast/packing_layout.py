"""How the rows of a batch lie end to end, and how they lie where attention reads them: padded, or in bins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

ALIKE = 1.5  # how much longer than another one a row may be with which it is padded
# Positions of a bin, or as many as the longest row has: a wider bin shows each token more masked ones (lab/speed.md#bins).
WIDTH = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroup:
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
class PaddedLayout:
    """N tokens as padded rows, each with its prompt."""

    places: tuple[Tensor, ...]  # (R, T) int64 each: the tokens of R rows; a row's first token again where it is padded
    found: Tensor  # (N,) int64: where each token lies, first, in all of those one after another


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """N tokens in B bins of W places, in each of which some rows lie one after another. Rows that share a prompt lie behind it;
    where they need several bins, each of those has a copy of it. n of the tokens attend."""

    count: int  # B
    tokens: Tensor  # (B x W,) int64: what lies at each place; where nothing does, token 0
    asking: Tensor  # (B x Q,) int64: which tokens attend, bin after bin; where a bin has fewer, others of it
    bias: Tensor  # (B, 1, Q, W) fp32: 0 where one sees a place: its own, those before it in its row, its prompt's; else -inf
    found: Tensor  # (n,) int64: where in `asking` each token is that attends
    attending: Tensor | None  # (n,) int64, ascending: which tokens attend; None: all
    order: Tensor  # (P,) int64: all places but those where nothing lies, token by token
    starts: Tensor  # (N,) int64: where in `order` each token begins


# Compared by identity: one of these goes through all layers of a pass.
@dataclass(frozen=True, kw_only=True, eq=False)
class PackedLayout:
    """N tokens of families end to end. `read`, (n,) int64 and ascending, are those whose states count behind the module `last`,
    the last one to attend; None: all of them."""

    families: tuple[PrefixGroup, ...]
    read: Tensor | None = None
    last: nn.Module | None = None

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row, its prompt included."""
        return max(family.shared + max(family.own) for family in self.families)

    @cached_property
    def whole(self) -> PaddedLayout:
        """Each row with its prompt."""
        rows = torch.tensor([*_rows(self.families)])
        tokens = _tokens(rows)
        groups = list(_alike(rows[:, 3].tolist()))
        places = tuple(tokens[numbers, : int(rows[numbers[-1], 3])] for numbers in groups)
        prompt_index, again = torch.cat([x.flatten() for x in places]).sort(stable=True)
        found = again[torch.searchsorted(prompt_index, torch.arange(sum(family.tokens for family in self.families)))]
        return PaddedLayout(places=places, found=found)

    def bins(self, module: nn.Module) -> Bins:
        """The rows as `module` is to read them."""
        return _bins(self.families, self._read if module is self.last else None)

    @cached_property
    def _read(self) -> tuple[int, ...] | None:
        return None if self.read is None else tuple(self.read.tolist())


# A row: where its prompt begins, how many tokens that has, where its own begin, how many it has in all.
_Row = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Some rows of a family behind their prompt: where that begins and how long it is, where they begin and what each adds."""

    begin: int
    shared: int
    own: int
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.shared + sum(self.lengths)


@lru_cache(maxsize=8)  # all layers ask the same, and often several networks one after another
def _bins(families: tuple[PrefixGroup, ...], read: tuple[int, ...] | None) -> Bins:
    if read is not None:
        return _bins_read(_bins(families, None), torch.tensor(read))
    most = max(WIDTH, max(family.shared + max(family.own) for family in families))
    packed = _packed([*_pieces(families, most)], most)
    width = max(sum(piece.size for piece in pieces) for pieces in packed)
    # Tokens end to end that see each other: the first one, how many; where their row begins, their prompt does, and that ends.
    runs: list[tuple[int, int, int, int, int]] = []
    for pieces in packed:
        column = 0
        for piece in pieces:
            prompt, column, own = column, column + piece.shared, piece.own
            runs.append((piece.begin, piece.shared, prompt, prompt, prompt))
            for length in piece.lengths:
                runs.append((own, length, column, prompt, prompt + piece.shared))
                own, column = own + length, column + length
        runs.append((-1, width - column, column, column, column))  # what fills up sees itself alone
    first, counts, rows, prompts, ends = torch.tensor(runs).T
    run = torch.arange(len(runs)).repeat_interleave(counts)
    real = first[run] >= 0
    tokens = (first[run] + torch.arange(len(run)) - (counts.cumsum(0) - counts)[run]).where(real, 0)
    row, prompt, end = (x[run].view(-1, width, 1) for x in (rows, prompts, ends))
    columns = torch.arange(width)
    seen = (columns <= columns.unsqueeze(1)) & ((columns >= row) | ((columns >= prompt) & (columns < end)))
    places = real.nonzero()[:, 0]
    prompt_index = tokens[places]
    met = torch.bincount(prompt_index)
    order, starts = places[prompt_index.argsort(stable=True)], met.cumsum(0) - met
    return Bins(
        count=len(packed),
        tokens=tokens,
        asking=tokens,
        bias=torch.where(seen, 0.0, -torch.inf).unsqueeze(1),
        found=order[starts],
        attending=None,
        order=order,
        starts=starts,
    )


def _bins_read(bins: Bins, attending: Tensor) -> Bins:
    """The same bins where only those tokens attend."""
    places = bins.found[attending]
    asks = torch.zeros(len(bins.tokens), dtype=torch.bool).index_fill_(0, places, True).view(bins.count, -1)
    most = int(asks.sum(1).max())
    columns = (~asks).long().argsort(dim=1, stable=True)[:, :most]  # those that attend first
    here = (columns + torch.arange(bins.count).unsqueeze(1) * asks.shape[1]).flatten()
    found = torch.empty(len(bins.tokens), dtype=torch.long).index_copy_(0, here, torch.arange(len(here)))[places]
    return replace(
        bins,
        asking=bins.tokens[here],
        bias=bins.bias.flatten(0, 2)[here].view(bins.count, 1, most, -1),
        found=found,
        attending=attending,
    )


def _pieces(families: Sequence[PrefixGroup], most: int) -> Iterator[_Piece]:
    """The families, cut between rows where they have more than `most` tokens; each piece has the whole prompt."""
    start = 0
    for family in families:
        begin, own, taken = start, start + family.shared, list[int]()
        for length in family.own:
            if taken and family.shared + sum(taken) + length > most:
                yield _Piece(begin=begin, shared=family.shared, own=own, lengths=tuple(taken))
                own, taken = own + sum(taken), []
            taken.append(length)
        yield _Piece(begin=begin, shared=family.shared, own=own, lengths=tuple(taken))
        start += family.tokens


def _packed(pieces: Sequence[_Piece], most: int) -> list[list[_Piece]]:
    """Bins of at most `most` tokens: the largest piece first, each into the first bin that has room."""
    found: list[list[_Piece]] = []
    room: list[int] = []
    for piece in sorted(pieces, key=lambda piece: piece.size, reverse=True):
        number = next((number for number, left in enumerate(room) if left >= piece.size), len(room))
        if number == len(room):
            found.append([])
            room.append(most)
        found[number].append(piece)
        room[number] -= piece.size
    return found


def _rows(families: Sequence[PrefixGroup]) -> Iterator[_Row]:
    start = 0
    for family in families:
        own = start + family.shared
        for length in family.own:
            yield start if family.shared else own, family.shared, own, family.shared + length
            own += length
        start = own


def _tokens(rows: Tensor) -> Tensor:
    """(R, T): the rows' tokens, filled up by the first one."""
    begin, shared, own, length = rows.T.unsqueeze(2)
    columns = torch.arange(int(length.max()))
    return torch.where(columns < shared, begin + columns, own + columns - shared).where(columns < length, begin)


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows by length: the longest of those that go together is at most `ALIKE` times as long as the shortest."""
    taken: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if taken and lengths[number] > ALIKE * lengths[taken[0]]:
            yield taken
            taken = []
        taken.append(number)
    if taken:
        yield taken
