"""The life of a run: what is done is skipped, what is gone is done again, what changed under it is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer import pipeline
from sawyer.config import parse_config
from sawyer.errors import DataError, Interrupted, RunError
from sawyer.pipeline import run_stages
from sawyer.runs import Layout, open_run, read_manifest, read_rows
from sawyer.runs.atomic_files import hash_folder

STAGES = pipeline.STAGES
Make = Callable[[], tuple[list[tuple[str, dict[str, Any]]], Any]]


def events(out: Path, kind: str) -> list[str]:
    return [row["stage"] for row in read_rows(Layout(out).events) if row["kind"] == kind]


def messages(out: Path, kind: str) -> str:
    return "\n".join(row.get("message", "") for row in read_rows(Layout(out).events) if row["kind"] == kind)


@pytest.fixture
def done(tiny: Any, tmp_path: Path) -> Path:
    """A finished run."""
    return Path(tiny.prefix(None, tmp_path / "run"))


def test_a_finished_run_skips_all(tiny: Any, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.read_bytes() for p in done.rglob("*") if p.is_file() and p.name not in (".lock", "events.jsonl")}
    monkeypatch.setattr(run_stages, "import_module", lambda name: pytest.fail(f"{name} was opened"))
    summary = tiny.run(done)
    assert events(done, "skip") == list(STAGES)
    assert summary["rl"]["updates"] == 5
    after = {p: p.read_bytes() for p in done.rglob("*") if p.is_file() and p.name not in (".lock", "events.jsonl")}
    changed = [p.name for p in {*before, *after} if before.get(p) != after.get(p)]
    # `save_every_seconds` and `out` are of this sitting; what was done is untouched.
    assert sorted(changed) in (["config.yaml", "summary.json"], ["config.yaml", "report.html", "summary.json"])


# Settings and data that changed under the run.


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("rl.kl.coefficient", 0.5, "rl stage was started with another config; changed: these settings: rl.kl.coefficient"),
        ("seed", 5, "base stage was started with another config; changed: these settings: seed"),
        ("sft.batch_size", 8, "sft stage was started with another config; changed: these settings: sft.batch_size"),
        ("world", None, "changed: these settings: world"),
    ],
)
def test_a_changed_setting_is_named(tiny: Any, done: Path, name: str, value: Any, told: str) -> None:
    config = Layout(done).config.read_bytes()
    with pytest.raises(RunError) as caught:
        tiny.run(done, {name: value})
    assert told in caught.value.given, caught.value.given
    assert "another `out:`" in caught.value.todo
    assert Layout(done).config.read_bytes() == config, "the folder still says what was done"


def test_only_what_the_user_changed_is_named(tiny: Any, done: Path) -> None:
    with pytest.raises(RunError) as caught:
        tiny.run(done, {"rl.clip_range": 0.3, "out": str(done), "save_every_seconds": 1, "rl.kl.budget": 9.0})
    assert caught.value.given.endswith("these settings: rl.clip_range, rl.kl.budget")
    assert str(Layout(done).folder("rl")) in caught.value.todo and str(Layout(done).compare) in caught.value.todo
    assert str(Layout(done).folder("sft")) not in caught.value.todo


@pytest.mark.slow
def test_changed_data_is_told(tiny: Any, done: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny.data, tmp_path / "data")
    path = str(tmp_path / "data" / "prompts.jsonl")
    with pytest.raises(RunError, match=r"rl\.prompts"):
        tiny.run(done, {"rl.prompts": [path]})
    out = tiny.prefix("rl", tmp_path / "other")
    tiny.run(out, {"rl.prompts": [path]}, only="rl")
    with open(path, "a") as file:
        file.write('{"prompt": "What is Google?"}\n')
    with pytest.raises(RunError, match="rl stage was started with another config; changed: the content of its data files"):
        tiny.run(out, {"rl.prompts": [path]}, only="rl")
    Path(path).unlink()
    with pytest.raises(DataError, match=r"prompts\.jsonl"):
        tiny.run(out, {"rl.prompts": [path]}, only="rl")


def test_a_changed_template_file_is_told(tiny: Any, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    shutil.copy(tiny.straight("sft") / "sft" / "model" / "chat_template.jinja", template)
    (tmp_path / "run").mkdir()
    tiny.run(tmp_path / "run", {"template": str(template)}, only="base")
    template.write_text(template.read_text() + "{# changed #}")
    with pytest.raises(RunError, match="the content of its data files"):
        tiny.run(tmp_path / "run", {"template": str(template)}, only="base")


def test_a_changed_base_model_is_told(tiny: Any, tmp_path: Path) -> None:
    model = tmp_path / "base"
    shutil.copytree(tiny.straight("base") / "base" / "model", model)
    changes = {"model": str(model), "base": None, "collect": None, "reward": None, "rl": None}
    tiny.run(tmp_path / "run", {**changes, "compare": None})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "_note": "touched"}))
    with pytest.raises(RunError, match="classify was started with another base model"):
        tiny.run(tmp_path / "run", changes)


def test_without_its_config_a_run_cannot_say_what_changed(tiny: Any, done: Path) -> None:
    Layout(done).config.write_bytes(b"\xff")
    with pytest.raises(RunError, match="cannot be read"):
        tiny.run(done, {"rl.clip_range": 0.5})
    tiny.run(done)


def test_what_may_change(tiny: Any, done: Path, tmp_path: Path) -> None:
    # Memory, saving and the place of the folder are not the experiment.
    moved = done.rename(tmp_path / "moved")
    tiny.run(moved, {"micro_batch_tokens": 256, "save_every_seconds": 5})
    assert events(moved, "skip") == list(STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"rl.temperature": 1.0}, {"rl.max_new_tokens": 4}])
def test_a_reward_in_another_unit_is_refused(tiny: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    """Its zero and unit are those of answers as long and as wild as RL's."""
    out = tiny.prefix("rl", tmp_path / "run")
    with pytest.raises(RunError) as caught:
        tiny.run(out, {**change, "rl.clip_range": 0.1})
    assert f"reward stage was started with another config; changed: these settings: {next(iter(change))}" in caught.value.given
    assert "rl.clip_range" not in caught.value.given
    shutil.rmtree(Layout(out).folder("reward"))
    tiny.run(out, change, only="reward")


def test_rl_added_after_the_reward_is_told_of_its_unit(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("reward", tmp_path / "run")
    tiny.run(out, {"rl": None, "compare": None})
    tiny.run(out, {"rl.episodes": 8, "compare": None})
    assert "zero and unit were set before the config had `rl`" in messages(out, "warning")
    assert events(out, "done")[-1] == "rl"


def test_no_other_setting_of_rl_decides_the_reward(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("rl", tmp_path / "run")
    tiny.run(out, {"rl.clip_range": 0.1, "rl.episodes": 8, "compare": None})
    assert events(out, "skip") == ["base", "classify", "sft", "collect", "reward"]
    assert "zero and unit" not in messages(out, "warning")


@pytest.mark.slow
def test_a_stage_of_which_nothing_was_saved_may_begin_with_other_settings(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("sft", tmp_path / "run")

    def die(kind: str, row: dict[str, Any]) -> None:
        if kind == "metric" and row["step"] == 3:
            raise SystemExit

    with pytest.raises(SystemExit):
        tiny.run(out, {"sft.learning_rate": 1.0}, only="sft", listeners=[die])
    tiny.run(out, only="sft")
    assert events(out, "restarted") == ["sft"]
    assert tiny.result(out) == tiny.result(tiny.straight("sft"))


def test_a_stage_of_which_something_was_saved_may_not(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("sft", tmp_path / "run")

    def stop(kind: str, row: dict[str, Any]) -> None:
        if kind == "metric" and row["step"] == 3:
            raise SystemExit

    with pytest.raises(SystemExit):
        tiny.run(out, {"sft.learning_rate": 1e-4, "save_every_seconds": 0}, only="sft", listeners=[stop])
    with pytest.raises(RunError, match=r"sft\.learning_rate") as caught:
        tiny.run(out, only="sft")
    # The advice is good advice.
    shutil.rmtree(Layout(out).folder("sft"))
    assert str(Layout(out).folder("sft")) in caught.value.todo
    tiny.run(out, only="sft")
    assert tiny.result(out) == tiny.result(tiny.straight("sft"))


# What somebody deleted.


@pytest.mark.parametrize("stage", ["sft", *(pytest.param(s, marks=pytest.mark.slow) for s in STAGES if s != "sft")])
def test_a_deleted_result_is_made_again_and_the_rest_stays(tiny: Any, done: Path, stage: str) -> None:
    shutil.rmtree(Layout(done).folder(stage))
    if stage == "compare":
        Layout(done).compare.unlink()
    tiny.run(done)
    assert events(done, "restarted") == [stage]
    assert "is gone" in messages(done, "restarted")
    # It came out the same, by content, so all that was built on it stands.
    assert events(done, "start")[len(STAGES) :] == [stage]
    assert sorted(events(done, "skip")) == sorted({*STAGES} - {stage})
    found, straight = tiny.result(done), tiny.result(tiny.straight())
    assert found.products == straight.products and found.figures == straight.figures
    key = lambda row: (STAGES.index(row["stage"]), row["step"])  # noqa: E731
    assert sorted(found.metrics, key=key) == straight.metrics


@pytest.mark.slow
def test_later_stages_on_another_model_are_refused_until_deleted(tiny: Any, done: Path) -> None:
    layout = Layout(done)
    shutil.rmtree(layout.folder("sft"))
    changes = {"sft.learning_rate": 1e-3}
    with pytest.raises(RunError, match="collect was started with another sft model") as caught:
        tiny.run(done, changes)
    for stage in ("collect", "reward", "rl"):
        assert str(layout.folder(stage)) in caught.value.todo
    assert hash_folder(layout.model("sft")) != tiny.result(tiny.straight()).products["sft"]
    with pytest.raises(RunError, match="rl was started with another sft model"):
        tiny.run(done, changes, only="rl")
    for stage in ("collect", "reward", "rl"):
        shutil.rmtree(layout.folder(stage))
    summary = tiny.run(done, changes)
    assert events(done, "start")[len(STAGES) :] == ["sft", "collect", "reward", "rl", "compare"]
    assert "the comparison is made again" in messages(done, "restarted")
    assert summary["sft"]["eval_loss"] != tiny.summary(tiny.straight())["sft"]["eval_loss"]
    states = read_manifest(layout.manifest)["stages"]
    assert states["rl"]["parents"]["sft"] == hash_folder(layout.model("sft"))
    # As if it had never been otherwise.
    fresh = done.with_name("fresh")
    tiny.run(fresh, changes)
    assert tiny.result(fresh).products == tiny.result(done).products


def test_a_broken_stage_does_not_go_on_with_another_model(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("rl", tmp_path / "run")

    def stop(kind: str, row: dict[str, Any]) -> None:
        if kind == "metric" and row["step"] == 1:
            raise SystemExit

    with pytest.raises(SystemExit):
        tiny.run(out, {"save_every_seconds": 0}, only="rl", listeners=[stop])
    shutil.rmtree(Layout(out).model("reward"))
    shutil.copytree(Layout(out).model("sft"), Layout(out).model("reward"))
    with pytest.raises(RunError, match="rl was started with another reward model"):
        tiny.run(out, only="rl")


def test_a_deleted_parent_is_missed_by_a_single_stage(tiny: Any, done: Path) -> None:
    shutil.rmtree(Layout(done).folder("sft"))
    shutil.rmtree(Layout(done).folder("rl"))
    with pytest.raises(RunError, match="rl builds on sft, which is not done") as caught:
        tiny.run(done, only="rl")
    assert "sawyer sft" in caught.value.todo
    with pytest.raises(RunError, match="no section `rl`"):
        tiny.run(done, {"rl": None}, only="rl")


@pytest.mark.slow
def test_a_lost_manifest_means_all_anew(tiny: Any, done: Path) -> None:
    layout = Layout(done)
    layout.manifest.unlink()
    tiny.run(done)
    assert tiny.result(done).products == tiny.result(tiny.straight()).products
    assert [row for row in tiny.result(done).metrics if row["stage"] == "rl"] == [
        row for row in tiny.result(tiny.straight()).metrics if row["stage"] == "rl"
    ]
    assert layout.answers_before(1).exists(), "judgements are never overwritten"


def test_answers_that_are_collected_anew_never_overwrite_earlier_ones(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        layout = run.layout
        layout.folder("collect").mkdir()
        for judged in ("first", "second", "third"):
            layout.answers.write_text(judged)
            run_stages._clear(run, "collect")
            assert not layout.answers.exists()
    assert [layout.answers_before(number).read_text() for number in (1, 2, 3)] == ["first", "second", "third"]
    assert str(layout.answers_before(3)) in messages(tmp_path / "run", "warning")


# A comparison follows the models there are.


@pytest.mark.slow
def test_a_comparison_is_made_again_when_a_model_is_added(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("rl", tmp_path / "run")
    tiny.run(out, {"rl": None})
    assert {row["model"] for row in read_rows(Layout(out).compare)} == {"base", "sft"}
    assert "rl_beats_sft" not in tiny.summary(out)["gates"]
    tiny.run(out)
    assert {row["model"] for row in read_rows(Layout(out).compare)} == {"base", "sft", "rl"}
    assert tiny.result(out) == tiny.result(tiny.straight())
    assert tiny.summary(out) == tiny.summary(tiny.straight())


# People judge.


def test_answers_wait_for_people(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"world": None, "rl": None, "compare": None, "reward.data": []}
    out = tmp_path / "run"
    shutil.copytree(tiny.straight("base"), out)
    shutil.rmtree(out / "base")
    summary = tiny.run(out, changes)
    layout = Layout(out)
    assert summary["waiting"] == str(layout.answers) and events(out, "done") == ["base", "base", "classify", "sft"]
    assert "48 answers" in messages(out, "waiting")
    # Asked again with nothing scored: it waits on, and nothing is loaded or overwritten.
    before = layout.answers.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(run_stages, "import_module", lambda name: pytest.fail(f"{name} was opened"))
        assert tiny.run(out, changes)["waiting"]
    assert layout.answers.read_bytes() == before and len(events(out, "waiting")) == 2
    # A slip of the pen is told with its line.
    lines = layout.answers.read_text().splitlines(keepends=True)
    layout.answers.write_text("".join([*lines[:6], lines[6].replace("null", "seven", 1), *lines[7:]]))
    with pytest.raises(DataError, match=r"answers\.jsonl:7"):
        tiny.run(out, changes)
    rows = [json.loads(line) for line in lines]
    for number, row in enumerate(rows):
        for place, answer in enumerate(row["responses_and_scores"]):
            answer["score"] = (number + place * 3) % 7
    layout.answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = tiny.run(out, changes)
    assert "waiting" not in summary and summary["reward"]["accuracy"] >= 0
    # Somebody thinks again: the reward model that learnt from the old scores is not taken for one of the new.
    layout.answers.write_text(layout.answers.read_text().replace('"score": 6', '"score": 1'))
    with pytest.raises(RunError, match="reward was started with another collected answers"):
        tiny.run(out, changes)


# Two at once, and the demo's files.


def test_the_second_of_two_is_refused(tiny: Any, done: Path) -> None:
    with open_run(done):
        before = sorted((p, p.stat().st_mtime_ns) for p in done.rglob("*"))
        with pytest.raises(RunError, match="at work in another process"):
            tiny.run(done)
        assert sorted((p, p.stat().st_mtime_ns) for p in done.rglob("*")) == before


def test_a_stop_before_a_stage_is_a_clean_one(tiny: Any, tmp_path: Path) -> None:
    import os
    import signal

    out = tiny.prefix("reward", tmp_path / "run")

    def stop(kind: str, row: dict[str, Any]) -> None:
        if kind == "event" and row["kind"] == "done":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="before rl"):
        tiny.run(out, listeners=[stop])
    assert read_manifest(Layout(out).manifest)["stages"]["reward"]["status"] == "done"
    assert "rl" not in read_manifest(Layout(out).manifest)["stages"]


def test_the_demo_writes_its_files_under_the_lock(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def write(folder: Path, *, seed: int, rater: str) -> None:
        written.append(seed)
        shutil.copytree(tiny.data, folder, dirs_exist_ok=True)

    def demo_config(out: str, seed: int, rater: str) -> Any:
        others = dict.fromkeys(("sft", "collect", "reward", "rl", "compare"))
        return parse_config(tiny.tree(Path(out), {"seed": seed, **others}))

    monkeypatch.setattr(run_stages, "write_world", write)
    monkeypatch.setattr(run_stages, "demo_config", demo_config)
    out = tmp_path / "demo"
    with open_run(out), pytest.raises(RunError, match="at work"):
        pipeline.demo(out)
    assert written == [] and not (out / "data").exists()

    def die(kind: str, row: dict[str, Any]) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        pipeline.demo(out, listeners=[die])
    assert written == [0]
    pipeline.demo(out, seed=1)
    assert written == [0, 1], "files of another seed are not taken for this one's"
    pipeline.demo(out, seed=1)
    assert written == [0, 1]
    with pytest.raises(RunError, match="seed"):
        pipeline.demo(out, seed=2)
