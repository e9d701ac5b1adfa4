"""The one translation of a vote into scores: training, agreement and exports all use it. docs/rating.md has it as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sawyer.errors import RatingError
from sawyer.ratings.rating_types import Choice, Judgement, RatedItem, StoredVote
from sawyer.records import Answer, JudgedPrompt, scored_row


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingsSummary:
    """What became of the votes: nothing is left out in silence. Raters are named as they named themselves."""

    judgements: int  # rows for training
    raters: int  # whose judgements these are
    items: int  # that have at least one of them
    ties: int  # judgements of which all scores are equal, both_bad included: they teach no order
    both_bad: int
    skips: int  # votes that are no judgement
    left_out: Mapping[str, int]  # rater -> judgements left out, since the rater's weight is 0
    weights: Mapping[str, float]  # rater -> weight, where it is neither 1 nor 0
    replaced_votes: int  # votes that an adjudication of their item replaces
    without_votes: tuple[str, ...]  # names among the weights of which there is no vote: misspelt, or not yet there


def last_choice(vote: StoredVote) -> Choice:
    """What was chosen, in the order in which it was shown. Raises RatingError where the assignment has no vote."""
    if vote.assignment.vote is None:
        raise RatingError(f"assignment {vote.assignment.id} has no vote", expected="a stored vote")
    return vote.assignment.vote.choice


def choice_in_item_order(vote: StoredVote) -> Choice:
    """The same choice as if the answers had been shown in the item's own order: a swapped pair's grade changes sign."""
    choice, order = last_choice(vote), vote.assignment.order
    if choice.grade:
        return replace(choice, grade=-choice.grade if order[0] > order[1] else choice.grade)
    if choice.ranks:
        return replace(choice, ranks=tuple(choice.ranks[order.index(i)] for i in range(len(order))))
    if choice.scores:
        return replace(choice, scores=tuple(choice.scores[order.index(i)] for i in range(len(order))))
    return choice


def judgement_of(vote: StoredVote) -> Judgement | None:
    """A vote as scores of its item's answers, in the item's order; None for a skip.

    pair: the better scores 1, the other 0. graded: the grade's size (1, 2, 3) and 0. rank: the last rank scores 0, each rank
    above it one more, equal ranks share a score. score: as it is, 0 to 10, None where not judged. Ties score 0 and 0.
    Raises RatingError for a choice that does not fit its item.

    Example: of answers shown as (second, first) the grade -2 says that the second is better by 2: scores (0, 2).
    """
    choice = last_choice(vote)
    if choice.skip:
        return None
    scores_shown, order = _shown_scores(choice), vote.assignment.order
    if len(scores_shown) != len(order) or len(order) != len(vote.assignment.item.answers):
        raise RatingError(
            f"assignment {vote.assignment.id} judges {len(scores_shown)} answers of {len(vote.assignment.item.answers)}",
            expected="a judgement of the answers that were shown",
        )
    scores: list[float | None] = [None] * len(order)
    for score, index in zip(scores_shown, order, strict=True):
        scores[index] = score
    return Judgement(scores=tuple(scores), both_bad=choice.both_bad)


def _shown_scores(choice: Choice) -> list[float | None]:
    """The scores of the answers as they were shown, first to last."""
    if choice.grade is not None:
        return [float(max(0, -choice.grade)), float(max(0, choice.grade))]
    if choice.ranks:
        ranks = sorted(set(choice.ranks), reverse=True)  # worst first: a rank that nobody has, as in 1, 1, 3, is no step
        return [float(ranks.index(rank)) for rank in choice.ranks]
    return [None if score is None else float(score) for score in choice.scores]


def is_tie(judgement: Judgement) -> bool:
    """Whether two answers or more were judged and none is better than another."""
    scores = [score for score in judgement.scores if score is not None]
    return len(scores) > 1 and len(set(scores)) == 1


def counted_votes(item: RatedItem) -> tuple[StoredVote, ...]:
    """The votes that training takes of an item, in the order of their assignments: the last adjudication alone, if there is
    one."""
    adjudications = [vote for vote in item.votes if vote.assignment.pick == "adjudication"]
    if adjudications:
        return (max(adjudications, key=lambda vote: (vote.timestamp, vote.assignment.id)),)
    return tuple(sorted(item.votes, key=lambda vote: vote.assignment.id))


def pseudonyms(rated_items: Sequence[RatedItem]) -> dict[int, str]:
    """Rater's id -> r1, r2, ... in the order in which they began: of their first assignments, which no later vote changes."""
    return pseudonyms_of_votes([vote for item in rated_items for vote in item.votes])


def pseudonyms_of_votes(votes: Sequence[StoredVote]) -> dict[int, str]:
    """The same of votes, of which there may be several revisions."""
    begin: dict[int, int] = {}
    for vote in votes:
        rater, assignment = vote.assignment.rater.id, vote.assignment.id
        begin[rater] = min(begin.get(rater, assignment), assignment)
    return {rater: f"r{number}" for number, rater in enumerate(sorted(begin, key=lambda rater: begin[rater]), 1)}


def judgement_row(item: RatedItem, judgement: Judgement, rater: str, weight: float = 1.0) -> dict[str, Any]:
    """A judgement as a row that `records` reads: scored answers, with the rater's name or pseudonym beside them."""
    answers = zip(item.item.answers, judgement.scores, strict=True)
    answers_scored = tuple(Answer(response=answer.response, score=score, source=answer.source) for answer, score in answers)
    row = scored_row(JudgedPrompt(prompt=item.item.prompt, answers=answers_scored)) | {"rater": rater}
    row |= {"both_bad": True} if judgement.both_bad else {}
    return row | ({"judgement_weight": weight} if weight != 1 else {})


def training_rows(
    rated_items: Sequence[RatedItem], weights: Mapping[str, float]
) -> tuple[list[dict[str, Any]], RatingsSummary]:
    """The rows of `collect/judgements.jsonl`, one for each judgement of one rater, and what became of all votes.

    `weights`: rater's name (in any case) -> weight of each judgement, at least 0; 1 where none is given, and 0 leaves the
    rater out. Raters stand in the rows as r1, r2, ... A second judgement of the same answers by the same rater is a row of its
    own. Raises RatingError for a weight that is negative or not finite.
    """
    weight_by_name = _checked_weights(weights)
    names = pseudonyms(rated_items)
    rows: list[dict[str, Any]] = []
    left_out, other_weights = dict[str, int](), dict[str, float]()
    raters, items = set[int](), set[str]()
    ties = both_bad = skips = replacements = 0
    for item in rated_items:
        votes = counted_votes(item)
        replacements += len(item.votes) - len(votes)
        for vote in votes:
            rater = vote.assignment.rater
            judgement, weight = judgement_of(vote), weight_by_name.get(name_key(rater.name), 1.0)
            if judgement is None:
                skips += 1
                continue
            if weight == 0:
                left_out[rater.name] = left_out.get(rater.name, 0) + 1
                continue
            rows.append(judgement_row(item, judgement, names[rater.id], weight))
            other_weights |= {rater.name: weight} if weight != 1 else {}
            raters.add(rater.id)
            items.add(item.item.id)
            ties, both_bad = ties + is_tie(judgement), both_bad + judgement.both_bad
    voters = {name_key(vote.assignment.rater.name) for item in rated_items for vote in item.votes}
    return rows, RatingsSummary(
        judgements=len(rows),
        raters=len(raters),
        items=len(items),
        ties=ties,
        both_bad=both_bad,
        skips=skips,
        left_out=left_out,
        weights=other_weights,
        replaced_votes=replacements,
        without_votes=tuple(name for name in weights if name_key(name) not in voters),
    )


def name_key(name: str) -> str:
    """What makes two raters' names the same: case and outer spaces do not count."""
    return name.strip().casefold()


def _checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise RatingError(
                f"the weight of rater {name} is {weight}",
                expected="a number of at least 0: 0 leaves the rater out, 1 counts each judgement once",
                todo="correct it under reward.raters",
            )
    return {name_key(name): float(weight) for name, weight in weights.items()}
