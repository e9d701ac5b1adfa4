"""DPO's loss: hand arithmetic, a loop over math.exp in float64 on ragged pairs, and nothing from padding."""

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

from sawyer.maths import DpoLoss, dpo_loss, masked_mean, masked_sum, response_log_ratio
from sawyer.maths.masked import keep

SINGLE = 2e-6  # fp32, relative
BETA = 0.1
WIDTH = 5

SPANS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, WIDTH)), min_size=1, max_size=4)  # (first, length) a row

Ratio = Callable[[Tensor, Tensor, Tensor], Tensor]
Dpo = Callable[[Tensor, Tensor, float], DpoLoss]


def mask_of(spans: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([[first <= t < first + length for t in range(WIDTH)] for first, length in spans])


def for_every_mask(check: Callable[[Tensor, int], None]) -> None:
    @settings(max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(SPANS, st.integers(0, 2**16))
    def one(spans: list[tuple[int, int]], seed: int) -> None:
        check(mask_of(spans), seed)

    one()


def three(loss: DpoLoss) -> Tensor:
    return torch.stack([x.detach().double() for x in (loss.total, loss.margins, loss.accuracies)])


def softplus(x: float) -> float:
    """-log sigmoid(-x) = log(1 + e^x)."""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def check_ratio(implementation: Ratio) -> None:
    """The counted tokens' log-ratios, summed a row."""
    found = implementation(
        double([[-1, -2, 9], [-3, 9, 9]]), double([[-2, -4, 5], [-1, 5, 5]]), mask_of([(0, 2), (0, 1)])[:, :3]
    )
    close(found, [1 + 2, -2], EXACT)

    def batch(mask: Tensor, seed: int) -> None:
        policy, ref = draws(seed, *mask.shape).requires_grad_(), draws(seed + 1, *mask.shape)
        found = implementation(policy, ref, mask)
        found.sum().backward()
        assert policy.grad is not None
        rows = zip(policy.tolist(), ref.tolist(), mask.tolist(), strict=True)
        close(found.detach(), [math.fsum(a - b for a, b, m in zip(*row, strict=True) if m) for row in rows], ROUNDING)
        close(policy.grad, mask.double(), EXACT)

    for_every_mask(batch)


def check_ratio_sees_no_padding(implementation: Ratio) -> None:
    mask = mask_of([(0, WIDTH), (0, 2), (1, 3), (0, 0)])

    def all_of(outside: float) -> list[Tensor]:
        policy, ref = (torch.where(mask, draws(seed, *mask.shape), outside).requires_grad_() for seed in (1, 2))
        found = implementation(policy, ref, mask)
        (torch.arange(1.0, 5.0).double() * found).sum().backward()
        assert policy.grad is not None
        return [found.detach(), policy.grad]

    clean = all_of(0.0)
    for poison in (7.0, *POISONS):
        assert all(torch.equal(a, b) for a, b in zip(all_of(poison), clean, strict=True)), poison


def check_dpo(implementation: Dpo) -> None:
    # beta 1/2: margins 0.5 * (2 log 3 - 0) = log 3, 0.5 * (0 - 2 log 3) = -log 3, 0: losses log 4/3, log 4, log 2.
    chosen, rejected = double([2 * math.log(3), 1, 1]).requires_grad_(), double([0, 1 + 2 * math.log(3), 1]).requires_grad_()
    loss = implementation(chosen, rejected, 0.5)
    close(three(loss), [math.log(4 / 3) + math.log(4) + math.log(2), 0, 1], ROUNDING)
    loss.total.backward()
    assert chosen.grad is not None and rejected.grad is not None
    close(chosen.grad, [-0.5 * 0.25, -0.5 * 0.75, -0.5 * 0.5], ROUNDING)  # -beta sigmoid(-margin)
    close(rejected.grad, [0.5 * 0.25, 0.5 * 0.75, 0.5 * 0.5], ROUNDING)
    assert not loss.margins.requires_grad and not loss.accuracies.requires_grad

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(st.integers(0, 6), st.integers(0, 2**16), st.sampled_from([0.01, 0.1, 1.0, 5.0]))
    def batch(pairs: int, seed: int, beta: float) -> None:
        chosen, rejected = 5 * draws(seed, pairs), 5 * draws(seed + 1, pairs)
        margins = [beta * (c - r) for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)]
        expected = [math.fsum(softplus(-m) for m in margins), math.fsum(margins), sum(m > 0 for m in margins)]
        close(three(implementation(chosen, rejected, beta)), expected, 100 * ROUNDING)

    batch()
    # Far away neither the value nor the gradient overflows.
    for dtype in (torch.float32, torch.float64):
        far = torch.tensor([1e5, -1e5], dtype=dtype, requires_grad=True)
        total = implementation(far, -far, BETA).total
        total.backward()
        assert far.grad is not None
        close(total.detach(), 2e4, 2e4 * SINGLE)
        close(far.grad, [0, -2 * BETA], SINGLE)


def check_whole(ratio: Ratio, loss: Dpo) -> None:
    """Both together against one loop, on pairs whose chosen and rejected responses are of other lengths than one another."""

    def batch(mask: Tensor, seed: int) -> None:
        masks = [mask, mask.roll(1, 1) | mask]
        numbers = [[draws(seed + 2 * side + who, *mask.shape) for who in (0, 1)] for side in (0, 1)]
        total = margins = right = 0.0
        for p in range(len(mask)):
            chosen, rejected = (
                math.fsum(float(pi[p, t]) - float(ref[p, t]) for t in range(WIDTH) if m[p, t])
                for (pi, ref), m in zip(numbers, masks, strict=True)
            )
            margin = BETA * (chosen - rejected)
            total, margins, right = total + softplus(-margin), margins + margin, right + (margin > 0)
        poisoned = [[torch.where(m, x, math.nan) for x in pair] for pair, m in zip(numbers, masks, strict=True)]
        found = loss(*(ratio(*pair, m) for pair, m in zip(poisoned, masks, strict=True)), BETA)
        close(three(found), [total, margins, right], 10 * ROUNDING)

    for_every_mask(batch)


def test_ratio() -> None:
    check_ratio(response_log_ratio)


def test_ratio_sees_no_padding() -> None:
    check_ratio_sees_no_padding(response_log_ratio)


def test_dpo() -> None:
    check_dpo(dpo_loss)


def test_whole() -> None:
    check_whole(response_log_ratio, dpo_loss)


def test_before_the_first_update_every_pair_costs_log_2() -> None:
    logprobs, mask = draws(0, 3, WIDTH), mask_of([(0, 5), (0, 2), (1, 3)])
    ratio = response_log_ratio(logprobs, logprobs.clone(), mask)
    close(three(dpo_loss(ratio, ratio.flip(0), BETA)), [3 * math.log(2), 0, 0], ROUNDING)


def test_splitting_a_batch_changes_only_rounding() -> None:
    chosen, rejected = draws(1, 7), draws(2, 7)
    parts = [three(dpo_loss(chosen[a:b], rejected[a:b], BETA)) for a, b in ((0, 2), (2, 7))]
    close(torch.stack(parts).sum(0), three(dpo_loss(chosen, rejected, BETA)), ROUNDING)


def test_a_weight_of_two_is_the_pair_given_twice() -> None:
    chosen, rejected, weights = double([1.5, -0.3, 0.2]), double([0.5, 0.9, 0.1]), double([2, 1, 0.5])
    # By hand: margins 1, -1.2, 0.1 times BETA, each as often as its weight.
    margins = [BETA * (a - b) for a, b in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    expected = [2 * losses[0] + losses[1] + losses[2] / 2, 2 * margins[0] + margins[1] + margins[2] / 2, 2.5]
    close(three(dpo_loss(chosen, rejected, BETA, weights)), expected, ROUNDING)
    twice = [torch.cat([ratio[:2], ratio[:1]]) for ratio in (chosen, rejected)]
    close(three(dpo_loss(chosen[:2], rejected[:2], BETA, weights[:2])), three(dpo_loss(*twice, BETA)).tolist(), ROUNDING)
    assert torch.equal(three(dpo_loss(chosen, rejected, BETA, torch.ones(3))), three(dpo_loss(chosen, rejected, BETA)))


def test_gradients_are_the_numerical_ones() -> None:
    mask = mask_of([(0, WIDTH), (1, 3), (0, 2)])

    def total(chosen: Tensor, ref_chosen: Tensor, rejected: Tensor, ref_rejected: Tensor) -> Tensor:
        ratios = (response_log_ratio(chosen, ref_chosen, mask), response_log_ratio(rejected, ref_rejected, mask.flip(0)))
        return dpo_loss(*ratios, 0.7).total

    assert torch.autograd.gradcheck(total, tuple(draws(seed, 3, WIDTH).requires_grad_() for seed in range(4)))


def _dpo(
    margin: Callable[[Tensor, Tensor, float], Tensor] = lambda c, r, b: b * (c - r),
    term: Callable[[Tensor], Tensor] = lambda m: -torch.nn.functional.logsigmoid(m),
    right: Callable[[Tensor], Tensor] = lambda m: m > 0,
    reduce: Callable[[Tensor], Tensor] = torch.sum,
) -> Dpo:
    """The loss written out, with one thing wrong."""

    def loss(chosen: Tensor, rejected: Tensor, beta: float) -> DpoLoss:
        m = margin(chosen, rejected, beta)
        fixed = m.detach()
        return DpoLoss(total=reduce(term(m)), margins=reduce(fixed), accuracies=reduce(right(fixed).double()))

    return loss


MUTANTS: dict[str, tuple[Callable[..., None], Any]] = {
    "dpo, swapped": (check_dpo, _dpo(lambda c, r, b: b * (r - c))),
    "dpo, sign flipped": (check_dpo, _dpo(term=torch.nn.functional.logsigmoid)),
    "dpo, beta left out": (check_dpo, _dpo(lambda c, r, b: c - r)),
    "dpo, beta outside": (check_dpo, _dpo(lambda c, r, b: c - r, lambda m: -0.5 * torch.nn.functional.logsigmoid(m))),
    "dpo, divided by beta": (check_dpo, _dpo(lambda c, r, b: (c - r) / b)),
    "dpo, rejected without gradient": (check_dpo, _dpo(lambda c, r, b: b * (c - r.detach() + 0 * r))),
    "dpo, rejected left out": (check_dpo, _dpo(lambda c, r, b: b * c + 0 * r)),
    "dpo, no log": (check_dpo, _dpo(term=lambda m: torch.sigmoid(-m))),
    "dpo, log of sigmoid": (check_dpo, _dpo(term=lambda m: -torch.sigmoid(m).log())),
    "dpo, squared (ipo)": (check_dpo, _dpo(term=lambda m: (m - 0.5) ** 2)),
    "dpo, hinge": (check_dpo, _dpo(term=lambda m: (1 - m).clamp(min=0))),
    "dpo, mean": (check_dpo, _dpo(reduce=lambda x: x.sum() / max(1, len(x)))),
    "dpo, ties are right": (check_dpo, _dpo(right=lambda m: m >= 0)),
    "dpo, accuracy swapped": (check_dpo, _dpo(right=lambda m: m < 0)),
    "ratio, swapped": (check_ratio, lambda p, q, m: response_log_ratio(q, p, m)),
    "ratio, mean": (check_ratio, lambda p, q, m: response_log_ratio(p, q, m) / m.sum(1).clamp(min=1)),
    "ratio, reference left out": (check_ratio, lambda p, q, m: masked_sum(p, m, dim=1)),
    "ratio, policy without gradient": (
        check_ratio,
        lambda p, q, m: response_log_ratio(p.detach(), q, m) + 0 * keep(p, m).sum(),
    ),
    "ratio, mask inverted": (check_ratio, lambda p, q, m: response_log_ratio(p, q, ~m)),
    "ratio, mask one late": (check_ratio, lambda p, q, m: response_log_ratio(p, q, m.roll(1, 1))),
    "ratio, of the whole batch": (check_ratio, lambda p, q, m: masked_mean(p - q, m | (m.sum() == 0)).expand(len(m))),
    "ratio, padding counted": (check_ratio_sees_no_padding, lambda p, q, m: (p - q).sum(1)),
    "ratio, padding by product": (check_ratio_sees_no_padding, lambda p, q, m: ((p - q) * m).sum(1)),
}


def test_written_out_with_nothing_wrong_the_variant_passes() -> None:
    check_dpo(_dpo())
    check_whole(response_log_ratio, _dpo())


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Any) -> None:
    with pytest.raises(AssertionError):
        check(mutant)


def test_pairs_that_change_places_are_seen_in_the_whole() -> None:
    with pytest.raises(AssertionError):
        check_whole(response_log_ratio, lambda chosen, rejected, beta: dpo_loss(rejected, chosen, beta))
    with pytest.raises(AssertionError):
        check_whole(lambda p, q, m: response_log_ratio(p, q, m) / m.sum(1).clamp(min=1), dpo_loss)
