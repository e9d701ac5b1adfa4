"""Votes on a run's answers, from the store of votes to the reward model that learns from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_rounds import AGAIN, events, messages, score_later_answers

from sawyer.errors import ConfigError, RunError
from sawyer.pipeline import votes
from sawyer.ratings import Assignment, Choice, RatingSettings, RatingStore, Vote, items_from
from sawyer.runs import Layout, read_rows
from sawyer.runs.atomic_files import hash_folder

LATER = 10_000_000.0  # seconds since the epoch, for votes that no clock decides


def longer(assignment: Assignment) -> Choice:
    """A rater who finds the longer answer better by 2."""
    first, second = (assignment.item.answers[i].response for i in assignment.order)
    return Choice(grade=0, both_bad=True) if len(first) == len(second) else Choice(grade=2 if len(second) > len(first) else -2)


def rate(out: Path, name: str, count: int, choose: Callable[[Assignment], Choice] = longer, overlap: float = 1.0) -> int:
    """A rater's votes on up to `count` items of the run; returns how many."""
    layout = Layout(out)
    with RatingStore.open(layout.ratings, settings=RatingSettings(method="graded", overlap=overlap, repeat_rate=0.0)) as store:
        store.add_items(items_from(layout, "graded", []))
        rater = store.rater(name)
        assignments = [one for one in store.assign(rater, count, LATER) if one.vote is None]
        for one in assignments:
            vote = Vote(id=f"{name}-{one.id}", assignment=one.id, choice=choose(one), seconds=4.0)
            store.vote(rater, vote, LATER)
    return len(assignments)


@pytest.fixture
def waiting(tiny: Any, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run outside the world whose collected answers wait, and its settings."""
    out, changes = tmp_path / "run", {"world": None, "rl": None, "compare": None, "reward.data": []}
    shutil.copytree(tiny.straight("base"), out)
    shutil.rmtree(out / "base")
    tiny.run(out, changes)
    return out, changes


def test_a_run_that_waits_goes_on_with_votes(tiny: Any, waiting: tuple[Path, dict[str, Any]]) -> None:
    out, changes = waiting
    layout = Layout(out)
    assert f"`sawyer rate {out}`" in messages(out, "waiting")
    num_votes = rate(out, "Anna", 12) + rate(out, "Bob", 12, lambda one: Choice(skip=True) if one.id % 2 else longer(one))
    summary = tiny.run(out, changes)
    assert "waiting" not in summary and summary["reward"]["accuracy"] >= 0
    rows = read_rows(layout.judgements)
    skips = sum(vote.startswith("skip") for vote in _choices(out))
    assert 0 < skips < 12 and len(rows) == num_votes - skips
    assert {row["rater"] for row in rows} == {"r1", "r2"} and "Anna" not in layout.judgements.read_text()
    scored = messages(out, "scored")
    assert f"{len(rows)} judgements by 2 raters" in scored and f"{skips} skipped" in scored
    agreement = json.loads(layout.agreement.read_text())
    assert agreement["summary"]["judgements"] == len(rows) and "Anna" not in layout.agreement.read_text()
    assert [profile["name"] for profile in agreement["report"]["profiles"]] == ["r1", "r2"]
    assert summary["rounds"][-1]["judgements"] == len(rows) and summary["rounds"][-1]["raters"] == 2


def _choices(out: Path) -> list[str]:
    with RatingStore.open(Layout(out).ratings) as store:
        kept = [vote.assignment.vote for vote in store.stored_votes()]
    return ["skip" if vote is not None and vote.choice.skip else "choice" for vote in kept]


def test_votes_alone_that_skip_leave_the_run_waiting(tiny: Any, waiting: tuple[Path, dict[str, Any]]) -> None:
    out, changes = waiting
    rate(out, "Anna", 5, lambda _: Choice(skip=True))
    assert tiny.run(out, changes)["waiting"] and not Layout(out).judgements.exists()


def test_new_votes_begin_a_round_and_notes_do_not(tiny: Any, waiting: tuple[Path, dict[str, Any]]) -> None:
    out, changes = waiting
    layout = Layout(out)
    rate(out, "Anna", 10)
    tiny.run(out, changes)
    first = layout.judgements.read_bytes()
    # A skip more, and the same vote again with a note: nothing to learn.
    rate(out, "Bob", 3, lambda _: Choice(skip=True))
    tiny.run(out, changes)
    assert layout.count_rounds() == 0 and layout.judgements.read_bytes() == first
    rate(out, "Carl", 4)
    summary = tiny.run(out, changes)
    assert layout.count_rounds() == 1 and Layout(layout.round(1)).judgements.read_bytes() == first
    assert "round 2: 14 judgements by 2 raters" in messages(out, "scored") and "(10 before)" in messages(out, "scored")
    assert [row["judgements"] for row in summary["rounds"]] == [10, 14]
    assert [row["stage"] for row in events(out, "start")][-1] == "reward"


def test_a_rater_who_is_left_out_makes_another_round(tiny: Any, waiting: tuple[Path, dict[str, Any]]) -> None:
    out, changes = waiting
    rate(out, "Anna", 10)
    rate(out, "Bob", 8)
    tiny.run(out, changes)
    tiny.run(out, {**changes, "reward.raters": {"bob": 0}})
    layout = Layout(out)
    assert layout.count_rounds() == 1 and {row["rater"] for row in read_rows(layout.judgements)} == {"r1"}
    assert "8 judgements of 1 rater left out by reward.raters" in messages(out, "scored")
    profiles = json.loads(layout.agreement.read_text())["report"]["profiles"]
    assert [(one["name"], one.get("left_out", False)) for one in profiles] == [("r1", False), ("r2", True)]
    # The same weights again change nothing.
    tiny.run(out, {**changes, "reward.raters": {"bob": 0}})
    assert layout.count_rounds() == 1


def test_a_misspelt_rater_is_an_error_before_anything_is_kept(tiny: Any, waiting: tuple[Path, dict[str, Any]]) -> None:
    out, changes = waiting
    rate(out, "Anna", 10)
    tiny.run(out, changes)
    with pytest.raises(ConfigError, match="did you mean `Anna`"):
        tiny.run(out, {**changes, "reward.raters": {"ana": 0}})
    assert Layout(out).count_rounds() == 0


def test_a_copy_without_the_votes_keeps_their_judgements(tiny: Any, waiting: tuple[Path, dict[str, Any]]) -> None:
    out, changes = waiting
    layout = Layout(out)
    rate(out, "Anna", 10)
    tiny.run(out, changes)
    text = layout.judgements.read_text()
    layout.ratings.unlink()
    score_later_answers(out)
    tiny.run(out, changes)
    assert layout.judgements.read_text() == text and layout.count_rounds() == 0


@pytest.mark.slow
def test_dpo_without_a_reward_model_learns_from_votes(tiny: Any, waiting: tuple[Path, dict[str, Any]]) -> None:
    out, changes = waiting
    prompts = [str(tiny.data / "prompts.jsonl")]
    dpo = {"algorithm": "dpo", "prompts": prompts, "batch_size": 4, "learning_rate": 1e-3, "max_new_tokens": 8}
    changes = {**changes, "reward": None, "rl": {**dpo, "eval_prompts": 4, "eval_fraction": 0.3}}
    rate(out, "Anna", 20)
    tiny.run(out, changes)
    first = hash_folder(Layout(out).model("rl"))
    rate(out, "Bob", 20)
    tiny.run(out, changes)
    layout = Layout(out)
    assert layout.count_rounds() == 1 and hash_folder(Layout(layout.round(1)).model("rl")) == first
    assert hash_folder(layout.model("rl")) != first
    assert events(out, "restarted")[-1]["stage"] == "rl"


@pytest.mark.slow
def test_votes_count_beside_scores_in_the_world(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix(None, tmp_path / "run")
    rate(out, "Anna", 10)
    tiny.run(out)
    assert [row["stage"] for row in events(out, "restarted")] == AGAIN
    assert tiny.result(Layout(out).round(1)).products == tiny.result(tiny.straight()).products


def test_a_kill_between_the_two_files_of_a_snapshot_makes_it_again(
    tiny: Any, waiting: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, changes = waiting
    rate(out, "Anna", 10)

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(votes, "write_json", die)
        with pytest.raises(Killed):
            tiny.run(out, changes)
    assert Layout(out).judgements.exists() and not Layout(out).agreement.exists()
    tiny.run(out, changes)
    assert Layout(out).agreement.exists() and Layout(out).count_rounds() == 0


def test_votes_of_another_version_are_refused_with_words(tiny: Any, waiting: tuple[Path, dict[str, Any]]) -> None:
    out, changes = waiting
    Layout(out).ratings.write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError):
        tiny.run(out, changes)
