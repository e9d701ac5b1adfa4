"""Items on which raters contradict each other: what the owner is shown for a judgement of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from sawyer.ratings.rating_types import Choice, Item, Judgement, Method, RatedItem, StoredVote
from sawyer.ratings.translation import choice_in_item_order, judgement_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictVote:
    """One rater's last word on the item."""

    rater: str
    choice: Choice  # in the item's own order
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """An item of which two judgements put two answers in opposite orders."""

    item: Item
    method: Method
    votes: tuple[ConflictVote, ...]  # judgements, in the order of their assignments; skips are none
    width: float  # by how much the two most contrary judgements differ on two answers, in the judges' unit
    is_adjudicated: bool  # the owner has judged it


def conflicts(rated_items: Sequence[RatedItem]) -> list[Conflict]:
    """Every item with a contradiction, those without an adjudication first, then the widest. A tie contradicts nothing; a
    rater's own repeat in the opposite order does."""
    result = []
    for rated_item in rated_items:
        votes = sorted(rated_item.votes, key=lambda vote: vote.assignment.id)
        judgements = [
            (vote, judgement)
            for vote in votes
            if vote.assignment.pick != "adjudication" and (judgement := judgement_of(vote)) is not None
        ]
        width = max((_width(one, other) for (_, one), (_, other) in combinations(judgements, 2)), default=0.0)
        if width > 0:
            conflict = Conflict(
                item=rated_item.item,
                method=judgements[0][0].assignment.method,
                votes=tuple(_conflict_vote(vote) for vote, _ in judgements),
                width=width,
                is_adjudicated=any(vote.assignment.pick == "adjudication" for vote in votes),
            )
            result.append(conflict)
    return sorted(result, key=lambda conflict: (conflict.is_adjudicated, -conflict.width))


def _conflict_vote(vote: StoredVote) -> ConflictVote:
    note = vote.assignment.vote.note if vote.assignment.vote is not None else ""
    return ConflictVote(rater=vote.assignment.rater.name, choice=choice_in_item_order(vote), note=note)


def _width(one: Judgement, other: Judgement) -> float:
    """The widest contradiction of two judgements: |their leads' difference| where both prefer, and prefer opposite answers."""
    both = [(a, b) for a, b in zip(one.scores, other.scores, strict=True) if a is not None and b is not None]
    leads = [(a - c, b - d) for (a, b), (c, d) in combinations(both, 2)]
    return max((abs(mine - theirs) for mine, theirs in leads if mine * theirs < 0), default=0.0)
