"""Prompts read packed, equal ones once, into a cache with room for the answers, and then one token a row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.models.fast.attention import attend, attend_last, attends_by_products
from sawyer.models.fast.compat import CacheLayer, attention_name, cache_layers, keeps_all_keys, new_cache, use_attention
from sawyer.models.fast.cpu_features import multiplies_by_rows
from sawyer.models.fast.packing import packing_problem, pad_to_multiple
from sawyer.models.fast.packing_layout import PackedLayout, PrefixGroup
from sawyer.models.network_parts import cache_kwargs, head_of, next_logits, splits_exactly, trunk_of, width_of
from sawyer.text import whole_numbers

ROOM = 32  # columns that the cache grows by: growing at each token, as transformers' does, copies the whole cache each time
LOGITS = 3  # copies of a row's logits that there are at once while its token is drawn
STATES = 12  # numbers a hidden unit that there are at once for each token of a prompt while it is read


def static_cache_problem(model: nn.Module) -> str:
    """Why the model does not write into a static cache, in words; empty where it does."""
    trunk = trunk_of(model)
    if problem := packing_problem(trunk):
        return problem
    if not splits_exactly(model):
        return "its logits are not its head applied to its last hidden states"
    if attention_name(trunk) != "sdpa":  # others do not take a mask of our own making
        return f"its attention is {attention_name(trunk)}, not sdpa"
    return "" if all(map(keeps_all_keys, cache_layers(trunk.config))) else "a layer of its cache does not keep all keys"


def rows_that_fit(memory: int, model: nn.Module, columns: int) -> int:
    """How many rows of so many tokens can be written with about `memory` bytes of keys, values, states and logits; 0 without a
    static cache, whose memory is not known."""
    if static_cache_problem(model):
        return 0
    trunk, head = trunk_of(model), head_of(model).weight
    numbers_a_row = (2 * len(cache_layers(trunk.config)) + STATES) * width_of(trunk) * _with_room(columns)
    return memory // (head.element_size() * (numbers_a_row + LOGITS * head.shape[0]))


class StaticCacheDecoder:
    """B rows being written. `width` is how many columns the rows take so far, padding on the left included.

    Only for models without a `static_cache_problem`; the contract is that of `decoding.Decoder`.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]], room: int) -> None:
        device = next(model.parameters()).device
        self.model, self.trunk = model, trunk_of(model)
        self.prompts = list(dict.fromkeys(tuple(row) for row in rows))  # each prompt is read once, however many answers it gets
        number = {prompt: i for i, prompt in enumerate(self.prompts)}
        self.prompt_index = torch.tensor([number[tuple(row)] for row in rows], device=device)  # (B,)
        self.width = max(map(len, self.prompts))
        lengths = torch.tensor([len(prompt) for prompt in self.prompts], device=device)
        self.positions = lengths[self.prompt_index].unsqueeze(1) - 1
        # Rows end at the same column, as if padded on the left: the next token is one column for all.
        real = torch.arange(_with_room(self.width + room), device=device) >= (self.width - lengths).unsqueeze(1)
        self.real = real[self.prompt_index][:, None, None]  # (B, 1, 1, columns), True from each row's first token on
        cells = real[:, : self.width].nonzero(as_tuple=True)
        # By products attention reads whole tensors, empty columns included: a slice would be copied before it is multiplied.
        self.by_products = device.type == "cpu" and (multiplies_by_rows() or attends_by_products(self.trunk))
        shape = len(self.prompts), self.width
        layers = range(len(cache_layers(self.trunk.config)))
        self.cache = new_cache([StaticCache(cells, self.prompt_index, shape, whole=self.by_products) for _ in layers])

    def prompt_logits(self) -> Tensor:
        """(B, V) fp32 logits after the prompts."""
        device = self.prompt_index.device
        lengths = [len(prompt) for prompt in self.prompts]
        tokens, positions, groups = pad_to_multiple(
            whole_numbers(chain.from_iterable(self.prompts)).to(device),
            torch.cat([torch.arange(length, device=device) for length in lengths]),
            [PrefixGroup(prefix=0, suffixes=(length,)) for length in lengths],
        )
        with use_attention(attend, self.trunk):
            states = self.trunk(
                input_ids=tokens.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                layout=PackedLayout(groups=tuple(groups)),
                **cache_kwargs(self.trunk, self.cache),
            ).last_hidden_state[0]
        last = torch.tensor(lengths, device=device).cumsum(0) - 1
        logits: Tensor = head_of(self.model)(states[last])
        return logits.float()[self.prompt_index]

    def next_logits(self, chosen: Tensor) -> Tensor:
        """(B, V) fp32 logits after one more token a row, `chosen` (B,)."""
        self.width, self.positions = self.width + 1, self.positions + 1
        inputs = {"input_ids": chosen.unsqueeze(1), "position_ids": self.positions}
        if not self.by_products:
            return next_logits(self.model, self.cache, attention_mask=self.real[..., : self.width], **inputs)[0]
        columns = _with_room(self.width)
        seen = self.real[..., :columns] & (torch.arange(columns) < self.width)
        with use_attention(attend_last, self.trunk):
            return next_logits(self.model, self.cache, bias=torch.where(seen, 0.0, -torch.inf), **inputs)[0]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.positions, self.real = self.positions[rows], self.real[rows]
        self.cache.batch_select_indices(rows)


class StaticCache(CacheLayer):
    """One layer's keys and values, written into tensors that have room for some tokens more.

    `cells` are (rows, columns) of the packed prompts' tokens among `shape` (different prompts, columns); `prompt_index` says of
    each row of the batch which of the prompts it begins with. With `whole`, attention is shown the empty columns too, zeros,
    which its bias hides.
    """

    def __init__(self, cells: tuple[Tensor, ...], prompt_index: Tensor, shape: tuple[int, int], *, whole: bool) -> None:
        super().__init__()
        self.cells, self.prompt_index, self.shape, self.whole = cells, prompt_index, shape, whole
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The first time packed prompts (1, H, N, D), which attention then reads as they are; later a token a row."""
        if self.length == 0:
            self.is_initialized, self.length = True, self.shape[1]
            # Rotary embeddings leave keys in fp32 under autocast; attention reads them in the precision of values anyway.
            self.all_keys, self.all_values = self._unpack(key_states.to(value_states.dtype)), self._unpack(value_states)
            self._show()
            return key_states, value_states
        if missing := _with_room(self.length + 1) - self.all_keys.shape[2]:
            self.all_keys, self.all_values = (
                torch.cat([x, x.new_zeros(*x.shape[:2], missing, x.shape[3])], 2) for x in (self.all_keys, self.all_values)
            )
        self.all_keys[:, :, self.length] = key_states[:, :, 0]
        self.all_values[:, :, self.length] = value_states[:, :, 0]
        self.length += 1
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Leave only these rows."""
        self.all_keys, self.all_values = self.all_keys[indices], self.all_values[indices]
        self._show()

    def get_seq_length(self) -> int:
        """Columns so far."""
        return self.length

    def _unpack(self, packed_states: Tensor) -> Tensor:
        rows, columns = self.shape
        cells = packed_states.new_zeros(rows, packed_states.shape[1], _with_room(columns), packed_states.shape[3])
        cells.transpose(1, 2)[self.cells] = packed_states[0].transpose(0, 1)[: len(self.cells[0])]  # without added tokens
        return cells if rows == len(self.prompt_index) else cells[self.prompt_index]

    def _show(self) -> tuple[Tensor, Tensor]:
        columns = self.all_keys.shape[2] if self.whole else self.length
        self.keys, self.values = self.all_keys[:, :, :columns], self.all_values[:, :, :columns]
        return self.keys, self.values


def _with_room(width: int) -> int:
    """Columns of the cache for `width` tokens a row."""
    return -(-width // ROOM) * ROOM
