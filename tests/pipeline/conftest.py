"""A whole pipeline so small that it takes seconds, run once; every test starts from a copy of it, up to the stage it needs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from recorded import metric_rows

from sawyer import pipeline
from sawyer.config import parse_config
from sawyer.errors import SawyerError
from sawyer.pipeline import run_stages
from sawyer.runs import Layout, Listener, Manifest, Run, read_manifest, read_rows
from sawyer.runs.atomic_files import hash_folder
from sawyer.worlds import write_world

STAGES = pipeline.STAGES
CONTEXT = 96


def tiny_tree(data: Path, out: Path) -> dict[str, Any]:
    """The settings of the tiny run: every stage has several steps and takes about a second."""
    return {
        "out": str(out),
        "seed": 0,
        "device": "cpu",
        "precision": "fp32",
        "micro_batch_tokens": 1024,
        "save_every_seconds": 3600,
        "world": {"rater": "honest"},
        "base": {
            "text": [str(data / "statements.txt")],
            "vocab_size": 400,
            "layers": 1,
            "width": 32,
            "heads": 2,
            "context": CONTEXT,
            "tokens": CONTEXT * 60,
            "batch_size": 8,
            "learning_rate": 3e-3,
        },
        "classify": {
            "data": [str(data / "labelled.tsv")],
            "columns": {2: "label", 4: "text"},
            "epochs": 1,
            "batch_size": 12,
            "learning_rate": 3e-3,
            "eval_fraction": 0.2,
        },
        "sft": {
            "data": [str(data / "instructions.json")],
            "batch_size": 16,
            "learning_rate": 3e-3,
            "eval_prompts": 4,
            "max_new_tokens": 8,
        },
        "collect": {"prompts": [str(data / "prompts.jsonl")], "limit": 24, "answers": 2, "max_new_tokens": 8},
        "reward": {
            "data": [str(data / "comparisons.json")],
            "batch_size": 8,
            "learning_rate": 1e-3,
            "calibration_prompts": 8,
            "eval_fraction": 0.2,
        },
        "rl": {
            "prompts": [str(data / "prompts.jsonl")],
            "episodes": 40,
            "batch_size": 8,
            "num_minibatches": 2,
            "epochs": 2,
            "learning_rate": 1e-2,
            "max_new_tokens": 8,
            "eval_every": 2,
            "eval_prompts": 6,
            "eval_fraction": 0.3,
        },
        "compare": {
            "prompts": [str(data / "held_out.jsonl")],
            "limit": 6,
            "deliberate_limit": 2,
            "max_new_tokens": 8,
        },
    }


def write_labelled(data: Path) -> None:
    """A table without a header: source, label, mark, text. The world's questions and wishes."""
    texts = [row["instruction"] for row in json.loads((data / "instructions.json").read_text())]
    rows = [f"world\t{'question' if text.endswith('?') else 'wish'}\t\t{' '.join(text.split())}\n" for text in texts[:72]]
    (data / "labelled.tsv").write_text("".join(rows))


def put(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set `rl.kl.coefficient` and the like."""
    *path, last = name.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
    tree[last] = value


@dataclass(frozen=True)
class Result:
    """What a run leaves that must not depend on when it was interrupted."""

    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    products: dict[str, str]
    figures: dict[str, Any]
    compared: list[dict[str, Any]]
    states: dict[str, str]


@dataclass(frozen=True)
class Tiny:
    """The tiny pipeline: `prefix(stage, out)` gives a run that is done up to before `stage`, `run` goes on with one."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    def tree(self, out: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        tree = tiny_tree(self.data, out)
        for name, value in (changes or {}).items():
            put(tree, name, value)
        return tree

    def run(
        self,
        out: Path,
        changes: Mapping[str, Any] | None = None,
        *,
        only: str | None = None,
        listeners: Sequence[Listener] = (),
    ) -> dict[str, Any]:
        return pipeline.run(parse_config(self.tree(out, changes)), only=only, listeners=listeners)

    def prefix(self, stage: str | None, out: Path) -> Path:
        """A copy of the straight run as it was when `stage` had not begun; None: the whole run."""
        shutil.copytree(self.root / "before" / str(stage), out)
        return out

    def as_begun(self, out: Path, changes: Mapping[str, Any], before: Sequence[str]) -> None:
        """The stages before are taken as begun with the settings of now: their refusal must not hide what a later one says."""
        try:
            config = parse_config(self.tree(out, changes))
        except SawyerError:
            return
        manifest = Manifest(Layout(out).manifest)
        for stage in before:
            manifest.update(stage, fingerprint=pipeline.fingerprint(config, stage))

    def straight(self, stage: str | None = None) -> Path:
        """The straight run when `stage` was done; None: all of it."""
        after = STAGES[STAGES.index(stage) + 1 :] if stage else ()
        return self.root / "before" / (after[0] if after else "None")

    def result(self, out: Path) -> Result:
        layout = Layout(out)
        manifest = dict(read_manifest(layout.manifest).get("stages", {}))
        manifest.pop("report", None)  # the page is drawn whenever it is not the run's own; other tests watch it
        paths = {stage: pipeline.product(layout, stage) for stage in STAGES}
        return Result(
            metrics=metric_rows(layout.metrics),
            samples=read_rows(layout.samples),
            products={stage: hash_folder(path) for stage, path in paths.items() if path.exists()},
            figures={stage: state["figures"] for stage, state in manifest.items()},
            compared=read_rows(layout.compare),
            states={stage: state["status"] for stage, state in manifest.items()},
        )

    def summary(self, out: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Layout(out).summary.read_text(encoding="utf-8"))
        return {name: value for name, value in found.items() if name not in ("out", "seconds")}


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Sizes that are no settings, so that collecting and comparing take several steps and the gold check little time."""
    for stage in STAGES:
        import_module(f"sawyer.stages.{stage}")
    patch.setattr(sys.modules["sawyer.stages.collect.collect_stage"], "ANSWERS_A_STEP", 16)
    patch.setattr(sys.modules["sawyer.stages.compare.compare_stage"], "ANSWERS_A_STEP", 4)
    patch.setattr(sys.modules["sawyer.stages.reward.reward_trust"], "WORLD_PROMPTS", 6)
    # The page is drawn by other tests; here it would take longer than everything else.
    patch.setattr(run_stages, "report", drawn)


def drawn(run: Run) -> None:
    """A page in no time."""
    run.layout.report.write_text("page")
    run.manifest.update("report", status="done")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    import torch

    torch.set_num_threads(1)
    found = Tiny(tmp_path_factory.mktemp("tiny"))
    write_world(found.data, seed=0, instructions=120, rated_prompts=40, prompts=40, held_out=12, dev=4, paragraphs=150)
    write_labelled(found.data)
    (found.root / "before").mkdir()
    (found.root / "before" / "base").mkdir()
    run = found.root / "run"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        for stage, following in zip(STAGES, [*STAGES[1:], None], strict=True):
            found.run(run, only=stage)
            shutil.copytree(run, found.root / "before" / str(following))
    return found


@pytest.fixture(scope="session")
def shrinking() -> Callable[[pytest.MonkeyPatch], None]:
    """`shrink`, for fixtures that live longer than a test."""
    return shrink


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shrink(monkeypatch)
    yield


@pytest.fixture
def calls() -> Callable[[], tuple[list[tuple[str, dict[str, Any]]], Listener]]:
    """A list, and a listener that appends to it."""

    def make() -> tuple[list[tuple[str, dict[str, Any]]], Listener]:
        heard: list[tuple[str, dict[str, Any]]] = []
        return heard, lambda kind, row: heard.append((kind, row))

    return make


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def explains(self, *words: str) -> None:
        """It ended with exit code 1 and a message that says these words and what to do, and with no traceback."""
        told = " ".join(self.err.split())
        assert self.code == 1, told or self.out
        assert "Error:" in self.err and "Traceback" not in self.err + self.out, told
        assert "unforeseen" not in self.err, told
        assert "what to do:" in self.err, told
        for word in words:
            assert word in told, f"{word!r} is not in {told!r}"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command in this process: `command("run", "a.yaml")`."""
    from sawyer.cli.main import main

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["sawyer", *map(str, arguments)])
        code = 0
        capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run
