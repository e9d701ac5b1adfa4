"""Memory: what is freed stays at hand while a stage works, what lives is passed over; and how much that takes at its most."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
MB = 2**20

# mallopt(3) of glibc. Its own bounds follow a program's sizes up to 32 MB; what is larger comes from the system and goes back
# to it each time, and every page of it is filled with zeros on the way.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
NEVER = -1  # of TRIM_THRESHOLD


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Within it what tensors on a processor free is kept for the next ones of their size: a step asks for the same as the step
    before, and gets it without the system (lab/speed.md#kept-memory). At its end what was left in cycles is freed, and
    everything handed back. Where malloc is not glibc's, nothing is kept."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        gc.collect()
        if libc is not None:
            libc.malloc_trim(0)
            libc.mallopt(MMAP_MAX, 65536)
            libc.mallopt(MMAP_THRESHOLD, 32 * MB)  # where glibc's own would have come to
            libc.mallopt(TRIM_THRESHOLD, 64 * MB)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.gnu_get_libc_version and libc.mallopt and libc.malloc_trim else None
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None


def reset_peak_memory() -> None:
    """From now on `peak_memory_mb` counts anew; what is held now, garbage included, is the least it will find."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # elsewhere the peak cannot be forgotten, and is not told
        CLEAR.write_text("5")


def peak_memory_mb() -> float | None:
    """The most since the last reset, in MiB: what PyTorch held on the card where it used one, else what the process held in
    the machine's memory. None where the system does not tell it (it is Linux that does)."""
    if torch.cuda.is_initialized() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / MB
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        return None
    return int(found[1]) / 1024 if found and CLEAR.exists() else None
