"""PPO's update: a few epochs over the episodes in minibatches, policy and value network each with its own optimizer.

Policy loss: mean over counted tokens of max(-A rho, -A clip(rho, 1-eps, 1+eps)), rho = pi / pi_old (arXiv 1707.06347,
eq. 7). Value loss: 0.5 max((V - R)^2, (clip(V, V_old +- eps_v) - R)^2). The value network shares no weight with the
policy, so its loss needs no coefficient: its learning rate is that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sawyer.config import Config
from sawyer.engine import Learner, Place, generator
from sawyer.maths import explained_variance, ppo_policy, ppo_value
from sawyer.models import policy_logprobs
from sawyer.stages.rl.rollout import Experience, values_before
from sawyer.text import Batch, batches


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoReport:
    """Means over all minibatches of all epochs, weighted by their counted tokens; norms are means over minibatches."""

    policy_loss: float
    value_loss: float
    clip_fraction: float  # share of counted tokens whose ratio was clipped
    approx_kl: float  # mean of (rho - 1) - log rho over counted tokens, nats: how far this update has moved
    ratio: float  # mean of rho over counted tokens
    first_ratio_error: float  # largest |rho - 1| of the first minibatch, before any step
    explained_variance: float  # 1 - Var(R - V) / Var(R) over counted tokens, before the update
    grad_norm: float
    value_grad_norm: float
    learning_rate: float


def update(experience: Experience, policy: Learner, value: Learner, config: Config, place: Place, number: int) -> PpoReport:
    """Learn from one batch of episodes; `number` names the update (it seeds the minibatches' order)."""
    asked = config.rl
    assert asked is not None
    before = explained_variance(experience.old_values, experience.returns, experience.mask)
    sums = Sums()
    norms: list[tuple[float, float, float]] = []
    size = len(experience.rows) // asked.minibatches
    for epoch in range(asked.epochs):
        order = torch.randperm(len(experience.rows), generator=generator(config.seed, "rl", "epoch", number, epoch))
        for chosen in order.split(size):
            minibatch = chosen.tolist()
            count = float(experience.mask[chosen].sum())
            policy_step = policy.update(
                _parts(experience, minibatch, config), lambda part: _policy_loss(part, policy, config, place, sums), count
            )
            value_step = value.update(
                _parts(experience, minibatch, config), lambda part: _value_loss(part, value, config, place), count
            )
            sums.policy += policy_step.loss * count
            sums.value += value_step.loss * count
            sums.tokens += count
            norms.append((policy_step.grad_norm, value_step.grad_norm, policy_step.learning_rate))
    return PpoReport(
        policy_loss=sums.policy / sums.tokens,
        value_loss=sums.value / sums.tokens,
        clip_fraction=sums.clipped / sums.tokens,
        approx_kl=sums.kl / sums.tokens,
        ratio=sums.ratio / sums.tokens,
        first_ratio_error=sums.first_ratio_error,
        explained_variance=before,
        grad_norm=sum(n[0] for n in norms) / len(norms),
        value_grad_norm=sum(n[1] for n in norms) / len(norms),
        learning_rate=norms[-1][2],
    )


@dataclass(slots=True)
class Sums:
    """Running sums over counted tokens, from which the report's means are taken."""

    policy: float = 0.0
    value: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0
    ratio: float = 0.0
    tokens: float = 0.0
    first_ratio_error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of a minibatch with their columns of the experience, cut to the longest row. N rows, T tokens."""

    batch: Batch
    mask: Tensor  # (N, T) bool
    old_logprobs: Tensor  # (N, T)
    old_values: Tensor  # (N, T)
    advantages: Tensor  # (N, T)
    returns: Tensor  # (N, T)


def _parts(experience: Experience, chosen: Sequence[int], config: Config) -> list[Part]:
    rows = [experience.rows[i] for i in chosen]
    parts = []
    for indices, batch in batches(rows, pad_id=0, token_budget=config.micro_batch_tokens):
        here, length = [chosen[i] for i in indices], batch.ids.shape[1]
        parts.append(
            Part(
                batch=batch,
                mask=experience.mask[here, :length],
                old_logprobs=experience.old_logprobs[here, :length],
                old_values=experience.old_values[here, :length],
                advantages=experience.advantages[here, :length],
                returns=experience.returns[here, :length],
            )
        )
    return parts


def _policy_loss(part: Part, policy: Learner, config: Config, place: Place, sums: Sums) -> Tensor:
    asked = config.rl
    assert asked is not None
    with place.autocast():
        new = policy_logprobs(policy.model, part.batch.to(place.device), temperature=asked.temperature).logprobs
    old, mask = part.old_logprobs.to(new.device), part.mask.to(new.device)
    loss = ppo_policy(new, old, part.advantages.to(new.device), mask, asked.clip)
    sums.clipped += float(loss.clip_fraction)
    sums.kl += float(loss.approx_kl)
    sums.ratio += float(loss.ratio)
    if sums.tokens == 0:  # a part of the first minibatch: no step has been taken
        error = float((new.detach() - old)[mask].exp().sub(1).abs().max())
        sums.first_ratio_error = max(sums.first_ratio_error, error)
    return loss.total


def _value_loss(part: Part, value: Learner, config: Config, place: Place) -> Tensor:
    asked = config.rl
    assert asked is not None
    with place.autocast():
        values = values_before(value.model, part.batch.to(place.device))
    mask, old, returns = (x.to(values.device) for x in (part.mask, part.old_values, part.returns))
    return ppo_value(values, old, returns, mask, asked.value_clip)
