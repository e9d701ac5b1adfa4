"""Intervals by prompt, and correlations against the standard library's and brute force."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from sawyer.stats import Interval, correlation_interval, paired_interval, student_t, wilson
from sawyer.trust.intervals import correlation, difference, partial, share


def test_the_interval_is_of_the_share_that_is_told() -> None:
    """One prompt of 45 wrong pairs beside 29 of one right pair: the mean by prompt is 0.97, the share of pairs 0.39."""
    found = share([(0.0, 45.0)] + [(1.0, 1.0)] * 29, 0)
    assert found.value == 29 / 74 and found.low <= 29 / 74 <= found.high
    assert found.low < 0.3
    assert (found.prompts, found.cases) == (30, 74)


def test_the_interval_is_as_wide_as_prompts_make_it() -> None:
    """Ten pairs of a prompt that all turn out alike are one observation, not ten."""
    rng = random.Random(1)
    alike = [(10.0 * (rng.random() < 0.7), 10.0) for _ in range(60)]
    found = share(alike, 0)
    right = wilson(found.value * 60, 60)
    assert (found.low, found.high) == pytest.approx((right.low, right.high), abs=0.03)
    by_pairs = wilson(found.value * 600, 600)
    assert found.high - found.low > 2 * (by_pairs.high - by_pairs.low)


@pytest.mark.parametrize("prompts", [1, 3, 10])
def test_a_few_prompts_that_agree_prove_little(prompts: int) -> None:
    found = share([(1.0, 1.0)] * prompts, 0)
    assert (found.low, found.high) == (pytest.approx(wilson(prompts, prompts).low), 1.0)


@pytest.mark.parametrize(("won", "low", "high"), [(0.0, 0.0, 0.0310), (1.0, 0.9690, 1.0)])
def test_many_prompts_that_all_agree_are_still_only_so_many(won: float, low: float, high: float) -> None:
    """Of 120 none: up to z^2 / (120 + z^2) = 3.84146 / 123.84146 (Wilson) are possible."""
    found = share([(won, 1.0)] * 120, 0)
    assert (found.value, found.low, found.high) == (won, pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_prompts_that_tried_nothing_do_not_count() -> None:
    assert share([(1.0, 2.0), (0.0, 0.0)], 0).prompts == 1
    nothing = share([(0.0, 0.0)], 0)
    assert (nothing.value, nothing.low, nothing.high, nothing.prompts, nothing.cases) == (0.5, 0.0, 1.0, 0, 0)


def test_many_prompts_are_drawn_in_blocks_with_the_same_outcome() -> None:
    rng = random.Random(2)
    cells = [(float(rng.random() < 0.6), 1.0) for _ in range(6000)]
    found, right = share(cells, 0), wilson(sum(won for won, _ in cells), 6000)
    assert found.value == pytest.approx(right.value)
    assert (found.low, found.high) == pytest.approx((right.low, right.high), abs=0.003)


def test_a_difference_lies_between_minus_one_and_one() -> None:
    found = difference([(-1.0, 2.0), (2.0, 2.0), (1.0, 2.0)], 0)
    assert found.value == pytest.approx(2 / 6) and -1 <= found.low < found.value < found.high <= 1


def prompts_with_their_own_level(count: int = 80, answers: int = 5) -> list[list[tuple[float, float, float]]]:
    """x follows y and z within a prompt; each prompt lifts x and lowers y, so that all points together say the opposite."""
    rng = random.Random(3)
    rows = []
    for _ in range(count):
        level = rng.gauss(0, 6)
        row = []
        for _ in range(answers):
            y, z = rng.gauss(0, 1), rng.gauss(0, 1)
            y += 0.5 * z
            row.append((level + 0.6 * y - 1.0 * z + 0.5 * rng.gauss(0, 1), y - level, z))
        rows.append(row)
    return rows


def test_correlations_are_those_of_the_standard_library() -> None:
    rows = prompts_with_their_own_level()
    points = [[(x, y) for x, y, _ in row] for row in rows]
    flat = [point for row in points for point in row]
    everywhere = correlation(points, 0, within=False)
    assert everywhere.value == pytest.approx(statistics.correlation(*zip(*flat, strict=True)))
    assert everywhere.value < -0.9 and everywhere.low < everywhere.value < everywhere.high
    within = correlation(points, 0, within=True)
    centred = []
    for row in points:
        mx, my = (statistics.fmean(part) for part in zip(*row, strict=True))
        centred += [(x - mx, y - my) for x, y in row]
    assert within.value == pytest.approx(statistics.correlation(*zip(*centred, strict=True)))
    assert -0.1 < within.low < within.value < within.high < 0.6
    assert (within.prompts, within.cases) == (80, 400)


def test_a_partial_correlation_is_that_of_what_regression_leaves() -> None:
    rows = prompts_with_their_own_level()
    found = partial(rows, 0)
    assert found is not None
    centred = []
    for row in rows:
        means = [statistics.fmean(part) for part in zip(*row, strict=True)]
        centred += [tuple(a - m for a, m in zip(point, means, strict=True)) for point in row]
    xs, ys, zs = zip(*centred, strict=True)

    def left(values: tuple[float, ...]) -> list[float]:
        slope = math.fsum(v * z for v, z in zip(values, zs, strict=True)) / math.fsum(z * z for z in zs)
        return [v - slope * z for v, z in zip(values, zs, strict=True)]

    assert found.value == pytest.approx(statistics.correlation(left(xs), left(ys)))
    plain = correlation([[(x, y) for x, y, _ in row] for row in rows], 0, within=True)
    assert found.value != pytest.approx(plain.value, abs=0.02), "uncontrolled it would be another figure"


def test_nothing_is_left_to_correlate_where_score_and_length_agree() -> None:
    assert partial([[(1.0, 1.0, 1.0), (2.0, 2.0, 2.0)], [(3.0, 1.0, 1.0), (5.0, 2.0, 2.0)]], 0) is None
    assert partial([[(1.0, 1.0, 1.0)]], 0) is None


def test_a_side_that_does_not_vary_has_no_correlation() -> None:
    assert correlation([[(1.0, 2.0), (1.0, 3.0)], [(1.0, 5.0), (1.0, 1.0)]], 0, within=False).value == 0.0
    assert correlation([], 0, within=True).cases == 0


def test_a_correlation_of_a_few_is_as_wide_as_fisher_s() -> None:
    found = correlation_interval(Interval(value=0.6, low=0.59, high=0.61), 12)
    # atanh 0.6 = 0.69315, 1.95996 / sqrt(9) = 0.65332: tanh 0.03983 and tanh 1.34647
    assert (found.low, found.high) == pytest.approx((0.03981, 0.87315), abs=1e-4)
    assert correlation_interval(Interval(value=0.6, low=0.5, high=0.7), 3) == Interval(value=0.6, low=-1.0, high=1.0)
    assert correlation_interval(Interval(value=0.6, low=0.5, high=0.7), 20).low == 0.5


# From tables of Student's t: freedom, 97.5 %, 99.5 %, 80 %.
TABLE = [(1, 12.706, 63.657, 1.376), (2, 4.303, 9.925, 1.061), (3, 3.182, 5.841, 0.978), (4, 2.776, 4.604, 0.941)]
TABLE += [(9, 2.262, 3.250, 0.883), (29, 2.045, 2.756, 0.854), (63, 1.998, 2.656, 0.847)]


@pytest.mark.parametrize(("freedom", "two_sided", "strict", "power"), TABLE)
def test_student_t_is_that_of_the_tables(freedom: int, two_sided: float, strict: float, power: float) -> None:
    assert student_t(0.975, freedom) == pytest.approx(two_sided, rel=0.002)
    assert student_t(0.995, freedom) == pytest.approx(strict, rel=0.02)
    assert student_t(0.8, freedom) == pytest.approx(power, rel=0.001)
    assert student_t(0.5, freedom) == pytest.approx(0.0, abs=1e-12)


def test_a_change_is_told_by_what_the_same_prompts_do() -> None:
    """Differences -1, -1 and 62 times 0: mean -1/32, s^2 = (2 - 64 / 32^2) / 63; two lost rewards are chance."""
    found = paired_interval([1.0, 1.0] + [0.0] * 62, [0.0] * 64)
    error = math.sqrt((2 - 64 / 32**2) / 63 / 64)
    assert (found.value, found.prompts) == (-1 / 32, 64)
    assert (found.low, found.high) == pytest.approx((-1 / 32 - 1.998 * error, -1 / 32 + 1.998 * error), rel=1e-3)
    assert found.detectable == pytest.approx((1.998 + 0.847) * error, rel=1e-3)
    assert found.is_noise and "within noise" in found.summary and "0.062 would probably be seen" in found.summary
    # As two samples that know nothing of each other the same change looks less sure than it is.
    level = [random.Random(i).gauss(0, 5) for i in range(64)]
    moved = [value + 0.5 + random.Random(-i - 1).gauss(0, 0.5) for i, value in enumerate(level)]
    apart = 1.998 * math.sqrt((statistics.variance(level) + statistics.variance(moved)) / 64)
    assert not paired_interval(level, moved).is_noise and statistics.fmean(moved) - statistics.fmean(level) < apart


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_change_from_or_to_what_is_not_finite_is_nothing_sure(wrong: float) -> None:
    for before, after in (([wrong, 1.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [wrong, -wrong]), ([wrong] * 2, [wrong] * 2)):
        found = paired_interval(before, after)
        assert math.isnan(found.value) and found.is_noise and "not all figures are finite" in found.summary


def test_what_so_many_prompts_would_see_is_seen_four_times_in_five() -> None:
    rng = random.Random(3)
    needed = paired_interval([0.0] * 40, [rng.gauss(0, 1) for _ in range(40)]).detectable
    seen = sum(not paired_interval([0.0] * 40, [needed + rng.gauss(0, 1) for _ in range(40)]).is_noise for _ in range(1000))
    false = sum(not paired_interval([0.0] * 40, [rng.gauss(0, 1) for _ in range(40)]).is_noise for _ in range(1000))
    assert 0.72 < seen / 1000 < 0.9 and 0.03 < false / 1000 < 0.07


def test_the_best_of_many_looks_must_be_surer() -> None:
    before, after = [0.0] * 20, [0.3 + 0.6 * (-1) ** i for i in range(20)]
    assert not paired_interval(before, after).is_noise and paired_interval(before, after, looks=20).is_noise
    one = paired_interval([0.0], [5.0])
    assert one.is_noise and "too few for an interval" in one.summary
    assert "not one of 3 prompts" in paired_interval([1.0] * 3, [1.0] * 3).summary
