"""Losses of the reward model: decimals of 60 digits, rankings enumerated, hand arithmetic; what they count and weigh."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from torch import Tensor

from sawyer.maths import REWARD_LOSSES, WEIGHTS, JudgedBatch, Objective, ScoreNormalizer
from sawyer.maths.reward_losses import by_item, by_prompt, listwise_loss, regression_loss, squared_loss

ROUNDING = 1e-12
Listwise = Callable[[Tensor, Tensor, Tensor], Tensor]


def double(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float64)


def whole(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int64)


# --- squared, to 60 digits ----------------------------------------------------------------------------------------------


def exactly(r_j: float, r_k: float, d: float) -> tuple[float, float]:
    """(loss, its slope in r_j) by definition: log(1 + e^-x) and -d^2 / (1 + e^x), x = (r_j - r_k) d^2 a fraction."""
    gap = (Fraction(r_j) - Fraction(r_k)) * Fraction(d) ** 2
    with localcontext() as context:
        context.prec = 60
        x = Decimal(gap.numerator) / Decimal(gap.denominator)
        # log(1 + e^-x) is e^-x to 26 digits from x = 60 on, where 1 + e^-x would round its last ones away.
        small = (-x).exp()
        loss = small if x > 60 else (1 + small).ln()
        return float(loss), float(-(Decimal(d) ** 2) / (1 + x.exp()))


def points() -> list[tuple[float, float, float]]:
    """Round numbers and not, to the ends: rewards of +-50 and differences from 0.1 to 9 make D d^2 as large as 8,100."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.rand(400, 3, generator=generator, dtype=torch.float64)
    anywhere = [(100 * a - 50, 100 * b - 50, 0.1 + 8.9 * c) for a, b, c in drawn.tolist()]
    near = [(a, a + 4 * (b - 0.5) / d**2, d) for a, b, d in anywhere[:200] for b in (a % 1,)]
    ends = [(j, k, d) for j in (-50.0, 0.0, 50.0) for k in (-50.0, 0.0, 50.0) for d in (0.5, 1.0, 3.0, 9.0)]
    return anywhere + near + ends


def check_squared(implementation: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    rows = points()
    values, slopes = zip(*(exactly(*row) for row in rows), strict=True)
    j, k, d = (double(column) for column in zip(*rows, strict=True))
    j.requires_grad_()
    k.requires_grad_()
    found = implementation(j, k, d)
    found.sum().backward()
    assert j.grad is not None and k.grad is not None
    # D d^2 is rounded at 8,100, and e^x makes a relative error of it.
    torch.testing.assert_close(found.detach(), double(values), rtol=1e-11, atol=1e-300)
    torch.testing.assert_close(j.grad, double(slopes), rtol=1e-11, atol=1e-300)
    torch.testing.assert_close(k.grad, -double(slopes), rtol=1e-11, atol=1e-300)


def test_squared_to_sixty_digits() -> None:
    assert exactly(0.0, 0.0, 3.0) == (math.log(2), -4.5)
    assert exactly(1.0, 0.0, 1.0)[0] == pytest.approx(math.log1p(math.exp(-1)), rel=1e-15)
    assert exactly(-50.0, 50.0, 9.0) == (8100.0, -81.0)
    assert round(exactly(0.53, 0.0, 4.0)[0], 4) == 0.0002  # the worked example: scores 6 and 2
    check_squared(squared_loss)


SQUARED_WRONG = {
    "sign flipped": lambda j, k, d: squared_loss(k, j, d),
    "the square left out": lambda j, k, d: squared_loss(j, k, d.sqrt()),
    "no d at all": lambda j, k, d: squared_loss(j, k, torch.ones_like(d)),
    "log of a sigmoid": lambda j, k, d: -((j - k) * d**2).sigmoid().log(),
    "log of 1 + e^-x": lambda j, k, d: (1 + (-(j - k) * d**2).exp()).log(),
    "in fp32": lambda j, k, d: squared_loss(j.float(), k.float(), d.float()).double(),
    "held": lambda j, k, d: squared_loss(j.clamp(-10, 10), k, d),
}


@pytest.mark.parametrize("wrong", SQUARED_WRONG.values(), ids=SQUARED_WRONG.keys())
def test_squared_otherwise_is_seen(wrong: Callable[..., Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_squared(wrong)


# --- listwise ---------------------------------------------------------------------------------------------------------


def probability(rewards: Sequence[float]) -> float:
    """Of drawing answers without replacement, each time in proportion to e^r, in just this order."""
    found, left = 1.0, list(rewards)
    while left:
        found *= math.exp(left[0]) / sum(math.exp(r) for r in left)
        left = left[1:]
    return found


def check_listwise(implementation: Listwise) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 3, 5):
        rewards = torch.randn(count, generator=generator, dtype=torch.float64) * 2
        total = 0.0
        for order in permutations(range(count)):
            # Judges put answer order[0] first: it has the highest score. The scores' sizes do not matter.
            scores = torch.empty(count, dtype=torch.float64)
            scores[list(order)] = double([3.0**-place for place in range(count)])
            found = float(implementation(rewards, scores, whole([0] * count)))
            assert math.exp(-found) == pytest.approx(probability([float(rewards[i]) for i in order]), rel=1e-10)
            total += math.exp(-found)
        assert total == pytest.approx(1.0, rel=1e-10), "some ranking it must be"
    # Ties as Breslow has them: each of the equals is drawn from all that are not above it. Hand: r = 1, 2, 0.5, scores 4, 4, 1.
    everything = math.log(math.e + math.e**2 + math.e**0.5)
    found = implementation(double([1, 2, 0.5]), double([4, 4, 1]), whole([0, 0, 0]))
    assert float(found) == pytest.approx((everything - 1) + (everything - 2), rel=1e-12)
    # The order in the file does not matter, and equals are pulled together: the higher one down, the lower one up.
    rewards = double([2, 0.5, 1]).requires_grad_()
    again = implementation(rewards, double([4, 1, 4]), whole([0, 0, 0]))
    assert float(again.detach()) == pytest.approx(float(found), rel=1e-12)
    again.sum().backward()
    assert rewards.grad is not None and float(rewards.grad[0]) > 0 > float(rewards.grad[2])
    # Prompts of 3, 1 and 2 answers, mixed: each as if alone.
    rewards, scores = double([1, -2, 0.3, 0.7, 5, -1]), double([1, 2, 3, 1, 9, 2])
    prompts = whole([0, 2, 0, 2, 1, 0])
    expected = []
    for prompt in range(3):
        mine = [i for i in range(6) if int(prompts[i]) == prompt]
        best_first = sorted(mine, key=lambda i: -float(scores[i]))
        expected.append(-math.log(probability([float(rewards[i]) for i in best_first])))
    torch.testing.assert_close(implementation(rewards, scores, prompts), double(expected), rtol=1e-10, atol=1e-12)


def test_listwise() -> None:
    check_listwise(listwise_loss)


def test_listwise_of_two_answers_is_plain() -> None:
    rewards, scores = double([0.3, -1, 4, 4.5]), double([2, 7, 5, 1])
    found = listwise_loss(rewards, scores, whole([0, 0, 1, 1]))
    torch.testing.assert_close(found, double([math.log1p(math.exp(1.3)), math.log1p(math.exp(0.5))]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_listwise_stays_finite(dtype: torch.dtype) -> None:
    rewards = torch.tensor([1e3, -1e3, 0.0, 2e3], dtype=dtype, requires_grad=True)
    found = listwise_loss(rewards, double([1, 4, 3, 2]), whole([0, 0, 0, 0]))
    found.sum().backward()
    assert rewards.grad is not None and bool(torch.isfinite(rewards.grad).all())
    # By hand: -1000 first of all with 2000 there costs 3000, then 0 costs 2000, then 2000 itself nothing.
    assert float(found.detach()) == pytest.approx(5000.0)


def test_listwise_gradient_is_the_numerical_one() -> None:
    rewards = double([0.3, -1.2, 0.9, 0.1, 2.0]).requires_grad_()
    scores, prompts = double([2, 1, 1, 3, 5]), whole([0, 1, 0, 0, 1])
    assert torch.autograd.gradcheck(lambda r: listwise_loss(r, scores, prompts), (rewards,))


def _written_out(below: Callable[[float, float], bool], top: int = 99, sign: float = 1.0, mean: bool = False) -> Listwise:
    """The loss by loops, with the denominators, the number of places and the sign as given."""

    def found(rewards: Tensor, scores: Tensor, prompts: Tensor) -> Tensor:
        losses = []
        for prompt in range(int(prompts.max()) + 1):
            mine = [i for i in range(len(prompts)) if prompts[i] == prompt]
            places = sorted(mine, key=lambda i: -float(scores[i]))[:top]
            terms = []
            for i in places:
                drawn_from = [k for k in mine if below(float(scores[k]), float(scores[i])) or k == i]
                terms.append(rewards[i] - rewards[drawn_from].logsumexp(0))
            total = -sign * torch.stack(terms).sum()
            losses.append(total / len(terms) if mean else total)
        return torch.stack(losses)

    return found


LISTWISE_WRONG: dict[str, Listwise] = {
    "sign flipped": _written_out(lambda k, i: k <= i, sign=-1),
    "worst first": lambda r, s, p: listwise_loss(r, -s, p),
    "nobody leaves": _written_out(lambda k, i: True),
    "the best alone": _written_out(lambda k, i: k <= i, top=1),
    "equals left out": _written_out(lambda k, i: k < i),
    "those above stay": _written_out(lambda k, i: k >= i),
    "mean of the places": _written_out(lambda k, i: k <= i, mean=True),
    "prompts thrown together": lambda r, s, p: listwise_loss(r, s, p * 0),
    "order of the file": lambda r, s, p: listwise_loss(r, -torch.arange(len(s)).double(), p),
    "by reward": lambda r, s, p: listwise_loss(r, r.detach(), p),
}


def test_written_out_with_nothing_wrong_it_passes() -> None:
    check_listwise(_written_out(lambda k, i: k <= i))


@pytest.mark.parametrize("wrong", LISTWISE_WRONG.values(), ids=LISTWISE_WRONG.keys())
def test_listwise_otherwise_is_seen(wrong: Listwise) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        check_listwise(wrong)


# --- regression -------------------------------------------------------------------------------------------------------


def check_standard(of: Callable[[Sequence[float]], ScoreNormalizer]) -> None:
    found = of([1, 2, 3, 6])  # mean 3; squares 4, 1, 0, 9: variance 14/4
    assert found.mean == 3.0 and found.scale == pytest.approx(math.sqrt(3.5), rel=1e-12)
    assert found(6) == pytest.approx(3 / math.sqrt(3.5)) and found(3) == 0
    assert of([4, 4])(5) == 1.0  # no deviation to divide by: the judges' own unit


def test_standard() -> None:
    check_standard(ScoreNormalizer.of)
    with pytest.raises(AssertionError):  # of a sample: n - 1
        check_standard(lambda scores: ScoreNormalizer(mean=ScoreNormalizer.of(scores).mean, scale=math.sqrt(14 / 3)))


def check_regression(implementation: Callable[[Tensor, Tensor], Tensor]) -> None:
    rewards = double([0.53, 0, -2]).requires_grad_()
    found = implementation(rewards, double([1, -1, 0.5]))
    torch.testing.assert_close(found.detach(), double([0.2209, 1, 6.25]), rtol=1e-12, atol=0)
    found.sum().backward()
    torch.testing.assert_close(rewards.grad, double([-0.94, 2, -5]), rtol=1e-12, atol=0)


REGRESSION_WRONG = {
    "halved": lambda r, t: 0.5 * (r - t) ** 2,
    "absolute": lambda r, t: (r - t).abs(),
    "sign of the target": lambda r, t: (r + t) ** 2,
    "fourth power": lambda r, t: (r - t) ** 4,
    "mean": lambda r, t: (r - t) ** 2 / len(r),
    "no gradient": lambda r, t: (r.detach() - t) ** 2 + 0 * r,
}


def test_regression() -> None:
    check_regression(regression_loss)


@pytest.mark.parametrize("wrong", REGRESSION_WRONG.values(), ids=REGRESSION_WRONG.keys())
def test_regression_otherwise_is_seen(wrong: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_regression(wrong)


# --- what is counted ----------------------------------------------------------------------------------------------------

# Prompt 0 has three answers and three pairs, prompt 1 two answers and a pair, prompt 2 one answer.
JUDGED = JudgedBatch(
    prompts=whole([0, 0, 0, 1, 1, 2]),
    scores=double([2, 1, 0, 1, -1, 3]),
    better=whole([0, 0, 1, 3]),
    worse=whole([1, 2, 2, 4]),
    difference=double([1, 2, 1, 2]),
)
REWARDS = (1.0, 0.0, -1.0, 0.5, 1.5, 2.0)


def nlog(x: float) -> float:
    return math.log1p(math.exp(-x))


def lse(*rewards: float) -> float:
    return math.log(sum(math.exp(r) for r in rewards))


PAIRS = [nlog(1 * 1), nlog(2 * 4), nlog(1 * 1), nlog(-1 * 4)]
LISTS = [lse(1, 0, -1) - 1 + lse(0, -1), lse(0.5, 1.5) - 0.5, 0.0]
SQUARES = [1.0, 1.0, 1.0, 0.25, 6.25, 1.0]
CASES = {
    # (loss, by) -> (sum, divisor)
    ("squared", "pair"): (sum(PAIRS), 4),
    ("squared", "prompt"): (sum(PAIRS[:3]) / 3 + PAIRS[3], 2),
    ("listwise", "pair"): (sum(LISTS), 3),
    ("listwise", "prompt"): (sum(LISTS), 3),
    ("regression", "pair"): (sum(SQUARES), 6),
    ("regression", "prompt"): (sum(SQUARES[:3]) / 3 + sum(SQUARES[3:5]) / 2 + SQUARES[5], 3),
}
# (2 m)^2: of each pair (1+0)^2, 0, (-1)^2, 2^2; of each prompt 0, 2^2, 4^2; of each answer (2 r)^2.
CENTRES = {
    ("squared", "pair"): 1 + 0 + 1 + 4,
    ("squared", "prompt"): 2 / 3 + 4,
    ("listwise", "pair"): 0 + 4 + 16,
    ("listwise", "prompt"): 0 + 4 + 16,
    ("regression", "pair"): 4 + 0 + 4 + 1 + 9 + 16,
    ("regression", "prompt"): 8 / 3 + 5 + 16,
}


@pytest.mark.parametrize(("name", "by"), CASES)
@pytest.mark.parametrize("center", [0.0, 0.1])
def test_an_objective_by_hand(name: str, by: str, center: float) -> None:
    aim = Objective(loss=REWARD_LOSSES[name], weigh=WEIGHTS[by], centering_coefficient=center)
    total, count = CASES[name, by]
    assert aim.count(JUDGED) == count
    found = float(aim.total(double(REWARDS), JUDGED))
    assert found == pytest.approx(total + center * CENTRES[name, by], rel=ROUNDING)


@pytest.mark.parametrize(("name", "by"), CASES)
def test_an_objective_in_parts_is_the_same(name: str, by: str) -> None:
    """Whole prompts apart: {0}, {1, 2} and {0}, {1}, {2}, and the prompts in another order."""
    aim = Objective(loss=REWARD_LOSSES[name], weigh=WEIGHTS[by], centering_coefficient=0.1)
    rewards = double(REWARDS)
    whole_total, whole_count = float(aim.total(rewards, JUDGED)), aim.count(JUDGED)
    for cuts in ([[0], [1, 2]], [[0], [1], [2]], [[2, 0], [1]]):
        parts = [only(prompts) for prompts in cuts]
        assert sum(aim.count(judged) for _, judged in parts) == whole_count
        found = sum(float(aim.total(rewards[rows], judged)) for rows, judged in parts)
        assert found == pytest.approx(whole_total, rel=ROUNDING)


def only(prompts: Sequence[int]) -> tuple[list[int], JudgedBatch]:
    """(rows, what was said of them) of some prompts alone, in this order."""
    rows = [i for prompt in prompts for i in range(6) if int(JUDGED.prompts[i]) == prompt]
    kept = [p for p in range(4) if int(JUDGED.prompts[JUDGED.better[p]]) in prompts]
    judged = JudgedBatch(
        prompts=whole([list(prompts).index(int(JUDGED.prompts[i])) for i in rows]),
        scores=JUDGED.scores[rows],
        better=whole([rows.index(int(JUDGED.better[p])) for p in kept]),
        worse=whole([rows.index(int(JUDGED.worse[p])) for p in kept]),
        difference=JUDGED.difference[kept],
    )
    return rows, judged


def test_weights() -> None:
    prompt_index, ones = whole([0, 0, 0, 3, 5, 5]), double([1] * 6)
    assert by_item(prompt_index, ones).each.tolist() == [1.0] * 6 and by_item(prompt_index, ones).total == 6
    found = by_prompt(prompt_index, ones)
    torch.testing.assert_close(found.each, double([1 / 3, 1 / 3, 1 / 3, 1, 0.5, 0.5]), rtol=0, atol=1e-15)
    assert found.total == 3
    assert by_prompt(prompt_index[:0], ones[:0]).total == 0
    of_judgements = double([2, 2, 2, 0.5, 1, 1])
    assert by_item(prompt_index, of_judgements).total == 8.5
    found = by_prompt(prompt_index, of_judgements)
    torch.testing.assert_close(found.each, double([2 / 3, 2 / 3, 2 / 3, 0.5, 0.5, 0.5]), rtol=0, atol=1e-15)
    assert found.total == 3.5


def weighted_mean(aim: Objective, rewards: Tensor, judged: JudgedBatch) -> float:
    return float(aim.total(rewards, judged)) / aim.count(judged)


@pytest.mark.parametrize(("name", "by"), [(name, by) for name in REWARD_LOSSES for by in WEIGHTS])
def test_a_weight_of_two_is_the_judgement_given_twice(name: str, by: str) -> None:
    """And a loss with the weights in its sum alone, or in none, is not."""
    aim = Objective(loss=REWARD_LOSSES[name], weigh=WEIGHTS[by], centering_coefficient=0.1)
    rewards = double(REWARDS)
    rows, twice = only([0, 1, 2])
    repeat, count = only([0])[1], len(rows)
    first = [i for i in rows if int(JUDGED.prompts[i]) == 0]
    both = JudgedBatch(
        prompts=torch.cat([twice.prompts, repeat.prompts + 3]),
        scores=torch.cat([twice.scores, repeat.scores]),
        better=torch.cat([twice.better, repeat.better + count]),
        worse=torch.cat([twice.worse, repeat.worse + count]),
        difference=torch.cat([twice.difference, repeat.difference]),
    )
    expected = weighted_mean(aim, rewards[[*rows, *first]], both)
    weighted = replace(twice, weights=double([2, 1, 1]))
    assert weighted_mean(aim, rewards[rows], weighted) == pytest.approx(expected, rel=ROUNDING)
    wrong = float(aim.total(rewards[rows], weighted)) / aim.count(twice)
    assert wrong != pytest.approx(expected, rel=1e-3)
    assert weighted_mean(aim, rewards[rows], twice) != pytest.approx(expected, rel=1e-3)
    same = replace(twice, weights=double([1, 1, 1]))
    assert float(aim.total(rewards[rows], same)) == float(aim.total(rewards[rows], twice))  # to the last bit
    assert aim.count(same) == aim.count(twice)


def test_the_weights_of_scores_are_repeats() -> None:
    assert ScoreNormalizer.of([1, 5, 6], [2, 1, 1]) == ScoreNormalizer(mean=3.25, scale=math.sqrt(5.1875))
    repeated = ScoreNormalizer.of([1, 1, 5, 6])
    assert (repeated.mean, repeated.scale) == (3.25, pytest.approx(math.sqrt(5.1875), rel=ROUNDING))
    assert ScoreNormalizer.of([0.1, 0.7, 0.3], [1, 1, 1]) == ScoreNormalizer.of([0.1, 0.7, 0.3])
    assert ScoreNormalizer.of([4, 4], [2, 3]) == ScoreNormalizer(mean=4, scale=1)


def test_tied_answers_and_lonely_ones_without_a_pair() -> None:
    """Nothing to rank: no pair counts, a list of equals is drawn together, scores are still scores."""
    none = whole([])
    judged = replace(JUDGED, scores=double([1] * 6), better=none, worse=none, difference=double([]))
    rewards = double(REWARDS)
    counts = {name: Objective(loss=loss, weigh=by_prompt).count(judged) for name, loss in REWARD_LOSSES.items()}
    assert counts == {"squared": 0, "bradley_terry": 0, "margin": 0, "scaled": 0, "listwise": 3, "regression": 3}
    assert float(Objective(loss=REWARD_LOSSES["squared"], weigh=by_item).total(rewards, judged)) == 0
