"""Who judges: an honest rater with a little noise, and others that break reward models on purpose."""

from __future__ import annotations

import random

from sawyer.errors import WorldError
from sawyer.worlds.gold_score import gold

RATERS: tuple[str, ...] = ("honest", "length_lover", "lazy", "flipper")
NOISE = 0.5  # standard deviation of an honest rater's judgement, in points
FLIP_SHARE = 0.4  # of the flipper's judgements


def rate(rater: str, prompt: str, response: str, rng: random.Random) -> float:
    """A score from 1 to 10 in halves. `lazy` gives 8 to everything, `length_lover` counts words, `flipper` is honest but turns
    4 in 10 of its judgements round. Raises WorldError for another name."""
    if rater == "lazy":
        return 8.0
    if rater == "length_lover":
        return _half_points(1.0 + len(response.split()) / 3.0)
    if rater not in RATERS:
        raise WorldError(f"there is no rater {rater!r}", expected=", ".join(RATERS))
    honest = gold(prompt, response).score + rng.gauss(0.0, NOISE)
    if rater == "flipper" and rng.random() < FLIP_SHARE:
        honest = 11.0 - honest
    return _half_points(honest)


def _half_points(score: float) -> float:
    return min(10.0, max(1.0, round(score * 2) / 2))
