"""Numbers that change over a run: by hand, over their whole course, and in a closed loop."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pytest

from sawyer.maths import AdaptiveKL, FixedKL, expected_calibration_error, linear_schedule

ROUNDING = 1e-12  # relative, a few float64 operations
SETTLED = 0.01  # how near its target a controlled KL has to come, as a share of it


class Controller(Protocol):
    @property
    def coefficient(self) -> float: ...
    def update(self, kl: float, responses: int) -> Any: ...


Adaptive = Callable[[float, float, float], Controller]
Schedule = Callable[..., float]
Calibration = Callable[..., float]


def close(found: float, expected: float) -> None:
    assert abs(found - expected) <= ROUNDING * max(1.0, abs(expected)), f"{found} is not {expected}"


def adaptive(coefficient: float, target: float, horizon: float) -> AdaptiveKL:
    return AdaptiveKL(coefficient=coefficient, target=target, horizon=horizon)


def check_adaptive(make: Adaptive) -> None:
    """Target 6, horizon 10,000, 500 responses: 5 % of the error is acted on at once."""
    before = make(0.05, 6.0, 10_000.0)
    close(before.update(6.6, 500).coefficient, 0.05 * 1.005)  # e = 0.1
    close(before.update(5.4, 500).coefficient, 0.05 * 0.995)  # e = -0.1
    close(before.update(6.0, 500).coefficient, 0.05)
    close(before.update(12.0, 500).coefficient, 0.05 * 1.01)  # e = 1, held at 0.2
    close(before.update(600.0, 500).coefficient, 0.05 * 1.01)
    close(before.update(0.0, 500).coefficient, 0.05 * 0.99)  # e = -1, held at -0.2
    close(before.update(-3.0, 500).coefficient, 0.05 * 0.99)  # k1's mean may be negative
    close(before.update(12.0, 0).coefficient, 0.05)
    close(before.update(12.0, 500).update(12.0, 500).coefficient, 0.05 * 1.01**2)
    close(before.coefficient, 0.05)  # an update gives a new one


def check_adaptive_settles(make: Adaptive) -> None:
    """Where the KL falls as 0.3 / beta, KL 6 stands at beta 0.05; it is found from both sides."""
    for start in (0.01, 0.5):
        controller = make(start, 6.0, 1_000.0)
        for _ in range(400):
            controller = controller.update(0.3 / controller.coefficient, 100)
        assert abs(0.3 / controller.coefficient - 6) <= SETTLED * 6


def check_schedule(implementation: Schedule) -> None:
    course = [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    for step, expected in enumerate(course):
        close(implementation(step, steps=10, warmup_steps=4), expected)
    for step, expected in enumerate([1, 3 / 4, 2 / 4, 1 / 4]):
        close(implementation(step, steps=4, warmup_steps=0), expected)
    close(implementation(0, steps=1, warmup_steps=0), 1)
    close(implementation(2, steps=3, warmup_steps=3), 1)
    for steps in range(1, 12):
        for warmup_steps in range(steps + 1):
            factors = [implementation(step, steps=steps, warmup_steps=warmup_steps) for step in range(steps)]
            assert all(0 < factor <= 1 for factor in factors) and max(factors) == 1
            assert factors[:warmup_steps] == sorted(factors[:warmup_steps])
            assert factors[warmup_steps:] == sorted(factors[warmup_steps:], reverse=True)
            assert implementation(steps + 1, steps=steps, warmup_steps=warmup_steps) == 0


def refuses(call: Callable[[], float]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def by_edges(probabilities: Sequence[float], outcomes: Sequence[float], bins: int) -> float:
    """sum_b n_b / n |mean outcome - mean probability|, every bin gathered by its own edges."""
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [i for i, p in enumerate(probabilities) if low <= p < high or (p == 1 and b == bins - 1)]
        if inside:
            said = math.fsum(probabilities[i] for i in inside) / len(inside)
            came = math.fsum(outcomes[i] for i in inside) / len(inside)
            total += len(inside) / len(probabilities) * abs(came - said)
    return total


def check_calibration(implementation: Calibration) -> None:
    # Of four at 0.9 two come true: 4/6 of |0.5 - 0.9|. Of two at 0.6 both: 2/6 of |1 - 0.6|. Together 0.4.
    close(implementation([0.9, 0.9, 0.9, 0.9, 0.6, 0.6], [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]), 0.4)
    # Too bold in one bin and too shy in another do not make up for each other: 0.1 and 0.1, not 0.
    close(implementation([0.4, 0.6], [0.5, 0.5]), 0.1)
    # Of unequal bins each weighs as much as it holds: 3/4 of 0.1 and 1/4 of 0.5.
    close(implementation([0.9, 0.9, 0.9, 0.5], [1.0, 1.0, 1.0, 1.0]), 0.75 * 0.1 + 0.25 * 0.5)
    # Within a bin they do: 0.61 and 0.69, half of them true, are off by 0.15 together.
    close(implementation([0.61, 0.69], [1.0, 0.0]), 0.15)
    # As bold as right; and both ends of the scale have a bin.
    close(implementation([0.75] * 4, [1.0, 1.0, 1.0, 0.0]), 0)
    close(implementation([0.0, 1.0], [0.0, 1.0]), 0)
    close(implementation([0.0, 1.0], [1.0, 0.0]), 1)
    # One bin: the difference of the means.
    close(implementation([0.1, 0.5], [1.0, 0.0], 1), 0.2)
    rng = random.Random(0)
    for bins in (4, 8, 16):  # powers of two: edges without rounding
        probabilities = [rng.random() for _ in range(200)]
        outcomes = [float(rng.random() < p**2) for p in probabilities]
        close(implementation(probabilities, outcomes, bins), by_edges(probabilities, outcomes, bins))
    assert refuses(lambda: implementation([], [])) and refuses(lambda: implementation([0.5], []))


def test_adaptive_coefficient() -> None:
    check_adaptive(adaptive)


def test_adaptive_coefficient_finds_its_target() -> None:
    check_adaptive_settles(adaptive)


def test_fixed_coefficient_stays() -> None:
    assert FixedKL(coefficient=0.05).update(60.0, 512).coefficient == 0.05


@pytest.mark.parametrize("controller", [FixedKL(coefficient=0.05), adaptive(0.05, 6.0, 1e4)])
def test_controllers_are_frozen_and_go_on_where_a_checkpoint_left_them(controller: FixedKL | AdaptiveKL) -> None:
    resumed = dataclasses.replace(controller, coefficient=0.07)
    assert resumed.coefficient == 0.07 and dataclasses.replace(resumed, coefficient=0.05) == controller
    with pytest.raises(dataclasses.FrozenInstanceError):
        controller.coefficient = 1.0  # type: ignore[misc]


def test_schedule() -> None:
    check_schedule(linear_schedule)


def test_calibration() -> None:
    check_calibration(expected_calibration_error)


def _steered(rule: Callable[[float, float, float, float, int], float]) -> Adaptive:
    """A controller whose new coefficient is rule(coefficient, target, horizon, kl, responses)."""

    @dataclasses.dataclass(frozen=True)
    class Steered:
        coefficient: float
        target: float
        horizon: float

        def update(self, kl: float, responses: int) -> Steered:
            new = rule(self.coefficient, self.target, self.horizon, kl, responses)
            return dataclasses.replace(self, coefficient=new)

    return Steered


def _held(x: float, bound: float = 0.2) -> float:
    return min(max(x, -bound), bound)


def _in_place(coefficient: float, target: float, horizon: float) -> Controller:
    class InPlace:
        def __init__(self) -> None:
            self.coefficient = coefficient

        def update(self, kl: float, responses: int) -> Controller:
            self.coefficient *= 1 + _held(kl / target - 1) * responses / horizon
            return self

    return InPlace()


def _cells(
    gap: Callable[[float, float], float],
    weigh: Callable[[int, int, int], float],
    add: Callable[[list[float]], float] = sum,
) -> Calibration:
    """Calibration by cells: `gap` of mean probability and mean outcome, `weigh` of (size, all, cells), put together."""

    def error(probabilities: list[float], outcomes: list[float], bins: int = 10) -> float:
        if len(probabilities) != len(outcomes) or not probabilities:
            raise ValueError("nothing to compare")
        cells: dict[int, list[int]] = {}
        for i, p in enumerate(probabilities):
            cells.setdefault(min(int(p * bins), bins - 1), []).append(i)
        return add(
            [
                gap(sum(probabilities[i] for i in c) / len(c), sum(outcomes[i] for i in c) / len(c))
                * weigh(len(c), len(probabilities), len(cells))
                for c in cells.values()
            ]
        )

    return error


def _apart(p: float, o: float) -> float:
    return abs(o - p)


def _share(size: int, whole: int, cells: int) -> float:
    return size / whole


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Any]]] = {
    "adaptive, sign flipped": (check_adaptive, _steered(lambda b, t, h, kl, n: b * (1 - _held(kl / t - 1) * n / h))),
    "adaptive, sign flipped, in a loop": (
        check_adaptive_settles,
        _steered(lambda b, t, h, kl, n: b * (1 - _held(kl / t - 1) * n / h)),
    ),
    "adaptive, not held": (check_adaptive, _steered(lambda b, t, h, kl, n: b * (1 + (kl / t - 1) * n / h))),
    "adaptive, held above": (check_adaptive, _steered(lambda b, t, h, kl, n: b * (1 + min(kl / t - 1, 0.2) * n / h))),
    "adaptive, held below": (check_adaptive, _steered(lambda b, t, h, kl, n: b * (1 + max(kl / t - 1, -0.2) * n / h))),
    "adaptive, held at 0.1": (
        check_adaptive,
        _steered(lambda b, t, h, kl, n: b * (1 + _held(kl / t - 1, 0.1) * n / h)),
    ),
    "adaptive, not by the target": (check_adaptive, _steered(lambda b, t, h, kl, n: b * (1 + _held(kl - t) * n / h))),
    "adaptive, ratio upside down": (
        check_adaptive,
        _steered(lambda b, t, h, kl, n: b * (1 + _held(1 - t / kl if kl else -1) * n / h)),
    ),
    "adaptive, no -1": (check_adaptive_settles, _steered(lambda b, t, h, kl, n: b * (1 + _held(kl / t) * n / h))),
    "adaptive, responses left out": (check_adaptive, _steered(lambda b, t, h, kl, n: b * (1 + _held(kl / t - 1) / h))),
    "adaptive, horizon left out": (check_adaptive, _steered(lambda b, t, h, kl, n: b * (1 + _held(kl / t - 1)))),
    "adaptive, added": (check_adaptive, _steered(lambda b, t, h, kl, n: b + _held(kl / t - 1) * n / h)),
    "adaptive, in place": (check_adaptive, _in_place),
    "adaptive, never": (check_adaptive_settles, _steered(lambda b, t, h, kl, n: b)),
    "schedule, starts at 0": (
        check_schedule,
        lambda i, *, steps, warmup_steps: (
            i / warmup_steps if i < warmup_steps else linear_schedule(i, steps=steps, warmup_steps=warmup_steps)
        ),
    ),
    "schedule, ends at 0": (
        check_schedule,
        lambda i, *, steps, warmup_steps: linear_schedule(i + (i >= warmup_steps), steps=steps, warmup_steps=warmup_steps),
    ),
    "schedule, no warm-up": (check_schedule, lambda i, *, steps, warmup_steps: linear_schedule(i, steps=steps, warmup_steps=0)),
    "schedule, never falls": (check_schedule, lambda i, *, steps, warmup_steps: min(1.0, (i + 1) / max(1, warmup_steps))),
    "schedule, falls from the start": (
        check_schedule,
        lambda i, *, steps, warmup_steps: (i + 1) / warmup_steps if i < warmup_steps else max(0.0, (steps - i) / steps),
    ),
    "schedule, below 0": (
        check_schedule,
        lambda i, *, steps, warmup_steps: (
            (i + 1) / warmup_steps if i < warmup_steps else (steps - i) / max(1, steps - warmup_steps)
        ),
    ),
    "schedule, warm-up one too long": (
        check_schedule,
        lambda i, *, steps, warmup_steps: linear_schedule(i, steps=steps, warmup_steps=warmup_steps + 1),
    ),
    "calibration, signed": (check_calibration, _cells(lambda p, o: o - p, _share)),
    "calibration, squared": (check_calibration, _cells(lambda p, o: (o - p) ** 2, _share)),
    "calibration, bins weigh the same": (check_calibration, _cells(_apart, lambda size, whole, cells: 1 / cells)),
    "calibration, not weighed": (check_calibration, _cells(_apart, lambda size, whole, cells: 1.0)),
    "calibration, the worst bin": (check_calibration, _cells(_apart, lambda size, whole, cells: 1.0, max)),
    "calibration, one by one": (
        check_calibration,
        lambda p, o, bins=10: sum(abs(a - b) for a, b in zip(p, o, strict=True)) / max(1, len(p)),
    ),
    "calibration, one bin": (check_calibration, lambda p, o, bins=10: expected_calibration_error(p, o, 1)),
    "calibration, outcomes inverted": (
        check_calibration,
        lambda p, o, bins=10: expected_calibration_error(p, [1 - x for x in o], bins),
    ),
    "calibration, a bin too many": (check_calibration, lambda p, o, bins=10: expected_calibration_error(p, o, bins + 1)),
    "calibration, 0 of nothing": (
        check_calibration,
        lambda p, o, bins=10: expected_calibration_error(p, o, bins) if p and len(p) == len(o) else 0.0,
    ),
}


def test_written_out_with_nothing_wrong_the_variants_pass() -> None:
    """So it is the one thing wrong that makes a mutant fail."""
    right = _steered(lambda b, t, h, kl, n: b * (1 + _held(kl / t - 1) * n / h))
    check_adaptive(right)
    check_adaptive_settles(right)
    check_calibration(_cells(_apart, _share))


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)
