"""Several losses and seeds: the table says what the runs below it say, finished ones are not done again, chance is named."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sawyer.config import parse_config
from sawyer.errors import Interrupted, RunError
from sawyer.pipeline import run_stages
from sawyer.runs import Layout, read_manifest, read_rows
from sawyer.runs.atomic_files import hash_folder
from sawyer.studies.losses import compare_losses, config_of, study_losses
from sawyer.studies.tables import CellResult, StudyResult
from sawyer.train import OptimizerStep

pytestmark = pytest.mark.slow

LOSSES, SEEDS = ("bradley_terry", "squared"), (0, 1)


@pytest.fixture(scope="module")
def done(
    tiny: Any, tmp_path_factory: pytest.TempPathFactory, shrinking: Callable[[pytest.MonkeyPatch], None]
) -> tuple[Path, StudyResult]:
    run = tiny.prefix("reward", tmp_path_factory.mktemp("losses") / "run")
    with pytest.MonkeyPatch.context() as patch:
        shrinking(patch)
        return run, study_losses(parse_config(tiny.tree(run)), LOSSES, SEEDS)


def without_place(cell: CellResult) -> dict[str, Any]:
    """All but where it lies and what it took."""
    return {"row": cell.row, "seed": cell.seed, **cell.figures, "seconds": 0}


def test_the_table_says_what_the_runs_say(done: tuple[Path, StudyResult]) -> None:
    run, found = done
    assert [(cell.row, cell.seed) for cell in found.cells] == [
        ("bradley_terry", 0),
        ("bradley_terry", 1),
        ("squared", 0),
        ("squared", 1),
    ]
    told: dict[str, list[dict[str, Any]]] = {loss: [] for loss in LOSSES}
    for cell in found.cells:
        folder = run / "losses" / f"{cell.row}-seed-{cell.seed}"
        summary = json.loads((folder / "summary.json").read_text())["reward"]
        trust = json.loads((folder / "reward" / "trust.json").read_text())
        for name in ("accuracy", "accuracy_low", "accuracy_high", "gold_accuracy", "length_correlation", "corrupted_win_rate"):
            assert cell.figures[name] == summary[name], name
        assert trust["loss"] == cell.row
        assert cell.figures["calibration"] == trust["sides"][0]["calibration"][0]["error"]["value"]
        assert cell.figures["formula"] == {"bradley_terry": "sigmoid(D)", "squared": "sigmoid(D * d^2)"}[cell.row]
        told[cell.row].append(summary)
    for row in found.rows:
        first, second = told[row["name"]]
        for name in ("accuracy", "gold_accuracy", "length_correlation", "corrupted_win_rate"):
            x, y = first[name], second[name]
            spread = row[name]
            assert spread.value == pytest.approx((x + y) / 2)
            assert (spread.low, spread.high) == (min(x, y), max(x, y))
            assert spread.deviation == pytest.approx(abs(x - y) / 2**0.5)  # of two values, n - 1
    written = json.loads((run / "losses" / "losses.json").read_text())
    assert written == json.loads(json.dumps({k: v for k, v in asdict(found).items() if k != "text"}))
    assert (run / "losses" / "losses.md").read_text() == found.text


def test_only_loss_and_seed_differ(done: tuple[Path, StudyResult]) -> None:
    run, found = done
    hashes = {stage: hash_folder(path) for stage, path in (("sft", run / "sft/model"), ("collect", Layout(run).answers))}
    orders = {}
    for cell in found.cells:
        folder = Path(cell.out)
        state = read_manifest(Layout(folder).manifest)["stages"]
        assert state["reward"]["parents"] == hashes
        assert "taken from" in state["sft"]["reason"]
        asked = yaml.safe_load(Layout(folder).config.read_text())
        assert (asked["seed"], asked["reward"]["loss"]) == (cell.seed, cell.row)
        rows = [row for row in read_rows(Layout(folder).metrics) if row["stage"] == "reward" and "pairs" in row]
        assert (cell.figures["steps"], cell.figures["trained_pairs"]) == (len(rows), sum(row["pairs"] for row in rows))
        orders[cell.row, cell.seed] = [row["pairs"] for row in rows]
    assert orders["bradley_terry", 0] == orders["squared", 0] and orders["bradley_terry", 1] == orders["squared", 1]
    models = {hash_folder(Layout(Path(cell.out)).model("reward")) for cell in found.cells}
    assert len(models) == 4
    assert (Path(found.cells[0].out) / "sft" / "model").is_symlink()  # no copy of gigabytes


def test_what_is_finished_is_skipped_and_the_rest_is_as_it_was(
    done: tuple[Path, StudyResult], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, found = done
    run = tmp_path / "run"
    shutil.copytree(before, run, symlinks=True)
    config = parse_config(tiny.tree(run))
    gone = run / "losses" / "squared-seed-1"
    shutil.rmtree(gone)
    steps = []
    update = OptimizerStep.update
    monkeypatch.setattr(OptimizerStep, "update", lambda self, *args, **more: steps.append(1) or update(self, *args, **more))  # type: ignore[func-returns-value]
    again = study_losses(config, LOSSES, SEEDS)
    assert len(steps) == found.cells[3].figures["steps"]  # those of the run that was gone alone
    for old, new in zip(found.cells, again.cells, strict=True):
        assert without_place(old) == without_place(new)
    steps.clear()
    study_losses(config, LOSSES, SEEDS)
    assert steps == []


def test_the_sft_model_is_made_once_where_it_is_missing(tiny: Any, tmp_path: Path) -> None:
    run = tiny.prefix("sft", tmp_path / "run")
    config = parse_config(tiny.tree(run))
    heard: list[str] = []

    def listen(kind: str, row: dict[str, Any]) -> None:
        if row.get("kind") == "start":
            heard.append(row["stage"])

    found = study_losses(config, ["margin", "scaled"], [3], out=tmp_path / "out", listeners=[listen])
    assert heard == ["sft", "collect", "reward", "reward"]
    assert any(note.startswith("One seed says nothing") for note in found.notes) and not found.differences


@pytest.mark.parametrize("late", [False, True])
def test_a_stop_is_heard_also_while_a_report_is_written(
    done: tuple[Path, StudyResult], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done[0], run, symlinks=True)
    shutil.rmtree(run / "losses")
    config = parse_config(tiny.tree(run))
    report = run_stages.report

    def signalled(kind: str, row: dict[str, Any]) -> None:
        if not late and kind == "progress" and row["done"] == 2:
            signal.raise_signal(signal.SIGTERM)

    def reporting(opened: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        report(opened)

    with monkeypatch.context() as patch:
        if late:
            patch.setattr(run_stages, "report", reporting)
        with pytest.raises(Interrupted, match="1 of 2 reward models are done" if late else "SIGTERM"):
            study_losses(config, LOSSES, SEEDS[:1], listeners=[signalled])
    assert not (run / "losses" / "losses.json").exists()
    again = study_losses(config, LOSSES, SEEDS[:1])
    for old, new in zip((cell for cell in done[1].cells if cell.seed == SEEDS[0]), again.cells, strict=True):
        assert without_place(old) == without_place(new)


def test_another_sft_model_is_refused(done: tuple[Path, StudyResult], tiny: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done[0], run, symlinks=True)
    with pytest.raises(RunError, match="sft stage was done with other settings"):
        study_losses(parse_config(tiny.tree(run, {"sft.learning_rate": 1e-3})), LOSSES, SEEDS)
    answers = Layout(run).answers
    answers.write_text("\n".join(answers.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(RunError, match="started with another collected answers"):
        study_losses(parse_config(tiny.tree(run)), LOSSES, SEEDS)


def test_what_cannot_be_is_said_before_anything_is_trained(
    command: Callable[..., Any], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(OptimizerStep, "update", lambda *_: pytest.fail("something was trained"))
    run = tiny.prefix("sft", tmp_path / "run")
    tree = tiny.tree(run)
    Path("a.yaml").write_text(yaml.safe_dump(tree))
    Path("own_ablated.py").write_text("def bad(r_j, r_k, d):\n    return (r_j - r_k).exp()\n")
    without = {name: value for name, value in tree.items() if name not in ("reward", "rl", "compare")}
    Path("without.yaml").write_text(yaml.safe_dump(without))
    unknown = command("study", "losses", "a.yaml", "--loss", "bradley_terry,sqared")
    assert unknown.code == 1 and "did you mean `squared`?" in unknown.err
    command("study", "losses", "a.yaml", "--loss", "bradley_terry,own_ablated:bad").explains("own_ablated:bad is refused")
    command("study", "losses", "a.yaml", "--loss", "bradley_terry,bradley_terry").explains("loss bradley_terry is named twice")
    command("study", "losses", "a.yaml", "--loss", ",").explains("no loss is named")
    command("study", "losses", "a.yaml", "--seeds", "0,x").explains("whole numbers")
    command("study", "losses", "a.yaml", "--seeds", "0,-1").explains("seed -1")
    command("study", "losses", "without.yaml").explains("no section `reward`")
    sys.modules.pop("own_ablated", None)


def test_the_command_prints_the_table(done: tuple[Path, StudyResult], command: Callable[..., Any], tiny: Any) -> None:
    run, found = done
    file = run.parent / "a.yaml"
    file.write_text(yaml.safe_dump(tiny.tree(run)))
    told = command("study", "losses", file, "--loss", "bradley_terry,squared", "--seeds", "0,1", "reward.loss=margin")
    assert told.code == 0, told.err
    words = " ".join(told.out.split())
    assert "squared, seed 1 (4 of 4) Reward model: already done" in words
    assert f"{found.rows[0]['accuracy'].value:.1%}" in words and "losses.json" in words
    assert all(note in words for note in found.notes)


def test_an_own_loss_has_a_folder_that_every_system_can_name(tiny: Any, tmp_path: Path) -> None:
    config = config_of(parse_config(tiny.tree(tmp_path)), "my.losses:soft", 7, tmp_path)
    assert Path(config.out).name == "my.losses.soft-seed-7"


def cell(
    loss: str, seed: int, accuracy: float, damaged: float | None = None, gold: float | None = None, **more: Any
) -> CellResult:
    figures = {
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.1,
        "accuracy_high": accuracy + 0.1,
        "calibration": 0.1,
        "formula": "sigmoid(D)",
        "corrupted_win_rate": damaged,
        "gold_accuracy": None,
        "length_correlation": 0.0,
        "eval_prompts": 10,
        "pairs": 30,
        "steps": 5,
        "trained_pairs": 50,
        "seconds": 1.0,
        "verdict": "trust",
    }
    return CellResult(row=loss, seed=seed, out="", figures=figures | more)


def test_only_what_exceeds_the_seeds_spread_is_called_a_difference() -> None:
    cells = [
        *(cell("bradley_terry", 0, 0.70, 0.3), cell("bradley_terry", 1, 0.72, 0.3), cell("bradley_terry", 2, 0.74, 0.3)),
        *(
            cell("margin", 0, 0.75, 0.1),
            cell("margin", 1, 0.80, 0.3),
            cell("margin", 2, 0.76, 0.2),
        ),  # above every plain
        *(
            cell("scaled", 0, 0.73, 0.1),
            cell("scaled", 1, 0.90, 0.2),
            cell("scaled", 2, 0.90, 0.2),
        ),  # higher, overlapping
    ]
    found = compare_losses(cells, "out")
    apart = {(one.measure, one.better, one.worse): one.by.value for one in found.differences}
    # Damage: fewer is better, and scaled's worst (0.2) is below plain's best (0.3); margin's 0.3 ties with it.
    assert set(apart) == {("accuracy", "margin", "bradley_terry"), ("corrupted_win_rate", "scaled", "bradley_terry")}
    assert apart["accuracy", "margin", "bradley_terry"] == pytest.approx(0.77 - 0.72)
    assert apart["corrupted_win_rate", "scaled", "bradley_terry"] == pytest.approx(0.3 - 0.5 / 3)
    words = " ".join(found.notes)
    assert "accuracy: better is margin than bradley_terry by 5.0 points." in words
    # 20 ways to deal 6 seeds to 2 losses, 2 of them apart; 3 pairs of losses in 2 measures (gold is not known).
    assert "in 1 of 10 comparisons, and 6 were made" in words


def test_no_difference_is_said_too_and_other_budgets_are() -> None:
    cells = [
        cell("bradley_terry", 0, 0.7),
        cell("bradley_terry", 1, 0.8),
        cell("regression", 0, 0.75),
        cell("regression", 1, 0.75),
    ]
    cells[2:] = [replace(one, figures={**one.figures, "steps": 9, "formula": "other"}) for one in cells[2:]]
    found = compare_losses(cells, "out")
    words = " ".join(found.notes)
    assert not found.differences and "No difference between these losses exceeds the spread of their seeds (accuracy)." in words
    assert "in 1 of 3 comparisons, and 1 were made" in words
    assert "Steps: bradley_terry 5, regression 9." in words and "sigmoid(D) for bradley_terry; other for regression" in words
    assert "damaged" not in found.text  # of no use where nothing could be damaged
