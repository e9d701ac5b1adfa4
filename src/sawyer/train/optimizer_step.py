"""One optimizer step: the losses of the micro-batches are summed, divided once, checked, and only then applied.

Several processes have different micro-batches. Their gradients are summed before clipping and before the step, so that the
weights and the optimizer's state stay the same in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from sawyer.errors import NotFiniteError
from sawyer.train import distributed
from sawyer.train.micro_batches import MicroBatches

MicroBatch = TypeVar("MicroBatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one optimizer step did: the batch's mean loss, the gradient's norm before clipping, the rate applied."""

    loss: float
    grad_norm: float
    learning_rate: float


def sum_gradients(weights: Sequence[nn.Parameter], total: float) -> float:
    """Replace each weight's gradient by its sum over the processes; returns the sum of their `total`s."""
    if distributed.count() == 1:
        return total
    # A weight that this process's rows did not use has no gradient here, but has one elsewhere: all must sum the same tensors.
    for weight in weights:
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad.contiguous()
    distributed.all_reduce_(*(cast(Tensor, weight.grad) for weight in weights))
    return distributed.all_reduce_sum(total)[0]


class OptimizerStep:
    """A network with its AdamW optimizer (no weight decay) and learning-rate schedule.

    `factor(step)` scales `learning_rate`; gradients are clipped to the norm `max_norm`. The sum of a batch's losses is
    divided by the batch's global count, so however a batch is split into parts the gradient is the same to rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        learning_rate: float,
        factor: Callable[[int], float],
        max_norm: float = 1.0,
        eps: float = 1e-8,
    ) -> None:
        self.model, self.name = model, name
        self.learning_rate, self.factor, self.max_norm = learning_rate, factor, max_norm
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, eps=eps, weight_decay=0.0, fused=True)
        self.steps_done = 0

    def update(
        self,
        batch: MicroBatches[MicroBatch] | Iterable[MicroBatch],
        loss: Callable[[MicroBatch], Tensor],
        count: float,
        *,
        idle_loss: Callable[[MicroBatch], Tensor] | None = None,
    ) -> Update:
        """Apply the gradient of `sum(loss(part)) / count`.

        `loss` returns the sum over a part's counted tokens or pairs; `count` is their number in the whole batch, whichever
        process has its parts. `idle_loss` is the same for idle parts, where `loss` also adds up figures, which must not count.
        Raises NotFiniteError, with the weights untouched, when the loss or its gradient is not finite.
        """
        total, norm = self.accumulate(batch, loss, count, idle_loss=idle_loss)
        if not (math.isfinite(total) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NotFiniteError(
                f"{self.name}: update {self.steps_done} has loss {total} and gradient norm {norm}",
                expected="finite numbers",
                why="applying it would destroy the weights; they are unchanged",
                todo="lower the learning rate, or look for extreme scores or rows in the data of this stage",
            )
        rate = self.learning_rate * self.factor(self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        return Update(loss=total, grad_norm=norm, learning_rate=rate)

    def accumulate(
        self,
        batch: MicroBatches[MicroBatch] | Iterable[MicroBatch],
        loss: Callable[[MicroBatch], Tensor],
        count: float,
        *,
        idle_loss: Callable[[MicroBatch], Tensor] | None = None,
    ) -> tuple[float, float]:
        """Leave the batch's clipped gradient on the weights; returns (mean loss, norm before clipping)."""
        parts, idle = (batch.parts, batch.idle) if isinstance(batch, MicroBatches) else (batch, ())
        total = 0.0
        for part in parts:
            share = loss(part) / count
            share.backward()
            total += float(share.detach())
        for part in idle:
            # Times 0 it adds nothing to the gradient. Where it is not finite, so is the batch, which then is refused anyway.
            ((idle_loss or loss)(part) * 0.0).backward()
        total = sum_gradients(self.parameters, total)
        return total, float(nn.utils.clip_grad_norm_(self.parameters, self.max_norm))

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs: trained weights, optimizer, steps done."""
        return {"model": trained_weights(self.model), "optimizer": self.optimizer.state_dict(), "steps": self.steps_done}

    def load(self, state: Mapping[str, Any]) -> None:
        """Resume exactly where `state` was taken."""
        restore_weights(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_done = state["steps"]


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trained weights by name. The frozen ones are those of the folder they came from, and need no checkpoint."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def restore_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights from `trained_weights`. Raises KeyError or RuntimeError where they are of another network."""
    for name, weight in trained_weights(model).items():
        if weights[name].shape != weight.shape:
            raise RuntimeError(f"{name} has the shape {tuple(weights[name].shape)}, not {tuple(weight.shape)}")
        weight.copy_(weights[name])
