"""Log-probs made from states, against autograd through all the logits in float64, however they are cut."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor

from sawyer.maths import projected_logprobs

MODULE = import_module("sawyer.maths.logprobs")
ROWS, WIDTH, VOCABULARY = 7, 5, 23


def drawn(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(states, weight, bias, targets), numbers that bf16 holds exactly."""
    draw = torch.Generator().manual_seed(3)
    sizes = ((ROWS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    parts = [torch.randn(size, generator=draw).bfloat16().to(dtype).requires_grad_() for size in sizes]
    return parts[0], parts[1], parts[2], torch.randint(VOCABULARY, (ROWS,), generator=draw)


def exact(temperature: float, aim: Tensor, *, sign: float = 1.0, shift: int = 0) -> list[Tensor]:
    """(value, gradients of states, weight, bias) by autograd in float64."""
    states, weight, bias, targets = drawn(torch.float64)
    table = torch.log_softmax(sign * (states @ weight.T + bias) / temperature, 1)
    found = table[torch.arange(ROWS), (targets + shift) % VOCABULARY]
    (found * aim).sum().backward()
    return [found.detach(), *(part.grad for part in (states, weight, bias))]  # type: ignore[list-item]


def ours(temperature: float, aim: Tensor, precision: torch.dtype) -> list[Tensor]:
    states, weight, bias, targets = drawn(torch.float32)
    found = projected_logprobs(states, weight, bias, targets, temperature=temperature, precision=precision)
    assert found.dtype == torch.float32
    (found * aim).sum().backward()
    assert all(part.grad.dtype == torch.float32 for part in (states, weight, bias))  # type: ignore[union-attr]
    return [found.detach(), *(part.grad for part in (states, weight, bias))]  # type: ignore[list-item]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    return all(torch.allclose(f.double(), e, atol=tolerance) for f, e in zip(found, expected, strict=True))


AIM = torch.linspace(-1, 2, ROWS)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 3 * VOCABULARY, 2**26])
@pytest.mark.parametrize("kept", [0, 2**27])
@pytest.mark.parametrize("columns", [1, 5, 2**11])  # 5: the last piece of the 23 tokens is shorter
def test_values_and_gradients(monkeypatch: pytest.MonkeyPatch, temperature: float, chunk: int, kept: int, columns: int) -> None:
    monkeypatch.setattr(MODULE, "COLUMNS", columns)
    monkeypatch.setattr(MODULE, "CHUNK", chunk)
    monkeypatch.setattr(MODULE, "SAVE", kept)
    monkeypatch.setattr(MODULE, "BLOCK", min(chunk, 2 * min(columns, VOCABULARY)))  # of one row or two
    found = ours(temperature, AIM, torch.float32)
    assert close(found, exact(temperature, AIM.double()), 1e-5)
    assert not close(found, exact(temperature * 1.1, AIM.double()), 1e-2)
    assert not close(found, exact(temperature, -AIM.double()), 1e-2)
    assert not close(found, exact(temperature, AIM.double(), sign=-1), 1e-2)
    assert not close(found, exact(temperature, AIM.double(), shift=1), 1e-2)


@pytest.mark.parametrize("chunk", [3 * VOCABULARY, 2**26])
@pytest.mark.parametrize("kept", [0, 2**27])
def test_bf16_products_round_no_more_than_bf16_does(monkeypatch: pytest.MonkeyPatch, chunk: int, kept: int) -> None:
    monkeypatch.setattr(MODULE, "CHUNK", chunk)
    monkeypatch.setattr(MODULE, "SAVE", kept)
    found = ours(1.0, AIM, torch.bfloat16)
    assert close(found, exact(1.0, AIM.double()), 0.1)
    assert not close(found, exact(1.0, AIM.double()), 1e-5)


def test_a_sure_token_keeps_its_small_gradient_in_bf16() -> None:
    """1 - p of a token with p near 1 is taken from fp32 numbers: of bf16 ones nothing of it would be left."""
    weight = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    targets = torch.arange(ROWS)
    states = (weight[targets] * 4 * WIDTH / weight[targets].square().sum(1, keepdim=True)).bfloat16().float().requires_grad_()
    found = projected_logprobs(states, weight, None, targets, temperature=1.0, precision=torch.bfloat16)
    found.sum().backward()
    whole = states.detach().double().requires_grad_()
    expected = torch.log_softmax(whole @ weight.double().T, 1)[torch.arange(ROWS), targets]
    expected.sum().backward()
    sure = expected > -0.01
    assert states.grad is not None and whole.grad is not None and 0 < sure.sum() < ROWS
    off = (states.grad.double() - whole.grad).norm(dim=1) / whole.grad.norm(dim=1)
    assert (off < 0.05).all()


def test_no_rows_ask_for_nothing() -> None:
    states, weight = torch.ones(0, WIDTH, requires_grad=True), torch.ones(VOCABULARY, WIDTH, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    found = projected_logprobs(states, weight, None, none, temperature=1.0, precision=torch.float32)
    found.sum().backward()
    assert found.shape == (0,) and weight.grad is not None and not weight.grad.any()


@pytest.mark.parametrize("columns", [4, 2**11])
def test_targets_far_below_the_greatest_logit(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """By more than exp can tell apart in fp32: in pieces too a row has one greatest logit, not one a piece."""
    monkeypatch.setattr(MODULE, "COLUMNS", columns)
    weight = torch.linspace(-150.0, 150.0, VOCABULARY).unsqueeze(1).requires_grad_()
    states, targets = torch.ones(3, 1, requires_grad=True), torch.tensor([0, 11, VOCABULARY - 1])
    found = projected_logprobs(states, weight, None, targets, temperature=1.0, precision=torch.float32)
    found.sum().backward()
    assert torch.allclose(found, weight.detach()[targets, 0] - 150, atol=1e-4)
    onehot = torch.eye(VOCABULARY)[targets]
    likely = torch.eye(VOCABULARY)[-1]  # the share of all others is below 1e-5
    assert weight.grad is not None and states.grad is not None
    assert torch.allclose(weight.grad[:, 0], (onehot - likely).sum(0), atol=1e-4)
    assert torch.allclose(states.grad[:, 0], (onehot - likely) @ weight.detach()[:, 0], atol=1e-2)


def test_without_a_gradient_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    real = MODULE._exponentiate
    monkeypatch.setattr(MODULE, "_exponentiate", lambda *given, save: (kept.append(save), real(*given, save=save)))
    states, weight, _, targets = drawn(torch.float32)
    with torch.no_grad():
        found = projected_logprobs(states, weight, None, targets, temperature=1.0, precision=torch.float32)
        expected = torch.log_softmax(states @ weight.T, 1)[torch.arange(ROWS), targets]
    assert torch.allclose(found, expected, atol=1e-6) and not found.requires_grad
    projected_logprobs(states, weight, None, targets, temperature=1.0, precision=torch.float32)
    assert kept == [False, True]
