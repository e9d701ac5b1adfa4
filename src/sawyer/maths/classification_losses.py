"""Losses of a classifier, one a row: the caller sums them and divides once by the rows of the whole optimizer batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

LabelLoss = Callable[[Tensor, Tensor], Tensor]


def single_label_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """-log softmax(z)_c at the true class c, (B,): cross entropy. Logits (B, C), truth (B, C) with a single 1 a row."""
    return cross_entropy(logits, truth.argmax(1), reduction="none")


def multi_label_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """sum_c -[y_c log sigmoid(z_c) + (1 - y_c) log sigmoid(-z_c)], (B,): binary cross entropy. Logits and truth (B, C)."""
    return binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none").sum(1)


# By whether several labels may apply to a row.
LABEL_LOSSES: Mapping[bool, LabelLoss] = {False: single_label_loss, True: multi_label_loss}
