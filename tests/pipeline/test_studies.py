"""The studies on a world so small that they take a minute: what is left, what is skipped, what was interrupted goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from sawyer.config import parse_config
from sawyer.errors import Interrupted
from sawyer.pipeline import STAGES
from sawyer.runs import Layout, read_manifest, read_rows
from sawyer.runs.atomic_files import hash_folder
from sawyer.studies import study_overoptimisation
from sawyer.train import OptimizerStep


def without_text(result: Any) -> dict[str, Any]:
    """As it is written to JSON."""
    return {name: value for name, value in asdict(result).items() if name != "text"}


def small(tiny: Any, run: Path) -> dict[str, Any]:
    """Settings of a run whose base model is there."""
    tree = tiny.tree(
        run, {"rl.eval_prompts": 4, "compare.deliberate_limit": 0, "model": str(tiny.straight() / "base" / "model")}
    )
    return {name: value for name, value in tree.items() if name not in ("base", "classify")}


@pytest.mark.slow
def test_seeds_are_whole_runs_and_finished_ones_are_skipped(
    command: Callable[..., Any], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(small(tiny, tmp_path / "run")))
    told = command("study", "seeds", file, "--seeds", "3-4")
    assert told.code == 0, told.err
    root = tmp_path / "run" / "seeds"
    found = json.loads((root / "seeds.json").read_text())
    losses = []
    for seed in found["cells"]:
        figures = seed["figures"]
        summary = json.loads((root / f"seed-{seed['seed']}" / "summary.json").read_text())
        assert figures["rl"]["t1"] == summary["gold"]["rl"]["t1"] and figures["best_of_8"] == summary["gold"]["best_of_8"]
        assert figures["gates"] == summary["gates"] and figures["kl"] == summary["rl"]["kl"]
        losses.append(summary["sft"]["loss_last"])
    assert losses[0] != losses[1], "each seed trains a model of its own"
    assert (root / "seeds.md").read_text() in told.out and "how long one takes is said after the first" in told.out
    monkeypatch.setattr(OptimizerStep, "update", lambda *_: pytest.fail("something was trained"))
    again = command("study", "seeds", file, "--seeds", "3,4")
    assert again.code == 0 and "all done before" in again.out and (root / "seeds.md").read_text() in again.out


@pytest.mark.slow
def test_overoptimisation_leaves_curves_and_a_page_and_goes_on_where_it_was(
    command: Callable[..., Any], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny.prefix("rl", tmp_path / "run")
    tree = tiny.tree(run, {"rl.eval_prompts": 4})
    config = parse_config(tree)
    root = run / "overoptimisation"

    def stopping(kind: str, row: dict[str, Any]) -> None:
        if kind == "progress" and row["stage"] == "best_of_n" and row["done"] == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("sawyer.studies.best_of_n_samples.ANSWERS_A_STEP", 8)
        study_overoptimisation(config, episodes=48, limit=8, listeners=[stopping])
    with monkeypatch.context() as patch:
        patch.setattr("sawyer.studies.best_of_n_samples.ANSWERS_A_STEP", 8)
        found = study_overoptimisation(config, episodes=48, limit=8)
    # 48 answers are 6 updates of 8, each with an evaluation, and one at the end; the SFT model has no distance.
    assert [p.at for p in found.rl.points] == list(range(7)) and found.rl.points[0].kl == pytest.approx(0.0, abs=1e-5)
    assert found.rl.last.kl > 0.1
    rows = read_rows(Layout(root / "best-of-n").best_of_n_samples)
    assert found.answers == 8 and found.prompts == len(rows) == 4
    assert found.best_of_n.points[0].gold == pytest.approx(sum(map(sum, (row["gold"] for row in rows))) / 32)
    best = [row["gold"][max(range(8), key=lambda i, row=row: row["proxy"][i])] for row in rows]
    assert found.best_of_n.points[-1].gold == pytest.approx(sum(best) / 4)
    text = (root / "overoptimisation.html").read_text()
    assert text.count("<svg") == 4
    assert json.loads((root / "overoptimisation.json").read_text()) == json.loads(json.dumps(without_text(found)))
    straight = tmp_path / "straight"
    with monkeypatch.context() as patch:
        patch.setattr("sawyer.studies.best_of_n_samples.ANSWERS_A_STEP", 8)
        other = study_overoptimisation(config, episodes=48, limit=8, out=straight)  # never interrupted
    assert {**asdict(other), "out": 0} == {**asdict(found), "out": 0}
    monkeypatch.setattr(OptimizerStep, "update", lambda *_: pytest.fail("something was trained"))
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(tree))
    told = command("study", "overoptimisation", file, "--episodes", "48", "--limit", "8")
    assert told.code == 0, told.err
    assert (root / "overoptimisation.md").read_text() in told.out and "overoptimisation.html" in told.out


@pytest.mark.slow
def test_the_algorithms_train_each_from_the_same_models_and_skips_what_is_done(
    command: Callable[..., Any], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny.prefix("rl", tmp_path / "run")
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(tiny.tree(run, {"rl.eval_prompts": 4})))
    arguments = (
        "study",
        "algorithms",
        file,
        "--algorithms",
        "ppo,rloo",
        "--seeds",
        "0,1",
        "--episodes",
        "16",
        "--set",
        "rloo.group_size=2",
    )
    told = command(*arguments)
    assert told.code == 0, told.err
    root = run / "algorithms"
    found = json.loads((root / "algorithms.json").read_text())
    assert [(cell["row"], cell["seed"]) for cell in found["cells"]] == [("ppo", 0), ("ppo", 1), ("rloo", 0), ("rloo", 1)]
    models = {stage: hash_folder(run / stage / "model") for stage in ("sft", "reward")}
    for entry in found["cells"]:
        folder = Path(entry["out"])
        state = read_manifest(Layout(folder).manifest)["stages"]
        assert {stage: state["rl"]["parents"][stage] for stage in models} == models
        assert (folder / "reward" / "model").is_symlink() and entry["figures"]["peak_mb"] == state["rl"]["peak_mb"]
        asked = yaml.safe_load(Layout(folder).config.read_text())
        assert (asked["rl"]["algorithm"], asked["rl"]["episodes"]) == (entry["row"], 16)
    lines = {row["name"]: row for row in found["rows"]}
    assert list(lines) == ["sft", "best_of_8", "ppo", "rloo"]
    compared = [row for e in found["cells"][2:] for row in read_rows(Layout(Path(e["out"])).compare)]
    golds = [row["gold"] for row in compared if (row["model"], row["setting"]) == ("rl", "t07")]
    assert lines["rloo"]["scores"]["t07"]["value"] == pytest.approx(sum(golds) / len(golds))
    assert (root / "algorithms.md").read_text() in told.out and "2 algorithms with 2 seeds are 4 runs" in told.out
    assert "Overrides: rloo.group_size=2." in told.out
    monkeypatch.setattr(OptimizerStep, "update", lambda *_: pytest.fail("something was trained"))
    again = command(*arguments)
    assert again.code == 0 and "all done before" in again.out and (root / "algorithms.md").read_text() in again.out


@pytest.mark.slow
def test_algorithms_by_the_clock_measures_each_pace_once(command: Callable[..., Any], tiny: Any, tmp_path: Path) -> None:
    run = tiny.prefix("rl", tmp_path / "run")
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(tiny.tree(run, {"rl.eval_prompts": 4})))
    arguments = ("study", "algorithms", file, "--algorithms", "ppo", "--minutes", "0.02")
    told = command(*arguments)
    assert told.code == 0, told.err
    assert "a trial of 5 updates for its pace" in told.out and "each with 0.02 minutes of training" in told.out
    paces = json.loads((run / "algorithms" / "pace.json").read_text())
    assert paces["ppo"]["update"] > 0 and paces["ppo"]["of"] == 5
    assert sorted(path.name for path in (run / "algorithms").iterdir() if path.is_dir()) == ["ppo-seed-0"]
    again = command(*arguments)  # the pace is not measured anew: the run is the one that was asked for
    assert again.code == 0 and "a trial" not in again.out and "all done before" in again.out


@pytest.mark.slow
def test_bench_does_a_few_steps_of_each_stage_and_keeps_nothing(
    command: Callable[..., Any], tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(tiny.tree(tmp_path / "run")))
    updates: list[str] = []
    update = OptimizerStep.update
    monkeypatch.setattr(
        OptimizerStep,
        "update",
        lambda self, *args, **more: updates.append(self.name) or update(self, *args, **more),  # type: ignore[func-returns-value]
    )
    told = command("bench", file, "--steps", "1")
    assert told.code == 0, told.err
    rows = [line.split() for line in told.out.splitlines()]
    header = rows.index(["stage", "tokens/s", "s", "a", "step", "peak", "MB"])
    assert [row[0] for row in rows[header + 1 : header + 8]] == list(STAGES)
    assert updates.count("sft") == 2 and updates.count("reward") == 2  # one that counts after one that does not
    assert not (tmp_path / "run").exists()
