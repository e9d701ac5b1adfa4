"""Advantages: hand arithmetic, the double sum of the definition, and the closed forms at lambda 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sawyer.maths import explained_variance, gae, whiten
from sawyer.maths.advantages import Advantages
from sawyer.maths.masked import keep

EXACT = 0.0
ROUNDING = 1e-12  # float64, a few dozen operations on numbers of size 1
SINGLE = 1e-6  # fp32 differences of numbers of size 1
POISONS = (math.nan, math.inf, -math.inf)

WIDTH = 7
SPANS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, WIDTH)), min_size=1, max_size=4)  # (first, length) a row
FACTORS = st.sampled_from([0.0, 0.5, 0.9, 1.0])

Gae = Callable[[Tensor, Tensor, Tensor, float, float], Advantages]
Explained = Callable[[Tensor, Tensor, Tensor], float]


def close(found: Tensor, expected: object, tolerance: float) -> None:
    required_section = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == required_section.shape
    assert bool(((found.double() - required_section).abs() <= tolerance).all()), f"{found} is not {required_section}"


def double(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def mask_of(spans: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([[first <= t < first + length for t in range(WIDTH)] for first, length in spans])


def draws(mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, *mask.shape, generator=generator, dtype=torch.float64)
    return rewards, values


def by_definition(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> list[list[float]]:
    """A_t = sum_l (gamma lam)^l delta_{t+l}, each response by itself, forwards and from scratch for every token."""
    found = []
    for b in range(len(mask)):
        places = [t for t in range(mask.shape[1]) if mask[b, t]]
        r, v = [float(rewards[b, t]) for t in places], [float(values[b, t]) for t in places]
        deltas = [r[i] + gamma * (v[i + 1] if i + 1 < len(v) else 0.0) - v[i] for i in range(len(v))]
        row = [0.0] * mask.shape[1]
        for i, t in enumerate(places):
            row[t] = math.fsum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(deltas)))
        found.append(row)
    return found


def for_every_mask(check: Callable[[Tensor, Tensor, Tensor, float, float], None]) -> None:
    @settings(max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(SPANS, st.integers(0, 2**16), FACTORS, FACTORS)
    def one(spans: list[tuple[int, int]], seed: int, gamma: float, lam: float) -> None:
        mask = mask_of(spans)
        check(*draws(mask, seed), mask, gamma, lam)

    one()


def check_gae(implementation: Gae) -> None:
    """gamma = lam = 1/2 by hand, and the definition's double sum for ragged responses."""
    # delta_3 = 3 - 2 = 1, delta_2 = 2 + 2/2 - 1 = 2, delta_1 = 1 + 1/2 - 1/2 = 1;
    # A_3 = 1, A_2 = 2 + 1/4 = 2.25, A_1 = 1 + 2.25/4 = 1.5625. The second response ends a token earlier:
    # delta_2 = 2 - 1 = 1, delta_1 = 1 + 1/2 - 1/2 = 1; A_2 = 1, A_1 = 1.25.
    rewards, values = double([[1, 2, 3], [1, 2, 3]]), double([[0.5, 1, 2], [0.5, 1, 2]])
    found = implementation(rewards, values, torch.tensor([[True] * 3, [True, True, False]]), 0.5, 0.5)
    close(found.advantages, [[1.5625, 2.25, 1], [1.25, 1, 0]], EXACT)
    close(found.returns, [[2.0625, 3.25, 3], [1.75, 2, 0]], EXACT)

    def ragged(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> None:
        found = implementation(rewards, values, mask, gamma, lam)
        expected = double(by_definition(rewards, values, mask, gamma, lam))
        close(found.advantages, expected, ROUNDING)
        close(found.returns, torch.where(mask, expected + values, 0.0), ROUNDING)

    for_every_mask(ragged)


def check_lambda_0(implementation: Gae) -> None:
    """One step ahead and no further: A_t = r_t + gamma V_{t+1} - V_t."""
    rewards, values = draws(mask_of([(0, WIDTH)]), 0)
    after = torch.cat([values[:, 1:], torch.zeros(1, 1).double()], dim=1)
    found = implementation(rewards, values, mask_of([(0, WIDTH)]), 0.9, 0.0)
    close(found.advantages, rewards + 0.9 * after - values, ROUNDING)


def check_lambda_1(implementation: Gae) -> None:
    """The values of later states cancel: returns are the discounted rewards to the end, whatever the values are."""
    mask = mask_of([(0, WIDTH), (2, 3)])
    rewards, values = draws(mask, 0)
    for gamma in (1.0, 0.9):
        expected = torch.zeros_like(rewards)
        for b in range(2):
            counted = [t for t in range(WIDTH) if mask[b, t]]
            for t in counted:
                expected[b, t] = math.fsum(gamma ** (u - t) * float(rewards[b, u]) for u in counted if u >= t)
        found = implementation(rewards, values, mask, gamma, 1.0)
        close(found.returns, expected, ROUNDING)
        close(found.advantages, torch.where(mask, expected - values, 0.0), ROUNDING)


def check_constant_value(implementation: Gae) -> None:
    """V = c, gamma 1, a score S at the end, nothing else: only the end surprises, A_t = (S - c) lam^(steps to it)."""
    c, score, lam, length = 0.5, 2.0, 0.5, 4
    mask = mask_of([(0, length)])
    rewards = torch.zeros(1, WIDTH).double()
    rewards[0, length - 1] = score
    found = implementation(rewards, torch.full((1, WIDTH), c).double(), mask, 1.0, lam)
    close(found.advantages, [[1.5 / 8, 1.5 / 4, 1.5 / 2, 1.5, 0, 0, 0]], EXACT)
    # And where the score is what was expected, nothing is better or worse than expected.
    rewards[0, length - 1] = c
    found = implementation(rewards, torch.full((1, WIDTH), c).double(), mask, 1.0, lam)
    close(found.advantages, [[0.0] * WIDTH], EXACT)


def check_padding_unseen(implementation: Gae) -> None:
    """Values and gradients are those with 0 outside the mask, before and after a response alike."""
    mask = mask_of([(0, WIDTH), (0, 3), (2, 3), (0, 0)])
    weights = torch.arange(1.0, 1 + mask.numel()).view(mask.shape).double()

    def all_of(outside: float) -> list[Tensor]:
        rewards, values = (torch.where(mask, x, outside).requires_grad_() for x in draws(mask, 2))
        found = implementation(rewards, values, mask, 0.9, 0.95)
        (weights * (found.advantages + 2 * found.returns)).sum().backward()
        assert rewards.grad is not None and values.grad is not None
        return [found.advantages.detach(), found.returns.detach(), rewards.grad, values.grad]

    clean = all_of(0.0)
    assert all(bool((x[~mask] == 0).all()) for x in clean)
    for poison in (7.0, *POISONS):
        assert all(torch.equal(a, b) for a, b in zip(all_of(poison), clean, strict=True)), poison


def check_explained(implementation: Explained) -> None:
    counted = torch.tensor([[True, True, False]])

    def of(values: list[float], returns: list[float]) -> float:
        return implementation(torch.tensor([[*values, 100.0]]), torch.tensor([[*returns, -50.0]]), counted)

    assert of([1, 3], [1, 3]) == 1  # perfect
    assert of([2, 2], [1, 3]) == 0  # a constant
    assert of([6, 8], [1, 3]) == 1  # off by a constant: no variance is left
    assert of([3, 1], [1, 3]) == -3  # errors -2 and 2, variance 4, against 1: 1 - 4
    assert of([2, 3], [1, 3]) == 0.75  # errors -1 and 0, variance 1/4, against 1
    assert of([1, 3], [2, 2]) == 0  # returns that do not vary
    thirds = torch.full((1, 4097), 1 / 3, dtype=torch.float64)  # their variance is not 0 to the last bit
    wrong = torch.linspace(0, 1, 4097).double().unsqueeze(0)
    assert implementation(wrong, thirds, torch.ones(1, 4097, dtype=torch.bool)) == 0
    for poison in POISONS:
        poisoned = torch.tensor([[2.0, 3.0, poison]]), torch.tensor([[1.0, 3.0, poison]])
        assert implementation(*poisoned, counted) == 0.75


def test_gae() -> None:
    check_gae(gae)


def test_lambda_0_is_the_one_step_error() -> None:
    check_lambda_0(gae)


def test_lambda_1_is_the_return_less_the_value() -> None:
    check_lambda_1(gae)


def test_a_constant_value_function_leaves_the_end_s_surprise() -> None:
    check_constant_value(gae)


def test_padding_is_unseen() -> None:
    check_padding_unseen(gae)


def test_explained_variance() -> None:
    check_explained(explained_variance)
    assert explained_variance(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2).bool()) == 0


def test_more_padding_and_another_order_change_nothing() -> None:
    mask = mask_of([(0, 4), (0, 2), (0, 3)])
    rewards, values = draws(mask, 4)
    whole = gae(rewards, values, mask, 0.9, 0.95)
    cut = gae(rewards[:, :4], values[:, :4], mask[:, :4], 0.9, 0.95)
    assert torch.equal(cut.advantages, whole.advantages[:, :4]) and torch.equal(cut.returns, whole.returns[:, :4])
    turned = gae(rewards.flip(0), values.flip(0), mask.flip(0), 0.9, 0.95)
    assert torch.equal(turned.advantages, whole.advantages.flip(0))


def test_gradients_are_the_numerical_ones() -> None:
    mask = mask_of([(0, WIDTH), (1, 3), (0, 0)])
    rewards, values = (x.requires_grad_() for x in draws(mask, 6))

    def both(rewards: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        found = gae(rewards, values, mask, 0.9, 0.95)
        return found.advantages, found.returns

    assert torch.autograd.gradcheck(both, (rewards, values))


def test_single_precision_agrees_with_double() -> None:
    mask = mask_of([(0, WIDTH), (0, 5)])
    rewards, values = draws(mask, 8)
    single = gae(rewards.float(), values.float(), mask, 1.0, 0.95)
    close(single.advantages, by_definition(rewards, values, mask, 1.0, 0.95), 10 * SINGLE)


def _variant(
    *,
    ends: bool = True,
    ahead: int = 1,
    reset: bool = True,
    returns: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda a, v, r: a + v,
) -> Gae:
    """GAE written out, with one thing wrong: V after the end, how far V looks ahead, A over the end, returns."""

    def estimate(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Advantages:
        width = rewards.shape[1]
        rewards = keep(rewards, mask)
        seen = keep(values, mask) if ends else values
        found = torch.zeros_like(rewards)
        later = torch.zeros_like(rewards[:, 0])
        for t in range(width - 1, -1, -1):
            after = seen[:, t + ahead] if t + ahead < width else torch.zeros_like(later)
            later = rewards[:, t] + gamma * after - seen[:, t] + gamma * lam * later
            if reset:
                later = keep(later, mask[:, t])
            found[:, t] = later
        found = keep(found, mask)
        return Advantages(advantages=found, returns=keep(returns(found, values, rewards), mask))

    return estimate


def _of(change: Callable[[Advantages, Tensor], Advantages]) -> Gae:
    return lambda r, v, m, g, lam: change(gae(r, v, m, g, lam), m)


def _centred(found: Advantages, mask: Tensor) -> Advantages:
    return Advantages(advantages=whiten(found.advantages, mask), returns=found.returns)


def _explained_by(share: Callable[[Tensor, Tensor], Tensor]) -> Explained:
    """1 - share(returns, errors) of the counted places, 0 where returns are equal."""
    return lambda v, r, m: 0.0 if bool((r[m] == r[m][0]).all()) else 1 - float(share(r[m], (r - v)[m]))


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Any]]] = {
    "V not zeroed after the end": (check_gae, _variant(ends=False)),
    "V not zeroed after the end, constant V": (check_constant_value, _variant(ends=False)),
    "V not zeroed after the end, poisoned": (check_padding_unseen, _variant(ends=False)),
    "A carried over the end": (check_padding_unseen, _variant(ends=False, reset=False)),
    "V of the same state": (check_gae, _variant(ahead=0)),
    "V two states ahead": (check_lambda_0, _variant(ahead=2)),
    "V two states ahead, lambda 1": (check_lambda_1, _variant(ahead=2)),
    "returns are advantages": (check_gae, _variant(returns=lambda a, v, r: a)),
    "returns less values": (check_lambda_1, _variant(returns=lambda a, v, r: a - v)),
    "returns are rewards and values": (check_gae, _variant(returns=lambda a, v, r: r + v)),
    "gamma left out": (check_gae, lambda r, v, m, g, lam: gae(r, v, m, 1.0, lam * g)),
    "gamma not in the decay": (check_gae, lambda r, v, m, g, lam: gae(r, v, m, g, lam / g if g else 0.0)),
    "lambda left out": (check_lambda_0, lambda r, v, m, g, lam: gae(r, v, m, g, 1.0)),
    "lambda one-sided": (check_lambda_1, lambda r, v, m, g, lam: gae(r, v, m, g, 1 - lam)),
    "lambda left out, constant V": (check_constant_value, lambda r, v, m, g, lam: gae(r, v, m, g, 1.0)),
    "values' sign flipped": (check_gae, lambda r, v, m, g, lam: gae(r, -v, m, g, lam)),
    "mask inverted": (check_gae, lambda r, v, m, g, lam: gae(r, v, ~m, g, lam)),
    "mask one longer": (check_constant_value, lambda r, v, m, g, lam: gae(r, v, m | m.roll(1, 1), g, lam)),
    "mask ignored": (check_padding_unseen, lambda r, v, m, g, lam: gae(r, v, m | True, g, lam)),
    "mask by product": (check_padding_unseen, lambda r, v, m, g, lam: gae(r * m, v * m, m | True, g, lam)),
    "rewards one place late": (check_lambda_1, lambda r, v, m, g, lam: gae(r.roll(1, 1), v, m, g, lam)),
    "backwards in time": (
        check_lambda_0,
        lambda r, v, m, g, lam: Advantages(
            advantages=gae(r.flip(1), v.flip(1), m.flip(1), g, lam).advantages.flip(1), returns=r
        ),
    ),
    "advantages' sign flipped": (
        check_constant_value,
        _of(lambda found, m: Advantages(advantages=-found.advantages, returns=found.returns)),
    ),
    "advantages whitened": (check_constant_value, _of(_centred)),
    "explained, unmasked": (check_explained, lambda v, r, m: explained_variance(v, r, m | True)),
    "explained, mask inverted": (check_explained, lambda v, r, m: explained_variance(v, r, ~m)),
    "explained, swapped": (check_explained, lambda v, r, m: explained_variance(r, v, m)),
    "explained, the unexplained": (check_explained, lambda v, r, m: 1 - explained_variance(v, r, m)),
    "explained, mean not removed": (
        check_explained,
        _explained_by(lambda r, e: (e**2).mean() / r.var(correction=0)),
    ),
    "explained, deviations": (
        check_explained,
        _explained_by(lambda r, e: e.std(correction=0) / r.std(correction=0)),
    ),
    "explained, sample against population": (
        check_explained,
        _explained_by(lambda r, e: e.var(correction=1) / r.var(correction=0)),
    ),
    "explained, squared correlation": (
        check_explained,
        lambda v, r, m: float(torch.corrcoef(torch.stack([v[m], r[m]]).double())[0, 1].nan_to_num() ** 2),
    ),
}


def test_written_out_with_nothing_wrong_the_variant_passes() -> None:
    """So it is the one thing wrong that makes a mutant fail."""
    for check in (check_gae, check_lambda_0, check_lambda_1, check_constant_value, check_padding_unseen):
        check(_variant())


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)
