"""Masked reductions against hand arithmetic and plain loops; whatever stands outside the mask is never seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sawyer.maths import masked_mean, masked_sum, whiten
from sawyer.maths.masked import keep, masked_var

EXACT = 0.0
ROUNDING = 1e-11  # float64, a few dozen operations on numbers up to 100
WHITEN_EPS = 1e-8  # stands in the definition of whiten
POISONS = (math.nan, math.inf, -math.inf)

Reduce = Callable[[Tensor, Tensor], Tensor]
ROWS = st.lists(
    st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=4, max_size=4), min_size=1, max_size=4
).filter(lambda rows: any(counted for row in rows for _, counted in row))


def close(found: Tensor, expected: Tensor | float | list[Any], tolerance: float) -> None:
    required_section = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == required_section.shape
    assert bool(((found.double() - required_section).abs() <= tolerance).all()), f"{found} is not {required_section}"


def for_every_mask(check: Callable[[Tensor, Tensor], None]) -> None:
    """Run `check` on float64 values and masks, ragged in every way, that count one place at least."""

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(ROWS)
    def one(rows: list[list[tuple[float, bool]]]) -> None:
        values = torch.tensor([[x for x, _ in row] for row in rows], dtype=torch.float64)
        check(values, torch.tensor([[m for _, m in row] for row in rows]))

    one()


def counted(values: Tensor, mask: Tensor) -> list[float]:
    return [x for x, m in zip(values.flatten().tolist(), mask.flatten().tolist(), strict=True) if m]


def ignores_what_is_masked(reduce: Reduce) -> None:
    """The value and the gradient are those with 0 outside the mask; outside, the gradient is exactly 0."""
    mask = torch.tensor([[True, False, True], [False, True, True]])
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])

    def both(outside: float) -> tuple[Tensor, Tensor]:
        values = torch.tensor([[1.0, outside, 4.0], [outside, -2.0, 0.5]], requires_grad=True)
        found = reduce(values, mask)
        (found * weights if found.shape == weights.shape else found).sum().backward()
        assert values.grad is not None
        return found.detach(), values.grad

    value, gradient = both(0.0)
    assert bool((gradient[~mask] == 0).all())
    for poison in POISONS:
        poisoned_value, poisoned_gradient = both(poison)
        assert torch.equal(poisoned_value, value) and torch.equal(poisoned_gradient, gradient), poison


def refuses(reduce: Reduce, values: Tensor, mask: Tensor) -> bool:
    try:
        reduce(values, mask)
    except ValueError:
        return True
    return False


def check_keep(implementation: Reduce) -> None:
    found = implementation(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, False], [False, True]]))
    close(found, [[1, 0], [0, 4]], EXACT)
    close(implementation(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True], [False]])), [[1, 2], [0, 0]], EXACT)
    ignores_what_is_masked(implementation)
    # What is counted and no number stays so: the guards must see it.
    assert math.isnan(float(implementation(torch.tensor([math.nan]), torch.tensor([True]))))


def check_sum(implementation: Callable[..., Tensor]) -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    mask = torch.tensor([[True, False, True], [False, True, False]])
    close(implementation(values, mask), 1 + 4 + 16, EXACT)
    close(implementation(values, mask, 1), [1 + 4, 16], EXACT)
    close(implementation(values, mask, 0), [1, 16, 4], EXACT)
    close(implementation(values, mask & False), 0, EXACT)
    ignores_what_is_masked(implementation)
    for_every_mask(lambda x, m: close(implementation(x, m), math.fsum(counted(x, m)), ROUNDING))


def check_mean(implementation: Reduce) -> None:
    values = torch.tensor([[1.0, 100.0, 4.0], [100.0, 100.0, 1.0]])
    mask = torch.tensor([[True, False, True], [False, False, True]])
    close(implementation(values, mask), (1 + 4 + 1) / 3, EXACT)
    # A mask of one column counts whole rows: (1 + 100 + 4) / 3, not 105 / 1.
    close(implementation(values, torch.tensor([[True], [False]])), 35, EXACT)
    assert refuses(implementation, values, mask & False), "the mean of nothing is no number"
    ignores_what_is_masked(implementation)
    for_every_mask(lambda x, m: close(implementation(x, m), math.fsum(counted(x, m)) / len(counted(x, m)), ROUNDING))


def loop_var(values: Tensor, mask: Tensor) -> float:
    numbers = counted(values, mask)
    mean = math.fsum(numbers) / len(numbers)
    return math.fsum((x - mean) ** 2 for x in numbers) / len(numbers)


def check_var(implementation: Reduce) -> None:
    # Of 1 and 3: mean 2, squares 1 and 1, over two (not over one): 1.
    close(implementation(torch.tensor([1.0, 100.0, 3.0]), torch.tensor([True, False, True])), 1, EXACT)
    close(implementation(torch.tensor([7.0, 100.0]), torch.tensor([True, False])), 0, EXACT)
    ignores_what_is_masked(implementation)
    for_every_mask(lambda x, m: close(implementation(x, m), loop_var(x, m), ROUNDING * 100))


def loop_whiten(values: Tensor, mask: Tensor) -> Tensor:
    numbers = counted(values, mask)
    mean, spread = math.fsum(numbers) / len(numbers), math.sqrt(loop_var(values, mask) + WHITEN_EPS)
    return torch.tensor(
        [
            [(x - mean) / spread if m else 0.0 for x, m in zip(row, counts, strict=True)]
            for row, counts in zip(values.tolist(), mask.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )


def check_whiten(implementation: Reduce) -> None:
    # Of 1 and 5: mean 3, variance 4, so -2/2 and 2/2, but for the 1e-8 beside the 4.
    found = implementation(torch.tensor([[1.0, 100.0, 5.0]]).double(), torch.tensor([[True, False, True]]))
    close(found, [[-1, 0, 1]], WHITEN_EPS)
    # Equal numbers are all average; nothing is divided by 0.
    close(implementation(torch.full((1, 3), 2.0), torch.tensor([[True, True, False]])), [[0, 0, 0]], EXACT)
    ignores_what_is_masked(implementation)
    # 1/sqrt(1e-8) is 1e4: that much larger may rounding come out where all counted numbers are nearly equal.
    for_every_mask(lambda x, m: close(implementation(x, m), loop_whiten(x, m), ROUNDING * 1e4))


def test_keep_is_the_value_or_zero() -> None:
    check_keep(keep)


def test_sum_over_all_and_along_a_dimension() -> None:
    check_sum(masked_sum)


def test_mean_divides_by_what_it_counts() -> None:
    check_mean(masked_mean)


def test_variance_is_the_population_s() -> None:
    check_var(masked_var)


def test_whitened_has_mean_0_and_variance_1() -> None:
    check_whiten(whiten)
    values, mask = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).double(), torch.ones(8, 16).bool()
    close(whiten(values, mask).mean(), 0, ROUNDING)
    close(whiten(values, mask).var(correction=0), 1, 2 * WHITEN_EPS)


@pytest.mark.parametrize("reduce", [keep, masked_sum, masked_mean, masked_var, whiten])
def test_gradients_are_the_numerical_ones(reduce: Reduce) -> None:
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False, False], [True, False, True, True], [False, False, False, False]])
    assert torch.autograd.gradcheck(lambda x: reduce(x, mask), (values,))


def _zscore(values: Tensor, mask: Tensor, mean: Tensor | float, spread: Tensor | float) -> Tensor:
    return keep((keep(values, mask) - mean) / spread, mask)


def _std(values: Tensor, mask: Tensor) -> Tensor:
    return (masked_var(values, mask) + WHITEN_EPS).sqrt()


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Any]]] = {
    "keep, mask inverted": (check_keep, lambda x, m: keep(x, ~m)),
    "keep, all": (check_keep, lambda x, m: x),
    "keep, by product": (check_keep, lambda x, m: x * m),
    "keep, what is counted made a number": (check_keep, lambda x, m: keep(x.nan_to_num(), m)),
    "sum, mask inverted": (check_sum, lambda x, m, dim=None: masked_sum(x, ~m, dim)),
    "sum, all": (check_sum, lambda x, m, dim=None: masked_sum(x, m | True, dim)),
    "sum, by product": (check_sum, lambda x, m, dim=None: (x * m).sum() if dim is None else (x * m).sum(dim)),
    "sum, dimension ignored": (check_sum, lambda x, m, dim=None: masked_sum(x, m)),
    "sum, sign flipped": (check_sum, lambda x, m, dim=None: -masked_sum(x, m, dim)),
    "mean, over every place": (check_mean, lambda x, m: keep(x, m).mean()),
    "mean, of row means": (check_mean, lambda x, m: (masked_sum(x, m, -1) / m.sum(-1).clamp(min=1)).mean()),
    "mean, off by one": (check_mean, lambda x, m: masked_sum(x, m) / (m.sum() - 1)),
    "mean, mask not spread": (check_mean, lambda x, m: masked_sum(x, m) / m.sum()),
    "mean, 0 for nothing": (check_mean, lambda x, m: masked_sum(x, m) / m.expand_as(x).sum().clamp(min=1)),
    "var, of a sample": (check_var, lambda x, m: masked_var(x, m) * m.sum() / (m.sum() - 1).clamp(min=1)),
    "var, mean not removed": (check_var, lambda x, m: masked_mean(keep(x, m) ** 2, m)),
    "var, mean of every place": (check_var, lambda x, m: masked_mean((keep(x, m) - keep(x, m).mean()) ** 2, m)),
    "var, standard deviation": (check_var, lambda x, m: masked_var(x, m).sqrt()),
    "whiten, mean not removed": (check_whiten, lambda x, m: _zscore(x, m, 0.0, _std(x, m))),
    "whiten, mean added back": (check_whiten, lambda x, m: keep(whiten(x, m) + masked_mean(x, m), m)),
    "whiten, not scaled": (check_whiten, lambda x, m: _zscore(x, m, masked_mean(x, m), 1.0)),
    "whiten, by the variance": (check_whiten, lambda x, m: _zscore(x, m, masked_mean(x, m), masked_var(x, m) + 1e-8)),
    "whiten, no epsilon": (check_whiten, lambda x, m: _zscore(x, m, masked_mean(x, m), masked_var(x, m).sqrt())),
    "whiten, mask inverted": (check_whiten, lambda x, m: whiten(x, ~m) if not bool(m.all()) else x),
    "whiten, every place": (check_whiten, lambda x, m: whiten(x, m | True)),
    "whiten, sign flipped": (check_whiten, lambda x, m: -whiten(x, m)),
    "whiten, padding not zero": (check_whiten, lambda x, m: (keep(x, m) - masked_mean(x, m)) / _std(x, m)),
}


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)
