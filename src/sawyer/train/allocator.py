"""How much memory a stage takes at its most."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
MB = 2**20


def reset_peak_memory() -> None:
    """From now on `peak_memory_mb` counts anew; what is held now is the least it will find."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    # What an earlier stage freed goes back to the system first, or its memory would count as this stage's.
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # musl, macOS, Windows have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # elsewhere the peak cannot be reset, and is not reported
        CLEAR.write_text("5")


def peak_memory_mb() -> float | None:
    """The most since the last reset, in MiB: what PyTorch held on the card where it used one, else what the process held in
    the machine's memory. None where the system does not tell it (it is Linux that does)."""
    if torch.cuda.is_initialized() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / MB
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        return None
    return int(peak[1]) / 1024 if peak and CLEAR.exists() else None
