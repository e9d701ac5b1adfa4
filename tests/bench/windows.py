"""What the tests let fresh processes do: these can import it, which a test's own module they cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from sawyer import bench, processes


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
    with processes.joined():
        return processes.number(), processes.gather(processes.number()), torch.get_num_threads()


def quickly(*given: Any, **named: Any) -> bench.Measured:
    """`measure`, the machine's rate by a small product."""
    machine: Any = import_module("sawyer.bench.ceiling")
    machine.SHAPES = ((8, 16, 16),)
    return bench.measure(*given, **named)
