"""The peak of memory: it rises with what is held, stays when that is let go, and is forgotten when asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sawyer.engine import memory, peak_memory_mb, reset_peak_memory

MANY = 64 * 2**20  # bytes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process its peak and forgets it")
def test_the_peak_is_of_what_came_since_the_reset() -> None:
    reset_peak_memory()
    before = peak_memory_mb()
    assert before is not None and before > 50  # Python and PyTorch at least
    held = torch.ones(MANY // 4)
    risen = peak_memory_mb()
    assert risen is not None and 60 < risen - before < 80  # 64 MiB
    del held
    assert peak_memory_mb() == pytest.approx(risen, abs=4)
    reset_peak_memory()
    after = peak_memory_mb()
    assert after is not None and after < risen - 50


def test_a_system_that_does_not_tell_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "none" / "either")
    reset_peak_memory()
    assert peak_memory_mb() is None
