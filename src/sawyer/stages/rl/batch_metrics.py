"""Metrics of a batch of answers, and of the answers to the held-out prompts. docs/metrics.md defines each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sawyer.config import Rl
from sawyer.maths import distinct_n, kl_k1, masked_mean, masked_sum, missing_eos, zero_variance
from sawyer.stages.rl.guards import mode_response_rate
from sawyer.stages.rl.rl_algorithms import ALGORITHMS
from sawyer.stages.rl.rollout import Rollout, shaped_scores
from sawyer.stats import correlation

SAMPLE_COUNT = 8  # samples written to the journal at each evaluation


def batch_metrics(rollout: Rollout, kl_coefficient: float, rl: Rl) -> dict[str, float]:
    """Metrics of a batch before its update. Per response: reward, score, kl, length; per counted token: sampled_entropy; per
    group of answers that are compared with each other, with ppo the whole batch: zero_variance_groups."""
    kl = masked_sum(kl_k1(rollout.old_logprobs, rollout.ref_logprobs), rollout.mask, dim=1)
    scores = shaped_scores(rollout, reward_clip=rl.reward_clip, missing_eos_penalty=rl.missing_eos_penalty)
    return {
        "reward": float(rollout.rewards.sum(1).mean()),
        "score": float(rollout.scores.mean()),
        "kl": float(kl.mean()),
        "kl_coefficient": kl_coefficient,
        **_answer_metrics(rollout),
        "sampled_entropy": -float(masked_mean(rollout.old_logprobs, rollout.mask)),
        "length_correlation": length_correlation(rollout),
        "zero_variance_groups": zero_variance(scores, None if ALGORITHMS[rl.algorithm].has_values else rl.group_size),
        **_score_metrics(rollout),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The answers to the held-out prompts and how the networks read them. B responses, T tokens, 0 where not counted."""

    rollout: Rollout  # with old_logprobs and ref_logprobs
    entropies: Tensor  # (B, T) fp32, of the policy's whole distribution at each token
    golds: Sequence[float] | None  # (B,) where the truth is known

    @classmethod
    def of(
        cls, rollout: Rollout, logprobs: Tensor, ref_logprobs: Tensor, *, entropies: Tensor, golds: Sequence[float] | None
    ) -> Evaluation:
        """logprobs of the policy and ref_logprobs (B, T)."""
        rollout = replace(rollout, old_logprobs=logprobs, ref_logprobs=ref_logprobs)
        return cls(rollout=rollout, entropies=entropies, golds=golds)

    @property
    def kls(self) -> Tensor:
        """(B,) log pi - log pi_ref of each response, in nats."""
        return (self.rollout.old_logprobs - self.rollout.ref_logprobs).sum(1)


def eval_rewards(rollout: Rollout, missing_eos_penalty: float) -> Tensor:
    """(B,) fp32: the scores less the penalty of answers that did not end, by which the best model is chosen."""
    return missing_eos(rollout.scores, rollout.ended, missing_eos_penalty)


def eval_metrics(evaluation: Evaluation, missing_eos_penalty: float) -> dict[str, float]:
    """Metrics of an evaluation, all named `eval_...`."""
    rollout = evaluation.rollout
    tokens = max(1, sum(len(completion.ids) for completion in rollout.completions))
    surprise = -float(rollout.ref_logprobs.sum()) / tokens
    metrics = {
        "reward": float(eval_rewards(rollout, missing_eos_penalty).mean()),
        "score": float(rollout.scores.mean()),
        "kl": float(evaluation.kls.mean()),
        **_answer_metrics(rollout),
        "entropy": float(evaluation.entropies.sum()) / tokens,
        "reference_perplexity": math.exp(min(surprise, 50.0)),
        **_score_metrics(rollout),
    }
    if evaluation.golds is not None:
        metrics["gold"] = math.fsum(evaluation.golds) / len(evaluation.golds)
    return {f"eval_{name}": value for name, value in metrics.items()}


def pair_losses(margins: Sequence[Sequence[float]]) -> list[float]:
    """-log sigmoid(margin), the mean over each prompt's pairs: (P prompts with their margins) -> (P,)."""
    return [-float(logsigmoid(torch.tensor(pairs, dtype=torch.float64)).mean()) for pairs in margins]


def pair_metrics(margins: Sequence[Sequence[float]]) -> dict[str, float]:
    """Means over the prompts of held-out pairs, of their loss and of the share whose margin is positive."""
    losses = pair_losses(margins)
    right = [sum(margin > 0 for margin in pairs) / len(pairs) for pairs in margins]
    return {"eval_pair_loss": math.fsum(losses) / len(losses), "eval_pair_accuracy": math.fsum(right) / len(right)}


def length_correlation(rollout: Rollout) -> float:
    """Pearson's correlation of the scores with the logarithm of the responses' tokens; 0 where one side does not vary."""
    lengths = [math.log(max(1, len(completion.ids))) for completion in rollout.completions]
    return correlation(rollout.scores.tolist(), lengths)


def eval_samples(evaluation: Evaluation, *, is_scored: bool = True) -> list[dict[str, Any]]:
    """The first answers as samples of the journal; without a reward where there is no scorer."""
    rollout, kls = evaluation.rollout, evaluation.kls.tolist()
    rows = []
    for i in range(min(SAMPLE_COUNT, len(rollout.prompts))):
        parts = {name: values[i] for name, values in rollout.parts.items() if values[i] is not None}
        row = {
            "prompt": rollout.prompts[i].text,
            "response": rollout.texts[i],
            "reward": float(rollout.scores[i]) if is_scored else None,
            "kl": kls[i],
            "length": len(rollout.completions[i].ids),
            "ended": bool(rollout.ended[i]),
            "parts": parts or None,
            "disagreement": None if rollout.disagreement is None else float(rollout.disagreement[i]),
            "gold": None if evaluation.golds is None else evaluation.golds[i],
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def _score_metrics(rollout: Rollout) -> dict[str, float]:
    """Means over the answers: `score_NAME` of each part of a composed score, over the answers that it applies to, which are
    `applies_NAME` of them where it does not apply to all; and an ensemble's `disagreement`."""
    metrics = {}
    for name, values in rollout.parts.items():
        scores = [value for value in values if value is not None]
        metrics[f"score_{name}"] = math.fsum(scores) / len(scores)
        if len(scores) < len(values):
            metrics[f"applies_{name}"] = len(scores) / len(values)
    return metrics | ({} if rollout.disagreement is None else {"disagreement": float(rollout.disagreement.mean())})


def _answer_metrics(rollout: Rollout) -> dict[str, float]:
    ids = [completion.ids for completion in rollout.completions]
    return {
        "length": sum(map(len, ids)) / len(ids),
        "eos_rate": float(rollout.ended.float().mean()),
        "distinct_1": distinct_n(ids, 1),
        "distinct_2": distinct_n(ids, 2),
        "mode_response_rate": mode_response_rate([prompt.messages for prompt in rollout.prompts], rollout.texts),
    }
