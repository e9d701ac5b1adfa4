"""The peak of memory: it rises with what is held, stays when that is let go, and is forgotten when asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sawyer.engine import memory, peak_memory_mb, reset_peak_memory

MANY = 64 * 2**20  # bytes


# In a process of its own: what other tests held and let go would be given back in the middle of it.
ALONE = f"""
import torch
from sawyer.engine import peak_memory_mb, reset_peak_memory
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process its peak and forgets it")
def test_the_peak_is_of_what_came_since_the_reset() -> None:
    out = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True).stdout
    before, risen, let_go, after = map(float, out.split())
    assert before > 50  # Python and PyTorch at least
    assert 60 < risen - before < 80  # 64 MiB
    assert let_go == pytest.approx(risen, abs=4)
    assert after < risen - 50


def test_a_system_that_does_not_tell_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "none" / "either")
    reset_peak_memory()
    assert peak_memory_mb() is None
