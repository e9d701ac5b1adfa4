"""Losses: hand arithmetic, float64 loops over math.exp, the invariants of a first update, and nothing from padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sawyer.maths import REWARD_LOSSES, PolicyLoss, gae, masked_sum, ppo_policy, ppo_value, token_rewards
from sawyer.maths.masked import keep
from sawyer.maths.reward_losses import bradley_terry_loss, centering, margin_loss, scaled_loss, squared_loss

PAIR_LOSSES = {name: loss.function for name, loss in REWARD_LOSSES.items() if loss.counts == "pairs"}
EXACT = 0.0
ROUNDING = 1e-12  # float64, relative for pair losses; absolute for sums of numbers of size 1
SINGLE = 2e-6  # fp32, relative
TINY = 1e-37  # below it fp32 thins out into denormal numbers
EXAMPLE_DIGITS = 4  # the worked example gives its loss as 0.0002
POISONS = (math.nan, math.inf, -math.inf)
CLIP = 0.2

WIDTH = 5
SPANS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, WIDTH)), min_size=1, max_size=4)  # (first, length) a row

Pair = Callable[[Tensor, Tensor, Tensor], Tensor]
Policy = Callable[[Tensor, Tensor, Tensor, Tensor, float], PolicyLoss]
Value = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def near(found: Tensor, expected: object, relative: float, absolute: float) -> None:
    required_section = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == required_section.shape
    far = (found.double() - required_section).abs() > relative * required_section.abs() + absolute
    assert bool(torch.isfinite(found).all()) and not bool(far.any()), f"{found} is not {required_section}"


def double(numbers: list[Any]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- pairs ---------------------------------------------------------------------------------------------------------


def softplus(x: float) -> float:
    """-log sigmoid(-x) = log(1 + e^x)."""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


# Rewards in halves and differences in quarters: D * d^2 has no rounding error in fp32, so none can be blamed.
REWARDS = (-50.0, -12.5, -1.0, -0.5, 0.0, 0.5, 1.5, 12.5, 50.0)
DIFFERENCES = (0.25, 1.0, 1.5, 4.0, 9.0)
GRID = [(j, k, d) for j in REWARDS for k in REWARDS for d in DIFFERENCES]


def check_pair(implementation: Pair, value: Callable[[float, float], float], slope: Callable[[float, float], float]) -> None:
    """Value and gradient on the grid in both precisions; `value` and `slope` (by D) take D = r_j - r_k and d."""
    values = [value(j - k, d) for j, k, d in GRID]
    slopes = [slope(j - k, d) for j, k, d in GRID]
    for dtype, tolerance in ((torch.float64, ROUNDING), (torch.float32, SINGLE)):
        j, k, d = (torch.tensor(column, dtype=dtype) for column in zip(*GRID, strict=True))
        j.requires_grad_()
        k.requires_grad_()
        found = implementation(j, k, d)
        found.sum().backward()
        assert j.grad is not None and k.grad is not None
        near(found.detach(), values, tolerance, TINY)
        near(j.grad, slopes, tolerance, TINY)
        near(k.grad, [-s for s in slopes], tolerance, TINY)
    # As a user's own loss is checked: finite at rewards of +-1000, in value and gradient.
    far = torch.tensor([1e3, -1e3], requires_grad=True)
    found = implementation(far, -far, torch.tensor([9.0, 9.0]))
    found.sum().backward()
    assert far.grad is not None and bool(torch.isfinite(torch.cat([found.detach(), far.grad])).all())
    # Falling as D grows.
    line = torch.linspace(-4, 4, 33).double()
    falling = implementation(line, -line, torch.full_like(line, 1.5))
    assert bool((falling.diff() < 0).all())


def check_plain(implementation: Pair) -> None:
    # D = log 3: sigmoid is 3/4. D = 0: 1/2.
    found = implementation(double([math.log(3), 2]), double([0, 2]), double([5, 5]))
    near(found, [math.log(4 / 3), math.log(2)], ROUNDING, EXACT)
    check_pair(implementation, lambda D, d: softplus(-D), lambda D, d: -sigmoid(-D))


def check_squared(implementation: Pair) -> None:
    # The worked example: D = 0.53, scores 6 and 2, d^2 = 16, D * d^2 = 8.48, log(1 + e^-8.48) = 0.0002.
    found = implementation(torch.tensor([0.53]), torch.tensor([0.0]), torch.tensor([6.0 - 2.0]))
    assert round(float(found), EXAMPLE_DIGITS) == 0.0002
    near(found, [math.log1p(math.exp(-8.48))], SINGLE * 8.48, EXACT)
    check_pair(implementation, lambda D, d: softplus(-D * d * d), lambda D, d: -d * d * sigmoid(-D * d * d))


def check_margin(implementation: Pair) -> None:
    # As far apart as the scores: sigmoid(0).
    near(implementation(double([3]), double([1]), double([2])), [math.log(2)], ROUNDING, EXACT)
    check_pair(implementation, lambda D, d: softplus(d - D), lambda D, d: -sigmoid(d - D))


def check_scaled(implementation: Pair) -> None:
    near(implementation(double([1]), double([1]), double([2.5])), [2.5 * math.log(2)], ROUNDING, EXACT)
    check_pair(implementation, lambda D, d: d * softplus(-D), lambda D, d: -d * sigmoid(-D))


def check_centering(implementation: Callable[[Tensor, Tensor], Tensor]) -> None:
    j, k = double([1, 3, -2]).requires_grad_(), double([2, -3, -1]).requires_grad_()
    found = implementation(j, k)
    found.sum().backward()
    assert j.grad is not None and k.grad is not None
    near(found.detach(), [9, 0, 9], EXACT, EXACT)
    near(j.grad, [6, 0, -6], EXACT, EXACT)
    near(k.grad, [6, 0, -6], EXACT, EXACT)


def test_plain() -> None:
    check_plain(bradley_terry_loss)


def test_squared() -> None:
    check_squared(squared_loss)


def test_margin() -> None:
    check_margin(margin_loss)


def test_scaled() -> None:
    check_scaled(scaled_loss)


def test_centering() -> None:
    check_centering(centering)


def test_each_loss_goes_by_its_name() -> None:
    names = {"squared": squared_loss, "bradley_terry": bradley_terry_loss, "margin": margin_loss, "scaled": scaled_loss}
    assert PAIR_LOSSES == names


@pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES.keys())
def test_pair_gradients_are_the_numerical_ones(loss: Pair) -> None:
    generator = torch.Generator().manual_seed(0)
    j, k = (torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    d = double([0.5, 1, 1.5, 2, 2.5, 3])
    assert torch.autograd.gradcheck(lambda j, k: loss(j, k, d), (j, k))


def test_a_difference_of_1_makes_squared_and_scaled_plain() -> None:
    generator = torch.Generator().manual_seed(0)
    j, k = torch.randn(2, 8, generator=generator)
    one = torch.ones(8)
    assert torch.equal(squared_loss(j, k, one), bradley_terry_loss(j, k, one)) and torch.equal(
        scaled_loss(j, k, one), bradley_terry_loss(j, k, one)
    )


# --- policy --------------------------------------------------------------------------------------------------------


def mask_of(spans: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([[first <= t < first + length for t in range(WIDTH)] for first, length in spans])


def draws(mask: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """New and old numbers, about as far apart as the clipping range reaches, and a third kind of size 1."""
    generator = torch.Generator().manual_seed(seed)
    new, apart, other = torch.randn(3, *mask.shape, generator=generator, dtype=torch.float64)
    return new, new + 0.3 * apart, other


def policy_loop(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> list[float]:
    """Total, clipped tokens, (rho - 1) - log rho, rho: summed over counted tokens, one by one."""
    sums = [0.0] * 4
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                rho, a = math.exp(float(new[b, t]) - float(old[b, t])), float(advantages[b, t])
                held = min(max(rho, 1 - clip), 1 + clip)
                terms = (max(-a * rho, -a * held), float(-a * held > -a * rho), rho - 1 - math.log(rho), rho)
                sums = [s + term for s, term in zip(sums, terms, strict=True)]
    return sums


def four(loss: PolicyLoss) -> Tensor:
    return torch.stack([x.detach().double() for x in (loss.total, loss.clip_fraction, loss.approx_kl, loss.ratio)])


def check_policy(implementation: Policy) -> None:
    # rho 3/2, 3/2, 1/2, 1/2 with advantages 1, -1, 1, -1, and a fifth token that is not counted:
    # max(-1.5, -1.2) = -1.2 clipped; max(1.5, 1.2) = 1.5; max(-0.5, -0.8) = -0.5; max(0.5, 0.8) = 0.8 clipped.
    new = double([[math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5), 3]]).requires_grad_()
    mask = torch.tensor([[True, True, True, True, False]])
    loss = implementation(new, torch.zeros(1, 5).double(), double([[1, -1, 1, -1, 1]]), mask, CLIP)
    moved = 2 * (0.5 - math.log(1.5)) + 2 * (-0.5 - math.log(0.5))
    near(four(loss), [-1.2 + 1.5 - 0.5 + 0.8, 2, moved, 4], EXACT, ROUNDING)
    # A clipped token learns nothing; from the others, d(-A rho) / d log pi = -A rho. Figures carry no gradient.
    loss.total.backward()
    assert new.grad is not None
    near(new.grad, [[0, 1.5, -0.5, 0, 0]], EXACT, ROUNDING)
    assert not any(x.requires_grad for x in (loss.clip_fraction, loss.approx_kl, loss.ratio))

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(SPANS, st.integers(0, 2**16), st.sampled_from([0.1, 0.2, 0.4]))
    def ragged(spans: list[tuple[int, int]], seed: int, clip: float) -> None:
        mask = mask_of(spans)
        found = implementation(*draws(mask, seed), mask, clip)
        near(four(found), policy_loop(*draws(mask, seed), mask, clip), EXACT, ROUNDING * mask.numel())

    ragged()


def check_first_update(implementation: Policy) -> None:
    """Before the first update rho is 1, nothing has moved, nothing is clipped, and the gradient is -A."""
    mask = mask_of([(0, WIDTH), (0, 2), (1, 3)])
    _, old, advantages = draws(mask, 0)
    new = old.clone().requires_grad_()
    loss = implementation(new, old, advantages, mask, CLIP)
    count = float(mask.sum())
    near(four(loss), [-float(advantages[mask].sum()), 0, 0, count], EXACT, ROUNDING)
    assert float(loss.approx_kl) == 0 and float(loss.clip_fraction) == 0 and float(loss.ratio) == count
    loss.total.backward()
    assert new.grad is not None
    near(new.grad, keep(-advantages, mask), EXACT, ROUNDING)


def poisoned(
    implementation: Callable[..., Tensor], mask: Tensor, outside: float, learns: tuple[bool, bool, bool]
) -> list[Tensor]:
    """The loss and its gradients, with `outside` at every place that is not counted."""
    inputs = [torch.where(mask, x, outside).requires_grad_(y) for x, y in zip(draws(mask, 1), learns, strict=True)]
    found = implementation(*inputs, mask, CLIP)
    found.sum().backward()
    return [found.detach(), *(x.grad for x in inputs if x.grad is not None)]


def check_policy_sees_no_padding(implementation: Policy) -> None:
    def stacked(*inputs: Any) -> Tensor:
        loss = implementation(*inputs)
        return torch.stack([loss.total, loss.clip_fraction, loss.approx_kl, loss.ratio])

    mask = mask_of([(0, WIDTH), (0, 2), (1, 3), (0, 0)])
    clean = poisoned(stacked, mask, 0.0, (True, True, True))
    assert len(clean) == 4 and all(bool((gradient[~mask] == 0).all()) for gradient in clean[1:])
    for poison in (5.0, *POISONS):
        found = poisoned(stacked, mask, poison, (True, True, True))
        assert all(torch.equal(a, b) for a, b in zip(found, clean, strict=True)), poison


def test_policy() -> None:
    check_policy(ppo_policy)


def test_before_the_first_update_nothing_has_moved() -> None:
    check_first_update(ppo_policy)


def test_policy_sees_no_padding() -> None:
    check_policy_sees_no_padding(ppo_policy)


def test_policy_gradients_are_the_numerical_ones() -> None:
    mask = mask_of([(0, WIDTH), (1, 3)])
    new, old, advantages = (x.requires_grad_() for x in draws(mask, 2))

    def total(new: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        return ppo_policy(new, old, advantages, mask, CLIP).total

    assert torch.autograd.gradcheck(total, (new, old, advantages))


@pytest.mark.parametrize("score", [0.0, 2.5, -1.0])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_equal_scores_and_no_kl_leave_nothing_to_learn(score: float, lam: float) -> None:
    """All scores equal and expected, beta 0, advantages as they are: the policy's gradient is exactly 0."""
    mask = mask_of([(0, WIDTH), (0, 2), (0, 3)])
    new, ref, _ = draws(mask, 3)
    rewards = token_rewards(torch.full((3,), score).double(), new, ref, mask, 0.0)
    found = gae(rewards, torch.full_like(rewards, score), mask, 1.0, lam)
    new.requires_grad_()
    ppo_policy(new, new.detach(), found.advantages, mask, CLIP).total.backward()
    assert new.grad is not None and bool((new.grad == 0).all())


def test_splitting_and_ordering_a_batch_change_only_rounding() -> None:
    mask = mask_of([(0, WIDTH), (0, 2), (1, 3), (0, 4)])
    new, old, third = draws(mask, 4)
    whole = four(ppo_policy(new, old, third, mask, CLIP))
    pieces = [(0, 1), (1, 4)]
    parts = [four(ppo_policy(new[a:b], old[a:b], third[a:b], mask[a:b], CLIP)) for a, b in pieces]
    near(torch.stack(parts).sum(0), whole, EXACT, ROUNDING)
    near(four(ppo_policy(new.flip(0), old.flip(0), third.flip(0), mask.flip(0), CLIP)), whole, EXACT, ROUNDING)
    halves = [ppo_value(new[a:b], old[a:b], third[a:b], mask[a:b], CLIP) for a, b in pieces]
    near(torch.stack(halves).sum(), ppo_value(new, old, third, mask, CLIP), EXACT, ROUNDING)


# --- value ---------------------------------------------------------------------------------------------------------


def value_loop(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> float:
    total = 0.0
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                v, before, target = float(new[b, t]), float(old[b, t]), float(returns[b, t])
                held = min(max(v, before - clip), before + clip)
                total += 0.5 * max((v - target) ** 2, (held - target) ** 2)
    return total


def check_value(implementation: Value) -> None:
    # V, V_old, R: (1, 0, 2): V may come to 0.2 only, 0.5 * max(1, 1.8^2) = 1.62, and it learns nothing.
    # (1, 0, 0): 0.5 * max(1, 0.04) = 0.5, gradient V - R = 1. (-1, 0, -2): as the first, downwards.
    # (0.1, 0, 1): within the range, 0.5 * 0.81 = 0.405, gradient -0.9. (5, 5, -5) is not counted.
    values = double([[1, 1, -1, 0.1, 5]]).requires_grad_()
    old, returns = double([[0, 0, 0, 0, 5]]), double([[2, 0, -2, 1, -5]])
    found = implementation(values, old, returns, torch.tensor([[True, True, True, True, False]]), CLIP)
    near(found.detach(), 1.62 + 0.5 + 1.62 + 0.405, EXACT, ROUNDING)
    found.backward()
    assert values.grad is not None
    near(values.grad, [[0, 1, 0, -0.9, 0]], EXACT, ROUNDING)

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(SPANS, st.integers(0, 2**16), st.sampled_from([0.1, 0.2, 0.4]))
    def ragged(spans: list[tuple[int, int]], seed: int, clip: float) -> None:
        mask = mask_of(spans)
        found = implementation(*draws(mask, seed), mask, clip)
        near(found, value_loop(*draws(mask, seed), mask, clip), EXACT, ROUNDING * mask.numel())

    ragged()


def check_value_sees_no_padding(implementation: Value) -> None:
    mask = mask_of([(0, WIDTH), (0, 2), (1, 3), (0, 0)])
    clean = poisoned(implementation, mask, 0.0, (True, True, True))
    assert len(clean) == 4 and all(bool((gradient[~mask] == 0).all()) for gradient in clean[1:])
    for poison in (5.0, *POISONS):
        found = poisoned(implementation, mask, poison, (True, True, True))
        assert all(torch.equal(a, b) for a, b in zip(found, clean, strict=True)), poison


def test_value() -> None:
    check_value(ppo_value)


def test_value_sees_no_padding() -> None:
    check_value_sees_no_padding(ppo_value)


def test_value_gradients_are_the_numerical_ones() -> None:
    mask = mask_of([(0, WIDTH), (1, 3)])
    inputs = tuple(x.requires_grad_() for x in draws(mask, 5))
    assert torch.autograd.gradcheck(lambda v, old, r: ppo_value(v, old, r, mask, CLIP), inputs)


# --- mutants -------------------------------------------------------------------------------------------------------


def _clamped(rho: Tensor, clip: float) -> Tensor:
    return rho.clamp(1 - clip, 1 + clip)


def _policy(
    *,
    term: Callable[[Tensor, Tensor, float], Tensor] = lambda a, rho, c: torch.maximum(-a * rho, -a * _clamped(rho, c)),
    clipped: Callable[[Tensor, Tensor, float], Tensor] = lambda a, rho, c: -a * _clamped(rho, c) > -a * rho,
    moved: Callable[[Tensor], Tensor] = lambda rho: rho - 1 - rho.log(),
    ratio: Callable[[Tensor, Tensor], Tensor] = masked_sum,
    figures: Callable[[Tensor, Tensor], Tensor] = masked_sum,
    padding: Callable[[Tensor, Tensor], Tensor] = keep,
) -> Policy:
    """The policy loss written out, with one thing wrong."""

    def loss(new: Tensor, old: Tensor, a: Tensor, mask: Tensor, clip: float) -> PolicyLoss:
        rho = (padding(new, mask) - padding(old, mask)).exp()
        a, fixed = padding(a, mask), rho.detach()
        return PolicyLoss(
            total=masked_sum(term(a, rho, clip), mask),
            clip_fraction=figures(clipped(a.detach(), fixed, clip).double(), mask),
            approx_kl=figures(moved(fixed), mask),
            ratio=ratio(fixed, mask),
        )

    return loss


def _halved(values: Tensor, held: Tensor, returns: Tensor) -> Tensor:
    return 0.5 * torch.maximum((values - returns) ** 2, (held - returns) ** 2)


def _value(
    term: Callable[[Tensor, Tensor, Tensor], Tensor] = _halved,
    held: Callable[[Tensor, Tensor, Tensor, float], Tensor] = lambda v, old, r, c: old + (v - old).clamp(-c, c),
    padding: Callable[[Tensor, Tensor], Tensor] = keep,
    reduce: Callable[[Tensor, Tensor], Tensor] = masked_sum,
) -> Value:
    """The value loss written out, with one thing wrong."""

    def loss(v: Tensor, old: Tensor, r: Tensor, mask: Tensor, clip: float) -> Tensor:
        v, old, r = padding(v, mask), padding(old, mask), padding(r, mask)
        return reduce(term(v, held(v, old, r, clip), r), mask)

    return loss


def _unseen(values: Tensor, mask: Tensor) -> Tensor:
    return values


def _product(values: Tensor, mask: Tensor) -> Tensor:
    return values * mask


def _nlog(x: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(x)


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Any]]] = {
    "plain, sign flipped": (check_plain, lambda j, k, d: -bradley_terry_loss(j, k, d)),
    "plain, swapped": (check_plain, lambda j, k, d: bradley_terry_loss(k, j, d)),
    "plain, no log": (check_plain, lambda j, k, d: (k - j).sigmoid()),
    "plain, d in it": (check_plain, squared_loss),
    "squared, sign flipped": (check_squared, lambda j, k, d: -squared_loss(j, k, d)),
    "squared, swapped": (check_squared, lambda j, k, d: squared_loss(k, j, d)),
    "squared, d for d^2": (check_squared, lambda j, k, d: _nlog((j - k) * d)),
    "squared, d^4": (check_squared, lambda j, k, d: _nlog((j - k) * d**4)),
    "squared, D^2 d": (check_squared, lambda j, k, d: _nlog((j - k) * (j - k).abs() * d)),
    "squared, d^2 outside": (check_squared, lambda j, k, d: _nlog(j - k) * d**2),
    "squared, d^2 left out": (check_squared, bradley_terry_loss),
    "squared, of the sum": (check_squared, lambda j, k, d: _nlog((j + k) * d**2)),
    "squared, log of sigmoid": (check_squared, lambda j, k, d: -((j - k) * d**2).sigmoid().log()),
    "squared, log of 1 + exp": (check_squared, lambda j, k, d: (1 + (-(j - k) * d**2).exp()).log()),
    "squared, held": (check_squared, lambda j, k, d: _nlog(((j - k) * d**2).clamp(-100, 100))),
    "squared, one side without gradient": (check_squared, lambda j, k, d: squared_loss(j, k.detach() * 2 - k, d)),
    "squared, mean removed": (check_squared, lambda j, k, d: squared_loss(j, k, d) - squared_loss(j, k, d).mean()),
    "margin, added": (check_margin, lambda j, k, d: margin_loss(j, k, -d)),
    "margin, swapped": (check_margin, lambda j, k, d: margin_loss(k, j, d)),
    "margin, left out": (check_margin, bradley_terry_loss),
    "margin, squared": (check_margin, lambda j, k, d: margin_loss(j, k, d**2)),
    "scaled, sign flipped": (check_scaled, lambda j, k, d: -scaled_loss(j, k, d)),
    "scaled, inside": (check_scaled, lambda j, k, d: _nlog((j - k) * d)),
    "scaled, squared": (check_scaled, lambda j, k, d: scaled_loss(j, k, d**2)),
    "scaled, swapped": (check_scaled, lambda j, k, d: scaled_loss(k, j, d)),
    "centering, difference": (check_centering, lambda j, k: (j - k) ** 2),
    "centering, sum of squares": (check_centering, lambda j, k: j**2 + k**2),
    "centering, absolute": (check_centering, lambda j, k: (j + k).abs()),
    "centering, mean": (check_centering, lambda j, k: ((j + k) / 2) ** 2),
    "policy, min for max": (
        check_policy,
        _policy(term=lambda a, rho, c: torch.minimum(-a * rho, -a * _clamped(rho, c))),
    ),
    "policy, sign flipped": (
        check_policy,
        _policy(term=lambda a, rho, c: -torch.maximum(-a * rho, -a * _clamped(rho, c))),
    ),
    "policy, sign flipped, first update": (check_first_update, _policy(term=lambda a, rho, c: a * rho)),
    "policy, never clipped": (check_policy, _policy(term=lambda a, rho, c: -a * rho)),
    "policy, always clipped": (check_policy, _policy(term=lambda a, rho, c: -a * _clamped(rho, c))),
    "policy, clipped above only": (
        check_policy,
        _policy(term=lambda a, rho, c: torch.maximum(-a * rho, -a * rho.clamp(max=1 + c))),
    ),
    "policy, clipped below only": (
        check_policy,
        _policy(term=lambda a, rho, c: torch.maximum(-a * rho, -a * rho.clamp(min=1 - c))),
    ),
    "policy, clipped about 0": (
        check_first_update,
        _policy(term=lambda a, rho, c: torch.maximum(-a * rho, -a * rho.clamp(-c, c))),
    ),
    "policy, log ratio": (check_first_update, _policy(term=lambda a, rho, c: -a * rho.log())),
    "policy, swapped": (check_policy, lambda new, old, a, m, c: ppo_policy(old, new, a, m, c)),
    "policy, ratio without gradient": (check_first_update, _policy(term=lambda a, rho, c: -a * rho.detach() + 0 * rho)),
    "policy, mean for sum": (
        check_policy,
        _policy(term=lambda a, rho, c: torch.maximum(-a * rho, -a * _clamped(rho, c)) / a.numel()),
    ),
    "policy, mask inverted": (check_policy, lambda new, old, a, m, c: ppo_policy(new, old, a, ~m, c)),
    "policy, mask ignored": (check_policy, lambda new, old, a, m, c: ppo_policy(new, old, a, m | True, c)),
    "policy, mask off by one": (check_policy, lambda new, old, a, m, c: ppo_policy(new, old, a, m.roll(1, 1), c)),
    "policy, advantages' mean removed": (
        check_first_update,
        lambda new, old, a, m, c: ppo_policy(new, old, a - a[m].mean(), m, c),
    ),
    "policy, all outside the range": (
        check_policy,
        _policy(clipped=lambda a, rho, c: (rho - 1).abs() > c),
    ),
    "policy, clipped where smaller": (
        check_policy,
        _policy(clipped=lambda a, rho, c: -a * _clamped(rho, c) < -a * rho),
    ),
    "policy, ties are clipped": (
        check_first_update,
        _policy(clipped=lambda a, rho, c: -a * _clamped(rho, c) >= -a * rho),
    ),
    "policy, KL's sign": (check_policy, _policy(moved=lambda rho: 1 - rho + rho.log())),
    "policy, KL from pi": (check_policy, _policy(moved=lambda rho: 1 / rho - 1 + rho.log())),
    "policy, KL as k1": (check_policy, _policy(moved=lambda rho: -rho.log())),
    "policy, KL as k2": (check_policy, _policy(moved=lambda rho: rho.log() ** 2 / 2)),
    "policy, ratio over padding": (check_first_update, _policy(ratio=lambda rho, m: rho.sum())),
    "policy, mean ratio": (check_first_update, _policy(ratio=lambda rho, m: masked_sum(rho, m) / m.sum())),
    "policy, figures over padding": (
        check_policy_sees_no_padding,
        _policy(padding=_unseen, figures=lambda x, m: x.sum()),
    ),
    "policy, padding left in": (check_policy_sees_no_padding, _policy(padding=_unseen)),
    "policy, padding by product": (check_policy_sees_no_padding, _policy(padding=_product)),
    "value, min for max": (
        check_value,
        _value(lambda v, held, r: 0.5 * torch.minimum((v - r) ** 2, (held - r) ** 2)),
    ),
    "value, not halved": (check_value, _value(lambda v, held, r: 2 * _halved(v, held, r))),
    "value, not clipped": (check_value, _value(lambda v, held, r: 0.5 * (v - r) ** 2)),
    "value, always clipped": (check_value, _value(lambda v, held, r: 0.5 * (held - r) ** 2)),
    "value, absolute": (check_value, _value(lambda v, held, r: _halved(v, held, r).sqrt())),
    "value, returns' sign": (check_value, _value(lambda v, held, r: _halved(v, held, -r))),
    "value, clipped about 0": (check_value, _value(held=lambda v, old, r, c: v.clamp(-c, c))),
    "value, clipped about the return": (check_value, _value(held=lambda v, old, r, c: r + (v - r).clamp(-c, c))),
    "value, clipped above only": (check_value, _value(held=lambda v, old, r, c: old + (v - old).clamp(max=c))),
    "value, clipped below only": (check_value, _value(held=lambda v, old, r, c: old + (v - old).clamp(min=-c))),
    "value, old and new swapped": (check_value, lambda v, old, r, m, c: ppo_value(old, v, r, m, c)),
    "value, mean for sum": (check_value, _value(reduce=lambda x, m: masked_sum(x, m) / m.sum().clamp(min=1))),
    "value, mask inverted": (check_value, lambda v, old, r, m, c: ppo_value(v, old, r, ~m, c)),
    "value, mask ignored": (check_value, lambda v, old, r, m, c: ppo_value(v, old, r, m | True, c)),
    "value, padding left in": (check_value_sees_no_padding, _value(padding=_unseen)),
    "value, padding by product": (check_value_sees_no_padding, _value(padding=_product)),
}


def test_written_out_with_nothing_wrong_the_variants_pass() -> None:
    """So it is the one thing wrong that makes a mutant fail."""
    check_policy(_policy())
    check_first_update(_policy())
    check_policy_sees_no_padding(_policy())
    check_value(_value())
    check_value_sees_no_padding(_value())


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)
