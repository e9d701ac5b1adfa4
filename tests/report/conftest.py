"""Fixtures of the report's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_run import make_run


@pytest.fixture
def whole_run(tmp_path: Path) -> Path:
    """A finished run."""
    return make_run(tmp_path / "mine")
