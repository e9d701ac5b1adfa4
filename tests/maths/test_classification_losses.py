"""A classifier's losses by hand, in float64, and with the known wrong variants."""

from __future__ import annotations

import math

import pytest
import torch

from sawyer.maths import LABEL_LOSSES
from sawyer.maths.classification_losses import multi_label_loss, single_label_loss


def test_one_label_by_hand() -> None:
    """Logits (log 1, log 2, log 5): shares 1/8, 2/8, 5/8."""
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]))
    truth = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert single_label_loss(logits, truth).tolist() == pytest.approx([math.log(8 / 5), math.log(8)])


def test_each_label_by_hand() -> None:
    """Logits log 3, 0, -log 4: sigmoids 3/4, 1/2, 1/5."""
    logits = torch.tensor([[math.log(3), 0.0, -math.log(4)]])
    truth = torch.tensor([[1.0, 0.0, 1.0]])
    expected = -(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 5))
    assert multi_label_loss(logits, truth).tolist() == pytest.approx([expected])
    assert multi_label_loss(logits, 1 - truth).tolist() != pytest.approx([expected]), "truth inverted"
    assert expected / 3 != pytest.approx(expected), "the mean over labels would count a row by their number"
    assert multi_label_loss(logits, torch.zeros(1, 3)).tolist() == pytest.approx(
        [-(math.log(1 / 4) + math.log(1 / 2) + math.log(4 / 5))]
    )


@pytest.mark.parametrize("many", [False, True])
def test_gradients_in_float64_and_at_the_extremes(many: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    truth = torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1]]
    assert torch.autograd.gradcheck(lambda z: LABEL_LOSSES[many](z, truth), (logits,))
    shares = torch.sigmoid(logits) if many else torch.softmax(logits, 1)
    (gradient,) = torch.autograd.grad(LABEL_LOSSES[many](logits, truth).sum(), logits)
    assert torch.allclose(gradient, shares - truth)
    far = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = LABEL_LOSSES[many](far, torch.tensor([[0.0, 1.0, 0.0]])).sum()
    loss.backward()
    assert math.isfinite(float(loss.detach())) and far.grad is not None and bool(torch.isfinite(far.grad).all())
