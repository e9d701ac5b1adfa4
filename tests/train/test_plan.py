"""What networks take of memory, against hand arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sawyer.train import OptimizerStep, memory_plan_summary, plan_memory

MB = 2**20


def test_weights_count_once_and_what_is_trained_four_times() -> None:
    """fp32: 4 bytes a weight; gradient and AdamW's two moments as much again each."""
    first, second = nn.Linear(1000, 1000, bias=False), nn.Linear(1000, 500)
    second.shared = first  # type: ignore[assignment]
    held = plan_memory({"one": first, "other": second, "none": first}, [first.weight, second.bias])
    one, other, none = held
    assert (one.frozen_weights, one.trained_weights, one.optimizer_state) == pytest.approx((0.0, 4e6 / MB, 12e6 / MB))
    assert (other.frozen_weights, other.trained_weights, other.optimizer_state) == pytest.approx(
        (2e6 / MB, 2000 / MB, 6000 / MB)
    )
    assert none.total == 0.0
    told = memory_plan_summary(held)
    assert told.startswith(
        "one 15 MB (3.8 trained, 11 of gradients and optimizer state); other 1.9 MB (1.9 frozen, 0.0019 trained"
    )
    assert told.endswith("; 17 MB in all, before a batch runs") and "none" not in told


def test_it_is_what_training_holds() -> None:
    """The optimizer's own state and the gradients, counted after a step."""
    network = nn.Linear(30, 20)
    learner = OptimizerStep(network, name="one", learning_rate=0.1, factor=lambda _: 1.0)
    kept: list[float] = []

    def loss(part: torch.Tensor) -> torch.Tensor:
        return network(part).square().sum()

    learner.accumulate([torch.ones(3, 30)], loss, 3.0)
    kept += [weight.grad.numel() for weight in network.parameters() if weight.grad is not None]
    learner.update([torch.ones(3, 30)], loss, 3.0)
    kept += [one.numel() for state in learner.optimizer.state.values() for one in state.values() if one.numel() > 1]
    assert plan_memory({"one": network}, learner.parameters)[0].optimizer_state == pytest.approx(sum(kept) * 4 / MB)
