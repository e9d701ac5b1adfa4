"""Rounds: other judgements make another reward model, and the round before is kept, whatever interrupts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_several import config_of, together

from sawyer.errors import DataError, RunError
from sawyer.report import build
from sawyer.runs import Layout, read_manifest, read_rows
from sawyer.runs.atomic_files import hash_folder

AGAIN = ["reward", "rl", "compare"]


def score_later_answers(out: Path, changes: dict[int, int] | None = None) -> None:
    """A second collection whose answers somebody has scored by hand: those of the first with other scores."""
    layout = Layout(out)
    rows = [json.loads(line) for line in layout.answers.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        for place, answer in enumerate(row["responses_and_scores"]):
            answer["score"] = (number + 2 * place + (changes or {}).get(number, 0)) % 7
    layout.answers_of(2).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(Layout(out).events) if row["kind"] == kind]


def messages(out: Path, kind: str) -> str:
    return "\n".join(str(row.get("message")) for row in events(out, kind))


@pytest.fixture
def done(tiny: Any, tmp_path: Path) -> Path:
    path: Path = tiny.prefix(None, tmp_path / "run")
    return path


@pytest.mark.slow
def test_other_judgements_make_another_round_and_keep_the_last(tiny: Any, done: Path) -> None:
    layout, straight = Layout(done), tiny.result(tiny.straight())
    score_later_answers(done)
    num_starts = len(events(done, "start"))
    summary = tiny.run(done)
    assert [row["stage"] for row in events(done, "start")][num_starts:] == AGAIN
    assert [row["stage"] for row in events(done, "restarted")] == AGAIN
    assert "24 prompts of later collections with scores in their files" in messages(done, "scored")
    kept = layout.earlier_rounds()
    assert [one.root for one in kept] == [layout.round(1)]
    # The earlier round is the straight run: its models, its figures, its rows.
    was = tiny.result(layout.round(1))
    assert was == straight
    assert tiny.summary(layout.round(1)) == tiny.summary(tiny.straight())
    now = tiny.result(done)
    for stage in ("reward", "rl"):
        assert now.products[stage] != straight.products[stage]
    for stage in ("base", "classify", "sft", "collect"):
        assert now.products[stage] == straight.products[stage]
    # The RL model of the round before answers beside the others, and is compared with RL's.
    assert {row["model"] for row in now.compared} == {"base", "sft", "rl", "rl_round_1"}
    assert "win_rate_rl_vs_rl_round_1" in summary["compare"]
    assert read_manifest(layout.manifest)["stages"]["compare"]["parents"]["rl_round_1"] == hash_folder(kept[0].model("rl"))
    # Nothing of a model lies there twice.
    weights = layout.model("sft") / "model.safetensors"
    assert weights.stat().st_ino == (kept[0].model("sft") / "model.safetensors").stat().st_ino
    # A second time there is nothing to do.
    num_starts = len(events(done, "start"))
    tiny.run(done)
    assert len(events(done, "start")) == num_starts and layout.count_rounds() == 1


@pytest.mark.slow
def test_a_third_round_keeps_the_second(tiny: Any, done: Path) -> None:
    score_later_answers(done)
    tiny.run(done)
    second = tiny.result(done)
    score_later_answers(done, {0: 3, 5: 2})
    summary = tiny.run(done)
    layout = Layout(done)
    assert layout.count_rounds() == 2
    assert tiny.result(layout.round(2)) == second
    assert "win_rate_rl_vs_rl_round_2" in summary["compare"] and "win_rate_rl_vs_rl_round_1" not in summary["compare"]
    rows, first = summary["rounds"], tiny.summary(tiny.straight())
    assert [(row["round"], row["folder"]) for row in rows] == [(1, "rounds/1"), (2, "rounds/2"), (3, ".")]
    assert rows[0]["accuracy"]["value"] == first["reward"]["accuracy"] and "change" not in rows[0]
    assert rows[0]["win_rate"] == first["compare"]["win_rate_rl_vs_sft"]
    assert rows[0]["gold"] == {model: first["gold"][model]["t07"] for model in ("sft", "rl")}
    assert "judgements" not in rows[0] and [row["judgements"] for row in rows[1:]] == [24, 24]
    assert rows[2]["change"] == summary["reward"]["round_change"] and rows[2]["win_rate_before"]["round"] == 2
    assert rows[2]["verdict"]["words"] and rows[1]["change"]["prompts"] > 0
    text = build(done).read_text(encoding="utf-8")
    assert '<h2 id="rounds">' in text and 'href="rounds/2/report.html"' in text and "RL against RL, round 2" in text
    assert "cannot be shown" not in text and "held-out prompts the reward model ranks" in text


@pytest.mark.slow
def test_a_round_equals_a_run_that_had_these_judgements_from_the_start(tiny: Any, done: Path, tmp_path: Path) -> None:
    score_later_answers(done)
    tiny.run(done, {"compare": None})
    fresh = tiny.prefix("reward", tmp_path / "fresh")
    score_later_answers(fresh)
    tiny.run(fresh, {"compare": None})
    assert Layout(fresh).count_rounds() == 0
    found, expected = tiny.result(done), tiny.result(fresh)
    for stage in ("reward", "rl"):
        assert found.products[stage] == expected.products[stage]
        assert [row for row in found.metrics if row["stage"] == stage] == [r for r in expected.metrics if r["stage"] == stage]


def test_a_stage_at_work_goes_on_with_the_judgements_that_it_began_with(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("reward", tmp_path / "run")

    def stop(kind: str, row: dict[str, Any]) -> None:
        if kind == "metric" and row["step"] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        tiny.run(out, {"save_every_seconds": 0}, only="reward", listeners=[stop])
    score_later_answers(out)
    tiny.run(out, only="reward")
    assert tiny.result(out) == tiny.result(tiny.straight("reward"))
    waiting = messages(out, "waiting")
    assert "the judgements have changed" in waiting and str(Layout(out).folder("reward")) in waiting
    assert not Layout(out).judgements.exists() and Layout(out).count_rounds() == 0


@pytest.mark.slow
def test_judgements_wait_while_rl_is_at_work_and_come_next(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("rl", tmp_path / "run")

    def stop(kind: str, row: dict[str, Any]) -> None:
        if kind == "metric" and row["step"] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        tiny.run(out, {"save_every_seconds": 0}, only="rl", listeners=[stop])
    score_later_answers(out)
    tiny.run(out, {"compare": None})
    assert tiny.result(out).products == tiny.result(tiny.straight("rl")).products
    tiny.run(out, {"compare": None})
    assert tiny.result(Layout(out).round(1)).products["rl"] == tiny.result(tiny.straight("rl")).products["rl"]


def test_only_what_learns_from_judgements_takes_them(tiny: Any, done: Path) -> None:
    score_later_answers(done)
    tiny.run(done, only="compare")
    assert Layout(done).count_rounds() == 0
    tiny.run(done, {"reward": None, "rl": None, "compare": None})
    assert Layout(done).count_rounds() == 0 and not Layout(done).judgements.exists()


def test_a_mistyped_score_is_an_error_before_anything_is_kept(tiny: Any, done: Path) -> None:
    score_later_answers(done)
    path = Layout(done).answers_of(2)
    path.write_text(path.read_text().replace('"score": 5', '"score": five', 1))
    with pytest.raises(DataError, match=r"answers-2\.jsonl"):
        tiny.run(done)
    assert Layout(done).count_rounds() == 0 and tiny.result(done) == tiny.result(tiny.straight())


def test_other_settings_of_earlier_stages_are_refused_before_anything_is_kept(tiny: Any, done: Path) -> None:
    score_later_answers(done)
    with pytest.raises(RunError, match="sft stage was started with another config"):
        tiny.run(done, {"sft.learning_rate": 1.0})
    assert Layout(done).count_rounds() == 0 and Layout(done).model("rl").exists()


@pytest.mark.slow
def test_a_new_round_may_have_other_settings(tiny: Any, done: Path) -> None:
    score_later_answers(done)
    tiny.run(done, {"rl.episodes": 8, "compare": None})
    kept = Layout(done).round(1)
    assert "episodes: 40" in Layout(kept).config.read_text() and f"out: {kept}" in Layout(kept).config.read_text()
    assert "episodes: 8" in Layout(done).config.read_text()


@pytest.mark.slow
def test_two_processes_begin_a_round_once(tiny: Any, done: Path) -> None:
    score_later_answers(done)
    config = config_of(tiny, done, {})
    first, other = together(f"reward:{config}", f"rl:{config}")
    assert first.count("done") == other.count("done") == 2, first + other
    layout = Layout(done)
    assert layout.count_rounds() == 1 and tiny.result(layout.round(1)) == tiny.result(tiny.straight())
    assert [row["stage"] for row in events(done, "restarted")] == AGAIN
    assert [row["stage"] for row in events(done, "done")][-2:] == ["reward", "rl"]
