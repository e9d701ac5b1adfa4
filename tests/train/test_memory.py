"""The peak of memory: it rises with what is held, stays when that is freed, and begins anew at a reset. A command keeps what is
freed for the next tensors."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sawyer.cli.malloc import keep_freed_memory
from sawyer.train import allocator, peak_memory_mb, reset_peak_memory

MANY = 64 * 2**20  # bytes


# In a process of its own: what other tests held and let go would be given back in the middle of it.
ALONE = f"""
import torch
from sawyer.train import peak_memory_mb, reset_peak_memory
told = []
reset_peak_memory()
told.append(peak_memory_mb())
held = torch.ones({MANY} // 4)
told.append(peak_memory_mb())
del held
told.append(peak_memory_mb())
reset_peak_memory()
told.append(peak_memory_mb())
print(*told)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process its peak and forgets it")
def test_the_peak_is_of_what_came_since_the_reset() -> None:
    out = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True).stdout
    before, risen, let_go, after = map(float, out.split())
    assert before > 50  # Python and PyTorch at least
    assert 60 < risen - before < 80  # 64 MiB
    assert let_go == pytest.approx(risen, abs=4)
    assert after < risen - 50


def test_a_system_that_does_not_tell_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(allocator, "STATUS", tmp_path / "none")
    monkeypatch.setattr(allocator, "CLEAR", tmp_path / "none" / "either")
    reset_peak_memory()
    assert peak_memory_mb() is None


# Page faults of eight tensors one after another, before and after the command keeps memory; then what the process holds, with
# what an earlier stage has freed and after the next one's reset.
KEPT = f"""
import resource, torch
from sawyer.cli.malloc import keep_freed_memory
from sawyer.train import reset_peak_memory
from sawyer.train.allocator import STATUS
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones({MANY} // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def held():
    return int(STATUS.read_text().split("VmRSS:")[1].split()[0]) // 1024
told = [faults()]
keep_freed_memory()
faults()  # the heap grows
told += [faults(), held()]
reset_peak_memory()
told.append(held())
print(*told)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the system's malloc is not glibc's")
def test_a_command_keeps_what_is_freed_and_a_stage_begins_without_it() -> None:
    out = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True).stdout
    before, within, held_within, held_after = map(int, out.split())
    page_faults = 8 * MANY // resource.getpagesize()
    assert within < page_faults / 3 < page_faults / 2 < before
    assert held_within - held_after > 50


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    keep_freed_memory()
    reset_peak_memory()
