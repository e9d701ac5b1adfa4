"""CONTRIBUTING.md points at code that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def names_in(path: Path) -> set[str]:
    """The names that a module binds at its top."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def test_every_pointer_leads_somewhere() -> None:
    pointers = re.findall(r"`([a-z_/]+\.py)(?::(\w+))?`", TEXT)
    assert len(pointers) > 15
    for file, name in pointers:
        path = next((base / file for base in (ROOT / "src/sawyer", ROOT) if (base / file).is_file()), None)
        if file != "utils.py":
            assert path is not None, f"{file} does not exist"
            assert not name or name in names_in(path), f"{file} has no {name}"


def test_every_room_has_its_floor() -> None:
    rooms = {path.stem for path in (ROOT / "src/sawyer").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    named = set(re.findall(r"`(\w+)`", TEXT.split("## Where")[0])) | {"stages"}
    assert rooms - named == {"__init__", "__main__", "version"}


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?:^    |`)make (\w+)", TEXT, re.M)
    assert len(targets) > 3
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target
