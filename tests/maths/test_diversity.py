"""How varied a batch is: counted by hand and by comparing everything with everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sawyer.maths import distinct_n

ROUNDING = 1e-12  # one float64 division

Distinct = Callable[[Sequence[Sequence[int]], int], float]
BATCHES = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=5)


def close(found: float, expected: float) -> None:
    assert abs(found - expected) <= ROUNDING, f"{found} is not {expected}"


def check_distinct(implementation: Distinct) -> None:
    batch = [[1, 2, 3], [1, 2, 4]]
    close(implementation(batch, 1), 4 / 6)  # 1 2 3 4, of six
    close(implementation(batch, 2), 3 / 4)  # 12 23 24, of 12 23 12 24
    close(implementation(batch, 3), 1)
    close(implementation([[5, 5, 5, 5]], 2), 1 / 3)
    close(implementation([[1, 2], [2, 1]], 2), 1)  # order counts
    close(implementation([[1, 2], [1, 2], [2, 1]], 2), 2 / 3)  # no bigram reaches from one response into the next
    close(implementation([[1], [2], []], 2), 1)  # nothing to repeat
    close(implementation([], 2), 1)

    @settings(max_examples=60, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(BATCHES, st.integers(1, 3))
    def compared(batch: list[list[int]], n: int) -> None:
        grams = [ids[i : i + n] for ids in batch for i in range(len(ids)) if i + n <= len(ids)]
        new = [gram for i, gram in enumerate(grams) if all(gram != before for before in grams[:i])]
        close(implementation(batch, n), len(new) / len(grams) if grams else 1.0)

    compared()


def test_distinct_n() -> None:
    check_distinct(distinct_n)


def test_saying_it_all_twice_halves_what_is_distinct() -> None:
    batch = [[1, 2, 3], [4, 5, 6, 7]]
    close(distinct_n(batch, 2), 1)
    close(distinct_n(batch * 2, 2), 1 / 2)


def _grams(batch: Sequence[Sequence[int]], n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + n]) for ids in batch for i in range(len(ids) - n + 1)]


def _each(batch: Sequence[Sequence[int]], n: int) -> float:
    shares = [distinct_n([ids], n) for ids in batch]
    return sum(shares) / len(shares) if shares else 1.0


def _once(batch: Sequence[Sequence[int]], n: int) -> float:
    counts = Counter(_grams(batch, n))
    return sum(c == 1 for c in counts.values()) / counts.total() if counts else 1.0


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Any]]] = {
    "distinct, repeated instead": (check_distinct, lambda b, n: 1 - distinct_n(b, n)),
    "distinct, across responses": (check_distinct, lambda b, n: distinct_n([[i for ids in b for i in ids]], n)),
    "distinct, last gram left out": (check_distinct, lambda b, n: distinct_n([ids[:-1] for ids in b], n)),
    "distinct, cut grams counted": (
        check_distinct,
        lambda b, n: len({tuple(x[i : i + n]) for x in b for i in range(len(x))}) / max(1, sum(map(len, b))),
    ),
    "distinct, n off by one": (check_distinct, lambda b, n: distinct_n(b, n + 1)),
    "distinct, order ignored": (
        check_distinct,
        lambda b, n: len({tuple(sorted(g)) for g in _grams(b, n)}) / max(1, len(_grams(b, n))) or 1.0,
    ),
    "distinct, response by response": (check_distinct, _each),
    "distinct, by tokens": (
        check_distinct,
        lambda b, n: len(set(_grams(b, n))) / max(1, sum(map(len, b))) if _grams(b, n) else 1.0,
    ),
    "distinct, said once": (check_distinct, _once),
    "distinct, 0 of nothing": (check_distinct, lambda b, n: distinct_n(b, n) if _grams(b, n) else 0.0),
}


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)
