"""Judgements as verdicts between two answers: who put which of two texts before the other, and how they were shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sawyer.ratings.rating_types import Judgement, RatedItem, StoredVote
from sawyer.ratings.translation import judgement_of
from sawyer.records import Message

PromptKey = tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedVote:
    """A vote that is a judgement, with its translation."""

    prompt: PromptKey
    vote: StoredVote
    judgement: Judgement

    @property
    def rater(self) -> int:
        """The rater's id."""
        return self.vote.assignment.rater.id


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerComparison:
    """What a vote says of two answers of its item. Both were judged."""

    first: str  # the text that was shown earlier (further left)
    second: str
    lead: float  # the first one's score less the second one's; 0: a tie


@dataclass(slots=True)
class Tally:
    """Pairs of judgements of the same two texts: how many agree, of how many."""

    same_verdict: int = 0  # first better, tie or second better, the same in both
    verdicts: int = 0
    same_order: int = 0  # among those in which both prefer one
    orders: int = 0

    def add(self, sign: int, other: int) -> None:
        """Count a pair of judgements, -1, 0 or 1 each."""
        self.same_verdict, self.verdicts = self.same_verdict + (sign == other), self.verdicts + 1
        self.same_order, self.orders = self.same_order + (sign * other > 0), self.orders + (sign * other != 0)


def votes_with_judgements(rated_items: Sequence[RatedItem]) -> list[JudgedVote]:
    """The raters' own judgements, by item and assignment. Skips are none; nor are adjudications, which the owner makes in
    view of the others' votes."""
    judgements = []
    for item in rated_items:
        for vote in sorted(item.votes, key=lambda vote: vote.assignment.id):
            if vote.assignment.pick != "adjudication" and (judgement := judgement_of(vote)) is not None:
                judgements.append(JudgedVote(prompt=item.item.prompt.messages, vote=vote, judgement=judgement))
    return judgements


def comparisons_of(judged_vote: JudgedVote) -> Iterator[AnswerComparison]:
    """Every two answers that the vote judges, in the order in which they were shown."""
    answers, order, scores = (
        judged_vote.vote.assignment.item.answers,
        judged_vote.vote.assignment.order,
        judged_vote.judgement.scores,
    )
    for i, j in combinations(order, 2):
        first, second = scores[i], scores[j]
        if first is not None and second is not None:
            yield AnswerComparison(first=answers[i].response, second=answers[j].response, lead=first - second)


def sign(value: float) -> int:
    """-1, 0 or 1."""
    return (value > 0) - (value < 0)


def tallies(judgements: Sequence[JudgedVote]) -> Mapping[PromptKey, Mapping[tuple[int, int], Tally]]:
    """prompt -> (a rater's id, another's or the same one's, in order) -> the pairs of their judgements of the same two texts.

    A text pair counts wherever it stands: in a pair, and inside a ranking of more answers to the same prompt.
    """
    by_texts: dict[PromptKey, dict[tuple[str, str], list[tuple[int, int]]]] = {}
    for one in judgements:
        signs_by_texts = by_texts.setdefault(one.prompt, {})
        for comparison in comparisons_of(one):
            direction = 1 if comparison.first < comparison.second else -1  # the texts' own order, whatever was shown first
            key = (comparison.first, comparison.second) if direction > 0 else (comparison.second, comparison.first)
            signs_by_texts.setdefault(key, []).append((one.rater, direction * sign(comparison.lead)))
    counts: dict[PromptKey, dict[tuple[int, int], Tally]] = {}
    for prompt, pairs in by_texts.items():
        own_counts = counts.setdefault(prompt, {})
        for signs in pairs.values():
            for (rater, mine), (other, theirs) in combinations(signs, 2):
                key_of_raters = (min(rater, other), max(rater, other))
                own_counts.setdefault(key_of_raters, Tally()).add(mine, theirs)
    return counts
