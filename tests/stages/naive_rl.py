"""The figures of the RL stage: docs/metrics.md by loops over single tokens, answers and pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from naive import alike, distinct, entropy, logits_of, mean, norm_of, of_response, pearson, tells, variance

EPS = 1e-4  # beside the group's deviation, in grpo


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the config says, and the algorithm."""

    algorithm: str
    temperature: float
    penalty: float
    bound: float
    clip_range: float
    value_clip_range: float = 0.0
    gamma: float = 1.0
    gae_lambda: float = 1.0
    group_size: int = 1


@dataclass(frozen=True, kw_only=True)
class Answers:
    """B answers with what scorers say of them."""

    prompts: Sequence[Any]
    texts: Sequence[str]
    rows: Sequence[Any]
    scores: Sequence[float]
    eos: int

    @property
    def ids(self) -> list[list[int]]:
        """The tokens of each answer."""
        return [list(row.ids[row.prompt_length :]) for row in self.rows]

    @property
    def ended(self) -> list[bool]:
        return [ids[-1] == self.eos for ids in self.ids]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a batch was worth before its update: each list has one list an answer, one number a token."""

    old: list[list[float]]
    ref: list[list[float]]
    values: list[list[float]]
    rewards: list[list[float]]
    advantages: list[list[float]]
    returns: list[list[float]]
    compared: list[list[float]]  # the scores as they are learnt from, of the answers that are compared with each other


def of_answers(answers: Answers) -> dict[str, float]:
    """What batches and evaluations have in common."""
    return {
        "score": mean(answers.scores),
        "length": sum(len(ids) for ids in answers.ids) / len(answers.ids),
        "eos_rate": sum(answers.ended) / len(answers.ended),
        "distinct_1": distinct(answers.ids, 1),
        "distinct_2": distinct(answers.ids, 2),
        "mode_response_rate": alike(answers.prompts, answers.texts),
    }


OF_ANSWERS = ("score", "length", "eos_rate", "distinct_1", "distinct_2", "mode_response_rate")


def of_states(value: Any, row: Any) -> torch.Tensor:
    """V of the state before each token of the response, with its gradient."""
    found = value(torch.tensor([list(row.ids)]))[0]
    return torch.stack([found[t - 1] for t in range(row.prompt_length, len(row.ids))])


def estimated(answers: Answers, policy: Any, reference: Any, value: Any, coefficient: float, asked: Asked) -> Batch:
    """Rewards, advantages and returns as the algorithms define them."""
    old = [of_response(policy, row, asked.temperature) for row in answers.rows]
    ref = [of_response(reference, row, asked.temperature) for row in answers.rows]
    values = [] if value is None else [of_states(value, row).tolist() for row in answers.rows]
    worth, rewards = [], []
    for i, score in enumerate(answers.scores):
        worth.append(min(max(score, -asked.bound), asked.bound) - (0.0 if answers.ended[i] else asked.penalty))
        nat = 0.0 if asked.algorithm == "grpo" else coefficient
        rewards.append([-nat * (a - b) for a, b in zip(old[i], ref[i], strict=True)])
        rewards[-1][-1] += worth[i]
    advantages, returns = [], []
    for i, paid in enumerate(rewards):
        first = i - i % asked.group_size
        others = [j for j in range(first, first + asked.group_size) if j != i]
        if asked.algorithm == "rloo":
            advantages.append([sum(paid) - mean([sum(rewards[j]) for j in others])] * len(paid))
        elif asked.algorithm == "grpo":
            group = [worth[j] for j in range(first, first + asked.group_size)]
            deviation = math.sqrt(sum((x - mean(group)) ** 2 for x in group) / (asked.group_size - 1))
            advantages.append([(worth[i] - mean(group)) / (deviation + EPS)] * len(paid))
        else:
            after, row = 0.0, [0.0] * len(paid)
            for t in reversed(range(len(paid))):
                following = values[i][t + 1] if t + 1 < len(paid) else 0.0
                after = paid[t] + asked.gamma * following - values[i][t] + asked.gamma * asked.gae_lambda * after
                row[t] = after
            advantages.append(row)
            returns.append([a + v for a, v in zip(row, values[i], strict=True)])
    if asked.algorithm == "ppo":
        everything = [a for row in advantages for a in row]
        spread = math.sqrt(variance(everything) + 1e-8)
        advantages = [[(a - mean(everything)) / spread for a in row] for row in advantages]
    size = len(worth) if asked.algorithm == "ppo" else asked.group_size
    compared = [worth[i : i + size] for i in range(0, len(worth), size)]
    return Batch(old=old, ref=ref, values=values, rewards=rewards, advantages=advantages, returns=returns, compared=compared)


OF_BATCH = ("kl_coefficient", "rollbacks", "reward", "kl", "sampled_entropy", "length_correlation", "zero_variance_groups")


@tells("rl", *OF_ANSWERS, *OF_BATCH)
def batch(answers: Answers, found: Batch, coefficient: float, rollbacks: int) -> dict[str, float]:
    return of_answers(answers) | {
        "kl_coefficient": coefficient,
        "rollbacks": float(rollbacks),
        "reward": mean([math.fsum(row) for row in found.rewards]),
        "kl": mean([math.fsum(a) - math.fsum(b) for a, b in zip(found.old, found.ref, strict=True)]),
        "sampled_entropy": -mean([x for row in found.old for x in row]),
        "length_correlation": pearson(answers.scores, [math.log(len(ids)) for ids in answers.ids]),
        "zero_variance_groups": mean([float(max(group) - min(group) < 1e-6) for group in found.compared]),
    }


def with_gradient(model: Any, row: Any, temperature: float) -> torch.Tensor:
    """log pi of each token of the response."""
    logits = model(input_ids=torch.tensor([list(row.ids)])).logits[0] / temperature
    return torch.stack([torch.log_softmax(logits[t - 1], 0)[row.ids[t]] for t in range(row.prompt_length, len(row.ids))])


Minibatches = Sequence[tuple[Any, Sequence[int]]]  # the network before each optimizer step, and the answers that it learns from


def of_policy(minibatches: Minibatches, rows: Sequence[Any], found: Batch, beta: float, asked: Asked) -> dict[str, float]:
    """Sums over all minibatches' tokens, divided by their number; `beta` is what a nat of k3 costs in the loss."""
    sums = dict.fromkeys(("policy_loss", "clip_fraction", "approx_kl", "ratio", "kl_loss"), 0.0)
    tokens, norms = 0, []
    for model, chosen in minibatches:
        loss, count = torch.zeros(()), 0
        for i in chosen:
            new = with_gradient(model, rows[i], asked.temperature)
            for t in range(len(new)):
                rho, advantage = torch.exp(new[t] - found.old[i][t]), found.advantages[i][t]
                within = torch.clamp(rho, 1 - asked.clip_range, 1 + asked.clip_range)
                worse = torch.maximum(-advantage * rho, -advantage * within)
                x = new[t] - found.ref[i][t]
                k3 = torch.exp(-x) - 1 + x
                loss = loss + worse + beta * k3
                sums["policy_loss"] += float(worse.detach())
                sums["clip_fraction"] += bool(-advantage * within > -advantage * rho)
                sums["approx_kl"] += float((rho - 1 - (new[t] - found.old[i][t])).detach())
                sums["ratio"] += float(rho.detach())
                sums["kl_loss"] += float(k3.detach())
                count += 1
        norms.append(norm_of(loss / count, model))
        tokens += count
    return {name: value / tokens for name, value in sums.items()} | {"grad_norm": mean(norms)}


@tells("rl", "policy_loss", "clip_fraction", "approx_kl", "ratio", "grad_norm", "learning_rate")
def update(of: Mapping[str, float], step: int, steps: int, highest: float) -> dict[str, float]:
    """From `of_policy`; `step` is the last optimizer step of the update, of `steps` in all."""
    return {name: value for name, value in of.items() if name != "kl_loss"} | {"learning_rate": highest * (1 - step / steps)}


@tells("rl", "kl_loss")
def update_of_grpo(of: Mapping[str, float]) -> dict[str, float]:
    return {"kl_loss": of["kl_loss"]}


@tells("rl", "value_loss", "value_grad_norm", "explained_variance")
def update_of_values(minibatches: Minibatches, rows: Sequence[Any], found: Batch, asked: Asked) -> dict[str, float]:
    total, tokens, norms = 0.0, 0, []
    for model, chosen in minibatches:
        loss, count = torch.zeros(()), 0
        for i in chosen:
            now = of_states(model, rows[i])
            for t in range(len(now)):
                old, aim = found.values[i][t], found.returns[i][t]
                near = old + torch.clamp(now[t] - old, -asked.value_clip_range, asked.value_clip_range)
                loss = loss + 0.5 * torch.maximum((now[t] - aim) ** 2, (near - aim) ** 2)
                count += 1
        norms.append(norm_of(loss / count, model))
        total, tokens = total + float(loss.detach()), tokens + count
    returns = [r for row in found.returns for r in row]
    errors = [r - v for one, other in zip(found.returns, found.values, strict=True) for r, v in zip(one, other, strict=True)]
    return {
        "value_loss": total / tokens,
        "value_grad_norm": mean(norms),
        "explained_variance": 1 - variance(errors) / variance(returns),
    }


HELD_OUT = (*OF_ANSWERS, "reward", "kl", "entropy", "reference_perplexity", "gold")


@tells("rl", *(f"eval_{name}" for name in HELD_OUT))
def held_out(answers: Answers, golds: Sequence[float], policy: Any, reference: Any, asked: Asked) -> dict[str, float]:
    new, ref = ([of_response(model, row, asked.temperature) for row in answers.rows] for model in (policy, reference))
    entropies = []
    for row in answers.rows:
        logits = logits_of(policy, row.ids, asked.temperature)
        entropies += [entropy(logits[t - 1]) for t in range(row.prompt_length, len(row.ids))]
    paid = [s - (0.0 if ended else asked.penalty) for s, ended in zip(answers.scores, answers.ended, strict=True)]
    found = of_answers(answers) | {
        "reward": mean(paid),
        "kl": mean([math.fsum(a) - math.fsum(b) for a, b in zip(new, ref, strict=True)]),
        "entropy": mean(entropies),
        "reference_perplexity": math.exp(-mean([x for row in ref for x in row])),
        "gold": mean(golds),
    }
    return {f"eval_{name}": value for name, value in found.items()}


@tells("rl", "score_NAME", "disagreement")
def parts(scores: Mapping[str, Sequence[float]], members: Sequence[Sequence[float]]) -> dict[str, float]:
    """Of a composed reward's parts, and of an ensemble's standardised scores, one list a member."""
    apart = [math.sqrt(variance(one)) for one in zip(*members, strict=True)]
    return {f"score_{name}": mean(values) for name, values in scores.items()} | {"disagreement": mean(apart)}


@tells("rl", "score_NAME", "applies_NAME", "eval_score_NAME", "eval_applies_NAME")
def partly(scores: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Of parts that do not apply to every answer."""
    told = {name: [value for value in values if value is not None] for name, values in scores.items()}
    found = {f"score_{name}": mean(values) for name, values in told.items()}
    found |= {f"applies_{name}": len(values) / len(scores[name]) for name, values in told.items()}
    return found | {f"eval_{name}": value for name, value in found.items()}


@tells("rl", "eval_score_NAME", "eval_disagreement")
def eval_parts(scores: Mapping[str, Sequence[float]], members: Sequence[Sequence[float]]) -> dict[str, float]:
    return {f"eval_{name}": value for name, value in parts(scores, members).items()}


@tells("rl", "refused")
def refused(scores: Sequence[float]) -> dict[str, float]:
    return {"refused": float(any(not math.isfinite(score) for score in scores))}


# DPO.


@tells("rl", "loss", "margin", "accuracy", "pairs", "grad_norm", "learning_rate", "beta", "rollbacks")
def dpo_step(
    policy: Any,
    reference: Any,
    pairs: Sequence[tuple[Any, Any]],
    weights: Sequence[float],
    beta: float,
    step: int,
    steps: int,
    highest: float,
) -> dict[str, float]:
    """Of pairs of rows, the preferred one first; each counts as often as its judgement's weight says."""
    losses, margins, right = [], [], 0.0
    for (chosen, rejected), weight in zip(pairs, weights, strict=True):
        ratios = []
        for row in (chosen, rejected):
            new = with_gradient(policy, row, 1.0)
            ratios.append(new.sum() - math.fsum(of_response(reference, row, 1.0)))
        margin = beta * (ratios[0] - ratios[1])
        losses.append(weight * torch.log1p(torch.exp(-margin)))
        margins.append(weight * float(margin.detach()))
        right += weight * (float(margin.detach()) > 1e-12)
    loss = torch.stack(losses).sum() / sum(weights)
    return {
        "loss": float(loss.detach()),
        "margin": sum(margins) / sum(weights),
        "accuracy": right / sum(weights),
        "pairs": float(len(pairs)),
        "grad_norm": norm_of(loss, policy),
        "learning_rate": highest * (1 - step / steps),
        "beta": beta,
        "rollbacks": 0.0,
    }


# Best of n.


def best_of(answers: Answers, asked: Asked) -> tuple[list[float], list[int]]:
    """What each answer is paid, and the places of the answers that are kept: the first best one of each prompt's."""
    paid = [s - (0.0 if ended else asked.penalty) for s, ended in zip(answers.scores, answers.ended, strict=True)]
    kept = []
    for first in range(0, len(paid), asked.group_size):
        best = first
        for i in range(first, first + asked.group_size):
            best = i if paid[i] > paid[best] else best
        kept.append(best)
    return paid, kept


@tells("rl", "score", "reward", "reward_sft")
def best_of_step(answers: Answers, asked: Asked) -> dict[str, float]:
    paid, kept = best_of(answers, asked)
    return {
        "score": mean([answers.scores[i] for i in kept]),
        "reward": mean([paid[i] for i in kept]),
        "reward_sft": mean(paid),
    }


OF_BEST = ("reward", "reward_sft", "score", "length", "eos_rate", "distinct_2", "mode_response_rate", "gold")


@tells("rl", *(f"eval_{name}" for name in OF_BEST), "kl_bound")
def best_of_all(answers: Answers, golds: Sequence[float], asked: Asked) -> dict[str, float]:
    paid, kept = best_of(answers, asked)
    ids = [answers.ids[i] for i in kept]
    found = {
        "reward": mean([paid[i] for i in kept]),
        "reward_sft": mean(paid),
        "score": mean([answers.scores[i] for i in kept]),
        "length": mean([len(one) for one in ids]),
        "eos_rate": mean([answers.ended[i] for i in kept]),
        "distinct_2": distinct(ids, 2),
        "mode_response_rate": alike([answers.prompts[i] for i in kept], [answers.texts[i] for i in kept]),
        "gold": mean([golds[i] for i in kept]),
    }
    bound = math.log(asked.group_size) - (asked.group_size - 1) / asked.group_size
    return {f"eval_{name}": value for name, value in found.items()} | {"kl_bound": bound}


# summary.json, from the journal's rows.


@tells(
    "summary.json",
    *(f"rl.{name}" for name in ("reward_sft", "reward_best", "best_step", "kl", "kl_last", "updates", "rollbacks")),
)
def summary(rows: Sequence[Mapping[str, Any]], budget: float) -> dict[str, float]:
    """The kept model is the first of those with the highest reward whose KL is within the budget, and that give at most a
    quarter of the prompts one answer; the first evaluation's, whatever it is, if none is better."""
    evaluations = [row for row in rows if "eval_reward" in row]
    kept = evaluations[0]
    for row in evaluations[1:]:
        fit = row["eval_kl"] <= budget and row["eval_mode_response_rate"] <= 0.25
        kept = row if fit and row["eval_reward"] > kept["eval_reward"] else kept
    return {
        "rl.reward_sft": evaluations[0]["eval_reward"],
        "rl.reward_best": kept["eval_reward"],
        "rl.best_step": kept["step"],
        "rl.kl": kept["eval_kl"],
        "rl.kl_last": evaluations[-1]["eval_kl"],
        "rl.updates": sum("pairs" in row or "score" in row for row in rows),
        "rl.rollbacks": max(row.get("rollbacks", 0) for row in rows),
    }


@tells("summary.json", "rl.zero_variance_groups")
def summary_of_groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {"rl.zero_variance_groups": mean([row["zero_variance_groups"] for row in rows if "score" in row])}


@tells(
    "summary.json",
    *(f"rl.{name}" for name in ("reward_change", "reward_change_low", "reward_change_high", "reward_detectable")),
)
def summary_of_change(evaluations: Sequence[Sequence[float]], kept: int) -> dict[str, float]:
    """From every evaluation's rewards by prompt: the kept one's against the first's, the best of all that came after it."""
    changes = [b - a for a, b in zip(evaluations[0], evaluations[kept], strict=True)]
    error = math.sqrt(variance(changes) * len(changes) / (len(changes) - 1) / len(changes))
    beyond = quantile_of_t(1 - 0.025 / (len(evaluations) - 1), len(changes) - 1)
    return {
        "rl.reward_change": mean(changes),
        "rl.reward_change_low": mean(changes) - beyond * error,
        "rl.reward_change_high": mean(changes) + beyond * error,
        "rl.reward_detectable": (beyond + quantile_of_t(0.8, len(changes) - 1)) * error,
    }


def quantile_of_t(share: float, freedom: int) -> float:
    """By adding up Student's density in small steps from the middle on."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi * freedom)
    below, at, step = 0.5, 0.0, 1e-4
    while below < share:
        below += step * scale * (1 + (at + step / 2) ** 2 / freedom) ** (-(freedom + 1) / 2)
        at += step
    return at


@tells("summary.json", "rl.reward_sft", "rl.reward_best", "rl.best_of", "rl.kl_bound")
def summary_of_best(rows: Sequence[Mapping[str, Any]], n: int) -> dict[str, float]:
    return {
        "rl.reward_sft": rows[-1]["eval_reward_sft"],
        "rl.reward_best": rows[-1]["eval_reward"],
        "rl.best_of": n,
        "rl.kl_bound": sum(1 / n * math.log(n) for _ in range(n)) - (n - 1) / n,
    }
