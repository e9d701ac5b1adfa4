"""The whole loop with simulated people who vote over HTTP: two rounds, and raters from whom nothing can be learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sawyer.ratings import RatingStore
from sawyer.runs import Layout, read_manifest, read_rows

pytest.importorskip("starlette", reason="the rating server needs the extra `web`")
pytestmark = pytest.mark.slow

CHANGES = {"world.rater": "people", "collect.limit": 20, "collect.answers": 3, "reward.data": [], "rl.guards": "off"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def config(tiny: Any, tmp_path: Path) -> Path:
    """A run from its SFT stage on: the tiny base model is there, people are to judge."""
    tree = tiny.tree(tmp_path / "run", CHANGES) | {"model": str(tiny.straight("base") / "base" / "model")}
    del tree["base"], tree["classify"]
    path = tmp_path / "people.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def statuses(layout: Layout) -> dict[str, str]:
    return {stage: state["status"] for stage, state in read_manifest(layout.manifest)["stages"].items() if stage != "report"}


def test_two_rounds_with_people_in_them(command: Any, config: Path) -> None:
    layout = Layout(config.parent / "run")
    rating = ("rate", layout.root, "--simulate", 2, "--port", 0)
    assert command("run", config).code == 0
    assert statuses(layout) == {"sft": "done", "collect": "waiting"}
    ended = command(*rating)
    assert ended.code == 0, ended.err
    assert "2 simulated people gave" in ended.out and "same verdict" in ended.out
    with RatingStore.open(layout.ratings) as store:
        first = store.progress()
        assert {rater.kind for rater in store.raters()} == {"simulated"}
    assert first.judged_items == first.items > 20  # nothing is left
    assert command("run", layout.root).code == 0  # the folder is enough
    assert statuses(layout) == dict.fromkeys(("sft", "collect", "reward", "rl", "compare"), "done")
    judgements = rows_of(layout.judgements)
    assert len(judgements) == sum(first.votes.values())
    assert {row["rater"] for row in judgements} == {"r1", "r2"}
    assert "honest" not in layout.judgements.read_text()
    # What people are asked next goes by the reward model's view of the collected answers.
    collected_texts = {a["response"] for row in rows_of(layout.answers) for a in row["responses_and_scores"]}
    assert {row["response"] for row in rows_of(layout.answer_rewards)} == collected_texts

    assert command("collect", config, "--round", 2).code == 0
    later_answers = [a for row in rows_of(layout.answers_of(2)) for a in row["responses_and_scores"]]
    assert {answer["source"] for answer in later_answers} == {"rl", "sft"}
    assert all(answer["score"] is None for answer in later_answers)
    assert {answer["response"] for answer in later_answers} <= {row["response"] for row in rows_of(layout.answer_rewards)}
    assert command(*rating).code == 0
    assert command("run", config).code == 0
    assert len(rows_of(layout.judgements)) > len(judgements)
    assert [earlier.root for earlier in layout.earlier_rounds()] == [layout.round(1)]
    restarted = [row["stage"] for row in read_rows(layout.events) if row["kind"] == "restarted"]
    assert restarted == ["reward", "rl", "compare"]
    gold = json.loads(layout.summary.read_text())["gold"]
    assert all(0 <= gold[model]["t1"] <= 10 for model in ("sft", "rl"))


def test_nothing_is_learned_from_lazy_people_and_it_is_said(command: Any, config: Path) -> None:
    """They call all answers equally good: RL is never begun on them."""
    layout = Layout(config.parent / "run")
    assert command("run", config).code == 0
    ended = command("rate", layout.root, "--simulate", 2, "--simulate-raters", "lazy", "--port", 0)
    assert "2 simulated people gave" in ended.out
    with RatingStore.open(layout.ratings) as store:
        num_votes = sum(store.progress().votes.values())
    # The answers that are no judgement do not count among them.
    command("run", config).explains("nothing to learn", f": {num_votes} judgements by 2 raters", "prefers one to another")
    states = statuses(layout)
    assert states["reward"] != "done" and "rl" not in states


def test_what_the_world_does_not_know_is_refused_before_anything_is_stored(command: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    answers = [{"response": text, "score": None} for text in ("Jane Austen.", "I do not know.")]
    path.write_text(json.dumps({"user_input": "Who wrote Emma?", "responses_and_scores": answers}) + "\n", encoding="utf-8")
    command("rate", path, "--simulate", 1, "--port", 0).explains("Who wrote Emma?", "built-in world", "--simulate")
    assert not (tmp_path / "own.ratings.sqlite").exists()
    command("rate", path, "--simulate", 1, "--simulate-raters", "kind").explains("'kind'", "honest")
