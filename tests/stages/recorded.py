"""What a run wrote down, without the figures that no two runs share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sawyer.runs import read_rows


def is_clock_or_memory(name: str) -> bool:
    """Of metrics.jsonl: all other names are a function of config, data and seed alone."""
    return name.endswith(("_seconds", "_per_second", "_mb"))


def without_clock(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not is_clock_or_memory(name)}


def metric_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, which two runs of one config share."""
    return [without_clock(row) for row in read_rows(path)]
