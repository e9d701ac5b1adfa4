"""`sawyer collect --round 2`: the RL model's next answers, and what the run says of them; a run by its folder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_rounds import events, messages, score_later_answers

from sawyer.chat import Chat
from sawyer.config import demo_config
from sawyer.errors import RunError
from sawyer.pipeline import run_config
from sawyer.report import build
from sawyer.runs import Layout, read_manifest, read_rows


@pytest.fixture
def done(tiny: Any, tmp_path: Path) -> Path:
    path: Path = tiny.prefix("compare", tmp_path / "run")
    return path


@pytest.fixture
def collect_again(tiny: Any, done: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`sawyer collect --round NUMBER` on the finished run."""
    from sawyer import pipeline
    from sawyer.config import parse_config
    from sawyer.stages.collect import collect_round

    # Several steps, so that there is something to interrupt.
    monkeypatch.setattr(sys.modules[collect_round.__module__], "ANSWERS_A_STEP", 8)

    def collect(number: int, **keywords: Any) -> dict[str, Any]:
        config = parse_config(tiny.tree(done, keywords.pop("changes", {})))
        return pipeline.run(config, only="collect", collection=number, **keywords)

    return collect


@pytest.mark.slow
def test_a_second_collection_waits_for_people_and_says_so(tiny: Any, done: Path, collect_again: Any) -> None:
    layout, before = Layout(done), tiny.result(done)
    summary = collect_again(2)
    rows = read_rows(layout.answers_of(2))
    sources = {answer["source"] for row in rows for answer in row["responses_and_scores"]}
    assert rows and sources == {"rl", "sft"}
    assert all(answer["score"] is None for row in rows for answer in row["responses_and_scores"])
    state = read_manifest(layout.manifest)["stages"]["collect-2"]
    assert state["status"] == "done" and state["figures"]["round"] == 2 and set(state["parents"]) == {"sft", "reward", "rl"}
    assert summary["collect-2"]["prompts"] == len(rows) and "waiting" not in summary
    assert f"prompts of round 2 wait for `sawyer rate {done}`" in messages(done, "waiting")
    assert not (done / "collect-2").exists()
    # Nothing else has changed, and the first collection's answers, rows and state least of all.
    after = tiny.result(done)
    assert after.products == before.products and after.states["collect"] == "done"
    assert [row for row in after.metrics if row["stage"] != "collect-2"] == before.metrics
    # Twice: it says so, and what people may have judged stays.
    content = layout.answers_of(2).read_bytes()
    collect_again(2)
    assert layout.answers_of(2).read_bytes() == content
    assert "round 2 is collected already" in messages(done, "collected") and "`--round 3`" in messages(done, "collected")
    # `sawyer run` has nothing to do but to say what waits.
    count = len(events(done, "waiting"))
    tiny.run(done, {"compare": None})
    assert len(events(done, "waiting")) == count + 1 and Layout(done).count_rounds() == 0


@pytest.mark.slow
def test_an_interrupted_collection_goes_on(tiny: Any, done: Path, tmp_path: Path, collect_again: Any) -> None:
    shutil.copytree(done, tmp_path / "straight")
    collect_again(2)
    straight, rows = Layout(done).answers_of(2).read_bytes(), read_rows(Layout(done).metrics)
    shutil.rmtree(done)
    (tmp_path / "straight").rename(done)

    def stop(kind: str, row: dict[str, Any]) -> None:
        if kind == "metric" and row["stage"] == "collect-2" and row["step"] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        collect_again(2, changes={"save_every_seconds": 0}, listeners=[stop])
    assert not Layout(done).answers_of(2).exists()
    # `sawyer run` is not confused by it.
    tiny.run(done, {"compare": None})
    collect_again(2)
    assert "resume" in {row["kind"] for row in events(done, "resume")}
    assert Layout(done).answers_of(2).read_bytes() == straight

    def key(row: dict[str, Any]) -> Any:
        return row["stage"], row["step"], row.get("length")

    assert sorted(map(key, read_rows(Layout(done).metrics))) == sorted(map(key, rows))


@pytest.mark.slow
def test_a_collection_that_began_with_other_settings_starts_over(tiny: Any, done: Path, collect_again: Any) -> None:
    def stop(kind: str, row: dict[str, Any]) -> None:
        if kind == "metric" and row["stage"] == "collect-2" and row["step"] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        collect_again(2, changes={"save_every_seconds": 0}, listeners=[stop])
    shutil.rmtree(Layout(done).checkpoint("collect-2"))
    collect_again(2)
    assert "nothing was saved: round 2 is collected from the beginning" in messages(done, "restarted")
    assert Layout(done).answers_of(2).exists()


def test_a_collection_without_models_or_out_of_order_is_refused(
    tiny: Any, done: Path, tmp_path: Path, collect_again: Any
) -> None:
    with pytest.raises(RunError, match="--round 2") as caught:
        collect_again(3)
    assert "collect round 2 first" in caught.value.todo
    shutil.rmtree(Layout(done).folder("rl"))
    with pytest.raises(RunError, match="no finished rl stage"):
        collect_again(2)


# A run by its folder.


def test_a_run_goes_on_by_its_folder(tiny: Any, done: Path, command: Any) -> None:
    before = tiny.result(done)
    finished = command("reward", done)
    assert finished.code == 0, finished.err
    assert events(done, "skip")[-1]["stage"] == "reward" and tiny.result(done) == before
    moved = done.rename(done.with_name("moved"))
    assert command("reward", moved).code == 0 and not done.exists()
    assert yaml.safe_load(Layout(moved).config.read_text())["out"] == str(moved)
    command("run", done.parent).explains("there is no run in", "sawyer runs")


def test_a_folder_whose_data_lies_elsewhere_says_where_to_go(tiny: Any, tmp_path: Path, monkeypatch: Any, command: Any) -> None:
    home = tmp_path / "home"
    shutil.copytree(tiny.data, home / "data")
    tree = {**tiny.tree(home), "out": "runs/mine"}
    tree = json.loads(json.dumps(tree).replace(str(tiny.data), "data"))
    for stage in ("classify", "sft", "collect", "reward", "rl", "compare"):
        tree[stage] = None
    (home / "a.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(home)
    assert command("run", "a.yaml").code == 0
    assert command("run", "runs/mine").code == 0 and command("run", home / "runs" / "mine").code == 0
    monkeypatch.chdir(tmp_path)
    command("run", home / "runs" / "mine").explains("data/statements.txt", f"cd {home}", "sawyer run runs/mine")


def test_the_demo_s_settings_are_the_same_from_its_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    config = demo_config("runs/demo", 3, "lazy")
    layout = Layout(Path("runs/demo"))
    layout.root.mkdir(parents=True)
    layout.config.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert run_config("runs/demo") == config and run_config(str(tmp_path / "runs" / "demo")) == config
    changed = run_config("runs/demo", ["rl.episodes=128", "out=runs/other"])
    assert changed.rl is not None and (changed.rl.episodes, changed.out) == (128, "runs/other")


@pytest.mark.slow
def test_a_kept_round_opens_like_a_run(tiny: Any, done: Path, command: Any) -> None:
    score_later_answers(done)
    tiny.run(done, {"compare": None})
    kept = Layout(done).round(1)
    assert "Reward model" in build(kept).read_text(encoding="utf-8")
    chat = Chat(kept)
    assert chat.models == ("base", "sft", "rl") and chat.scorer is not None
    assert chat.ask('What is the opposite of "up"?')[2].model == "rl"
    listed = command("runs", kept.parent)
    assert listed.code == 0 and "rl" in listed.out
    # As a run of its own it is done.
    assert command("rl", kept).code == 0 and events(kept, "skip")[-1]["stage"] == "rl"
