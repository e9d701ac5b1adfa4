"""What is told of a batch of answers, and of the answers to the held-out prompts. docs/metrics.md defines each figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sawyer.config import Rl
from sawyer.maths import distinct_n, kl_k1, masked_mean, masked_sum, missing_eos, zero_variance
from sawyer.stages.rl.guards import mode_response_rate
from sawyer.stages.rl.rollout import Episodes, Experience, learnt_scores
from sawyer.stats import correlation

SHOWN = 8  # samples written to the journal at each evaluation


def batch_measures(episodes: Episodes, experience: Experience, coefficient: float, asked: Rl) -> dict[str, float]:
    """Figures of a batch before its update. Per response: reward, score, kl, length; per counted token: sampled_entropy; per
    group of answers that are compared with each other, with ppo the whole batch: zero_variance_groups."""
    kl = masked_sum(kl_k1(experience.old_logprobs, experience.ref_logprobs), experience.mask, dim=1)
    return {
        "reward": float(experience.rewards.sum(1).mean()),
        "score": float(episodes.scores.mean()),
        "kl": float(kl.mean()),
        "kl_coefficient": coefficient,
        **_of_answers(episodes),
        "sampled_entropy": -float(masked_mean(experience.old_logprobs, experience.mask)),
        "length_correlation": length_correlation(episodes),
        "zero_variance_groups": zero_variance(
            learnt_scores(episodes, asked), None if asked.algorithm == "ppo" else asked.group_size
        ),
        **_parts(episodes),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The answers to the held-out prompts and how the networks see them. B responses, T tokens, 0 where none is counted."""

    episodes: Episodes
    logprobs: Tensor  # (B, T) fp32, the policy's
    ref_logprobs: Tensor  # (B, T) fp32, the reference's
    entropies: Tensor  # (B, T) fp32, of the policy's whole distribution at each token
    golds: Sequence[float] | None  # (B,) where the truth is known

    @property
    def kls(self) -> Tensor:
        """(B,) log pi - log pi_ref of each response, in nats."""
        return (self.logprobs - self.ref_logprobs).sum(1)


def eval_rewards(found: HeldOut, missing_eos_penalty: float) -> Tensor:
    """(B,) fp32: the scores less the penalty of answers that did not end, by which the best model is chosen."""
    return missing_eos(found.episodes.scores, found.episodes.ended, missing_eos_penalty)


def eval_measures(found: HeldOut, missing_eos_penalty: float) -> dict[str, float]:
    """Figures of an evaluation, all called `eval_...`."""
    episodes = found.episodes
    tokens = sum(len(completion.ids) for completion in episodes.completions)
    rewards = eval_rewards(found, missing_eos_penalty)
    surprise = -float(found.ref_logprobs.sum()) / max(1, tokens)
    measured = {
        "reward": float(rewards.mean()),
        "score": float(episodes.scores.mean()),
        "kl": float(found.kls.mean()),
        **_of_answers(episodes),
        "entropy": float(found.entropies.sum()) / max(1, tokens),
        "reference_perplexity": math.exp(min(surprise, 50.0)),
        **_parts(episodes),
    }
    if found.golds is not None:
        measured["gold"] = math.fsum(found.golds) / len(found.golds)
    return {f"eval_{name}": value for name, value in measured.items()}


def pair_losses(margins: Sequence[Sequence[float]]) -> list[float]:
    """-log sigmoid(margin), the mean over each prompt's pairs: (P prompts with their margins) -> (P,)."""
    return [-float(logsigmoid(torch.tensor(own, dtype=torch.float64)).mean()) for own in margins]


def pair_measures(margins: Sequence[Sequence[float]]) -> dict[str, float]:
    """Means over the prompts of held-out pairs, of their loss and of the share whose margin is positive."""
    losses = pair_losses(margins)
    right = [sum(margin > 0 for margin in own) / len(own) for own in margins]
    return {"eval_pair_loss": math.fsum(losses) / len(losses), "eval_pair_accuracy": math.fsum(right) / len(right)}


def length_correlation(episodes: Episodes) -> float:
    """Pearson's correlation of the scores with the logarithm of the responses' tokens; 0 where one side does not vary."""
    lengths = [math.log(max(1, len(completion.ids))) for completion in episodes.completions]
    return correlation(episodes.scores.tolist(), lengths)


def _parts(episodes: Episodes) -> dict[str, float]:
    """Means over the answers: `score_NAME` of each part of a composed score, over those that it applies to, which are
    `applies_NAME` of them where it does not apply to all; and an ensemble's `disagreement`."""
    found = {}
    for name, values in episodes.parts.items():
        told = [value for value in values if value is not None]
        found[f"score_{name}"] = math.fsum(told) / len(told)
        found |= {f"applies_{name}": len(told) / len(values)} if len(told) < len(values) else {}
    return found | ({} if episodes.disagreement is None else {"disagreement": float(episodes.disagreement.mean())})


def shown(found: HeldOut, *, scored: bool = True) -> list[dict[str, Any]]:
    """The first answers as samples of the journal; without a reward where nobody `scored` them."""
    episodes, kls = found.episodes, found.kls.tolist()
    rows = []
    for i in range(min(SHOWN, len(episodes.prompts))):
        row: dict[str, Any] = {
            "prompt": episodes.prompts[i].text,
            "response": episodes.texts[i],
            "reward": float(episodes.scores[i]),
            "kl": kls[i],
            "length": len(episodes.completions[i].ids),
            "ended": bool(episodes.ended[i]),
        }
        parts = {name: values[i] for name, values in episodes.parts.items() if values[i] is not None}
        row |= {"parts": parts} if parts else {}
        row |= {} if episodes.disagreement is None else {"disagreement": float(episodes.disagreement[i])}
        if not scored:
            del row["reward"]
        rows.append(row | ({"gold": found.golds[i]} if found.golds is not None else {}))
    return rows


def _of_answers(episodes: Episodes) -> dict[str, float]:
    ids = [completion.ids for completion in episodes.completions]
    return {
        "length": sum(map(len, ids)) / len(ids),
        "eos_rate": float(episodes.ended.float().mean()),
        "distinct_1": distinct_n(ids, 1),
        "distinct_2": distinct_n(ids, 2),
        "mode_response_rate": mode_response_rate([prompt.messages for prompt in episodes.prompts], episodes.texts),
    }
