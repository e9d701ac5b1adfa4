"""Fixtures of the records' tests: files with known bytes, in a folder the test stands in, so that `where` is short."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], str]:
    """`put("a.jsonl", [row, row])` writes a file and returns its name; bytes and text go in as they are."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: Any) -> str:
        if not isinstance(content, str | bytes):
            lines = ".jsonl" in name
            content = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
        raw = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return name

    return write


@pytest.fixture(scope="session")
def shown() -> dict[str, list[Any]]:
    """The rows that docs/data.md shows, by its sections' first words."""
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    found: dict[str, list[Any]] = {}
    for section in text.split("\n## ")[1:]:
        blocks = [block.split("```")[0] for block in section.split("```jsonl\n")[1:]]
        if blocks:
            found[section.split(":")[0]] = [json.loads(line) for block in blocks for line in block.splitlines()]
    return found
