"""Coefficients of agreement: Krippendorff's own table, two libraries' values, brute force by definition, hand arithmetic."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.ratings import kendall_tau_b, krippendorff_alpha, percent_agreement
from sawyer.ratings.agreement import Level, alpha_figure, share_figure, tau_figure
from sawyer.stats import wilson

N = None
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, missing data.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3),
    (N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N),
)
UNITS = list(zip(*OBSERVERS, strict=True))


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorff_s_own_table(level: Level, value: float) -> None:
    """As printed there; the package krippendorff 0.9.0 gives 0.743421052632, 0.815387503755 and 0.849107142857."""
    assert krippendorff_alpha(UNITS, level) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(
    ("level", "value"), [("nominal", 0.743421052632), ("ordinal", 0.815387503755), ("interval", 0.849107142857)]
)
def test_the_same_to_twelve_digits(level: Level, value: float) -> None:
    assert krippendorff_alpha(UNITS, level) == pytest.approx(value, abs=1e-11)


def test_krippendorff_s_tables_of_two_observers() -> None:
    """The same paper, sections A (binary, alpha 0.095) and B (five values, alpha 0.692)."""
    binary = zip("0100000010", "1110010000", strict=True)
    assert krippendorff_alpha([[float(a), float(b)] for a, b in binary], "nominal") == pytest.approx(0.095, abs=5e-4)
    five = zip("aabbdcccedda", "babbbccceddd", strict=True)
    assert krippendorff_alpha([[float(ord(a)), float(ord(b))] for a, b in five], "nominal") == pytest.approx(0.692, abs=5e-4)


# Five raters, ten items, grades -3 to 3, a third missing; the values are those of the package krippendorff 0.9.0.
GRADES = (
    (N, 0, 0, 1, 1, -1, N, -2, -1, N),
    (N, -3, N, 0, 2, -2, N, -3, -1, -1),
    (N, 0, 3, 0, N, N, N, -1, -2, -2),
    (N, N, 0, 0, 1, N, N, -1, 1, -3),
    (N, N, 1, N, 0, -3, -2, N, 0, 0),
)


@pytest.mark.parametrize(
    ("level", "value"), [("nominal", 0.00130548302872), ("ordinal", 0.49391744122471), ("interval", 0.42142857142857)]
)
def test_grades_with_missing_judgements(level: Level, value: float) -> None:
    assert krippendorff_alpha(list(zip(*GRADES, strict=True)), level) == pytest.approx(value, abs=1e-12)


def by_definition(units: Sequence[Sequence[float | None]], level: str) -> float:
    """1 - (mean squared distance of pairs of values inside units, by unit) / (that of all pairs of values)."""
    judged = [[v for v in unit if v is not None] for unit in units]
    judged = [unit for unit in judged if len(unit) > 1]
    values = [v for unit in judged for v in unit]
    times = Counter(values)

    def distance(c: float, k: float) -> float:
        if level == "nominal":
            return float(c != k)
        if level == "interval":
            return (c - k) ** 2
        between = sum(n for v, n in times.items() if min(c, k) <= v <= max(c, k))
        return (between - (times[c] + times[k]) / 2) ** 2 if c != k else 0.0

    inside = sum(
        distance(a, b) / (len(unit) - 1)
        for unit in judged
        for (i, a), (j, b) in itertools.product(enumerate(unit), repeat=2)
        if i != j
    )
    anywhere = sum(distance(a, b) for (i, a), (j, b) in itertools.product(enumerate(values), repeat=2) if i != j)
    return 1 - (inside / len(values)) / (anywhere / (len(values) * (len(values) - 1)))


tables = st.integers(2, 4).flatmap(
    lambda raters: st.lists(
        st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=raters, max_size=raters), min_size=1, max_size=8
    )
)


@given(tables, st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_is_its_definition(units: list[list[float | None]], level: Level) -> None:
    alpha = krippendorff_alpha(units, level)
    paired = [v for unit in units for v in unit if v is not None and sum(u is not None for u in unit) > 1]
    if len(set(paired)) < 2:
        assert alpha is None
    else:
        assert alpha == pytest.approx(by_definition(units, level), abs=1e-9)


def test_wrong_variants_of_alpha_fail_the_table() -> None:
    """Missing judgements as a value of their own; units with one value among the marginals; (n - 1) forgotten."""
    missing_as_zero = [[0 if v is None else v for v in unit] for unit in UNITS]
    assert by_definition(missing_as_zero, "nominal") != pytest.approx(0.743, abs=5e-3)
    with_single = [list(unit) if sum(v is not None for v in unit) > 1 else [3, 3] for unit in UNITS]
    assert by_definition(with_single, "nominal") != pytest.approx(0.743, abs=5e-3)
    pairs = [(a, b) for unit in UNITS for a, b in itertools.combinations([v for v in unit if v is not None], 2)]
    unweighted = sum(a != b for a, b in pairs) / len(pairs)  # a unit of four has six pairs, not four values' worth
    values = Counter(v for unit in UNITS for v in unit if v is not None and sum(u is not None for u in unit) > 1)
    n = sum(values.values())
    chance = 1 - sum(k * k for k in values.values()) / n**2
    assert 1 - unweighted / chance != pytest.approx(0.743, abs=5e-3)


def test_alpha_by_hand_with_a_missing_judgement() -> None:
    """Two raters, (1, 1), (1, 2), (2, 2), and (3, -) which counts for nothing. o_11 = 2, o_12 = o_21 = 1, o_22 = 2; n = 6,
    n_1 = n_2 = 3. Nominal: 1 - 5 * 2 / (2 * 3 * 3) = 4/9."""
    units = [(1, 1), (1, 2), (2, 2), (3, N)]
    assert krippendorff_alpha(units, "nominal") == pytest.approx(4 / 9)
    assert krippendorff_alpha(units, "interval") == pytest.approx(4 / 9), "two values: every level is nominal"
    assert krippendorff_alpha(units, "ordinal") == pytest.approx(4 / 9)


@pytest.mark.parametrize(
    ("units", "why"),
    [
        ([], "nothing was judged"),
        ([(N, N)], "nothing was judged"),
        ([(1, N), (N, 2)], "two raters"),
        ([(1, 1), (1, 1), (2, N)], "the same"),
    ],
)
def test_an_undefined_alpha_says_why(units: list[tuple[float | None, ...]], why: str) -> None:
    assert krippendorff_alpha(units) is None
    figure = alpha_figure("alpha", {i: [unit] for i, unit in enumerate(units)}, "ordinal", 0)
    assert figure.value is None and figure.low is None and figure.detectable is None
    assert why in figure.reason and figure.reason in figure.words


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        # scipy.stats.kendalltau 1.17.1 (variant b) as constants.
        ((12, 2, 1, 12, 2), (1, 4, 7, 1, 0), -0.47140452079103173),
        ((1, 2, 2, 3), (1, 2, 3, 3), 0.8),
        ((0, 1, 1, 2, 3, 3), (3, 1, 2, 1, 0, 0), -0.9230769230769231),
        ((1, 2, 3, 4), (1, 2, 3, 4), 1.0),
        ((1, 2, 3, 4), (4, 3, 2, 1), -1.0),
    ],
)
def test_tau_b(first: tuple[float, ...], second: tuple[float, ...], tau: float) -> None:
    assert kendall_tau_b(first, second) == pytest.approx(tau, abs=1e-12)


def test_tau_b_by_hand_with_ties() -> None:
    """(1, 2, 2) and (1, 2, 3): pairs (1,2) +, (1,3) +, (2,3) tied in the first. 2 / sqrt((3 - 1) (3 - 0)) = 0.816; tau-a, 2/3,
    and Goodman and Kruskal's gamma, 1, are other figures."""
    tau = kendall_tau_b((1, 2, 2), (1, 2, 3))
    assert tau == pytest.approx(2 / math.sqrt(6))
    assert tau != pytest.approx(2 / 3) and tau != pytest.approx(1.0)
    assert kendall_tau_b((1, 1, 1), (1, 2, 3)) is None, "a ranking that ties everything orders nothing"
    assert kendall_tau_b((), ()) is None
    with pytest.raises(ValueError):
        kendall_tau_b((1, 2), (1, 2, 3))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8))
def test_tau_b_is_its_definition(pairs: list[tuple[int, int]]) -> None:
    """Pearson's correlation of the signs of all ordered pairs."""
    xs = [(a > c) - (a < c) for (a, _), (c, _) in itertools.permutations(pairs, 2)]
    ys = [(b > d) - (b < d) for (_, b), (_, d) in itertools.permutations(pairs, 2)]
    size = math.sqrt(sum(x * x for x in xs) * sum(y * y for y in ys))
    tau = kendall_tau_b([a for a, _ in pairs], [b for _, b in pairs])
    if size == 0:
        assert tau is None
    else:
        assert tau == pytest.approx(sum(x * y for x, y in zip(xs, ys, strict=True)) / size)


def test_percent_agreement_by_hand() -> None:
    """(1, 1, 2): one of three pairs; (3, -): none; (2, 2): one of one."""
    assert percent_agreement([(1, 1, 2), (3, N), (2, 2)]) == pytest.approx(2 / 4)
    assert percent_agreement([(3, N)]) is None
    assert percent_agreement([(3, N)]) != 1.0, "a unit with one value agrees with nobody"


def test_a_share_s_interval_is_never_narrower_than_wilson_s_or_the_bootstrap_s() -> None:
    alike = share_figure("share", [(1.0, 1.0)] * 40, 0, "")
    assert (alike.value, alike.low, alike.high) == (1.0, pytest.approx(wilson(40, 40).low), pytest.approx(1.0))
    # 40 prompts of 25 cases each, which all go one way: Wilson's of 1,000 cases would be five times too narrow.
    blocks = share_figure("share", [(25.0, 25.0), (0.0, 25.0)] * 20, 0, "")
    assert blocks.value == 0.5 and blocks.cases == 1000 and blocks.prompts == 40
    assert blocks.low is not None and blocks.low < 0.38 < wilson(500, 1000).low
    few = share_figure("share", [(9.0, 10.0)] * 5, 0, "")
    assert few.low is not None and few.low <= wilson(4.5, 5).low, "five prompts are five, not fifty"
    nothing = share_figure("share", [(0.0, 0.0)], 0, "nobody judged")
    assert nothing.value is None and nothing.reason == "nobody judged"


def test_small_samples_say_what_they_could_not_have_seen() -> None:
    few, many = (share_figure("share", [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0)] * n, 0, "") for n in (8, 200))
    assert few.detectable is not None and many.detectable is not None and few.detectable > 4 * many.detectable
    assert f"less than {100 * few.detectable:.0f} points" in few.words
    alpha = alpha_figure("alpha", {i: [(1, 1), (2, 2), (1, 2)] for i in range(30)}, "ordinal", 0)  # all prompts alike
    assert "would probably not be seen" in alpha.words


def test_alpha_s_interval_by_prompt() -> None:
    """Prompts are resampled whole: ten units of one prompt that disagree together widen it."""
    whole = {p: [(1, 2) if p % 4 == 0 else (p % 2, p % 2)] * 10 for p in range(40)}
    apart = {(p, u): [unit] for p, units in whole.items() for u, unit in enumerate(units)}
    by_prompt, by_unit = alpha_figure("", whole, "nominal", 1), alpha_figure("", apart, "nominal", 1)
    assert by_prompt.value == pytest.approx(by_unit.value)
    assert by_prompt.low is not None and by_unit.low is not None and by_prompt.high is not None and by_unit.high is not None
    assert by_prompt.high - by_prompt.low > 2 * (by_unit.high - by_unit.low)
    alike = alpha_figure("", {p: [(p % 3, p % 3)] for p in range(30)}, "ordinal", 0)
    assert (alike.value, alike.high) == (1.0, 1.0) and alike.low == pytest.approx(wilson(30, 30).low)


def test_tau_s_mean_by_prompt() -> None:
    figure = tau_figure("tau-b", {"p": [1.0, 0.0], "q": [], "r": [0.5]}, 0, "nothing was ranked")
    assert figure.value == pytest.approx(0.5) and figure.prompts == 2 and figure.cases == 3
    assert tau_figure("tau-b", {"q": []}, 0, "nothing was ranked").reason == "nothing was ranked"
