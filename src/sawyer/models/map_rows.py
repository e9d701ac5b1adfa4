"""How a model's rows are read: all of them here, or, where the caller passes another `MapRows`, in shares by several processes.

The models know nothing of other processes. Training code, which does, passes `sawyer.train.distributed.map_sharded`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Rows = TypeVar("Rows")  # a list with an item a row, or a tensor (rows, ...)


class MapRows(Protocol):
    """`work(indices)` gives the results of some rows; the call gives those of all, in their order. `sizes`: what each costs."""

    def __call__(self, sizes: Sequence[float], work: Callable[[list[int]], Rows]) -> Rows: ...


def map_here(sizes: Sequence[float], work: Callable[[list[int]], Rows]) -> Rows:
    """All rows in this process."""
    return work(list(range(len(sizes))))
