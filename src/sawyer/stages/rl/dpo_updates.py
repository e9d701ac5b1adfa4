"""DPO: the policy learns from judged pairs, without sampling and without the reward model (arXiv 2305.18290).

-log sigmoid(beta [(log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l)]), the mean over the pairs of the batch, each as often as its
judgement's weight says; log-probs at temperature 1, sums over the response's tokens and EOS. The evaluations are those of the
other algorithms: same prompts, same draws, same guards, same choice of the best model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sawyer.maths import DpoLoss, response_log_ratio
from sawyer.models import policy_logprobs
from sawyer.stages.rl.rl_algorithms import UpdateReport
from sawyer.text import Batch
from sawyer.train import (
    EncodedPrompt,
    JudgedMinibatch,
    OptimizerStep,
    Placement,
    distributed,
    judged_minibatches,
    shard_micro_batches,
)

PairLoss = Callable[[Tensor, Tensor, float, Tensor], DpoLoss]  # chosen, rejected, beta, weights


@dataclass(slots=True)
class DpoSums:
    """Running sums over the pairs of one batch, each times its judgement's weight."""

    margins: float = 0.0
    right: float = 0.0  # pairs whose margin is positive
    ratio_error: float = 0.0  # the largest |pi / pi_ref - 1| of a token

    def all_reduce(self) -> DpoSums:
        """The sums over all processes, each of which had its share of the prompts."""
        margins, right = distributed.all_reduce_sum(self.margins, self.right)
        return DpoSums(margins=margins, right=right, ratio_error=distributed.all_reduce_max(self.ratio_error)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class PairNetworks:
    """What DPO reads pairs with: policy and reference, and how rows go through them."""

    policy: nn.Module
    reference: nn.Module
    placement: Placement
    pad_id: int
    token_budget: int  # padded tokens of one forward pass

    def logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(the policy's, the reference's) of each token, (N, T) each; only the policy's carries a gradient."""
        with self.placement.autocast():
            logprobs = policy_logprobs(self.policy, batch).logprobs
            with torch.no_grad():
                ref_logprobs = policy_logprobs(self.reference, batch).logprobs
        return logprobs, ref_logprobs

    def minibatches(self, prompts: Sequence[EncodedPrompt]) -> Iterator[JudgedMinibatch]:
        """The prompts' answers, a forward pass at a time, on the device."""
        for part in judged_minibatches(prompts, self.pad_id, self.token_budget):
            yield part.to(self.placement.device)


def update_on_pairs(
    prompts: Sequence[EncodedPrompt],
    policy: OptimizerStep,
    networks: PairNetworks,
    pair_loss: PairLoss,
    beta: float,
) -> UpdateReport:
    """One optimizer step on a batch of prompts with all their pairs."""
    count, sums = math.fsum(prompt.record.weight * len(prompt.pairs) for prompt in prompts), DpoSums()
    batch = shard_micro_batches(prompts, lambda prompt: prompt.tokens, networks.minibatches)
    loss = partial(minibatch_loss, networks=networks, pair_loss=pair_loss, beta=beta)
    step = policy.update(batch, partial(loss, sums=sums), count, idle_loss=partial(loss, sums=DpoSums()))
    sums = sums.all_reduce()
    metrics = {
        "loss": step.loss,
        "margin": sums.margins / count,
        "accuracy": sums.right / count,
        "pairs": float(sum(len(prompt.pairs) for prompt in prompts)),
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
    }
    return UpdateReport(metrics=metrics, first_ratio_error=sums.ratio_error)


def minibatch_loss(
    part: JudgedMinibatch,
    networks: PairNetworks,
    pair_loss: PairLoss,
    beta: float,
    sums: DpoSums,
) -> Tensor:
    """The weighted sum over the minibatch's pairs; each answer goes through each network once."""
    batch, judgements = part.batch, part.judgements
    logprobs, ref_logprobs = networks.logprobs(batch)
    ratios = response_log_ratio(logprobs, ref_logprobs, batch.loss_mask)
    loss = pair_loss(ratios[judgements.better], ratios[judgements.worse], beta, judgements.pair_weights)
    sums.margins += float(loss.margins)
    sums.right += float(loss.accuracies)
    error = (logprobs.detach() - ref_logprobs)[batch.loss_mask].exp().sub(1).abs().max()
    sums.ratio_error = max(sums.ratio_error, float(error))
    return loss.total


def eval_margins(prompts: Sequence[EncodedPrompt], networks: PairNetworks, beta: float) -> list[list[float]]:
    """Each held-out prompt's margins beta (chosen - rejected), by which DPO is judged where no scorer judges its answers."""

    def margins(mine: list[int]) -> list[list[float]]:
        order = sorted(mine, key=lambda index: prompts[index].longest)
        flat: list[float] = []
        for part in networks.minibatches([prompts[index] for index in order]):
            ratios = response_log_ratio(*networks.logprobs(part.batch), part.batch.loss_mask)
            flat += (beta * (ratios[part.judgements.better] - ratios[part.judgements.worse])).tolist()
        rest = iter(flat)
        by_prompt = {index: [next(rest) for _ in prompts[index].pairs] for index in order}
        return [by_prompt[index] for index in mine]

    with torch.no_grad():
        return distributed.map_sharded([prompt.tokens for prompt in prompts], margins)
