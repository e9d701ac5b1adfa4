"""Who may import whom, and how long anything may be. Edit the table, not the test: a new room is a new row first."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "sawyer"

FLOOR_2 = {"errors", "records", "runs", "maths", "text", "models"}
STREET = FLOOR_2 | {"trust", "stats", "config", "worlds", "train", "ratings", "judges"}
LEARNS = {"torch", "transformers", "numpy"}

# room -> (our rooms it may import, third-party packages it may import)
ALLOW: dict[str, tuple[set[str], set[str]]] = {
    # floor 0: words and files
    "errors": (set(), set()),
    "version": (set(), set()),
    "stats": (set(), set()),
    "records": ({"errors"}, {"pyarrow"}),
    "config": ({"errors"}, {"pydantic", "pydantic_core", "yaml"}),
    "runs": ({"errors", "version"}, {"yaml"}),
    "worlds": ({"errors", "records"}, set()),
    # floor 1: pure mathematics
    "maths": (set(), {"torch"}),
    # floor 2: tokens and networks
    "text": ({"errors", "records"}, {"torch", "transformers"}),
    "models": (
        {"errors", "records", "runs", "maths", "text"},
        {"torch", "transformers", "tokenizers", "safetensors", "peft"},
    ),
    "trust": ({"errors", "stats", "records", "maths", "models"}, {"torch"}),
    # people's judgements: the store of votes, who agrees with whom, rows for training; and models that judge
    "ratings": ({"errors", "stats", "records", "runs"}, {"numpy"}),
    "judges": ({"errors", "stats", "records", "runs"}, set()),
    # floor 3: training
    "train": (FLOOR_2, {"torch"}),
    # floor 4: the street; the stages meet on disk, and only the pipeline knows their order
    "stages": (set(), set()),
    "stages/base": (STREET, LEARNS),
    "stages/classify": (STREET, LEARNS),
    "stages/sft": (STREET, LEARNS),
    "stages/collect": (STREET, LEARNS),
    "stages/reward": (STREET, LEARNS),
    "stages/rl": (STREET, LEARNS),
    "stages/compare": (STREET, LEARNS),
    "report": ({"errors", "stats", "maths", "runs", "trust"}, {"matplotlib", "jinja2", "markupsafe", "yaml"}),
    "pipeline": (STREET | {"version", "stages", "report"}, set()),
    "studies": (STREET | {"stages", "report", "pipeline"}, {"torch"}),
    # floor 5: people
    "web": (set(), set()),
    "web/core": ({"errors", "version", "runs", "report"}, {"starlette", "uvicorn"}),
    "web/rate": ({"errors", "stats", "records", "runs", "ratings", "worlds", "web/core"}, {"starlette"}),
    "chat": (STREET | {"stages", "pipeline"}, {"torch"}),
    "cli": (STREET | {"version", "stages", "report", "pipeline", "studies", "chat", "web"}, {"typer", "rich", "click"}),
    # the door, for users only: nobody inside goes through it
    "__init__": (STREET | {"version", "stages", "report", "pipeline", "studies", "chat", "cli"}, set()),
    "__main__": ({"cli"}, set()),
}

# Rooms that the quick commands open: nothing slow to load at the top of any of their files.
QUICK = {
    "errors",
    "version",
    "stats",
    "records",
    "config",
    "runs",
    "worlds",
    "pipeline",
    "studies",
    "chat",
    "ratings",
    "judges",
    "web",
    "cli",
    "__init__",
}
# A finished run asks who it is and opens its folder, without waiting for torch.
QUICK_FILES = {ROOT / "train" / name for name in ("__init__.py", "distributed.py", "shared_run.py")}
HEAVY = {
    "torch",
    "transformers",
    "matplotlib",
    "pyarrow",
    "numpy",
    "jinja2",
    "tokenizers",
    "safetensors",
    "peft",
    "starlette",
    "uvicorn",
}

LONGEST_FILE, LONGEST_FUNCTION = 500, 80
NAMES_OF_THE_LAYOUT = (
    *("config.yaml", "run.json", "metrics.jsonl", "events.jsonl", "samples.jsonl", "compare.jsonl"),
    *(
        "summary.json",
        "report.html",
        "answers.jsonl",
        "trust.json",
        "ratings.sqlite",
        "judge_cache.sqlite",
        "judgements.jsonl",
        "answer_rewards.jsonl",
    ),
    *(f"{study}.{kind}" for study in ("losses", "algorithms", "seeds", "overoptimisation") for kind in ("json", "md", "html")),
)


def files(root: Path = ROOT) -> list[Path]:
    return sorted(root.rglob("*.py"))


def room(path: Path, root: Path = ROOT) -> str:
    """`records/read.py` -> records; `stages/rl/guards.py` -> stages/rl; `stages/__init__.py` -> stages; `stats.py` -> stats."""
    parts = path.relative_to(root).with_suffix("").parts
    if parts[0] in ("stages", "web") and len(parts) > 2:
        return "/".join(parts[:2])
    return parts[0]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def for_types_only(module: ast.Module) -> set[int]:
    """The ids of the nodes under `if TYPE_CHECKING:`, which import nothing when the program runs."""
    tests = (node for node in ast.walk(module) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    return {id(inside) for test in tests for statement in test.body for inside in ast.walk(statement)}


def imports(path: Path, root: Path = ROOT) -> Iterator[tuple[list[str], int]]:
    """(the dotted name's parts, the line) of everything imported, names in `from` imports included."""
    module = tree(path)
    skipped = for_types_only(module)
    package = [root.name, *path.relative_to(root).with_suffix("").parts]
    for node in ast.walk(module):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name.split("."), node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: -node.level] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            yield from (([*base, alias.name], node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            # The lazy door and the pipeline name modules in text; a literal one counts like any import.
            given = node.args[0]
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                yield given.value.split("."), node.lineno


def our_room(name: list[str]) -> str:
    """The room that a dotted name of ours leads to, in the table's spelling."""
    if name[1] in ("stages", "web") and len(name) > 2 and f"{name[1]}/{name[2]}" in ALLOW:
        return f"{name[1]}/{name[2]}"
    return name[1]


def violations(root: Path = ROOT) -> Iterator[str]:
    for path in files(root):
        here = room(path, root)
        assert here in ALLOW, f"{path.relative_to(root)}: a new room is a new row of the table first"
        rooms, libraries = ALLOW[here]
        for name, line in imports(path, root):
            where = f"{path.relative_to(root)}:{line}"
            if name[0] == root.name:
                target = our_room(name) if len(name) > 1 else "__init__"
                if target not in ALLOW:  # `from sawyer import run`, `import sawyer`
                    target = "__init__"
                if target == "__init__":
                    yield f"{where}: nobody inside goes through the package's own door"
                elif target != here and target not in rooms and target.split("/")[0] not in rooms - {here.split("/")[0]}:
                    yield f"{where}: {here} may not import {target}"
            elif name[0] not in sys.stdlib_module_names | libraries:
                yield f"{where}: {here} may not import {name[0]}"


def test_every_import_points_down() -> None:
    assert list(violations()) == []


def test_the_table_itself_points_down() -> None:
    done: set[str] = set()
    for name, (rooms, _) in ALLOW.items():
        above = {r for r in rooms if r not in done and not any(d.startswith(r) for d in done)}
        assert not above, f"{name} is allowed {above}, which come after it in the table"
        done.add(name)


def test_every_row_of_the_table_is_a_room() -> None:
    assert set(ALLOW) == {room(path) for path in files()}


def test_nothing_slow_at_the_top_of_the_quick_rooms() -> None:
    found = []
    for path in files():
        if room(path).split("/")[0] not in QUICK and path not in QUICK_FILES:
            continue
        for node in tree(path).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in names if name.split(".")[0] in HEAVY]
    assert found == []


def behind_the_door(root: Path = ROOT) -> list[str]:
    """Imports of the inside of models/fast from elsewhere: everybody else takes what its `__init__` offers."""
    fast = root / "models" / "fast"
    return [
        f"{path.relative_to(root)}:{line}: {'.'.join(name)}"
        for path in files(root)
        if fast not in path.parents
        for name, line in imports(path, root)
        if name[:3] == [root.name, "models", "fast"] and len(name) > 3 and (fast / f"{name[3]}.py").exists()
    ]


def test_the_fast_paths_have_one_door() -> None:
    assert behind_the_door() == []


def test_planted_entries_beside_the_door_of_the_fast_paths(tmp_path: Path) -> None:
    root = tmp_path / "sawyer"
    (root / "models" / "fast").mkdir(parents=True)
    (root / "models" / "fast" / "packing.py").write_text("from sawyer.models.fast.packing import laid\n")  # inside: allowed
    (root / "models" / "load.py").write_text("from sawyer.models.fast import packs\nfrom sawyer.models.fast import packing\n")
    (root / "models" / "forward.py").write_text("from .fast.packing import packs\n")
    assert [line.split(": ")[0] for line in behind_the_door(root)] == ["models/forward.py:1", "models/load.py:2"]


def test_only_the_layout_spells_a_run_s_paths() -> None:
    found = []
    for path in files():
        if path == ROOT / "runs" / "layout.py":
            continue
        module = tree(path)
        documented = [n for n in ast.walk(module) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docstrings = {id(n.body[0].value) for n in documented if n.body and isinstance(n.body[0], ast.Expr)}
        for node in ast.walk(module):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            # A path is the name alone or at the end of one; a sentence that mentions a file to its reader is not.
            if id(node) not in docstrings and any(text == name or text.endswith(f"/{name}") for name in NAMES_OF_THE_LAYOUT):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text!r}")
    assert found == []


def test_no_file_and_no_function_is_long() -> None:
    found = []
    for path in files():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        found += [f"{path.relative_to(ROOT)}: {lines} lines"] if lines > LONGEST_FILE else []
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
                found += [where] if length > LONGEST_FUNCTION else []
    assert found == []


def test_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.stem in drawers] == []


# The test's own test: planted violations must be found, and what is allowed must not be.


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("maths/kl.py", "from sawyer.records import JudgedPrompt", "maths may not import records"),
        ("maths/kl.py", "import numpy as np", "maths may not import numpy"),
        ("maths/kl.py", "from ..records import JudgedPrompt", "maths may not import records"),
        ("maths/kl.py", "def f():\n    import transformers", "maths may not import transformers"),
        ("stages/rl/rl_stage.py", "from sawyer.stages.sft import train", "stages/rl may not import stages/sft"),
        ("stages/rl/rl_stage.py", "from sawyer.stages import sft", "stages/rl may not import stages/sft"),
        ("stages/rl/rl_stage.py", "from ..sft import train", "stages/rl may not import stages/sft"),
        ("stages/rl/rl_stage.py", "from sawyer.pipeline import run", "stages/rl may not import pipeline"),
        ("models/load.py", "import sawyer", "nobody inside goes through"),
        ("models/load.py", "from sawyer import RewardScorer", "nobody inside goes through"),
        ("cli/main.py", "import sawyer.cli.inspect\nfrom sawyer import __version__", "nobody inside goes through"),
        (
            "runs/run_folder.py",
            "from importlib import import_module\nimport_module('sawyer.models')",
            "runs may not import models",
        ),
        ("maths/kl.py", "import torch\nfrom sawyer.maths.masked import masked_mean", ""),
        ("maths/kl.py", "from .masked import masked_mean", ""),
        ("maths/kl.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy", ""),
        ("stages/rl/rl_stage.py", "from sawyer.stages.rl.ppo_updates import Ppo\nfrom .guards import Guard", ""),
        ("pipeline.py", "from sawyer.report import build", ""),
        ("cli/stage_commands.py", "from sawyer.pipeline import run", ""),
    ],
)
def test_planted_imports(tmp_path: Path, file: str, line: str, found: str) -> None:
    root = tmp_path / "sawyer"
    path = root / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    told = list(violations(root))
    assert (found in told[0]) if found else told == []


def test_a_room_without_a_row_fails(tmp_path: Path) -> None:
    (tmp_path / "sawyer" / "studio").mkdir(parents=True)
    (tmp_path / "sawyer" / "studio" / "page.py").write_text("import os\n")
    with pytest.raises(AssertionError, match="a new room is a new row"):
        list(violations(tmp_path / "sawyer"))
