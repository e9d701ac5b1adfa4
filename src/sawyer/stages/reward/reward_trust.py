"""The reward stage's trust report: what is examined, the flat figures that a script wants, and the gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sawyer.config import Config
from sawyer.errors import WorldError
from sawyer.maths import WEIGHTS, Objective
from sawyer.models import Scorer
from sawyer.records import Answer, JudgedPrompt, Prompt, prompt_of
from sawyer.runs import Gate
from sawyer.stages.reward.loss_choice import open_loss
from sawyer.stages.reward.reward_data import STAGE, RewardData
from sawyer.stats import correlation, wilson
from sawyer.train import judged_batch, learned_gate
from sawyer.trust import GUARD_WIN_RATE, Figure, Probe, Trust, decide_verdict, level, trust
from sawyer.worlds import find_task, gold, tasks

KNOWS_GOLD = 0.85  # below this RL learns the reward model's mistakes: lab/learning.md#reward-model
GOLD_GAP = 2.0  # answers whose gold differs by less are nearly as good as each other
WORLD_PROMPTS, WORLD_ANSWERS = 200, 4


def examine(
    scorer: Scorer,
    data: RewardData,
    loss: str,
    *,
    seed: int,
    by: str = "pair",
    world: bool = False,
    own: Sequence[JudgedPrompt] = (),
) -> tuple[Trust, dict[str, Any]]:
    """The trust report on the held-out prompts (on the training prompts where none was held out: `eval_prompts` is 0
    then), and its flat figures.

    `scorer` gives the scores as they were trained, before shift and scale: loss and calibration depend on their unit. `world`
    says that the prompts may be the built-in world's, whose gold is known; `own` are the SFT model's own answers with it.
    """
    records = [prompt.record for prompt in data.examined_prompts]
    scorer = Remembered(scorer)
    known = world and all(in_world(record.prompt) for record in records)
    found = trust(
        scorer,
        records,
        loss=loss,
        truth=_truth if known else None,
        own=own,
        held_out=bool(data.eval_prompts),
        seed=seed,
    )
    return found, flat(found, data) | {"eval_loss": eval_loss(scorer, data, loss, by)}


def flat(found: Trust, data: RewardData) -> dict[str, Any]:
    """The figures under the names that summary.json and the gates know; calibration is of sigmoid(D), whatever the loss."""
    side = found.everything
    plain = side.calibration[-1].error.value if side.calibration else 0.0
    figures = {
        "eval_prompts": len(data.eval_prompts),
        "accuracy": side.accuracy.value,
        "accuracy_low": side.accuracy.low,
        "accuracy_high": side.accuracy.high,
        "accuracy_by_gap": {gap.name: _cell(gap.accuracy) for gap in side.by_gap},
        "accuracy_by_source": {source.name: _cell(source.accuracy) for source in side.by_source},
        "baseline_longer": side.longer_wins.value,
        "baseline_high": side.best_rule_high,
        "ece": plain,
        "length_correlation": side.length.all.value,
        "corrupted_win_rate": found.corrupted_win_rate.value if found.corrupted_win_rate.cases else 0.0,
        "probes": {probe.name: probe.wins.value for probe in found.probes if probe.wins.cases},
        "verdict": decide_verdict(found).kind,
    }
    return figures | ({"accuracy_ceiling": found.ceiling.accuracy.value} if found.ceiling is not None else {})


def eval_loss(scorer: Scorer, data: RewardData, loss: str, by: str) -> float:
    """The loss of what is examined, weighed as in training, without what `reward.centering_coefficient` adds."""
    judged = [prompt.record for prompt in data.examined_prompts]
    rewards = scorer([one.prompt for one in judged for _ in one.answers], [text for one in judged for text in one.responses])
    objective, batch = Objective(loss=open_loss(loss), weigh=WEIGHTS[by]), judged_batch(data.examined_prompts, data.normalizer)
    return float(objective.total(torch.tensor(rewards), batch)) / objective.count(batch)


def own_judged(
    config: Config, own_answers: Callable[[Sequence[Prompt]], tuple[list[Prompt], list[str]]]
) -> tuple[JudgedPrompt, ...]:
    """The policy's own answers to the world's held-out prompts, with their gold as score."""
    prompts = [prompt_of(task.prompt) for task in tasks("held_out", WORLD_PROMPTS, config.seed)]
    asked, responses = own_answers([prompt for prompt in prompts for _ in range(WORLD_ANSWERS)])
    answers = [
        Answer(response=text, score=gold(prompt.text, text).score, source="sft")
        for prompt, text in zip(asked, responses, strict=True)
    ]
    return tuple(
        JudgedPrompt(prompt=asked[at], answers=tuple(answers[at : at + WORLD_ANSWERS]))
        for at in range(0, len(asked), WORLD_ANSWERS)
    )


def gold_accuracy(own: Sequence[JudgedPrompt], scorer: Scorer) -> dict[str, Any]:
    """On the SFT model's own answers to the world's held-out prompts: is the truly better one preferred?

    Counted are pairs of one prompt whose gold differs by `GOLD_GAP` or more. The interval is Wilson's.
    """
    golds = [[float(answer.score or 0.0) for answer in record.answers] for record in own]
    flat_rewards = scorer(
        [record.prompt for record in own for _ in record.answers], [a.response for record in own for a in record.answers]
    )
    rewards, at = [], 0
    for row in golds:
        rewards.append(flat_rewards[at : at + len(row)])
        at += len(row)
    right = tried = 0
    for true, found in zip(golds, rewards, strict=True):
        for i in range(len(true)):
            for j in range(i):
                if abs(true[i] - true[j]) >= GOLD_GAP:
                    tried += 1
                    right += (true[i] - true[j]) * (found[i] - found[j]) > 0  # equal rewards prefer neither
    interval = wilson(right, tried)
    return {
        "gold_accuracy": interval.value,
        "gold_accuracy_low": interval.low,
        "gold_pairs": tried,
        "gold_correlation": correlation(flat_rewards, [score for row in golds for score in row]),
    }


class Remembered:
    """A scorer that asks the one behind it once for each answer: loss, figures and probes meet the same ones again."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.known: dict[tuple[Prompt, str], float] = {}

    @property
    def cut(self) -> int:
        """Answers that the scorer could not read to their end."""
        return int(getattr(self.scorer, "cut", 0))

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        asked = list(zip(prompts, responses, strict=True))
        new = [case for case in dict.fromkeys(asked) if case not in self.known]
        if new:
            scores = self.scorer([prompt for prompt, _ in new], [response for _, response in new])
            self.known.update(zip(new, scores, strict=True))
        return [self.known[case] for case in asked]


def in_world(prompt: Prompt) -> bool:
    """Whether the built-in world knows the prompt, and so what an answer to it is worth."""
    try:
        find_task(prompt.text)
    except WorldError:
        return False
    return True


def _truth(prompt: Prompt, response: str) -> float:
    return gold(prompt.text, response).score


def _cell(figure: Figure) -> dict[str, float]:
    return {"value": figure.value, "low": figure.low, "high": figure.high, "pairs": figure.cases}


def judge(figures: Mapping[str, Any], probes: Sequence[Probe]) -> list[Gate]:
    """The gates of the reward model (method section 3). Damage is judged by the probe that comes off worst."""
    low, bar = figures["accuracy_low"], figures["baseline_high"]
    longer = figures["baseline_longer"]
    beats = figures["accuracy"] > max(longer, 1 - longer)
    where = "held-out pairs" if figures["eval_prompts"] else "training pairs (none was held out)"
    gates = [
        Gate(
            stage=STAGE,
            name="reward_beats_baselines",
            verdict="ok" if low > bar else "warn" if beats else "fail",
            value=low,
            threshold=bar,
            message=f"accuracy {figures['accuracy']:.3f} on {where}, at least {low:.3f}; the best of 'longer wins', 'shorter "
            f"wins' and chance may reach {bar:.3f}",
            advice="judge more prompts (intervals shrink with prompts, not with answers), or check the raters agree",
        ),
        _damage_gate(figures, probes),
        learned_gate(STAGE, figures),
    ]
    if "gold_accuracy" in figures:
        gates.append(_gold_gate(figures))
    return gates


def _damage_gate(figures: Mapping[str, Any], probes: Sequence[Probe]) -> Gate:
    order = {"ok": 0, "guard": 1, "refuse": 2}
    tried = [probe for probe in probes if probe.wins.cases]
    worst = max(tried, key=lambda probe: (order[level(probe)], probe.wins.value), default=None)
    found = "ok" if worst is None else level(worst)
    told = f"damaged answers beat the whole ones {figures['corrupted_win_rate']:.1%} of the time"
    if worst is not None:
        told += f" (worst: {worst.name}, {worst.wins.value:.0%}, from {worst.wins.low:.0%} to {worst.wins.high:.0%})"
    if unseen := sum(probe.unseen for probe in probes):
        told += f"; {unseen:,} more scored the same as the whole ones, to rounding"
    return Gate(
        stage=STAGE,
        name="reward_rejects_damage",
        verdict={"ok": "ok", "guard": "warn", "refuse": "fail"}[found],  # type: ignore[arg-type]
        value=worst.wins.value if worst is not None else 0.0,
        threshold=GUARD_WIN_RATE,
        message=told,
        advice="add judged answers of that kind; the policy will find this weakness",
    )


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
