"""An optimizer batch cut into micro-batches: this process's share, and as many forward passes as in every other process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sawyer.train import distributed

Item = TypeVar("Item")
MicroBatch = TypeVar("MicroBatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatches(Generic[MicroBatch]):
    """`parts` are learned from. `idle` go through the network and count nothing, while other processes still have parts."""

    parts: tuple[MicroBatch, ...]
    idle: tuple[MicroBatch, ...] = ()


def shard_micro_batches(
    items: Sequence[Item], size: Callable[[Item], float], split: Callable[[Sequence[Item]], Iterable[MicroBatch]]
) -> MicroBatches[MicroBatch]:
    """This process's share of the batch `items`, cut by `split` into micro-batches within its token budget.

    Every process makes the same number of forward and backward passes: with sharded weights each of them is collective, and one
    fewer would leave the others waiting. Equal shares of tokens do not give equal numbers: one long row is one micro-batch, ten
    short ones may be three, and a small batch may leave a process without any row.
    """
    parts = tuple(split(distributed.shard(items, size)))
    rounds = int(distributed.all_reduce_max(len(parts))[0])
    if len(parts) == rounds:
        return MicroBatches(parts=parts)
    # The cheapest item stands in: what it gives is thrown away.
    (idle,) = split([min(items, key=size)])
    return MicroBatches(parts=parts, idle=(idle,) * (rounds - len(parts)))
