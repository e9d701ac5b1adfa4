"""What the tests let fresh processes do: these can import it, which a test's own module they cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import Measurement, measure
from benchmarks.variant import WHOLE, BatchPart, Variant, batch_part

from sawyer.config import Config
from sawyer.train import distributed


def window(ready: Callable[[], object]) -> tuple[float, float]:
    """When this process had loaded, and when it began what counts; seconds of the machine's clock."""
    loaded = time.monotonic()
    ready()
    return loaded, time.monotonic()


def fail(ready: Callable[[], object]) -> None:
    """Fail before what counts."""
    raise LookupError("no such rows")


def who() -> tuple[int, list[int], int]:
    """This process's number, all their numbers, and its threads."""
    with distributed.process_group():
        return distributed.rank(), distributed.all_gather(distributed.rank()), torch.get_num_threads()


def quickly(*given: Any, **named: Any) -> Measurement:
    """`measure`, the machine's rate by a small product."""
    machine: Any = import_module("benchmarks.ceiling")
    machine.SHAPES = ((8, 16, 16),)
    return measure(*given, **named)


def one_after_another(
    config: Config, stages: Sequence[str], root: Path, *, part: BatchPart = WHOLE, ready: Callable[[], object] = lambda: None
) -> list[Measurement]:
    """`quickly` of each stage, in the same process: a part's of every batch where one is given."""
    found = []
    for stage in stages:
        folder = root / f"{stage} {part.number} of {part.of}"
        variant = Variant(batch=batch_part(config, stage, part.of), processes=distributed.world_size())
        found.append(quickly(config, stage, folder, variant, steps=1, part=part, ready=ready))
    return found
