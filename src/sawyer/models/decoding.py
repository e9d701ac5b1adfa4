"""Answers written token by token, by the quickest decoder that is exact for the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sawyer.models.attention_span import reaches
from sawyer.models.fast import StaticCacheDecoder, keep_cache_rows, static_cache_problem
from sawyer.models.network_parts import head_of, network_of, next_logits, splits_exactly, trunk_of
from sawyer.text import pad_left

TRIAL = 2e11  # weights times tokens that the trial of a cache may cost: seconds on a CPU
SHORTEST, LONGEST = 7, 300  # tokens of that trial's longer row, whatever the config names
CLOSE = 1e-3  # how far logits may lie from those of the row alone, absolutely and as a share

_exact_caches: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class Decoder(Protocol):
    """B rows being written. `width` is how many columns the rows take so far, padding on the left included."""

    @property
    def width(self) -> int: ...

    def prompt_logits(self) -> Tensor:
        """(B, V) fp32 logits after the prompts."""
        ...

    def next_logits(self, chosen: Tensor) -> Tensor:
        """(B, V) fp32 logits after one more token a row, `chosen` (B,)."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        ...


def new_decoder(model: nn.Module, rows: Sequence[Sequence[int]], *, room: int) -> Decoder:
    """Ready to read `rows`, to each of which at most `room` tokens will be added."""
    if not static_cache_problem(model):
        return StaticCacheDecoder(model, rows, room)
    return PaddedDecoder(model, rows) if caches_exactly(model) else RereadDecoder(model, rows)


class PaddedDecoder:
    """Prompts padded on the left, and the cache that transformers makes for the model."""

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]]) -> None:
        batch = pad_left(rows, 0).to(next(model.parameters()).device)
        self.model, self.mask, self.positions, self.cache = model, batch.mask, batch.positions, None
        # Each row's own last token pads it: a pad token's embedding may be NaN.
        self.ids = torch.where(batch.mask, batch.ids, batch.ids[:, -1:])
        self.width = self.mask.shape[1]

    def prompt_logits(self) -> Tensor:
        logits, self.cache = next_logits(
            self.model,
            self.cache,
            input_ids=self.ids,
            attention_mask=self.mask.long(),
            position_ids=self.positions,
        )
        return logits

    def next_logits(self, chosen: Tensor) -> Tensor:
        self.ids, self.positions = chosen.unsqueeze(1), self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self.width += 1
        return self.prompt_logits()

    def keep(self, rows: Tensor) -> None:
        keep_cache_rows(self.cache, rows)
        self.ids, self.positions, self.mask = self.ids[rows], self.positions[rows], self.mask[rows]


class RereadDecoder:
    """No cache: whole rows, padded on the right, are read again at each token. Slow, and right for every causal model."""

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.rows = [list(row) for row in rows]

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.rows))

    def prompt_logits(self) -> Tensor:
        lengths = torch.tensor([len(row) for row in self.rows], device=self.device)
        padded_rows = [row + row[:1] * (self.width - len(row)) for row in self.rows]
        ids, number = torch.tensor(padded_rows, device=self.device), torch.arange(len(self.rows), device=self.device)
        if splits_exactly(self.model):
            states = trunk_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state
            logits: Tensor = head_of(self.model)(states[number, lengths - 1])
        else:
            logits = self.model(input_ids=ids, use_cache=False).logits[number, lengths - 1]
        return logits.float()

    def next_logits(self, chosen: Tensor) -> Tensor:
        for row, token in zip(self.rows, chosen.tolist(), strict=True):
            row.append(token)
        return self.prompt_logits()

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]


def caches_exactly(model: nn.Module) -> bool:
    """Whether rows padded on the left, read into the model's own cache, and of which some leave, get the logits that each gets
    alone. Tried once, on two rows, as long as the config's windows where those are not too long."""
    network = network_of(model)  # adapters change nothing of how a network is built
    if network not in _exact_caches:
        try:
            _exact_caches[network] = _try_cache(network)
        except Exception:  # recurrent networks keep their past each in its own way
            _exact_caches[network] = False
    return _exact_caches[network]


@torch.no_grad()
def _try_cache(network: Any) -> bool:
    table = network.get_input_embeddings().weight
    weights = sum(weight.numel() for weight in network.parameters())
    most = min(LONGEST, max(SHORTEST, int(TRIAL / weights)))
    length = min(most, max([SHORTEST, *(value + 3 for value in reaches(network.config).values() if value + 3 <= most)]))
    ids = [(7 * i * i + 3 * i + 1) % min(table.shape[0], 97) for i in range(length + 3)]
    short = length // 2
    with torch.autocast(table.device.type, enabled=False):
        rows = PaddedDecoder(network, [ids[:length], ids[1 : 1 + short]])
        rows.prompt_logits()
        rows.keep(torch.tensor([1, 0], device=table.device))
        for step in range(3):
            logits = rows.next_logits(torch.tensor([ids[1 + short + step], ids[length + step]], device=table.device))
        for row, whole in zip(logits, (ids[1 : 4 + short], ids), strict=True):
            row_ids = torch.tensor([whole], device=table.device)
            # With a mask, although it masks nothing: without one transformers warns where an id happens to be the pad token's.
            alone = network(input_ids=row_ids, attention_mask=torch.ones_like(row_ids), use_cache=False).logits[0, -1].float()
            if not torch.allclose(row, alone, atol=CLOSE, rtol=CLOSE):
                return False
    return True
