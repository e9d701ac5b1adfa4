"""The classifier's statistics: by hand, and by brute force over the rows."""

from __future__ import annotations

import math
import random

import pytest

from sawyer.stats import class_scores, confusion, correlation, macro_f1, matthews_correlation, scores_of

TRUTH = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
SAID = [0, 0, 0, 0, 1, 2, 1, 1, 0, 1]
# said      0  1  2
TABLE = [[4, 1, 1], [1, 2, 0], [0, 1, 0]]


def test_confusion_rows_are_the_truth() -> None:
    assert confusion(TRUTH, SAID, 3) == TABLE
    assert confusion(SAID, TRUTH, 3) != TABLE
    with pytest.raises(ValueError):
        confusion([0], [], 2)


def test_scores_by_hand() -> None:
    zero, one, two = scores_of(TABLE)
    assert (zero.precision, zero.recall, zero.f1) == pytest.approx((4 / 5, 4 / 6, 8 / 11))
    assert (one.precision, one.recall, one.f1) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert (two.precision, two.recall, two.f1) == (0, 0, 0)
    assert [(s.rows, s.predicted_rows) for s in (zero, one, two)] == [(6, 5), (3, 4), (1, 1)]
    assert macro_f1([zero, one, two]) == pytest.approx((8 / 11 + 4 / 7 + 0) / 3)


def test_f1_is_the_harmonic_mean() -> None:
    score = class_scores(30, 40, 90)
    assert score.f1 == pytest.approx(2 / (1 / (30 / 40) + 1 / (30 / 90)))
    assert score.f1 != pytest.approx((30 / 40 + 30 / 90) / 2)


def test_a_class_that_never_comes_up_is_not_averaged() -> None:
    scores = scores_of([[3, 0, 0], [1, 2, 0], [0, 0, 0]])
    assert macro_f1(scores) == pytest.approx((6 / 7 + 4 / 5) / 2)
    assert class_scores(0, 0, 0).f1 == 0
    with pytest.raises(ValueError):
        macro_f1([class_scores(0, 0, 0)])


def test_matthews_of_two_classes_by_hand() -> None:
    """TN 60, FP 10, FN 5, TP 25: (25 * 60 - 10 * 5) / sqrt(35 * 30 * 70 * 65)."""
    expected = (25 * 60 - 10 * 5) / math.sqrt((25 + 10) * (25 + 5) * (60 + 10) * (60 + 5))
    assert matthews_correlation([[60, 10], [5, 25]]) == pytest.approx(expected)
    assert matthews_correlation([[10, 60], [25, 5]]) == pytest.approx(-expected), "always the contrary"


def test_matthews_is_the_correlation_of_two_classes() -> None:
    rng = random.Random(0)
    truth = [rng.randrange(2) for _ in range(300)]
    said = [t if rng.random() < 0.7 else 1 - t for t in truth]
    assert matthews_correlation(confusion(truth, said, 2)) == pytest.approx(correlation(truth, said))


def test_matthews_of_several_classes_by_brute_force() -> None:
    """R_K: the covariance of the one-hot truth and prediction, over the root of their own (Gorodkin 2004)."""
    rng = random.Random(1)
    truth = [rng.randrange(4) for _ in range(200)]
    said = [t if rng.random() < 0.5 else rng.randrange(4) for t in truth]

    def covariance(a: list[int], b: list[int]) -> float:
        total = 0.0
        for k in range(4):
            x, y = [float(i == k) for i in a], [float(i == k) for i in b]
            mx, my = sum(x) / len(x), sum(y) / len(y)
            total += sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
        return total

    expected = covariance(truth, said) / math.sqrt(covariance(truth, truth) * covariance(said, said))
    assert matthews_correlation(confusion(truth, said, 4)) == pytest.approx(expected)
    assert matthews_correlation(confusion(truth, truth, 4)) == pytest.approx(1.0)


@pytest.mark.parametrize("table", [[[5, 0], [3, 0]], [[5, 2], [0, 0]], [[0, 0], [0, 0]]])
def test_matthews_without_variation_is_nothing(table: list[list[int]]) -> None:
    assert matthews_correlation(table) == 0.0
