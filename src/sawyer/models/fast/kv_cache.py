"""Reading prompts and then one token at a time, with the keys and values of what was read kept.

Where the architecture allows it, prompts are read without padding, equal ones once, into a cache with room for the answers;
elsewhere padded, into transformers' own cache; and where that cache tells a row beside others something else than alone, whole
rows are read again at each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from sawyer.models.attention_span import reaches
from sawyer.models.fast.attention import attend, attend_last, attends_by, is_narrow, width_of
from sawyer.models.fast.cpu_features import products_by_rows
from sawyer.models.fast.packing import packs_exactly, pad_to_multiple, reading, tail_of
from sawyer.models.fast.packing_layout import PackedLayout, PrefixGroup
from sawyer.models.forward import cache_kwargs, head_of, network_of, next_logits, splits_exactly, trunk_of
from sawyer.text import pad_left, whole_numbers

ROOM = 32  # tokens a row for which room is made at once
LOGITS = 3  # copies of a row's logits that there are at once while its token is drawn
STATES = 12  # numbers a unit that there are at once of each token of a prompt while it is read
TRIAL = 2e11  # weights times tokens that the trial of a cache may cost: seconds on a processor
SHORTEST, LONGEST = 7, 300  # tokens of that trial's longer row, whatever the config names
CLOSE = 1e-3  # how far logits may lie from those of the row alone, absolutely and as a share

_caches: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class Decoder:
    """B rows being written. `width` is how many columns the rows take so far, padding on the left included."""

    width: int

    def first(self) -> Tensor:
        """(B, V) fp32 logits after the prompts."""
        raise NotImplementedError

    def next(self, chosen: Tensor) -> Tensor:
        """(B, V) fp32 logits after one more token a row, `chosen` (B,)."""
        raise NotImplementedError

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        raise NotImplementedError


def decoder(model: nn.Module, rows: Sequence[Sequence[int]], *, room: int) -> Decoder:
    """Ready to read `rows`, to each of which at most `room` tokens will be added."""
    if _has_room(model):
        return StaticCacheDecoder(model, rows, room)
    return PaddedDecoder(model, rows) if caches_exactly(model) else RereadDecoder(model, rows)


def rows_within(held: int, model: nn.Module, columns: int) -> int:
    """How many rows of so many tokens a decoder can write with about `held` bytes of keys, values, states and logits; 0 where
    nobody can tell."""
    if not _has_room(model):
        return 0
    trunk, head = trunk_of(model), head_of(model).weight
    kept = (2 * _depth(trunk) + STATES) * width_of(trunk) * with_room(columns)
    return held // (head.element_size() * (kept + LOGITS * head.shape[0]))


class PaddedDecoder(Decoder):
    """Prompts padded on the left, and whatever cache the model itself makes."""

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]]) -> None:
        batch = pad_left(rows, 0).to(next(model.parameters()).device)
        self.model, self.mask, self.positions, self.cache = model, batch.mask, batch.positions, None
        # Each row's own last token pads it: whatever a pad token's embedding is.
        self.ids = torch.where(batch.mask, batch.ids, batch.ids[:, -1:])
        self.width = self.mask.shape[1]

    def first(self) -> Tensor:
        logits, self.cache = next_logits(
            self.model,
            self.cache,
            input_ids=self.ids,
            attention_mask=self.mask.long(),
            position_ids=self.positions,
        )
        return logits

    def next(self, chosen: Tensor) -> Tensor:
        self.ids, self.positions = chosen.unsqueeze(1), self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self.width += 1
        return self.first()

    def keep(self, rows: Tensor) -> None:
        cache: Any = self.cache
        # Layers with a state know how to leave rows out as beam search does, and no other way.
        states = any(hasattr(layer, "conv_states") for layer in cache.layers)
        (cache.reorder_cache if states else cache.batch_select_indices)(rows)
        self.ids, self.positions, self.mask = self.ids[rows], self.positions[rows], self.mask[rows]


class RereadDecoder(Decoder):
    """Nothing is kept: whole rows, padded on the right, are read again at each token. Slow; right for whatever is causal."""

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.rows = [list(row) for row in rows]

    @property
    def width(self) -> int:  # type: ignore[override]
        """Tokens of the longest row."""
        return max(map(len, self.rows))

    def first(self) -> Tensor:
        lengths = torch.tensor([len(row) for row in self.rows], device=self.device)
        filled = [row + row[:1] * (self.width - len(row)) for row in self.rows]
        ids, number = torch.tensor(filled, device=self.device), torch.arange(len(self.rows), device=self.device)
        if splits_exactly(self.model):
            states = trunk_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state
            logits: Tensor = head_of(self.model)(states[number, lengths - 1])
        else:
            logits = self.model(input_ids=ids, use_cache=False).logits[number, lengths - 1]
        return logits.float()

    def next(self, chosen: Tensor) -> Tensor:
        for row, token in zip(self.rows, chosen.tolist(), strict=True):
            row.append(token)
        return self.first()

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]


class StaticCacheDecoder(Decoder):
    """Different prompts end to end without padding, then their keys and values laid out padded, with room for the answers."""

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]], room: int) -> None:
        device = next(model.parameters()).device
        self.model, self.trunk = model, trunk_of(model)
        different = {tuple(row): None for row in rows}
        numbers = {row: number for number, row in enumerate(different)}
        self.prompts = list(different)
        self.which = torch.tensor([numbers[tuple(row)] for row in rows], device=device)
        self.width = max(map(len, self.prompts))
        lengths = torch.tensor([len(row) for row in self.prompts], device=device)
        self.positions = lengths[self.which].unsqueeze(1) - 1
        seen = torch.arange(with_room(self.width + room), device=device) >= (self.width - lengths).unsqueeze(1)
        self.seen = seen[self.which][:, None, None]  # (B, 1, 1, columns), True from each row's first token on
        places = seen[:, : self.width].nonzero(as_tuple=True)
        self.by_products = whole = device.type == "cpu" and (products_by_rows() or is_narrow(self.trunk))
        shape = len(self.prompts), self.width
        self.cache = Cache(layers=[StaticCache(places, self.which, shape, whole=whole) for _ in range(_depth(self.trunk))])

    def first(self) -> Tensor:
        device = self.which.device
        lengths = [len(row) for row in self.prompts]
        tokens, positions, families = pad_to_multiple(
            whole_numbers(chain.from_iterable(self.prompts)).to(device),
            torch.cat([torch.arange(length, device=device) for length in lengths]),
            [PrefixGroup(shared=0, own=(length,)) for length in lengths],
        )
        last = torch.tensor(lengths, device=device).cumsum(0) - 1
        tail = tail_of(self.trunk)
        assert tail is not None  # `decoder` has asked
        with reading(last, len(tokens), tail) as read, attends_by(attend, self.trunk):
            states = self.trunk(
                input_ids=tokens.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                laid=PackedLayout(families=tuple(families), read=read, last=tail.last),
                **cache_kwargs(self.trunk, self.cache),
            ).last_hidden_state[0]
        logits: Tensor = head_of(self.model)(states[last])
        return logits.float()[self.which]

    def next(self, chosen: Tensor) -> Tensor:
        self.width, self.positions = self.width + 1, self.positions + 1
        read = {"input_ids": chosen.unsqueeze(1), "position_ids": self.positions}
        if not self.by_products:
            return next_logits(self.model, self.cache, attention_mask=self.seen[..., : self.width], **read)[0]
        columns = with_room(self.width)
        seen = self.seen[..., :columns] & (torch.arange(columns) < self.width)
        with attends_by(attend_last, self.trunk):
            return next_logits(self.model, self.cache, hidden=torch.where(seen, 0.0, -torch.inf), **read)[0]

    def keep(self, rows: Tensor) -> None:
        self.positions, self.seen = self.positions[rows], self.seen[rows]
        self.cache.batch_select_indices(rows)


class StaticCache(DynamicLayer):
    """A layer's keys and values, written into tensors that have room for some tokens more, and get more when those are written.

    transformers' own layer copies all of them at each token. `places` are (rows, columns) of the packed prompts' tokens among
    `shape` (different prompts, columns); `which` says of each row of the batch which of the prompts it begins with. With
    `whole`, attention is shown the empty columns too, zeros, which it must not look at.
    """

    def __init__(self, places: tuple[Tensor, ...], which: Tensor, shape: tuple[int, int], *, whole: bool) -> None:
        super().__init__()
        self.places, self.which, self.shape, self.whole = places, which, shape, whole
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The first time packed prompts (1, H, N, D), which attention then reads as they are; later a token a row."""
        if self.length == 0:
            self.is_initialized, self.length = True, self.shape[1]
            # Under autocast keys that are turned in fp32 are read in the precision of values anyway.
            self.all_keys, self.all_values = self._laid_out(key_states.to(value_states.dtype)), self._laid_out(value_states)
            self._show()
            return key_states, value_states
        if missing := with_room(self.length + 1) - self.all_keys.shape[2]:
            self.all_keys, self.all_values = (
                torch.cat([x, x.new_zeros(*x.shape[:2], missing, x.shape[3])], 2) for x in (self.all_keys, self.all_values)
            )
        self.all_keys[:, :, self.length] = key_states[:, :, 0]
        self.all_values[:, :, self.length] = value_states[:, :, 0]
        self.length += 1
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        self.all_keys, self.all_values = self.all_keys[indices], self.all_values[indices]
        self._show()

    def get_seq_length(self) -> int:
        return self.length

    def _laid_out(self, packed: Tensor) -> Tensor:
        rows, columns = self.shape
        found = packed.new_zeros(rows, packed.shape[1], with_room(columns), packed.shape[3])
        found.transpose(1, 2)[self.places] = packed[0].transpose(0, 1)[: len(self.places[0])]  # without what fills up
        return found if rows == len(self.which) else found[self.which]

    def _show(self) -> tuple[Tensor, Tensor]:
        shown = self.all_keys.shape[2] if self.whole else self.length
        self.keys, self.values = self.all_keys[:, :, :shown], self.all_values[:, :, :shown]
        return self.keys, self.values


def caches_exactly(model: nn.Module) -> bool:
    """Whether rows that are padded on the left, read into the model's own cache, and of which some leave, are told what each is
    told alone. Tried once, on two rows, as long as the config's windows where they are not too long."""
    network = network_of(model)  # adapters change nothing of how a network is built
    if network not in _caches:
        try:
            _caches[network] = _cached_right(network)
        except Exception:  # recurrent networks keep their past each in its own way
            _caches[network] = False
    return _caches[network]


@torch.no_grad()
def _cached_right(network: Any) -> bool:
    table = network.get_input_embeddings().weight
    weights = sum(weight.numel() for weight in network.parameters())
    most = min(LONGEST, max(SHORTEST, int(TRIAL / weights)))
    length = min(most, max([SHORTEST, *(value + 3 for value in reaches(network.config).values() if value + 3 <= most)]))
    ids = [(7 * i * i + 3 * i + 1) % min(table.shape[0], 97) for i in range(length + 3)]
    short = length // 2
    with torch.autocast(table.device.type, enabled=False):
        rows = PaddedDecoder(network, [ids[:length], ids[1 : 1 + short]])
        rows.first()
        rows.keep(torch.tensor([1, 0], device=table.device))
        for step in range(3):
            told = rows.next(torch.tensor([ids[1 + short + step], ids[length + step]], device=table.device))
        for row, whole in zip(told, (ids[1 : 4 + short], ids), strict=True):
            row_ids = torch.tensor([whole], device=table.device)
            # The mask says what is so anyway: without one transformers warns where an id happens to be the pad token's.
            alone = network(input_ids=row_ids, attention_mask=torch.ones_like(row_ids), use_cache=False).logits[0, -1].float()
            if not torch.allclose(row, alone, atol=CLOSE, rtol=CLOSE):
                return False
    return True


def with_room(width: int) -> int:
    """How many columns are kept for `width` tokens a row."""
    return -(-width // ROOM) * ROOM


def _depth(trunk: Any) -> int:
    return len(DynamicCache(config=trunk.config).layers)


def _has_room(model: nn.Module) -> bool:
    """Whether prompts can be read without padding, and their keys and values laid out with room for the answers."""
    trunk = trunk_of(model)
    return splits_exactly(model) and packs_exactly(trunk) and _caches_whole_pasts(trunk)


def _caches_whole_pasts(trunk: Any) -> bool:
    """Whether each layer keeps all keys and values, and a mask of our own making is understood."""
    layers = DynamicCache(config=trunk.config).layers
    return trunk.config._attn_implementation == "sdpa" and all(type(layer) is DynamicLayer for layer in layers)
