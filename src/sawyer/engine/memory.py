"""How much memory work takes at its most."""

from __future__ import annotations

import contextlib
import gc
import re
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
MB = 2**20


def reset_peak_memory() -> None:
    """From now on `peak_memory_mb` counts anew; what is held now is the least it will find."""
    gc.collect()
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
