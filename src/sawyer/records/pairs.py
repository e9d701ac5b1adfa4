"""K scored answers -> every pair of which one is better."""

from __future__ import annotations

from sawyer.records.types import ScoredAnswers


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
