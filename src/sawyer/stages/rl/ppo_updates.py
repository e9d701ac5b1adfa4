"""One batch's update on sampled answers: a few epochs over the rollout in minibatches. PPO, RLOO and GRPO share it.

Policy loss: mean over counted tokens of max(-A rho, -A clip(rho, 1-eps, 1+eps)), rho = pi / pi_old (arXiv 1707.06347,
eq. 7); GRPO adds beta k3, the KL to the reference. Value loss, where a network estimates values:
0.5 max((V - R)^2, (clip(V, V_old +- eps_v) - R)^2). A separate value network shares no weight with the policy, so its loss
needs no coefficient: its learning rate is that. A head on the policy's trunk is trained in the same step, its loss times 0.1.
Ridge values have no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sawyer.config import Rl
from sawyer.maths import explained_variance, grpo_kl, ppo_value
from sawyer.models import PolicyWithValue, RidgeValues, policy_logprobs
from sawyer.stages.rl.rl_algorithms import ALGORITHMS, UpdateReport
from sawyer.stages.rl.rollout import Rollout, RolloutSettings, logprobs_and_values, values_before
from sawyer.text import Batch, batches
from sawyer.train import OptimizerStep, distributed, generator, shard_micro_batches

# Of a value loss that moves the policy's own trunk: at 1 its gradient, in reward units squared, would outweigh the policy's.
VALUE_COEFFICIENT = 0.1


@dataclass(slots=True)
class PpoSums:
    """Running sums over counted tokens, from which the metrics are taken."""

    policy: float = 0.0
    value: float = 0.0
    clip_count: float = 0.0
    kl: float = 0.0
    reference_kl: float = 0.0
    ratio: float = 0.0
    tokens: float = 0.0  # of all processes; the others are this process's until `all_reduce`
    first_ratio_error: float = 0.0
    first_clip_count: float = 0.0
    first_tokens: float = 0.0

    def all_reduce(self) -> PpoSums:
        """The sums over all processes, each of which had its share of the rows."""
        names = ("policy", "value", "clip_count", "kl", "reference_kl", "ratio", "first_clip_count", "first_tokens")
        sums = dict(zip(names, distributed.all_reduce_sum(*(getattr(self, name) for name in names)), strict=True))
        return PpoSums(**sums, tokens=self.tokens, first_ratio_error=distributed.all_reduce_max(self.first_ratio_error)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Minibatch:
    """The part of a rollout that one forward pass reads, cut to its longest row, on the device. N rows, T tokens."""

    batch: Batch  # (N, T), `loss_mask` on the counted tokens
    old_logprobs: Tensor  # (N, T)
    ref_logprobs: Tensor  # (N, T)
    advantages: Tensor  # (N, T)
    old_values: Tensor | None  # (N, T)
    returns: Tensor | None  # (N, T)
    kl_loss_coefficient: float


def minibatches(chosen: Sequence[int], rollout: Rollout, settings: RolloutSettings) -> Iterator[Minibatch]:
    """The rows `chosen` of the rollout, a forward pass at a time."""
    device = settings.placement.device
    for indices, batch in batches([rollout.rows[i] for i in chosen], pad_id=0, token_budget=settings.token_budget):
        rows, length = [chosen[i] for i in indices], batch.ids.shape[1]
        yield Minibatch(
            batch=batch.to(device),
            old_logprobs=rollout.old_logprobs[rows, :length].to(device),
            ref_logprobs=rollout.ref_logprobs[rows, :length].to(device),
            advantages=rollout.advantages[rows, :length].to(device),
            old_values=None if rollout.old_values is None else rollout.old_values[rows, :length].to(device),
            returns=None if rollout.returns is None else rollout.returns[rows, :length].to(device),
            kl_loss_coefficient=rollout.kl_loss_coefficient,
        )


def update_on_rollout(
    rollout: Rollout,
    policy: OptimizerStep,
    value: OptimizerStep | None,
    settings: RolloutSettings,
    rl: Rl,
    *,
    seed: int,
    number: int,
) -> UpdateReport:
    """Learn from one rollout; `seed` and `number`, the update's, decide the minibatches' order.

    The metrics are means over all epochs' minibatches, weighted by counted tokens; norms are means over minibatches.
    `value` trains a separate value network. With a shared trunk `policy` trains a `PolicyWithValue`; ridge values are fitted
    after the update.
    """
    sums, split = PpoSums(), partial(minibatches, rollout=rollout, settings=settings)
    norms: list[float] = []
    value_norms: list[float] = []
    count = len(rollout.rows)
    for epoch in range(rl.epochs):
        order = torch.randperm(count, generator=generator(seed, "rl", "epoch", number, epoch))
        for chosen in order.split(count // rl.num_minibatches):
            rows, tokens = chosen.tolist(), float(rollout.mask[chosen].sum())
            batch = shard_micro_batches(rows, lambda i: len(rollout.rows[i].ids), split)
            loss = partial(_policy_loss, policy=policy, settings=settings, rl=rl)
            step = policy.update(batch, partial(loss, sums=sums), tokens, idle_loss=partial(loss, sums=PpoSums()))
            norms.append(step.grad_norm)
            if value is not None:
                loss = partial(_value_loss, value=value, settings=settings, value_clip_range=rl.value_clip_range)
                value_step = value.update(batch, partial(loss, sums=sums), tokens, idle_loss=partial(loss, sums=PpoSums()))
                value_norms.append(value_step.grad_norm)
            sums.tokens += tokens
    sums = sums.all_reduce()
    means = {
        "policy_loss": sums.policy,
        "value_loss": sums.value if value is not None or isinstance(policy.model, PolicyWithValue) else None,
        "kl_loss": sums.reference_kl if ALGORITHMS[rl.algorithm].kl_in_loss else None,
        "clip_fraction": sums.clip_count,
        "approx_kl": sums.kl,
        "ratio": sums.ratio,
    }
    metrics = {name: total / sums.tokens for name, total in means.items() if total is not None}
    if rollout.old_values is not None and rollout.returns is not None:
        metrics["explained_variance"] = explained_variance(rollout.old_values, rollout.returns, rollout.mask)
    metrics["grad_norm"] = sum(norms) / len(norms)
    if value_norms:
        metrics["value_grad_norm"] = sum(value_norms) / len(value_norms)
    return UpdateReport(
        metrics=metrics | {"learning_rate": step.learning_rate},
        first_ratio_error=sums.first_ratio_error,
        first_clip_fraction=sums.first_clip_count / sums.first_tokens,
    )


def fit_ridge_values(ridge_values: RidgeValues, rollout: Rollout) -> None:
    """Fit the values to the returns of the rollout's states."""
    states, index, returns = rollout.states, rollout.state_index, rollout.returns
    assert states is not None and index is not None and returns is not None
    ridge_values.fit(states, returns[index.unbind(1)].to(states), distributed.all_reduce_)


def _policy_loss(part: Minibatch, policy: OptimizerStep, settings: RolloutSettings, rl: Rl, sums: PpoSums) -> Tensor:
    """The clipped loss; with GRPO its KL, with a value head on the policy's trunk the value loss beside it."""
    algorithm, model, batch = ALGORITHMS[rl.algorithm], policy.model, part.batch
    mask = batch.loss_mask
    values = None
    with settings.placement.autocast():
        if isinstance(model, PolicyWithValue):
            logprobs, values = logprobs_and_values(model, batch, settings.temperature)
        else:
            logprobs = policy_logprobs(model, batch, temperature=settings.temperature).logprobs
    assert algorithm.policy_loss is not None
    loss = algorithm.policy_loss(logprobs, part.old_logprobs, part.advantages, mask, rl.clip_range)
    sums.policy += float(loss.total.detach())
    sums.clip_count += float(loss.clip_fraction)
    sums.kl += float(loss.approx_kl)
    sums.ratio += float(loss.ratio)
    if sums.tokens == 0:  # the first minibatch: no step has been taken yet, so the ratio must be 1
        error = float((logprobs.detach() - part.old_logprobs)[mask].exp().sub(1).abs().max())
        sums.first_ratio_error = max(sums.first_ratio_error, error)
        sums.first_clip_count += float(loss.clip_fraction)
        sums.first_tokens += float(mask.sum())
    total = loss.total
    if algorithm.kl_in_loss:
        kl = grpo_kl(logprobs, part.ref_logprobs, mask)
        sums.reference_kl += float(kl.detach())
        total = total + part.kl_loss_coefficient * kl
    if values is not None:
        total = total + VALUE_COEFFICIENT * _clipped_value_loss(part, values, rl.value_clip_range, sums)
    return total


def _value_loss(
    part: Minibatch, value: OptimizerStep, settings: RolloutSettings, value_clip_range: float, sums: PpoSums
) -> Tensor:
    with settings.placement.autocast():
        values = values_before(value.model, part.batch)
    return _clipped_value_loss(part, values, value_clip_range, sums)


def _clipped_value_loss(part: Minibatch, values: Tensor, value_clip_range: float, sums: PpoSums) -> Tensor:
    assert part.old_values is not None and part.returns is not None
    loss = ppo_value(values, part.old_values, part.returns, part.batch.loss_mask, value_clip_range)
    sums.value += float(loss.detach())
    return loss
