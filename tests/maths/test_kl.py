"""The estimators of KL: their numbers, what they are on average, and how they behave where policies hardly differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sawyer.maths import best_of_n_kl, kl_k1
from sawyer.maths.kl import kl_k2, kl_k3

ROUNDING = 1e-12  # float64, a few operations on numbers of size 1
SINGLE_RELATIVE = 1e-3  # fp32: the difference of two log-probs of size 1 that are 1e-3 apart has four digits
INTEGRATION = 1e-6  # midpoint rule with 20,000 steps
LOG2 = math.log(2)

Estimator = Callable[[Tensor, Tensor], Tensor]

PI = [0.5, 0.3, 0.15, 0.05]
REF = [0.25, 0.4, 0.3, 0.05]


def close(found: Tensor, expected: object, tolerance: float) -> None:
    required_section = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == required_section.shape
    assert bool(((found.double() - required_section).abs() <= tolerance).all()), f"{found} is not {required_section}"


def double(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def values_and_gradients(implementation: Estimator, values: Callable[..., float], slope: Callable[..., float]) -> None:
    """`values` and `slope` take k = log pi - log ref; the gradient by log ref is the negative of that by log pi."""
    differences = [-3.0, -0.7, -1e-6, 0.0, 0.2, 1.0, 5.0]
    pi = double([-1.0 - i / 7 for i in range(len(differences))]).requires_grad_()
    ref = (pi.detach() - double(differences)).requires_grad_()
    found = implementation(pi, ref)
    found.sum().backward()
    assert pi.grad is not None and ref.grad is not None
    scale = math.exp(3)  # the largest of them: k3 at -3
    close(found, [values(k) for k in differences], ROUNDING * scale)
    close(pi.grad, [slope(k) for k in differences], ROUNDING * scale)
    close(ref.grad, [-slope(k) for k in differences], ROUNDING * scale)


def average(implementation: Estimator) -> float:
    """Its expectation under PI, every token weighed by its probability."""
    logs, refs = double(PI).log(), double(REF).log()
    return float((double(PI) * implementation(logs, refs)).sum())


def true_kl() -> float:
    return math.fsum(p * math.log(p / q) for p, q in zip(PI, REF, strict=True))


def check_k1(implementation: Estimator) -> None:
    # pi twice as likely as ref: log 2. Half as likely: -log 2.
    close(implementation(double([0.5, 0.25]).log(), double([0.25, 0.5]).log()), [LOG2, -LOG2], ROUNDING)
    values_and_gradients(implementation, lambda k: k, lambda k: 1.0)
    assert abs(average(implementation) - true_kl()) <= ROUNDING


def check_k2(implementation: Estimator) -> None:
    close(implementation(double([0.5, 0.25]).log(), double([0.25, 0.5]).log()), [LOG2**2 / 2] * 2, ROUNDING)
    values_and_gradients(implementation, lambda k: k * k / 2, lambda k: k)


def check_k3(implementation: Estimator) -> None:
    # ref / pi - 1 - log(ref / pi): twice as likely 1/2 - 1 + log 2, half as likely 2 - 1 - log 2.
    close(implementation(double([0.5, 0.25]).log(), double([0.25, 0.5]).log()), [LOG2 - 0.5, 1 - LOG2], ROUNDING)
    values_and_gradients(implementation, lambda k: math.exp(-k) - 1 + k, lambda k: 1 - math.exp(-k))
    assert abs(average(implementation) - true_kl()) <= ROUNDING
    # In fp32, for policies that hardly differ: never negative, and k^2/2 - k^3/6 to the digits that k itself has.
    k = 1e-3 * torch.randn(4096, generator=torch.Generator().manual_seed(0))
    found = implementation(k, torch.zeros_like(k))
    assert bool((found >= 0).all())
    required_section = k.double() ** 2 / 2 - k.double() ** 3 / 6
    large = k.abs() > 1e-4
    assert bool(((found.double() - required_section).abs() <= SINGLE_RELATIVE * required_section)[large].all())


def check_best_of_n(implementation: Callable[[int], float]) -> None:
    """The best of n has the density n u^(n-1) over the quantile u of what it samples from: KL = E[log n u^(n-1)]."""
    assert abs(implementation(1)) <= ROUNDING
    assert abs(implementation(2) - (LOG2 - 1 / 2)) <= ROUNDING
    steps = 20_000
    for n in (2, 4, 16):
        densities = [n * ((i + 0.5) / steps) ** (n - 1) for i in range(steps)]
        assert abs(implementation(n) - math.fsum(d * math.log(d) for d in densities if d) / steps) <= INTEGRATION


def test_k1() -> None:
    check_k1(kl_k1)


def test_k2() -> None:
    check_k2(kl_k2)


def test_k3() -> None:
    check_k3(kl_k3)


def test_best_of_n() -> None:
    check_best_of_n(best_of_n_kl)


@pytest.mark.parametrize("estimator", [kl_k1, kl_k2, kl_k3])
def test_a_policy_against_itself_is_exactly_0(estimator: Estimator) -> None:
    logprobs = -5 * torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    assert bool((estimator(logprobs, logprobs.clone()) == 0).all())


@pytest.mark.parametrize("estimator", [kl_k1, kl_k2, kl_k3])
def test_gradients_are_the_numerical_ones(estimator: Estimator) -> None:
    generator = torch.Generator().manual_seed(0)
    pi, ref = (torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(estimator, (pi, ref))


def test_k2_is_biased_and_that_is_why_it_is_not_reported() -> None:
    assert abs(average(kl_k2) - true_kl()) > 1e-3


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Any]]] = {
    "k1, sign flipped": (check_k1, lambda p, q: q - p),
    "k1, absolute": (check_k1, lambda p, q: (p - q).abs()),
    "k1, ratio": (check_k1, lambda p, q: (p - q).exp()),
    "k1, weighed twice": (check_k1, lambda p, q: p.exp() * (p - q)),
    "k1, reference without gradient": (check_k1, lambda p, q: p - (2 * q.detach() - q)),
    "k2, not halved": (check_k2, lambda p, q: (p - q) ** 2),
    "k2, absolute": (check_k2, lambda p, q: (p - q).abs() / 2),
    "k2, sum squared": (check_k2, lambda p, q: (p + q) ** 2 / 2),
    "k2, k3": (check_k2, kl_k3),
    "k3, swapped": (check_k3, lambda p, q: kl_k3(q, p)),
    "k3, no -1": (check_k3, lambda p, q: (q - p).exp() + p - q),
    "k3, k1 subtracted": (check_k3, lambda p, q: (q - p).exp() - 1 - (p - q)),
    "k3, no k1": (check_k3, lambda p, q: (q - p).expm1()),
    "k3, k2": (check_k3, kl_k2),
    "k3, rounded away": (check_k3, lambda p, q: (q - p).exp() - 1 + (p - q)),
    "best of n, sign": (check_best_of_n, lambda n: math.log(n) + (n - 1) / n),
    "best of n, log n": (check_best_of_n, math.log),
    "best of n, off by one": (check_best_of_n, lambda n: math.log(n) - n / (n + 1)),
    "best of n, bits": (check_best_of_n, lambda n: math.log2(n) - (n - 1) / n),
}


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)
