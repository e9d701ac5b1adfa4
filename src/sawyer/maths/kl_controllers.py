"""Controllers: numbers that change over a run. Frozen; an update gives a new one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedKL:
    """A KL coefficient that stays."""

    coefficient: float

    def update(self, kl: float, responses: int) -> FixedKL:
        """No observation changes it."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveKL:
    """A coefficient steered towards a KL (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    e = clip(KL / target - 1, -0.2, 0.2);  beta <- beta * (1 + e * n / horizon). `target` in nats a response, `horizon`
    in responses.
    """

    coefficient: float
    target: float
    horizon: float

    def update(self, kl: float, responses: int) -> AdaptiveKL:
        """After `responses` more responses whose mean KL was `kl` nats."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return replace(self, coefficient=self.coefficient * (1 + error * responses / self.horizon))


def linear_schedule(step: int, *, steps: int, warmup_steps: int) -> float:
    """The learning rate's factor at `step` of `steps`: (step+1)/warmup_steps up to 1, then falling to 1/(steps-warmup_steps).

    Never 0 within the run, so that no step is spent on nothing.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))


def expected_calibration_error(probabilities: list[float], outcomes: list[float], bins: int = 10) -> float:
    """Expected calibration error: sum_b n_b/n |mean outcome - mean probability| over equal-width bins of probability
    (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
    if len(probabilities) != len(outcomes) or not probabilities:
        raise ValueError("expected_calibration_error needs as many outcomes as probabilities, and at least one")
    cells: dict[int, list[tuple[float, float]]] = {}
    for probability, outcome in zip(probabilities, outcomes, strict=True):
        cells.setdefault(min(math.floor(probability * bins), bins - 1), []).append((probability, outcome))
    gaps = [abs(sum(o for _, o in cell) - sum(p for p, _ in cell)) for cell in cells.values()]
    return sum(gaps) / len(probabilities)
