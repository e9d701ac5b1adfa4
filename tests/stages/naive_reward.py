"""The figures of the reward stage: docs/metrics.md by loops over pairs, answers and prompts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from naive import mean, norm_of, pearson, percentiles, rate_of, sigmoid, softplus, tells, variance, wilson

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Told:
    """What judges said of one prompt's K answers."""

    prompt: Any
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    rows: tuple[Any, ...] = ()  # as the network reads them
    sources: tuple[str, ...] = ()  # who wrote each answer
    weight: float = 1.0  # of the judgement: how often it counts

    @property
    def pairs(self) -> list[tuple[int, int, float]]:
        """(better, worse, by how much)."""
        found = []
        for j in range(len(self.scores)):
            for k in range(len(self.scores)):
                if self.scores[j] > self.scores[k]:
                    found.append((j, k, self.scores[j] - self.scores[k]))
        return found


# Losses. `softplus` of plain numbers or of tensors: -log sigmoid(x) = log(1 + exp(-x)).


def squared(r: Any, told: Told, of: Callable[[Any], Any], center: float) -> list[Any]:
    return [of(-(r[j] - r[k]) * d * d) + center * (r[j] + r[k]) ** 2 for j, k, d in told.pairs]


def plain(r: Any, told: Told, of: Callable[[Any], Any], center: float) -> list[Any]:
    return [of(-(r[j] - r[k])) + center * (r[j] + r[k]) ** 2 for j, k, _ in told.pairs]


def by_prompt(losses: list[Any]) -> list[Any]:
    """The mean over a prompt's pairs is one item."""
    return [sum(losses) / len(losses)]


def listwise(r: Any, told: Told, logarithm: Callable[[Any], Any], exponential: Callable[[Any], Any]) -> list[Any]:
    """A prompt is one item: each answer drawn from those that are not scored above it."""
    total = 0.0
    for i, score in enumerate(told.scores):
        below = sum(exponential(r[k]) for k, other in enumerate(told.scores) if other <= score)  # its equals among them
        total = total + logarithm(below) - r[i]
    return [total]


def step_by_hand(
    model: Any, told: Sequence[Told], items: Callable[[Any, Told], list[Any]], step: int, steps: int, highest: float
) -> dict[str, float]:
    """A batch's figures. `items` gives the losses of a prompt, each counting once, from one head's scores of its answers."""
    heads, each, weights, right, pairs, of_pairs = 1, [], [], 0.0, 0, 0.0
    for one in told:
        found = torch.stack([model(input_ids=torch.tensor([list(row.ids)])).logits[0] for row in one.rows])  # (K, heads)
        heads = found.shape[1]
        losses = [loss for head in range(heads) for loss in items(found[:, head], one)]
        each += [one.weight * loss for loss in losses]
        weights += [one.weight] * len(losses)
        scores = [mean(row) for row in found.tolist()]
        right += one.weight * sum(scores[j] > scores[k] for j, k, _ in one.pairs)
        pairs, of_pairs = pairs + len(one.pairs), of_pairs + one.weight * len(one.pairs)
    loss = torch.stack(each).sum() / sum(weights)  # the mean over the heads of each one's mean loss
    return {
        "loss": float(loss.detach()),
        "accuracy": right / of_pairs,
        "pairs": pairs,
        "learning_rate": rate_of(step, steps, highest, 0.1),
        "grad_norm": norm_of(loss, model),
    }


reward_step = tells("reward", "loss", "accuracy", "pairs", "learning_rate", "grad_norm")(step_by_hand)


# The last row.


def draws(cells: Sequence[tuple[float, ...]], seed: int, figure: Callable[[Sequence[float]], float]) -> list[float]:
    """The figure of sums over prompts that are drawn again, prompt by prompt."""
    drawn = torch.randint(len(cells), (RESAMPLES, len(cells)), generator=torch.Generator().manual_seed(seed)).tolist()
    return [figure([math.fsum(cells[i][c] for i in chosen) for c in range(len(cells[0]))]) for chosen in drawn]


def share(cells: Sequence[tuple[float, float]], seed: int) -> tuple[float, float, float]:
    """(value, low, high) of what was won of what was tried, prompt by prompt; of few prompts, or where all agree, as wide as
    Wilson's at least."""
    value = math.fsum(won for won, _ in cells) / math.fsum(tried for _, tried in cells)
    low, high = percentiles(draws(cells, seed, lambda sums: sums[0] / sums[1]))
    if len(cells) < 20 or value in (0.0, 1.0):
        least, most = wilson(value, len(cells))
        low, high = min(low, least), max(high, most)
    return value, low, high


def won_by(told: Sequence[Told], wins: Callable[[Told, int, int], float]) -> list[tuple[float, float]]:
    """(won, tried) of each prompt."""
    return [(sum(wins(one, j, k) for j, k, _ in one.pairs), float(len(one.pairs))) for one in told]


def longer(one: Told, j: int, k: int) -> float:
    return 0.5 if len(one.texts[j]) == len(one.texts[k]) else float(len(one.texts[j]) > len(one.texts[k]))


def damaged(told: Sequence[Told], seed: int) -> list[tuple[str, Told, str, str]]:
    """(damage, prompt, the best answer, the damaged one), damaged in each of six ways."""
    rng = random.Random(f"{seed}/damage")
    best = []
    for one in told:
        lead = [sum(d for j, _, d in one.pairs if j == i) for i in range(len(one.texts))]
        best.append(one.texts[lead.index(max(lead))])
    cases = [("twice", i, f"{text} {text}") for i, text in enumerate(best)]
    for i, text in enumerate(best):
        words = text.split()
        if len(words) >= 4:
            rng.shuffle(words)
            cases.append(("shuffled", i, " ".join(words)))
    cases += [("other_prompt", i, best[(i + 1) % len(best)]) for i in range(len(best))]
    cases += [("empty", i, "") for i in range(len(best))]
    for i, text in enumerate(best):
        cases.append(("pleasantries", i, f"Thank you so much for this great question! {text} I hope this helps you!"))
        if len(text.split()) >= 4:
            cases.append(("truncated", i, " ".join(text.split()[: len(text.split()) // 2])))
    return [(name, told[i], best[i], text) for name, i, text in cases if text.strip() != best[i].strip()]


def damage_scored(told: Sequence[Told], reward: Callable[[Any, str], float], seed: int) -> list[tuple[str, bool]]:
    """(damage, whether it won) where the two scores differ by more than a ten thousandth of the scores' standard deviation."""
    scores = [reward(one.prompt, text) for one in told if one.pairs for text in one.texts]
    middle = sum(scores) / len(scores)
    near = 1e-4 * math.sqrt(sum((score - middle) ** 2 for score in scores) / len(scores))
    leads = [(name, reward(one.prompt, bad) - reward(one.prompt, whole)) for name, one, whole, bad in damaged(told, seed)]
    return [(name, lead > 0) for name, lead in leads if abs(lead) > near]


def calibration(told: Sequence[Told], reward: Callable[[Any, str], float]) -> float:
    """Each pair's answer preferred, with sigmoid(|D|): in ten drawers by that, how far being right is from being sure."""
    drawers: list[list[tuple[float, float]]] = [[] for _ in range(10)]
    for one in told:
        for j, k, _ in one.pairs:
            gap = reward(one.prompt, one.texts[j]) - reward(one.prompt, one.texts[k])
            sure = sigmoid(abs(gap))
            drawers[min(int(sure * 10), 9)].append((sure, 0.5 if gap == 0 else float(gap > 0)))
    total = sum(map(len, drawers))
    return sum(len(d) / total * abs(mean([s for s, _ in d]) - mean([r for _, r in d])) for d in drawers if d)


EXAMINED = ("accuracy", "accuracy_low", "accuracy_high", "baseline_longer", "baseline_high", "ece")
EXAMINED += ("length_correlation", "corrupted_win_rate")


@tells("reward", *EXAMINED)
def examined(told: Sequence[Told], reward: Callable[[Any, str], float], seed: int) -> dict[str, float]:
    value, low, high = share(
        won_by(told, lambda one, j, k: float(reward(one.prompt, one.texts[j]) > reward(one.prompt, one.texts[k]))), seed
    )
    longest = share(won_by(told, longer), seed)
    wins = [won for _, won in damage_scored(told, reward, seed)]
    return {
        "accuracy": value,
        "accuracy_low": low,
        "accuracy_high": high,
        "baseline_longer": longest[0],
        "baseline_high": longest[2] if longest[0] >= 0.5 else 1 - longest[1],
        "ece": calibration(told, reward),
        "length_correlation": pearson(
            [float(len(text.split())) for one in told for text in one.texts],
            [reward(one.prompt, text) for one in told for text in one.texts],
        ),
        "corrupted_win_rate": sum(wins) / len(wins),
    }


@tells("reward", "eval_loss")
def eval_squared(told: Sequence[Told], reward: Callable[[Any, str], float]) -> dict[str, float]:
    losses = []
    for one in told:
        losses += squared([reward(one.prompt, text) for text in one.texts], one, softplus, 0.0)
    return {"eval_loss": mean(losses)}


@tells("reward", "gold_accuracy", "gold_accuracy_low", "gold_correlation")
def of_gold(own: Sequence[Told], reward: Callable[[Any, str], float]) -> dict[str, float]:
    """On answers whose `scores` are their gold."""
    right = tried = 0
    for one in own:
        for j, k, d in one.pairs:
            if d >= 2:
                tried += 1
                right += reward(one.prompt, one.texts[j]) > reward(one.prompt, one.texts[k])
    rewards = [reward(one.prompt, text) for one in own for text in one.texts]
    return {
        "gold_accuracy": right / tried,
        "gold_accuracy_low": wilson(right / tried, tried)[0],
        "gold_correlation": pearson(rewards, [score for one in own for score in one.scores]),
    }


@tells("reward", "loss_first", "loss_last")
def first_and_last(losses: Sequence[float]) -> dict[str, float]:
    return {"loss_first": losses[0], "loss_last": mean(losses[-max(1, len(losses) // 10) :])}


@tells("reward", "reward_shift", "reward_scale", "own_disagreement")
def units(raw: Sequence[Sequence[float]]) -> dict[str, float]:
    """From each member's raw scores of the SFT model's own answers, (M, N)."""
    standard = [[(x - mean(member)) / math.sqrt(variance(member)) for x in member] for member in raw]
    apart = [math.sqrt(variance(scores)) for scores in zip(*standard, strict=True)]
    return {"reward_shift": mean(raw[0]), "reward_scale": math.sqrt(variance(raw[0])), "own_disagreement": mean(apart)}


@tells("reward", "accuracy_ceiling")
def ceiling(judgings: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, float]:
    """Two judgings of the same answers agree with p^2 + (1 - p)^2; p is found by halving."""
    alike = tried = 0
    for one, other in judgings:
        for a, b in combinations(one, 2):
            if one[a] != one[b] and other[a] != other[b]:
                tried += 1
                alike += (one[a] > one[b]) == (other[a] > other[b])
    low, high = 0.5, 1.0
    for _ in range(80):
        p = (low + high) / 2
        low, high = (p, high) if p * p + (1 - p) ** 2 < alike / tried else (low, p)
    return {"accuracy_ceiling": low}


# summary.json.

OF_PAIRS = ("value", "low", "high", "pairs")
CARRIED = (*EXAMINED, "eval_loss", "reward_shift", "reward_scale", "own_disagreement", "gold_accuracy", "gold_accuracy_low")
CARRIED += ("gold_correlation",)


@tells("summary.json", *(f"reward.{name}" for name in CARRIED), "STAGE.loss_first", "STAGE.loss_last")
def carried(last: Mapping[str, float]) -> dict[str, float]:
    """What the journal's last row says too."""
    return {f"reward.{name}": last[name] for name in (*CARRIED, "loss_first", "loss_last")}


@tells("summary.json", "reward.accuracy_ceiling")
def ceiling_summary(judgings: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, float]:
    return {f"reward.{name}": value for name, value in ceiling(judgings).items()}


@tells("summary.json", "reward.eval_prompts", "reward.gold_pairs")
def counted(told: Sequence[Told], own: Sequence[Told]) -> dict[str, float]:
    return {
        "reward.eval_prompts": len(told),
        "reward.gold_pairs": sum(d >= 2 for one in own for _, _, d in one.pairs),
    }


CHANGE = ("before", "after", "value", "low", "high", "detectable", "prompts", "pairs")


@tells("summary.json", *(f"reward.round_change.{name}" for name in CHANGE))
def round_change(
    told: Sequence[Told], before: Callable[[Any, str], float], after: Callable[[Any, str], float], t: float, t_power: float
) -> dict[str, float]:
    """Prompt by prompt, all that is said of one together; `t` and `t_power` are Student's points at 97.5 and 80 %."""
    shares: dict[Any, list[list[bool]]] = {}
    for one in told:
        for j, k, _ in one.pairs:
            both = [reward(one.prompt, one.texts[j]) > reward(one.prompt, one.texts[k]) for reward in (before, after)]
            shares.setdefault(one.prompt, []).append(both)
    first = [sum(a for a, _ in pairs) / len(pairs) for pairs in shares.values()]
    second = [sum(b for _, b in pairs) / len(pairs) for pairs in shares.values()]
    changes = [b - a for a, b in zip(first, second, strict=True)]
    spread = math.sqrt(sum((change - mean(changes)) ** 2 for change in changes) / (len(changes) - 1))
    error = spread / math.sqrt(len(changes))
    figures = {
        "before": mean(first),
        "after": mean(second),
        "value": mean(second) - mean(first),
        "low": mean(changes) - t * error,
        "high": mean(changes) + t * error,
        "detectable": (t + t_power) * error,
        "prompts": len(changes),
        "pairs": sum(map(len, shares.values())),
    }
    return {f"reward.round_change.{name}": value for name, value in figures.items()}


@tells("summary.json", *(f"reward.accuracy_by_gap.GAP.{name}" for name in OF_PAIRS))
def by_gap(told: Sequence[Told], reward: Callable[[Any, str], float], seed: int) -> dict[str, float]:
    """Of scores from 0 to 10 the pairs that differ by less than 1, by 1 to 2, by 2 to 4, by 4 or more."""
    found: dict[str, float] = {}
    names = {"less than 1": (0.0, 1.0), "1 to 2": (1.0, 2.0), "2 to 4": (2.0, 4.0), "4 or more": (4.0, math.inf)}
    for name, (low, high) in names.items():
        cells = []
        for one in told:
            inside = [(j, k) for j, k, d in one.pairs if low <= d < high]
            right = sum(reward(one.prompt, one.texts[j]) > reward(one.prompt, one.texts[k]) for j, k in inside)
            cells += [(float(right), float(len(inside)))] if inside else []
        if cells:
            figures = (*share(cells, seed), sum(tried for _, tried in cells))
            found |= {f"reward.accuracy_by_gap.{name}.{key}": x for key, x in zip(OF_PAIRS, figures, strict=True)}
    return found


@tells("summary.json", *(f"reward.accuracy_by_source.SOURCE.{name}" for name in OF_PAIRS))
def by_source(told: Sequence[Told], reward: Callable[[Any, str], float], seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for source in {source for one in told for source in one.sources}:
        cells = []
        for one in told:
            his = [(j, k) for j, k, _ in one.pairs if source in (one.sources[j], one.sources[k])]
            right = sum(reward(one.prompt, one.texts[j]) > reward(one.prompt, one.texts[k]) for j, k in his)
            cells += [(float(right), float(len(his)))] if his else []
        figures = (*share(cells, seed), sum(tried for _, tried in cells))
        found |= {f"reward.accuracy_by_source.{source}.{key}": x for key, x in zip(OF_PAIRS, figures, strict=True)}
    return found


@tells("summary.json", "reward.probes.PROBE")
def probes(told: Sequence[Told], reward: Callable[[Any, str], float], seed: int) -> dict[str, float]:
    won: dict[str, list[bool]] = {}
    for name, wins in damage_scored(told, reward, seed):
        won.setdefault(name, []).append(wins)
    return {f"reward.probes.{name}": sum(all_of) / len(all_of) for name, all_of in won.items()}
