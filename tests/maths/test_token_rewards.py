"""A reward per token: hand arithmetic, a loop over tokens, and nothing from outside the response."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sawyer.maths import clip_scores, missing_eos, token_rewards
from sawyer.maths.masked import keep

EXACT = 0.0
ROUNDING = 1e-12  # float64, a few operations on numbers of size 1
SINGLE = 1e-6  # fp32, a few operations on numbers of size 1
POISONS = (math.nan, math.inf, -math.inf)

WIDTH = 6
SPANS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, WIDTH)), min_size=1, max_size=4)  # (first, length) a row

Rewards = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def close(found: Tensor, expected: object, tolerance: float) -> None:
    required_section = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == required_section.shape
    assert bool(((found.double() - required_section).abs() <= tolerance).all()), f"{found} is not {required_section}"


def mask_of(spans: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([[first <= t < first + length for t in range(WIDTH)] for first, length in spans])


def draws(mask: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(mask), generator=generator, dtype=torch.float64)
    logprobs, ref = -3 * torch.rand(2, *mask.shape, generator=generator, dtype=torch.float64)
    return scores, logprobs, ref


def loop(scores: Tensor, logprobs: Tensor, ref: Tensor, mask: Tensor, beta: float) -> list[list[float]]:
    rows = []
    for b in range(len(mask)):
        row = [0.0] * mask.shape[1]
        final = None
        for t in range(mask.shape[1]):
            if mask[b, t]:
                row[t] = -beta * (float(logprobs[b, t]) - float(ref[b, t]))
                final = t
        if final is not None:
            row[final] += float(scores[b])
        rows.append(row)
    return rows


def check_rewards(implementation: Rewards) -> None:
    # log pi - log ref is 0.5, -0.5, 1 in the first row and, where counted, -2, 1 in the second; beta 0.1.
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -1.0, -9.0], [-1.0, -1.0, -1.0], [-9.0, -2.0, -2.0]])
    ref = torch.tensor([[-1.5, -1.5, -4.0], [-2.0, -2.0, -1.0], [-2.0, -2.0, -2.0], [-1.0, -1.0, -4.0]])
    mask = torch.tensor([[True, True, True], [True, True, False], [False, False, False], [False, True, True]])
    found = implementation(torch.tensor([2.0, -1.0, 5.0, 0.5]), logprobs, ref, mask, 0.1)
    expected = [[-0.05, 0.05, 2 - 0.1], [0.2, -1 - 0.1, 0], [0, 0, 0], [0, 0.1, 0.5 - 0.2]]
    close(found, expected, SINGLE)

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(SPANS, st.integers(0, 2**16), st.sampled_from([0.0, 0.05, 1.0]))
    def ragged(spans: list[tuple[int, int]], seed: int, beta: float) -> None:
        mask = mask_of(spans)
        given_to = draws(mask, seed)
        found = implementation(*given_to, mask, beta)
        close(found, loop(*given_to, mask, beta), ROUNDING)
        # Over a response: the score less beta times its KL, however long it is.
        scores, logprobs, ref = given_to
        sums = [
            float(scores[b]) - beta * float((logprobs[b] - ref[b])[mask[b]].sum()) if mask[b].any() else 0.0
            for b in range(len(mask))
        ]
        close(found.sum(1), sums, ROUNDING * WIDTH)

    ragged()


def check_rewards_see_no_padding(implementation: Rewards) -> None:
    """The value and each gradient are those with 0 at padding and, for an empty response, as its score."""
    mask = mask_of([(0, WIDTH), (0, 3), (2, 2), (0, 0)])
    weights = torch.arange(1.0, 1 + mask.numel()).view(mask.shape).double()

    def all_of(outside: float) -> list[Tensor]:
        scores, logprobs, ref = draws(mask, 3)
        scores = torch.where(mask.any(1), scores, outside).requires_grad_()
        logprobs = torch.where(mask, logprobs, outside).requires_grad_()
        ref = torch.where(mask, ref, outside).requires_grad_()
        found = implementation(scores, logprobs, ref, mask, 0.05)
        (found * weights).sum().backward()
        assert scores.grad is not None and logprobs.grad is not None and ref.grad is not None
        return [found.detach(), scores.grad, logprobs.grad, ref.grad]

    clean = all_of(0.0)
    assert bool((clean[0][~mask] == 0).all())
    for poison in POISONS:
        assert all(torch.equal(a, b) for a, b in zip(all_of(poison), clean, strict=True)), poison


def check_clip(implementation: Callable[[Tensor, float], Tensor]) -> None:
    close(implementation(torch.tensor([-9.0, -2.0, -1.5, 0.0, 1.5, 2.5]), 2.0), [-2, -2, -1.5, 0, 1.5, 2], EXACT)


def check_missing_eos(implementation: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    found = implementation(torch.tensor([1.0, 1.0, -2.0]), torch.tensor([True, False, False]), 0.75)
    close(found, [1, 0.25, -2.75], EXACT)
    close(implementation(torch.tensor([3.0]), torch.tensor([False]), 0.0), [3], EXACT)


def test_rewards_of_tokens() -> None:
    check_rewards(token_rewards)


def test_rewards_see_no_padding() -> None:
    check_rewards_see_no_padding(token_rewards)


def test_clipped_scores() -> None:
    check_clip(clip_scores)


def test_a_response_without_its_end_is_fined() -> None:
    check_missing_eos(missing_eos)


def test_gradients_are_the_numerical_ones() -> None:
    mask = mask_of([(0, WIDTH), (1, 3), (0, 0)])
    inputs = tuple(x.requires_grad_() for x in draws(mask, 5))
    assert torch.autograd.gradcheck(lambda s, p, q: token_rewards(s, p, q, mask, 0.3), inputs)


def test_more_padding_changes_nothing() -> None:
    mask = mask_of([(0, 4), (0, 2)])
    scores, logprobs, ref = draws(mask, 7)
    whole = token_rewards(scores, logprobs, ref, mask, 0.05)
    assert torch.equal(token_rewards(scores, logprobs[:, :4], ref[:, :4], mask[:, :4], 0.05), whole[:, :4])


def _place(rewards: Tensor, scores: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """`rewards` plus the score at `places` (B,), -1 for none."""
    return rewards + torch.where(torch.arange(mask.shape[1]) == places.unsqueeze(1), scores.unsqueeze(1), 0.0)


def _only_kl(p: Tensor, q: Tensor, m: Tensor, beta: float) -> Tensor:
    return -beta * (keep(p, m) - keep(q, m))


def _last(m: Tensor) -> Tensor:
    return torch.where(m, torch.arange(m.shape[1]), -1).max(1).values


def _first(m: Tensor) -> Tensor:
    return torch.where(m.any(1), m.int().argmax(1), -1)


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Tensor]]] = {
    "KL's sign flipped": (check_rewards, lambda s, p, q, m, b: token_rewards(s, q, p, m, b)),
    "score's sign flipped": (check_rewards, lambda s, p, q, m, b: token_rewards(-s, p, q, m, b)),
    "mask inverted": (check_rewards, lambda s, p, q, m, b: token_rewards(s, p, q, ~m, b)),
    "beta squared": (check_rewards, lambda s, p, q, m, b: token_rewards(s, p, q, m, b * b)),
    "no KL": (check_rewards, lambda s, p, q, m, b: token_rewards(s, q, q, m, b)),
    "no score": (check_rewards, lambda s, p, q, m, b: _only_kl(p, q, m, b)),
    "score at the first token": (
        check_rewards,
        lambda s, p, q, m, b: _place(_only_kl(p, q, m, b), s, m, _first(m)),
    ),
    "score one too early": (
        check_rewards,
        lambda s, p, q, m, b: _place(_only_kl(p, q, m, b), s, m, _last(m) - 1),
    ),
    "score one too late": (
        check_rewards,
        lambda s, p, q, m, b: _place(_only_kl(p, q, m, b), s, m, (_last(m) + 1) * m.any(1)),
    ),
    "score in the last column": (
        check_rewards,
        lambda s, p, q, m, b: _place(_only_kl(p, q, m, b), s, m, torch.full_like(_last(m), m.shape[1] - 1)),
    ),
    "score where the count says": (
        check_rewards,
        lambda s, p, q, m, b: _place(_only_kl(p, q, m, b), s, m, m.sum(1) - 1),
    ),
    "score of an empty response": (
        check_rewards,
        lambda s, p, q, m, b: _place(_only_kl(p, q, m, b), s, m, _last(m) % m.shape[1]),
    ),
    "score at every token": (
        check_rewards,
        lambda s, p, q, m, b: keep(_only_kl(p, q, m, b) + s.unsqueeze(1), m),
    ),
    "score in place of the last KL": (
        check_rewards,
        lambda s, p, q, m, b: token_rewards(s, torch.where(_place(p * 0, s * 0 + 1, m, _last(m)) > 0, q, p), q, m, b),
    ),
    "whole KL at the end": (
        check_rewards,
        lambda s, p, q, m, b: _place(p * 0, s + _only_kl(p, q, m, b).sum(1), m, _last(m)),
    ),
    "padding by product": (
        check_rewards_see_no_padding,
        lambda s, p, q, m, b: _place(-b * (p - q) * m, s, m, _last(m)),
    ),
    "padding kept after the difference, as numbers": (
        check_rewards_see_no_padding,
        lambda s, p, q, m, b: _place(-b * (p - q), s, m, _last(m)),
    ),
    "clip, above only": (check_clip, lambda s, c: s.clamp(max=c)),
    "clip, below only": (check_clip, lambda s, c: s.clamp(min=-c)),
    "clip, squashed": (check_clip, lambda s, c: c * (s / c).tanh()),
    "clip, dropped": (check_clip, lambda s, c: torch.where(s.abs() <= c, s, 0.0)),
    "no end, inverted": (check_missing_eos, lambda s, e, p: missing_eos(s, ~e, p)),
    "no end, added": (check_missing_eos, lambda s, e, p: missing_eos(s, e, -p)),
    "no end, replaced": (check_missing_eos, lambda s, e, p: torch.where(e, s, -p)),
    "no end, everyone": (check_missing_eos, lambda s, e, p: s - p),
}


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)
