"""K scored answers -> every pair of which one is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from sawyer.records.record_types import Answer, Pair, ScoredAnswers


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A prompt's K judged answers; the tuples have one entry an answer, in the record's order."""

    responses: tuple[str, ...]
    scores: tuple[float, ...]  # on the judges' scale; of a ready-made pair its margin (1 where none is given) and 0
    sources: tuple[str, ...]  # who wrote it; "" where nobody says so


def judgement(record: ScoredAnswers | Pair) -> Judgement:
    """The answers that somebody has judged; those that wait for a score are left out."""
    if isinstance(record, Pair):
        margin = 1.0 if record.margin is None else record.margin
        return Judgement(responses=(record.chosen, record.rejected), scores=(margin, 0.0), sources=("", ""))
    scored = [(answer, answer.score) for answer in record.answers if answer.score is not None]
    return Judgement(
        responses=tuple(answer.response for answer, _ in scored),
        scores=tuple(score for _, score in scored),
        sources=tuple(answer.source for answer, _ in scored),
    )


def pairs(record: ScoredAnswers) -> tuple[list[tuple[int, int, float]], int]:
    """([(j, k, d)], ties): answer j beats answer k by d = s_j - s_k > 0, j and k counted among the scored answers.

    Example: scores 6, 2, 2 -> ([(0, 1, 4.0), (0, 2, 4.0)], 1).
    """
    scores = [answer.score for answer in record.answers if answer.score is not None]
    found: list[tuple[int, int, float]] = []
    ties = 0
    for i, a in enumerate(scores):
        for j in range(i + 1, len(scores)):
            difference = a - scores[j]
            if difference == 0:
                ties += 1
            else:
                found.append((i, j, difference) if difference > 0 else (j, i, -difference))
    return found, ties


def join(records: Sequence[ScoredAnswers]) -> tuple[ScoredAnswers, int]:
    """(the judged answers of one prompt as one record, how many were judged more than once): the mean of its scores counts.

    Example: records of one answer each, "a" 4, "b" 1, "a" 2 -> ("a" 3, "b" 1), 1.
    """
    judged: dict[str, list[Answer]] = {}
    for record in records:
        for answer in record.answers:
            judged.setdefault(answer.response, []).append(answer)
    scores = [[answer.score for answer in answers if answer.score is not None] for answers in judged.values()]
    answers = [
        replace(same[0], score=fmean(given) if given else None) for same, given in zip(judged.values(), scores, strict=True)
    ]
    return replace(records[0], answers=tuple(answers)), sum(len(set(given)) > 1 for given in scores)
