"""A pointer to an entry of the laboratory leads to one, and the index names each entry once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
POINTER = re.compile(r"\b((?:learning|speed)\.md)#([a-z0-9-]+)")


def entries(name: str) -> set[str]:
    headings = re.findall(r"(?m)^## (.+)$", (ROOT / "lab" / name).read_text(encoding="utf-8"))
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pointers_lead_to_entries() -> None:
    folders = ("src", "tests", "docs", "benchmarks", "tools", "lab")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    texts = {path: path.read_text(encoding="utf-8") for path in (*files, ROOT / "README.md")}
    pointers = {(path, *match) for path, text in texts.items() for match in POINTER.findall(text)}
    known = {name: entries(name) for name in ("learning.md", "speed.md")}
    lost = [f"{path}: {name}#{entry}" for path, name, entry in sorted(pointers) if entry not in known[name]]
    assert pointers and not lost, lost


def test_the_index_names_every_entry() -> None:
    index = POINTER.findall((ROOT / "lab" / "README.md").read_text(encoding="utf-8"))
    assert sorted(index) == sorted((name, entry) for name in ("learning.md", "speed.md") for entry in entries(name))
