"""Stores for the tests of this room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sawyer.ratings import (
    Assignment,
    Choice,
    Item,
    Method,
    Rater,
    RatingSettings,
    RatingStore,
    StoredVote,
    Vote,
    item_of,
)
from sawyer.records import Answer, prompt_of

NOW = 1_800_000_000.0  # seconds since the epoch


def make_items(count: int, *, answers: int = 2, uncertainty: Sequence[float | None] = (None,), round: int = 1) -> list[Item]:
    """Items of prompts of their own, with uncertainties in turn."""
    return [
        item_of(
            prompt_of(f"prompt {round}.{i}"),
            [Answer(response=f"answer {j} to {round}.{i}", score=None) for j in range(answers)],
            round=round,
            uncertainty=uncertainty[i % len(uncertainty)],
        )
        for i in range(count)
    ]


def open_store(path: Path, items: Sequence[Item] = (), method: Method = "graded", **settings: Any) -> RatingStore:
    """A store at `path` (or in the folder `path`) with these items, which does not wait for the disk."""
    file = path / "votes.sqlite" if path.is_dir() else path
    store = RatingStore.open(file, settings=RatingSettings(method=method, **settings))
    store._database.value("PRAGMA synchronous=OFF")
    store.add_items(items)
    return store


def choice_for(assignment: Assignment, grade: int = 1) -> Choice:
    """A choice that fits the assignment."""
    count = len(assignment.order)
    if assignment.method in ("pair", "graded"):
        return Choice(grade=grade)
    return Choice(ranks=tuple(range(1, count + 1))) if assignment.method == "rank" else Choice(scores=tuple(range(count)))


def cast(
    store: RatingStore, rater: Rater, assignment: Assignment, id: str, choice: Choice | None = None, now: float = NOW
) -> StoredVote:
    """Vote on an assignment."""
    vote = Vote(id=id, assignment=assignment.id, choice=choice or choice_for(assignment), seconds=2.0)
    return store.vote(rater, vote, now)


def judge_all(store: RatingStore, rater: Rater, most: int = 10_000, now: float = NOW) -> list[Assignment]:
    """Take and judge one item after another, as long as there are any."""
    assignments: list[Assignment] = []
    while len(assignments) < most and (handed := store.assign(rater, 1, now)):
        cast(store, rater, handed[0], f"{rater.id}.{handed[0].id}")
        assignments += handed
    return assignments
