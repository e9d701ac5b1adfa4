"""One batch's update: a few epochs over the episodes in minibatches. PPO, RLOO and GRPO share it.

Policy loss: mean over counted tokens of max(-A rho, -A clip(rho, 1-eps, 1+eps)), rho = pi / pi_old (arXiv 1707.06347,
eq. 7); GRPO adds beta k3, the KL to the reference. Value loss, where there is a value network:
0.5 max((V - R)^2, (clip(V, V_old +- eps_v) - R)^2). A value network of its own shares no weight with the policy, so its loss
needs no coefficient: its learning rate is that. A head on the policy's trunk is trained in the same step, its loss times 0.1.
Values that are fitted have no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sawyer.config import Config, required_section
from sawyer.maths import explained_variance, grpo_kl, ppo_policy, ppo_value
from sawyer.models import PolicyWithValue, RidgeValues, policy_logprobs
from sawyer.stages.rl.rollout import Experience, logprobs_and_values, values_before
from sawyer.text import Batch, batches
from sawyer.train import OptimizerStep, Placement, distributed, generator

VALUE_COEFFICIENT = 0.1  # of a value loss that moves the policy's own trunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Means over all minibatches of all epochs, weighted by their counted tokens; norms are means over minibatches.

    None stands where the algorithm has no such thing.
    """

    policy_loss: float
    value_loss: float | None  # before its coefficient
    kl_loss: float | None  # grpo: mean of k3 to the reference over counted tokens, nats, before beta
    clip_fraction: float  # share of counted tokens whose ratio was clipped
    approx_kl: float  # mean of (rho - 1) - log rho over counted tokens, nats: how far this update has moved
    ratio: float  # mean of rho over counted tokens
    first_ratio_error: float  # largest |rho - 1| of the first minibatch, before any step
    first_clip_fraction: float  # share of the first minibatch's counted tokens whose ratio was clipped, before any step
    explained_variance: float | None  # 1 - Var(R - V) / Var(R) over counted tokens, before the update
    grad_norm: float  # with a shared trunk, of both losses
    value_grad_norm: float | None  # of a value network of its own
    learning_rate: float

    @property
    def metrics(self) -> dict[str, float]:
        """What there is, by name, for the journal."""
        found = {name: getattr(self, name) for name in self.__slots__ if not name.startswith("first_")}
        return {name: value for name, value in found.items() if value is not None}


def update(
    experience: Experience, policy: OptimizerStep, value: OptimizerStep | None, config: Config, place: Placement, number: int
) -> Report:
    """Learn from one batch of episodes; `number` names the update (it seeds the minibatches' order).

    `value` is None where there is no value network of its own: with a shared trunk `policy` trains a `PolicyWithValue`; values
    that are fitted are so after it.
    """
    rl = required_section(config.rl, "rl")
    valued = value is not None or isinstance(policy.model, PolicyWithValue)
    sums = PpoSums()
    norms: list[tuple[float, float, float]] = []
    size = len(experience.rows) // rl.num_minibatches
    for epoch in range(rl.epochs):
        order = torch.randperm(len(experience.rows), generator=generator(config.seed, "rl", "epoch", number, epoch))
        for chosen in order.split(size):
            minibatch = chosen.tolist()
            count = float(experience.mask[chosen].sum())
            policy_step = policy.update(
                _parts(experience, minibatch, config), lambda part: _policy_loss(part, policy, config, place, sums), count
            )
            apart = 0.0
            if value is not None:
                loss = partial(_value_loss, value=value, config=config, place=place, sums=sums)
                apart = value.update(_parts(experience, minibatch, config), loss, count).grad_norm
            sums.tokens += count
            norms.append((policy_step.grad_norm, apart, policy_step.learning_rate))
    sums = sums.of_all()
    return Report(
        policy_loss=sums.policy / sums.tokens,
        value_loss=sums.value / sums.tokens if valued else None,
        kl_loss=sums.reference_kl / sums.tokens if rl.algorithm == "grpo" else None,
        clip_fraction=sums.clipped / sums.tokens,
        approx_kl=sums.kl / sums.tokens,
        ratio=sums.ratio / sums.tokens,
        first_ratio_error=sums.first_ratio_error,
        first_clip_fraction=sums.first_clipped / sums.first_tokens,
        explained_variance=_explained(experience),
        grad_norm=sum(n[0] for n in norms) / len(norms),
        value_grad_norm=None if value is None else sum(n[1] for n in norms) / len(norms),
        learning_rate=norms[-1][2],
    )


def fit_ridge_values(values: RidgeValues, experience: Experience) -> None:
    """Learn from the batch what its states were worth."""
    seen, returns = experience.seen, experience.returns
    assert seen is not None and returns is not None
    values.fit(seen.states, returns[seen.places.unbind(1)].to(seen.states), distributed.all_reduce_)


def _explained(experience: Experience) -> float | None:
    if experience.old_values is None or experience.returns is None:
        return None
    return explained_variance(experience.old_values, experience.returns, experience.mask)


@dataclass(slots=True)
class PpoSums:
    """Running sums over counted tokens, from which the report's means are taken."""

    policy: float = 0.0
    value: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0
    reference_kl: float = 0.0
    ratio: float = 0.0
    tokens: float = 0.0
    first_ratio_error: float = 0.0
    first_clipped: float = 0.0
    first_tokens: float = 0.0

    def of_all(self) -> PpoSums:
        """Those of all processes, each of which had its share of the rows; `tokens` were those of all before."""
        names = ("policy", "value", "clipped", "kl", "reference_kl", "ratio", "first_clipped", "first_tokens")
        found = dict(zip(names, distributed.all_reduce_sum(*(getattr(self, name) for name in names)), strict=True))
        return PpoSums(**found, tokens=self.tokens, first_ratio_error=distributed.all_reduce_max(self.first_ratio_error)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Minibatch:
    """Some rows of a minibatch with their columns of the experience, cut to the longest row. N rows, T tokens."""

    batch: Batch
    mask: Tensor  # (N, T) bool
    old_logprobs: Tensor  # (N, T)
    ref_logprobs: Tensor  # (N, T)
    advantages: Tensor  # (N, T)
    old_values: Tensor | None  # (N, T)
    returns: Tensor | None  # (N, T)
    kl_in_loss: float


def _parts(experience: Experience, chosen: Sequence[int], config: Config) -> list[Minibatch]:
    """This process's share of the minibatch."""
    chosen = [chosen[i] for i in distributed.shard_indices([len(experience.rows[i].ids) for i in chosen])]
    rows = [experience.rows[i] for i in chosen]
    parts = []
    for indices, batch in batches(rows, pad_id=0, token_budget=config.micro_batch_tokens):
        here, length = [chosen[i] for i in indices], batch.ids.shape[1]
        parts.append(
            Minibatch(
                batch=batch,
                mask=experience.mask[here, :length],
                old_logprobs=experience.old_logprobs[here, :length],
                ref_logprobs=experience.ref_logprobs[here, :length],
                advantages=experience.advantages[here, :length],
                old_values=None if experience.old_values is None else experience.old_values[here, :length],
                returns=None if experience.returns is None else experience.returns[here, :length],
                kl_in_loss=experience.kl_in_loss,
            )
        )
    return parts


def _policy_loss(part: Minibatch, policy: OptimizerStep, config: Config, place: Placement, sums: PpoSums) -> Tensor:
    """The clipped loss; with GRPO its KL beside it, with a value head on the policy's trunk that one's loss."""
    rl = required_section(config.rl, "rl")
    model, batch = policy.model, part.batch.to(place.device)
    values = None
    with place.autocast():
        if isinstance(model, PolicyWithValue):
            new, values = logprobs_and_values(model, batch, rl.temperature)
        else:
            new = policy_logprobs(model, batch, temperature=rl.temperature).logprobs
    old, mask = part.old_logprobs.to(new.device), part.mask.to(new.device)
    loss = ppo_policy(new, old, part.advantages.to(new.device), mask, rl.clip_range)
    sums.policy += float(loss.total.detach())
    sums.clipped += float(loss.clip_fraction)
    sums.kl += float(loss.approx_kl)
    sums.ratio += float(loss.ratio)
    if sums.tokens == 0:  # a part of the first minibatch: no step has been taken
        error = float((new.detach() - old)[mask].exp().sub(1).abs().max())
        sums.first_ratio_error = max(sums.first_ratio_error, error)
        sums.first_clipped += float(loss.clip_fraction)
        sums.first_tokens += float(mask.sum())
    total = loss.total
    if rl.algorithm == "grpo":
        apart = grpo_kl(new, part.ref_logprobs.to(new.device), mask)
        sums.reference_kl += float(apart.detach())
        total = total + part.kl_in_loss * apart
    if values is not None:
        total = total + VALUE_COEFFICIENT * _of_values(part, values, config, sums)
    return total


def _value_loss(part: Minibatch, value: OptimizerStep, config: Config, place: Placement, sums: PpoSums) -> Tensor:
    with place.autocast():
        values = values_before(value.model, part.batch.to(place.device))
    return _of_values(part, values, config, sums)


def _of_values(part: Minibatch, values: Tensor, config: Config, sums: PpoSums) -> Tensor:
    assert part.old_values is not None and part.returns is not None
    mask, old, returns = (x.to(values.device) for x in (part.mask, part.old_values, part.returns))
    loss = ppo_value(values, old, returns, mask, required_section(config.rl, "rl").value_clip_range)
    sums.value += float(loss.detach())
    return loss
