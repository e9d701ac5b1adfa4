"""How far the reward model can be trusted: accuracy beside baselines, calibration, and answers damaged on purpose."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sawyer.config import Config
from sawyer.engine import learned_gate
from sawyer.maths import WEIGHTS, Objective, calibration_error
from sawyer.models import Scorer
from sawyer.records import Prompt, prompt_of
from sawyer.runs import Gate
from sawyer.stages.reward.data import STAGE, Group, Judgements, judged
from sawyer.stages.reward.loss import open_loss
from sawyer.stats import RESAMPLES, Interval, correlation, no_narrower_than_wilson, wilson
from sawyer.worlds import gold, tasks

DAMAGED_WINS = 0.10  # more than this share of damaged answers preferred to the whole one: not to be trusted
KNOWS_GOLD = 0.85  # below this RL learns the reward model's mistakes: LAB.md, "What limits the reward model?"
GOLD_GAP = 2.0  # answers whose gold differs by less are nearly as good as each other
WORLD_PROMPTS, WORLD_ANSWERS = 200, 4
GAPS = (("less than 1", 0.0, 1.0), ("1 to 2", 1.0, 2.0), ("2 to 4", 2.0, 4.0), ("4 or more", 4.0, math.inf))
MOST_SOURCES = 8


def examine(scorer: Scorer, judgements: Judgements, loss: str, *, seed: int, by: str = "pair") -> dict[str, Any]:
    """Figures on the held-out prompts (on the training prompts where none was held out: `held_out_prompts` is 0 then).

    `scorer` gives the scores as they were trained, before shift and scale: loss and calibration depend on their unit.
    Calibration is of the confidence sigmoid(|D|), D = r_better - r_worse, that the answer the model prefers is the judges'
    too. Of the losses only `plain` trains sigmoid(D) as that probability; `squared` trains sigmoid(D * d^2), so that a model
    trained by it may be too sure of small differences and too unsure of large ones.
    """
    groups, aim = judgements.examined, Objective(loss=open_loss(loss), weigh=WEIGHTS[by])
    flat = scorer([g.prompt for g in groups for _ in g.responses], [r for g in groups for r in g.responses])
    said, rewards = judged(groups, judgements.standard), torch.tensor(flat)
    scores: list[list[float]] = []
    for group in groups:
        scores.append(flat[: len(group.responses)])
        flat = flat[len(group.responses) :]
    right = [[float(s[j] > s[k]) for j, k, _ in g.pairs] for g, s in zip(groups, scores, strict=True)]
    longer = [[_longer_wins(g.responses[j], g.responses[k]) for j, k, _ in g.pairs] for g in groups]
    gaps = torch.tensor([s[j] - s[k] for g, s in zip(groups, scores, strict=True) for j, k, _ in g.pairs])
    pairs = sum(len(group.pairs) for group in groups)
    accuracy, baseline = _by_prompt(right, seed), _by_prompt(longer, seed)
    probes = damaged_wins(scorer, groups, seed=seed)
    lengths = [float(len(r.split())) for g in groups for r in g.responses]
    return {
        "held_out_prompts": len(judgements.held_out),
        "accuracy": sum(map(sum, right)) / pairs,
        "accuracy_low": accuracy[0],
        "accuracy_high": accuracy[1],
        "accuracy_by_gap": by_gap(groups, right, seed),
        "accuracy_by_source": by_source(groups, right, seed),
        "baseline_longer": sum(map(sum, longer)) / pairs,
        "baseline_high": max(baseline[1], 0.5),
        "held_out_loss": float(aim.total(rewards, said)) / aim.count(said),
        "calibration_error": calibration_error(torch.sigmoid(gaps.abs()).tolist(), ((gaps.sign() + 1) / 2).tolist()),
        "length_correlation": correlation(lengths, [x for s in scores for x in s]),
        "damaged_wins": sum(wins for wins, _ in probes.values()) / max(1, sum(tried for _, tried in probes.values())),
        "probes": {name: wins / tried for name, (wins, tried) in probes.items() if tried},
    }


def by_gap(groups: Sequence[Group], right: Sequence[Sequence[float]], seed: int) -> dict[str, dict[str, float]]:
    """Accuracy by the gap between the judges' two scores, its interval by prompt and its number of pairs; empty bins are left
    out. `right` holds 1 for each of a group's pairs that is ranked rightly, else 0."""
    found = {}
    for name, low, high in GAPS:
        chosen = [
            [x for x, (_, _, d) in zip(r, g.pairs, strict=True) if low <= d < high] for g, r in zip(groups, right, strict=True)
        ]
        found[name] = _accuracy_of(chosen, seed)
    return {name: cell for name, cell in found.items() if cell["pairs"]}


def by_source(groups: Sequence[Group], right: Sequence[Sequence[float]], seed: int) -> dict[str, dict[str, float]]:
    """The same by who wrote an answer: over all pairs in which one of its answers stands; the most frequent sources."""
    places: dict[str, dict[int, list[float]]] = {}
    for place, (group, outcomes) in enumerate(zip(groups, right, strict=True)):
        for outcome, (j, k, _) in zip(outcomes, group.pairs, strict=True):
            for source in {group.sources[i] for i in (j, k) if group.sources and group.sources[i]}:
                places.setdefault(source, {}).setdefault(place, []).append(outcome)
    often = sorted(places, key=lambda source: (-sum(map(len, places[source].values())), source))[:MOST_SOURCES]
    return {source: _accuracy_of(list(places[source].values()), seed) for source in often}


def _accuracy_of(outcomes: Sequence[Sequence[float]], seed: int) -> dict[str, float]:
    tried = [pairs for pairs in outcomes if pairs]
    count = sum(map(len, tried))
    if not count:
        return {"pairs": 0}
    low, high = _by_prompt(tried, seed)
    return {"value": sum(map(sum, tried)) / count, "low": low, "high": high, "pairs": count}


def gold_accuracy(
    config: Config, own_answers: Callable[[Sequence[Prompt]], tuple[list[Prompt], list[str]]], scorer: Scorer
) -> dict[str, Any]:
    """On the SFT model's own answers to the world's held-out prompts: is the truly better one preferred?

    Counted are pairs of one prompt whose gold differs by `GOLD_GAP` or more. The interval is Wilson's.
    """
    prompts = [prompt_of(task.prompt) for task in tasks("held_out", WORLD_PROMPTS, config.seed)]
    asked, responses = own_answers([prompt for prompt in prompts for _ in range(WORLD_ANSWERS)])
    golds = [gold(prompt.text, response).score for prompt, response in zip(asked, responses, strict=True)]
    rewards = scorer(asked, responses)
    right = tried = 0
    for start in range(0, len(asked), WORLD_ANSWERS):
        for i in range(start, start + WORLD_ANSWERS):
            for j in range(start, i):
                if abs(golds[i] - golds[j]) >= GOLD_GAP:
                    tried += 1
                    right += (golds[i] - golds[j]) * (rewards[i] - rewards[j]) > 0  # equal rewards prefer neither
    interval = wilson(right, tried)
    return {
        "gold_accuracy": interval.value,
        "gold_accuracy_low": interval.low,
        "gold_pairs": tried,
        "gold_correlation": correlation(rewards, golds),
    }


def damaged_wins(scorer: Scorer, groups: Sequence[Group], *, seed: int) -> dict[str, tuple[int, int]]:
    """For each kind of damage to a prompt's best answer: (times the damaged one scores higher, times tried)."""
    rng = random.Random(f"{seed}/damage")
    best = [group.best for group in groups]
    whole = scorer([group.prompt for group in groups], best)
    counts: dict[str, tuple[int, int]] = {}
    others = best[1:] + best[:1]
    for name, damage in DAMAGES.items():
        texts = [damage(text, other, rng) for text, other in zip(best, others, strict=True)]
        tried = [i for i, text in enumerate(texts) if text is not None and text.strip() != best[i].strip()]
        scores = scorer([groups[i].prompt for i in tried], [str(texts[i]) for i in tried]) if tried else []
        counts[name] = (sum(score > whole[i] for i, score in zip(tried, scores, strict=True)), len(tried))
    return counts


def _shuffled(text: str, _: str, rng: random.Random) -> str | None:
    words = text.split()
    if len(words) < 4:
        return None
    rng.shuffle(words)
    return " ".join(words)


def _truncated(text: str, _: str, __: random.Random) -> str | None:
    words = text.split()
    return " ".join(words[: len(words) // 2]) if len(words) >= 4 else None


DAMAGES: Mapping[str, Callable[[str, str, random.Random], str | None]] = {
    "twice": lambda text, _, __: f"{text} {text}",
    "shuffled": _shuffled,
    "other_prompt": lambda _, other, __: other,
    "empty": lambda _, __, ___: "",
    "pleasantries": lambda text, _, __: f"Thank you so much for this great question! {text} I hope this helps you!",
    "truncated": _truncated,
}


def judge(figures: Mapping[str, Any]) -> list[Gate]:
    """The gates of the reward model (method section 3)."""
    low, bar, damaged = figures["accuracy_low"], figures["baseline_high"], figures["damaged_wins"]
    beats = figures["accuracy"] > max(figures["baseline_longer"], 0.5)
    where = "held-out pairs" if figures["held_out_prompts"] else "training pairs (none was held out)"
    worst = max(figures["probes"], key=figures["probes"].get, default="none")
    gates = [
        Gate(
            stage=STAGE,
            name="reward_beats_baselines",
            verdict="ok" if low > bar else "warn" if beats else "fail",
            value=low,
            threshold=bar,
            message=f"accuracy {figures['accuracy']:.3f} on {where}, at least {low:.3f}; the best of 'longer wins' and chance "
            f"may reach {bar:.3f}",
            advice="judge more prompts (intervals shrink with prompts, not with answers), or check the raters agree",
        ),
        Gate(
            stage=STAGE,
            name="reward_rejects_damage",
            verdict="ok" if damaged < DAMAGED_WINS else "warn" if damaged < 3 * DAMAGED_WINS else "fail",
            value=damaged,
            threshold=DAMAGED_WINS,
            message=f"damaged answers beat the whole ones {damaged:.1%} of the time (worst: {worst}, "
            f"{figures['probes'].get(worst, 0.0):.0%})",
            advice="add judged answers of that kind; the policy will find this weakness",
        ),
        learned_gate(STAGE, figures),
    ]
    if "gold_accuracy" in figures:
        gates.append(_gold_gate(figures))
    return gates


def _gold_gate(figures: Mapping[str, Any]) -> Gate:
    """Where the truth is known: on the SFT model's own answers, which RL will see, better must be told from worse."""
    share, low = figures["gold_accuracy"], figures["gold_accuracy_low"]
    return Gate(
        stage=STAGE,
        name="reward_knows_gold",
        verdict="ok" if share >= KNOWS_GOLD else "warn" if low > 0.5 else "fail",
        value=share,
        threshold=KNOWS_GOLD,
        message=f"{share:.1%} of {figures['gold_pairs']:,} pairs of the SFT model's own answers that differ clearly in gold "
        "are ranked rightly",
        advice="RL learns what is ranked wrongly: have more of the SFT model's own answers judged, and watch greedy answers",
    )


def _longer_wins(better: str, worse: str) -> float:
    return 0.5 if len(better) == len(worse) else float(len(better) > len(worse))


def _by_prompt(outcomes: Sequence[Sequence[float]], seed: int) -> tuple[float, float]:
    """A 95 % interval of the share of right pairs, resampled by prompt: pairs of one prompt are not independent.

    A handful of prompts that agree would give an interval of no width: there it is at least as wide as Wilson's by prompts.
    """
    rng, cells = random.Random(seed), [(sum(pairs), len(pairs)) for pairs in outcomes]
    shares = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(cells, k=len(cells))
        shares.append(sum(won for won, _ in drawn) / sum(tried for _, tried in drawn))
    shares.sort()
    low, high = shares[math.floor(0.025 * RESAMPLES)], shares[math.ceil(0.975 * RESAMPLES) - 1]
    share = sum(won for won, _ in cells) / sum(tried for _, tried in cells)
    found = no_narrower_than_wilson(Interval(value=share, low=low, high=high), len(cells))
    return found.low, found.high
