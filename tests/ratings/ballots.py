"""Items and votes for the tests of this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.ratings import Assignment, Choice, Item, Method, Pick, RatedItem, Rater, StoredVote, Vote
from sawyer.records import Answer, prompt_of


def item(name: str, *responses: str, prompt: str = "") -> Item:
    """An item `name` whose answers are these texts, of a prompt of its own unless one is named."""
    answers = tuple(Answer(response=response, score=None, source="sft") for response in responses)
    return Item(id=name, prompt=prompt_of(prompt or f"prompt of {name}"), answers=answers)


class Ballot:
    """Votes in the order in which they are cast."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.votes: dict[str, list[StoredVote]] = {}
        self.raters: dict[str, Rater] = {}

    def vote(
        self,
        item: Item,
        rater: str,
        choice: Choice,
        *,
        order: Sequence[int] | None = None,
        method: Method | None = None,
        pick: Pick = "uncertain",
        seconds: float = 60.0,
        rewrite: str = "",
        note: str = "",
        kind: Any = "person",
        revision: int = 1,
    ) -> StoredVote:
        """Cast one vote; the method follows from the choice (a grade is `graded`)."""
        number = sum(map(len, self.votes.values())) + 1
        who = self.raters.setdefault(rater, Rater(id=len(self.raters) + 1, name=rater, kind=kind))
        method = method or ("rank" if choice.ranks else "score" if choice.scores else "graded")
        assignment = Assignment(
            id=number,
            item=item,
            rater=who,
            method=method,
            order=tuple(order if order is not None else range(len(item.answers))),
            pick=pick,
            vote=Vote(id=f"v{number}", assignment=number, choice=choice, seconds=seconds, rewrite=rewrite, note=note),
        )
        stored = StoredVote(assignment=assignment, timestamp=1000.0 + number, revision=revision)
        self.items.setdefault(item.id, item)
        self.votes.setdefault(item.id, []).append(stored)
        return stored

    def grades(self, item: Item, grades: Mapping[str, int], **options: Any) -> None:
        """One grade of each rater, in the item's order."""
        for rater, grade in grades.items():
            self.vote(item, rater, Choice(grade=grade), **options)

    @property
    def rated(self) -> list[RatedItem]:
        """What the store gives."""
        return [RatedItem(item=self.items[name], votes=tuple(votes)) for name, votes in self.votes.items()]
