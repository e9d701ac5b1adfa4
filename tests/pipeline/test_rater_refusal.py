"""Votes that teach nothing end the run with an error and a page that says why; other votes then go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import DataError
from sawyer.ratings import Choice, RatingSettings, RatingStore, Vote, items_from
from sawyer.report import build
from sawyer.runs import Layout, last_gates, read_manifest, read_rows

VOTES_ALONE = {"reward.data": [], "rl": None, "compare": None}


def vote(layout: Layout, name: str, grade: Callable[[tuple[str, ...]], int], votes: int) -> None:
    """A rater judges graded pairs; `grade` is given the texts as shown."""
    with RatingStore.open(layout.ratings, settings=RatingSettings(method="graded", repeat_rate=0.0)) as store:
        store.add_items(items_from(layout, "graded", [], seed=0))
        rater = store.rater(name)
        for number in range(votes):
            assignments = store.assign(rater, 1, 1000.0 + number)
            if not assignments:
                break
            (assignment,) = assignments
            shown = tuple(assignment.item.answers[i].response for i in assignment.order)
            choice = Choice(grade=grade(shown))
            identity = f"{name}-{number}"
            store.vote(rater, Vote(id=identity, assignment=assignment.id, choice=choice, seconds=30.0), 1000.5 + number)


@pytest.mark.slow
def test_lazy_votes_are_refused_on_the_page_and_others_go_on(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("reward", tmp_path / "run")
    layout = Layout(out)
    rows = [json.loads(line) for line in layout.answers.read_text().splitlines()]
    for row in rows:
        for answer in row["responses_and_scores"]:
            answer["score"] = None
    layout.answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    layout.report.unlink(missing_ok=True)
    vote(layout, "Evelyn", lambda shown: 0, 60)
    with pytest.raises(DataError, match=r"nothing to learn.*by 1 rater"):
        tiny.run(out, VOTES_ALONE)
    assert read_manifest(layout.manifest)["stages"]["reward"]["status"] == "failed"
    gates = {row["name"]: row for row in last_gates(read_rows(layout.events))}
    assert gates["raters"]["verdict"] == "fail" and "Evelyn" not in gates["raters"]["message"]
    assert layout.report.exists()
    page = build(out).read_text()
    assert "there is nothing to learn: all scores are tied" in page and "all are ties" in page and "no RL on it" in page
    assert "Evelyn" not in page

    vote(layout, "Annabel", lambda shown: 2 if len(shown[1]) > len(shown[0]) else -1, 60)
    tiny.run(out, {**VOTES_ALONE, "reward.raters": {"EVELYN": 0}})
    assert read_manifest(layout.manifest)["stages"]["reward"]["status"] == "done"
    assert {row["rater"] for row in read_rows(layout.judgements)} == {"r2"}, "the pseudonym of the second rater"
    plan = [row["message"] for row in read_rows(layout.events) if (row["stage"], row["kind"]) == ("reward", "plan")][-1]
    assert "judgements by 1 rater" in plan and "reward.raters: EVELYN is left out" in plan
