"""Log-probabilities against hand arithmetic, loops over math.exp and closed forms of their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sawyer.maths import token_logprobs

SINGLE = 2e-6  # fp32 results of a dozen operations, values up to about 10
LARGE = 1e-3  # fp32 at 1e4: one last place is 1e-3
INF = math.inf

Logprobs = Callable[[Tensor, Tensor], Tensor]


def close(found: Tensor, expected: object, tolerance: float) -> None:
    required_section = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == required_section.shape and found.dtype == torch.float32
    assert bool(((found.double() - required_section).abs() <= tolerance).all()), f"{found} is not {required_section}"


def logits(seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed))


def probabilities(row: list[float]) -> list[float]:
    """Softmax by its definition, in float64."""
    top = max(row)
    weights = [math.exp(z - top) for z in row]
    return [w / math.fsum(weights) for w in weights]


def check_logprobs(implementation: Logprobs) -> None:
    # Logits 0 and log 3: probabilities 1/4 and 3/4.
    two = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    close(implementation(two, torch.tensor([0, 1])), [math.log(1 / 4), math.log(3 / 4)], SINGLE)
    # Plain loops; and a common shift of a state's logits changes nothing.
    table, targets = logits(), torch.tensor([[0, 4, 2], [1, 3, 0]])
    expected = [[math.log(probabilities(table[b, t].tolist())[int(targets[b, t])]) for t in range(3)] for b in range(2)]
    close(implementation(table, targets), expected, SINGLE)
    close(implementation(table + 2.0, targets), expected, 2 * SINGLE)
    # 1e4 apart: exp overflows, the log-probabilities are still 0 and -1e4.
    far = torch.tensor([[1e4, 0.0], [1e4, 0.0]])
    close(implementation(far, torch.tensor([0, 1])), [0, -1e4], LARGE)
    # A token that is ruled out takes no part: log 1/2 each, and -inf for itself.
    close(implementation(torch.tensor([[1.0, -INF, 1.0]]), torch.tensor([2])), [math.log(1 / 2)], SINGLE)
    assert implementation(torch.tensor([[1.0, -INF, 1.0]]), torch.tensor([1])).tolist() == [-INF]
    # Half-precision logits are read as they are, and worked on in fp32.
    half = table.bfloat16()
    expected = [[math.log(probabilities(half[b, t].tolist())[int(targets[b, t])]) for t in range(3)] for b in range(2)]
    close(implementation(half, targets), expected, SINGLE)


def check_logprobs_gradient(implementation: Logprobs) -> None:
    """d log p_y / d z_v = [v = y] - p_v."""
    for extreme in (0.0, 500.0):
        table, targets = logits(1), torch.tensor([[0, 4, 2], [1, 3, 0]])
        table[..., 0] += extreme
        expected = [
            [[float(v == targets[b, t]) - p for v, p in enumerate(probabilities(table[b, t].tolist()))] for t in range(3)]
            for b in range(2)
        ]
        table.requires_grad_()
        implementation(table, targets).sum().backward()
        assert table.grad is not None
        close(table.grad, expected, SINGLE)


def test_logprobs() -> None:
    check_logprobs(token_logprobs)
    check_logprobs_gradient(token_logprobs)


def test_the_probabilities_of_all_tokens_sum_to_1() -> None:
    table = logits(2)
    every = torch.stack([token_logprobs(table, torch.full((2, 3), v)) for v in range(5)], dim=-1).double()
    close(every.exp().sum(-1).float(), [[1.0] * 3] * 2, SINGLE)


def test_not_a_number_is_not_hidden() -> None:
    assert math.isnan(float(token_logprobs(torch.tensor([0.0, math.nan]), torch.tensor(0))))


def _chosen(z: Tensor, y: Tensor) -> Tensor:
    return z.gather(-1, y.unsqueeze(-1)).squeeze(-1)


MUTANTS: dict[str, tuple[Callable[..., None], Callable[..., Tensor]]] = {
    "logprobs, sign flipped": (check_logprobs, lambda z, y: -token_logprobs(z, y)),
    "logprobs, next token": (check_logprobs, lambda z, y: token_logprobs(z, (y + 1) % z.shape[-1])),
    "logprobs, probability": (check_logprobs, lambda z, y: token_logprobs(z, y).exp()),
    "logprobs, bits": (check_logprobs, lambda z, y: token_logprobs(z, y) / math.log(2)),
    "logprobs, not normalised": (check_logprobs, lambda z, y: _chosen(z.float(), y)),
    "logprobs, normalised over places": (check_logprobs, lambda z, y: _chosen(z.float().log_softmax(0), y)),
    "logprobs, in the logits' precision": (check_logprobs, lambda z, y: _chosen(z.log_softmax(-1), y).float()),
    "logprobs, exp overflows": (check_logprobs, lambda z, y: _chosen(z.float(), y) - z.float().exp().sum(-1).log()),
    "logprobs, log of softmax": (check_logprobs, lambda z, y: _chosen(z.float().softmax(-1), y).log()),
    "logprobs, normaliser without gradient": (
        check_logprobs_gradient,
        lambda z, y: _chosen(z, y) - z.detach().logsumexp(-1),
    ),
}


@pytest.mark.parametrize(("check", "mutant"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_are_rejected(check: Callable[..., None], mutant: Callable[..., Tensor]) -> None:
    with pytest.raises(AssertionError):
        check(mutant)
