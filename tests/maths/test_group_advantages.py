"""Advantages of groups: hand arithmetic, plain loops in float64 over ragged batches, and nothing from padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from doubles import EXACT, POISONS, ROUNDING, close, double, draws
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sawyer.maths import grpo_advantages, grpo_kl, masked_mean, masked_sum, rloo_advantages, token_rewards, zero_variance
from sawyer.maths.kl import kl_k3
from sawyer.maths.masked import keep

CLOSE = 1e-9  # where a standard deviation that is almost 0 divides what an offset has rounded
GROUP_EPS = 1e-4  # stands in the definition

WIDTH = 5

Rloo = Callable[[Tensor, Tensor, int], Tensor]  # token rewards, mask, k
Grpo = Callable[[Tensor, Tensor, int], Tensor]  # scores, mask, k
Kl = Callable[[Tensor, Tensor, Tensor], Tensor]  # log pi, log pi_ref, mask


def ragged(groups: int, k: int, seed: int) -> Tensor:
    """A mask of `groups` * k rows, each with counted tokens from a place of its own to a place of its own; some have none."""
    generator = torch.Generator().manual_seed(seed)
    first, length = torch.randint(0, 3, (2, groups * k, 1), generator=generator)
    places = torch.arange(WIDTH)
    return (places >= first) & (places < first + 1 + 2 * length - (first == 2).int())


def for_every_batch(check: Callable[[int, int, Tensor, int], None]) -> None:
    """Run `check` on (groups, k, mask, seed)."""

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 2**16))
    def one(groups: int, k: int, seed: int) -> None:
        check(groups, k, ragged(groups, k, seed), seed)

    one()


def at_tokens(advantages: list[float], mask: Tensor) -> list[list[float]]:
    return [[a if counted else 0.0 for counted in row] for a, row in zip(advantages, mask.tolist(), strict=True)]


# --- rloo ----------------------------------------------------------------------------------------------------------


def rloo_loop(rewards: Tensor, mask: Tensor, k: int) -> list[list[float]]:
    returns = [
        math.fsum(r for r, m in zip(*row, strict=True) if m) for row in zip(rewards.tolist(), mask.tolist(), strict=True)
    ]
    found = []
    for i, own in enumerate(returns):
        others = [returns[j] for j in range(len(returns)) if j // k == i // k and j != i]
        found.append(own - math.fsum(others) / len(others))
    return at_tokens(found, mask)


def check_rloo(implementation: Rloo) -> None:
    # Two prompts with three responses each: R = 1, 2, 6 and 0, 0, 3.
    # A = 1 - 4, 2 - 3.5, 6 - 1.5 and 0 - 1.5, 0 - 1.5, 3 - 0. What stands at the uncounted last place is not earned.
    rewards = double([[1, 0, 9], [0.5, 1.5, 9], [2, 4, 9], [-1, 1, 9], [0, 0, 9], [3, 0, 9]])
    mask = torch.tensor([[True, True, False]] * 5 + [[True, False, False]])
    found = implementation(rewards, mask, 3)
    close(found, at_tokens([-3, -1.5, 4.5, -1.5, -1.5, 3], mask), EXACT)

    def batch(groups: int, k: int, mask: Tensor, seed: int) -> None:
        rewards = draws(seed, *mask.shape)
        close(implementation(rewards, mask, k), rloo_loop(rewards, mask, k), ROUNDING)

    for_every_batch(batch)


def check_rloo_of_token_rewards(implementation: Rloo) -> None:
    """R_i = S_i - beta * sum_t kl_t, as the method has it, when each response has a token."""
    mask = ragged(3, 4, 5) | (torch.arange(WIDTH) == 2)
    logprobs, ref, beta = draws(1, *mask.shape), draws(2, *mask.shape), 0.3
    scores = draws(3, len(mask))
    found = implementation(token_rewards(scores, logprobs, ref, mask, beta), mask, 4)
    returns = [
        float(s) - beta * math.fsum(float(a - b) for a, b, m in zip(*row, strict=True) if m)
        for s, *row in zip(scores, logprobs, ref, mask, strict=True)
    ]
    expected = [own - (math.fsum(returns[i // 4 * 4 : i // 4 * 4 + 4]) - own) / 3 for i, own in enumerate(returns)]
    close(found, at_tokens(expected, mask), ROUNDING)


def check_rloo_sees_no_padding(implementation: Rloo) -> None:
    mask = ragged(2, 3, 1)
    clean = implementation(keep(draws(0, *mask.shape), mask), mask, 3)
    assert bool((clean[~mask] == 0).all()) and bool((clean[mask] != 0).any())
    for poison in (7.0, *POISONS):
        assert torch.equal(implementation(torch.where(mask, draws(0, *mask.shape), poison), mask, 3), clean), poison


# --- grpo ----------------------------------------------------------------------------------------------------------


def grpo_loop(scores: Tensor, mask: Tensor, k: int) -> list[list[float]]:
    found = []
    for i, own in enumerate(scores.tolist()):
        group = scores.tolist()[i // k * k : (i // k + 1) * k]
        mean = math.fsum(group) / k
        std = math.sqrt(math.fsum((s - mean) ** 2 for s in group) / (k - 1))
        found.append((own - mean) / (std + GROUP_EPS))
    return at_tokens(found, mask)


def check_grpo(implementation: Grpo) -> None:
    # Scores 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, over k - 1 = 2: std sqrt(7). Scores 0 and 0 and 3: mean 1, std sqrt(3).
    mask = torch.tensor([[True, True, False], [True, False, False], [False, True, True]] * 2)
    found = implementation(double([1, 2, 6, 0, 0, 3]), mask, 3)
    by_hand = [x / (math.sqrt(7) + GROUP_EPS) for x in (-2, -1, 3)] + [x / (math.sqrt(3) + GROUP_EPS) for x in (-1, -1, 2)]
    close(found, at_tokens(by_hand, mask), ROUNDING)

    def batch(groups: int, k: int, mask: Tensor, seed: int) -> None:
        for offset in (0.0, 100.0):
            scores = offset + draws(seed, groups * k)
            close(implementation(scores, mask, k), grpo_loop(scores, mask, k), CLOSE)

    for_every_batch(batch)


def check_grpo_unit(implementation: Grpo) -> None:
    """The scores' unit falls out, but for eps."""
    mask, scores = ragged(3, 4, 2), draws(2, 12)
    a, b = (implementation(unit * scores, mask, 4) for unit in (1.0, 1e3))
    close(a, b, 1e-3)


# --- both ----------------------------------------------------------------------------------------------------------


def check_equal(of_scores: Grpo) -> None:
    """Equal scores, whatever they are and in both precisions, give exactly 0; another group is none the worse for it."""
    mask = torch.ones(6, WIDTH, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        for score in (0.0, 0.1, -7.3, 1 / 3, 1e6 / 3):
            scores = torch.tensor([score] * 3 + [score, score + 1, score + 2], dtype=dtype)
            found = of_scores(scores, mask, 3)
            assert bool((found[:3] == 0).all()) and bool((found[3] < 0).all()) and bool((found[5] > 0).all()), score


def at_last(scores: Tensor, mask: Tensor) -> Tensor:
    """Token rewards that are the score at the last place."""
    return torch.cat([torch.zeros(len(scores), mask.shape[1] - 1, dtype=scores.dtype), scores[:, None]], 1)


def test_rloo() -> None:
    check_rloo(rloo_advantages)


def test_rloo_of_token_rewards() -> None:
    check_rloo_of_token_rewards(rloo_advantages)


def test_rloo_sees_no_padding() -> None:
    check_rloo_sees_no_padding(rloo_advantages)


def test_grpo() -> None:
    check_grpo(grpo_advantages)


def test_grpo_knows_no_unit() -> None:
    check_grpo_unit(grpo_advantages)


def test_equal_scores_teach_nothing() -> None:
    check_equal(grpo_advantages)
    check_equal(lambda scores, mask, k: rloo_advantages(at_last(scores, mask), mask, k))


def test_scores_that_differ_by_rounding_teach_almost_nothing() -> None:
    scores = torch.tensor([0.3, 0.3, 0.1 + 0.2, 0.3]) + torch.tensor([0, 6e-8, 0, 0])
    found = grpo_advantages(scores, torch.ones(4, 1, dtype=torch.bool), 4)
    assert 0 < float(found.abs().max()) < 1e-2


@pytest.mark.parametrize(
    ("rows", "k", "said"), [(4, 1, "k is 1"), (4, 0, "k is 0"), (5, 2, "5 responses"), (2, 4, "2 responses")]
)
def test_what_is_no_group_is_refused(rows: int, k: int, said: str) -> None:
    mask = torch.ones(rows, WIDTH, dtype=torch.bool)
    with pytest.raises(ValueError, match=said):
        rloo_advantages(mask.double(), mask, k)
    with pytest.raises(ValueError, match=said):
        grpo_advantages(draws(0, rows), mask, k)


def test_two_responses_are_each_other_s_measure() -> None:
    """k = 2: rloo's advantages are the difference and its opposite, grpo's +-1/sqrt(2)."""
    mask = torch.ones(2, 1, dtype=torch.bool)
    close(rloo_advantages(double([[5], [2]]), mask, 2), [[3], [-3]], EXACT)
    close(grpo_advantages(double([5e6, 2e6]), mask, 2), [[0.5**0.5], [-(0.5**0.5)]], 1e-9)


def test_groups_in_another_order_and_more_padding_change_nothing() -> None:
    mask, rewards, scores = ragged(3, 4, 3), draws(3, 12, WIDTH), draws(4, 12)
    order = torch.tensor([8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7])
    wide = torch.cat([mask, torch.zeros(12, 2, dtype=torch.bool)], 1)
    more = torch.cat([rewards, torch.full((12, 2), math.nan, dtype=torch.float64)], 1)
    assert torch.equal(rloo_advantages(rewards[order], mask[order], 4), rloo_advantages(rewards, mask, 4)[order])
    assert torch.equal(grpo_advantages(scores[order], mask[order], 4), grpo_advantages(scores, mask, 4)[order])
    close(rloo_advantages(more, wide, 4)[:, :WIDTH], rloo_advantages(rewards, mask, 4), ROUNDING)
    assert torch.equal(grpo_advantages(scores, wide, 4)[:, :WIDTH], grpo_advantages(scores, mask, 4))


# --- the KL in the loss --------------------------------------------------------------------------------------------


def check_kl(implementation: Kl) -> None:
    """Values and gradients by a loop over math.exp: sum of e^x - x - 1, x = log pi_ref - log pi; slope 1 - e^x."""
    # log pi - log pi_ref = log 2: 1/2 - 1 + log 2; and -log 2: 2 - 1 - log 2. The third place is not counted.
    logprobs = double([[math.log(0.5), math.log(0.25), 5]]).requires_grad_()
    ref = double([[math.log(0.25), math.log(0.5), -5]])
    found = implementation(logprobs, ref, torch.tensor([[True, True, False]]))
    found.backward()
    assert logprobs.grad is not None
    close(found.detach(), 0.5, ROUNDING)
    close(logprobs.grad, [[0.5, -1, 0]], ROUNDING)

    def batch(groups: int, k: int, mask: Tensor, seed: int) -> None:
        logprobs, ref = draws(seed, *mask.shape).requires_grad_(), draws(seed + 1, *mask.shape)
        found = implementation(logprobs, ref, mask)
        found.backward()
        assert logprobs.grad is not None
        value, slopes = 0.0, torch.zeros(mask.shape).double()
        for b, t in torch.nonzero(mask).tolist():
            x = float(ref[b, t] - logprobs.detach()[b, t])
            value += math.exp(x) - x - 1
            slopes[b, t] = 1 - math.exp(x)
        close(found.detach(), value, ROUNDING * mask.numel())
        close(logprobs.grad, slopes, ROUNDING)

    for_every_batch(batch)


def check_kl_sees_no_padding(implementation: Kl) -> None:
    mask = ragged(2, 3, 4)

    def all_of(outside: float) -> list[Tensor]:
        logprobs, ref = (torch.where(mask, draws(seed, *mask.shape), outside).requires_grad_() for seed in (1, 2))
        found = implementation(logprobs, ref, mask)
        found.backward()
        assert logprobs.grad is not None
        return [found.detach(), logprobs.grad]

    clean = all_of(0.0)
    assert bool((clean[1][~mask] == 0).all()) and bool((clean[1][mask] != 0).all())
    for poison in (-800.0, *POISONS):
        assert all(torch.equal(a, b) for a, b in zip(all_of(poison), clean, strict=True)), poison


def test_kl() -> None:
    check_kl(grpo_kl)


def test_kl_sees_no_padding() -> None:
    check_kl_sees_no_padding(grpo_kl)


def test_the_policy_against_itself_has_no_kl_and_no_slope() -> None:
    logprobs = draws(0, 3, WIDTH).requires_grad_()
    found = grpo_kl(logprobs, logprobs.detach().clone(), ragged(1, 3, 0))
    found.backward()
    assert logprobs.grad is not None and float(found.detach()) == 0 and bool((logprobs.grad == 0).all())


def test_kl_gradients_are_the_numerical_ones() -> None:
    mask = ragged(2, 2, 0)
    inputs = (draws(1, *mask.shape).requires_grad_(), draws(2, *mask.shape).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: grpo_kl(a, b, mask), inputs)


# --- mutants -------------------------------------------------------------------------------------------------------


def _rloo(
    baseline: Callable[[Tensor], Tensor] = lambda group: (group.sum(1, keepdim=True) - group) / (group.shape[1] - 1),
    returns: Callable[[Tensor, Tensor], Tensor] = lambda r, m: masked_sum(r, m, dim=1),
    groups: Callable[[Tensor, int], Tensor] = lambda x, k: x.view(-1, k),
    padding: Callable[[Tensor, Tensor], Tensor] = keep,
) -> Rloo:
    """RLOO written out, with one thing wrong."""

    def advantages(rewards: Tensor, mask: Tensor, k: int) -> Tensor:
        group = groups(returns(rewards, mask), k)
        return padding((group - baseline(group)).reshape(-1, 1).expand_as(mask), mask)

    return advantages


def _grpo(
    centre: Callable[[Tensor], Tensor] = lambda group: group.mean(1, keepdim=True),
    scale: Callable[[Tensor], Tensor] = lambda group: group.std(1, correction=1, keepdim=True) + GROUP_EPS,
    padding: Callable[[Tensor, Tensor], Tensor] = keep,
) -> Grpo:
    """GRPO's advantages written out, with one thing wrong."""

    def advantages(scores: Tensor, mask: Tensor, k: int) -> Tensor:
        group = scores.view(-1, k)
        return padding(((group - centre(group)) / scale(group)).reshape(-1, 1).expand_as(mask), mask)

    return advantages


def _unseen(values: Tensor, mask: Tensor) -> Tensor:
    return values


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Any]]] = {
    "rloo, mean over all k": (check_rloo, _rloo(lambda g: g.mean(1, keepdim=True))),
    "rloo, the others' sum over k": (check_rloo, _rloo(lambda g: (g.sum(1, keepdim=True) - g) / g.shape[1])),
    "rloo, sum over k - 1": (check_rloo, _rloo(lambda g: g.sum(1, keepdim=True) / (g.shape[1] - 1))),
    "rloo, the batch's mean": (check_rloo, _rloo(lambda g: g.mean())),
    "rloo, no baseline": (check_rloo, _rloo(torch.zeros_like)),
    "rloo, sign flipped": (check_rloo, lambda r, m, k: -rloo_advantages(r, m, k)),
    "rloo, groups interleaved": (check_rloo, _rloo(groups=lambda x, k: x.view(k, -1).T)),
    "rloo, mean reward a token": (check_rloo, _rloo(returns=lambda r, m: masked_sum(r, m, dim=1) / m.sum(1).clamp(min=1))),
    "rloo, padding earned": (check_rloo, _rloo(returns=lambda r, m: r.sum(1))),
    "rloo, last token alone": (
        check_rloo_of_token_rewards,
        _rloo(returns=lambda r, m: (r * (m.cumsum(1) == m.sum(1, True))).sum(1)),
    ),
    "rloo, padding advantaged": (check_rloo, _rloo(padding=_unseen)),
    "rloo, mask inverted": (check_rloo, lambda r, m, k: rloo_advantages(r, ~m, k)),
    "rloo, padding by product": (check_rloo_sees_no_padding, _rloo(returns=lambda r, m: (r * m).sum(1))),
    "grpo, population std": (check_grpo, _grpo(scale=lambda g: g.std(1, correction=0, keepdim=True) + GROUP_EPS)),
    "grpo, variance": (check_grpo, _grpo(scale=lambda g: g.var(1, correction=1, keepdim=True) + GROUP_EPS)),
    "grpo, not scaled": (check_grpo, _grpo(scale=torch.ones_like)),
    "grpo, not scaled, unit": (check_grpo_unit, _grpo(scale=torch.ones_like)),
    "grpo, eps under the root": (
        check_grpo,
        _grpo(scale=lambda g: (g.var(1, correction=1, keepdim=True) + GROUP_EPS).sqrt()),
    ),
    "grpo, another eps": (check_grpo, _grpo(scale=lambda g: g.std(1, correction=1, keepdim=True) + 1e-3)),
    "grpo, no eps": (check_grpo, _grpo(scale=lambda g: g.std(1, correction=1, keepdim=True))),
    "grpo, no eps, equal scores": (check_equal, _grpo(scale=lambda g: g.std(1, correction=1, keepdim=True))),
    "grpo, mean as it comes, equal scores": (check_equal, _grpo()),
    "grpo, the others' mean": (check_grpo, _grpo(lambda g: (g.sum(1, keepdim=True) - g) / (g.shape[1] - 1))),
    "grpo, the batch's mean": (check_grpo, _grpo(lambda g: g.mean())),
    "grpo, median": (check_grpo, _grpo(lambda g: g.median(1, keepdim=True).values)),
    "grpo, sign flipped": (check_grpo, lambda s, m, k: -grpo_advantages(s, m, k)),
    "grpo, padding advantaged": (check_grpo, _grpo(padding=_unseen)),
    "grpo, mask inverted": (check_grpo, lambda s, m, k: grpo_advantages(s, ~m, k)),
    "kl, swapped": (check_kl, lambda p, q, m: grpo_kl(q, p, m)),
    "kl, no gradient": (check_kl, lambda p, q, m: grpo_kl(p.detach(), q, m) + 0 * keep(p, m).sum()),
    "kl, k1": (check_kl, lambda p, q, m: masked_sum(keep(p, m) - keep(q, m), m)),
    "kl, k2": (check_kl, lambda p, q, m: masked_sum((keep(p, m) - keep(q, m)) ** 2 / 2, m)),
    "kl, mean": (check_kl, lambda p, q, m: masked_mean(kl_k3(p, q), m | (m.sum() == 0))),
    "kl, mask inverted": (check_kl, lambda p, q, m: grpo_kl(p, q, ~m)),
    "kl, padding counted": (check_kl, lambda p, q, m: kl_k3(p, q).sum()),
    "kl, padding removed after exp": (check_kl_sees_no_padding, lambda p, q, m: masked_sum(kl_k3(p, q), m)),
}


def test_written_out_with_nothing_wrong_the_variants_pass() -> None:
    """So it is the one thing wrong that makes a mutant fail; only equal scores want more care than writing it out."""
    for check in (check_rloo, check_rloo_of_token_rewards, check_rloo_sees_no_padding):
        check(_rloo())
    check_grpo(_grpo())
    check_grpo_unit(_grpo())


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)


@pytest.mark.parametrize(
    ("scores", "k", "share"),
    [
        ([1.0, 1.0, 0.0, 1.0], 2, 0.5),
        ([0.0, 0.0, 1.0, 1.0], 2, 1.0),  # the batch varies, no group does
        ([0.0, 0.0, 1.0, 1.0], None, 0.0),  # all are compared with each other
        ([2.0, 2.0, 2.0], None, 1.0),
        ([5.0, 5.0 + 1e-6, 0.0, 1e-3], 2, 0.5),  # rounding, and a difference that is none
    ],
)
def test_the_share_of_groups_without_variance(scores: list[float], k: int | None, share: float) -> None:
    assert zero_variance(torch.tensor(scores), k) == share
    if k is not None and share == 1.0:
        advantages = grpo_advantages(torch.tensor(scores), torch.ones(len(scores), 3, dtype=torch.bool), k)
        assert float(advantages.abs().max()) < 1e-2
