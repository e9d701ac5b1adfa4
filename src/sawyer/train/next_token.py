"""Next-token training: the optimizer steps that the base model and SFT share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from sawyer.maths import linear_schedule
from sawyer.models import policy_logprobs, row_cost
from sawyer.text import Batch, Row, batches
from sawyer.train.device import Placement
from sawyer.train.micro_batches import shard_micro_batches
from sawyer.train.optimizer_step import OptimizerStep
from sawyer.train.rng import batch_indices


class NextTokenLoop:
    """Steps over `total` rows, drawn from `rows` in seeded order, `batch_size` a step; the loss is of their trained tokens.

    `warmup_fraction` is a share of the steps, `token_budget` the padded tokens that go through the model at once.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        placement: Placement,
        *,
        stage: str,
        total: int,
        batch_size: int,
        learning_rate: float,
        warmup_fraction: float,
        pad_id: int,
        token_budget: int,
        seed: int,
    ) -> None:
        self.model, self.rows, self.placement, self.stage = model, rows, placement, stage
        self.total, self.batch_size, self.seed = total, batch_size, seed
        self.pad_id, self.token_budget, self.step_tokens = pad_id, token_budget, 0
        self.steps, self.cost = math.ceil(total / batch_size), row_cost(model)
        factor = partial(linear_schedule, steps=self.steps, warmup_steps=math.ceil(warmup_fraction * self.steps))
        self.optimizer_step = OptimizerStep(model, name=stage, learning_rate=learning_rate, factor=factor)

    def step(self, index: int) -> Mapping[str, float]:
        chosen = batch_indices(len(self.rows), self.batch_size, index, total=self.total, seed=self.seed, stage=self.stage)
        rows = [self.rows[i] for i in chosen]
        count = sum(sum(row.loss_mask) for row in rows)
        self.step_tokens = sum(len(row.ids) for row in rows)
        split = partial(batches, pad_id=self.pad_id, token_budget=self.token_budget)
        update = self.optimizer_step.update(
            shard_micro_batches(rows, self.cost, split), lambda part: self._loss(part[1]), count
        )
        return {
            "loss": update.loss,
            "learning_rate": update.learning_rate,
            "grad_norm": update.grad_norm,
            "tokens": count,
        }

    def _loss(self, batch: Batch) -> Tensor:
        with self.placement.autocast():
            return -policy_logprobs(self.model, batch.to(self.placement.device)).logprobs.sum()

    def state(self) -> dict[str, Any]:
        return self.optimizer_step.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.optimizer_step.load(state)
