"""The reward stage's trust report: what is examined, the flat figures that a script wants, and the gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from sawyer.config import Config
from sawyer.errors import WorldError
from sawyer.maths import WEIGHTS, Objective
from sawyer.models import Scorer
from sawyer.records import Answer, JudgedPrompt, Prompt, prompt_of
from sawyer.runs import Gate, Run, write_json
from sawyer.stages.reward.loss_choice import open_loss
from sawyer.stages.reward.reward_data import STAGE, RewardData
from sawyer.stats import correlation, wilson
from sawyer.train import distributed, judged_batch, learned_gate
from sawyer.trust import GUARD_WIN_RATE, Gap, Probe, SourceAccuracy, Trust, as_json, decide_verdict, level, trust
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
    own_answers: Sequence[JudgedPrompt] = (),
) -> tuple[Trust, dict[str, Any]]:
    """The trust report on the evaluation prompts (without any, on the training prompts: `eval_prompts` is 0 then), and its flat
    figures.

    `scorer` gives the scores as they were trained, before shift and scale: loss and calibration depend on their unit. `world`
    says that the prompts may be the built-in world's, whose gold is known; `own` are the SFT model's own answers with it.
    """
    records = [prompt.record for prompt in data.examined_prompts]
    scorer = ScoreCache(scorer)
    report = trust(
        scorer,
        records,
        loss=loss,
        truth=_gold if world and all(in_world(record.prompt) for record in records) else None,
        own_answers=own_answers,
        judgements=data.records,
        held_out=bool(data.eval_prompts),
        seed=seed,
    )
    return report, summary_figures(report, data) | {"eval_loss": eval_loss(scorer, data, loss, by)}


def log_refusal(run: Run, records: Sequence[JudgedPrompt], seed: int) -> None:
    """The verdict on judgements that prefer nothing, as event and trust.json: no model is needed to refuse RL."""
    report = trust(lambda prompts, responses: [0.0] * len(responses), records, seed=seed)
    verdict = decide_verdict(report)
    distributed.on_rank_zero(lambda: write_json(run.layout.trust, as_json(report, verdict)))
    run.journal.event(STAGE, "verdict", message=verdict.words)


def summary_figures(report: Trust, data: RewardData) -> dict[str, Any]:
    """The figures under the names that summary.json and the gates know; `ece` is of sigmoid(D), whatever the loss."""
    side, damage = report.everything, report.corrupted_win_rate

    def by_name(groups: Sequence[Gap | SourceAccuracy]) -> dict[str, dict[str, float]]:
        accuracies = {group.name: group.accuracy for group in groups}
        return {name: {"value": a.value, "low": a.low, "high": a.high, "pairs": a.cases} for name, a in accuracies.items()}

    figures = {
        "eval_prompts": len(data.eval_prompts),
        "accuracy": side.accuracy.value,
        "accuracy_low": side.accuracy.low,
        "accuracy_high": side.accuracy.high,
        "accuracy_by_gap": by_name(side.by_gap),
        "accuracy_by_source": by_name(side.by_source),
        "baseline_longer": side.longer_wins.value,
        "baseline_high": side.best_rule_high,
        "ece": side.calibration[-1].error.value if side.calibration else 0.0,
        "length_correlation": side.length.all.value,
        "corrupted_win_rate": damage.value if damage.cases else 0.0,
        "probes": {probe.name: probe.wins.value for probe in report.probes if probe.wins.cases},
        "verdict": decide_verdict(report).kind,
    }
    return figures | ({"accuracy_ceiling": report.ceiling.accuracy.value} if report.ceiling is not None else {})


def eval_loss(scorer: Scorer, data: RewardData, loss: str, by: str) -> float:
    """The loss of the examined prompts, weighed as in training, without what `reward.centering_coefficient` adds."""
    objective, batch = Objective(loss=open_loss(loss), weigh=WEIGHTS[by]), judged_batch(data.examined_prompts, data.normalizer)
    rewards = torch.tensor(_rewards(scorer, [prompt.record for prompt in data.examined_prompts]))
    return float(objective.total(rewards, batch)) / objective.count(batch)


def _rewards(scorer: Scorer, records: Sequence[JudgedPrompt]) -> list[float]:
    """The rewards of all answers, in order."""
    return scorer([one.prompt for one in records for _ in one.answers], [text for one in records for text in one.responses])


def score_own_answers(
    config: Config, sample_answers: Callable[[Sequence[Prompt]], tuple[list[Prompt], list[str]]]
) -> tuple[JudgedPrompt, ...]:
    """The policy's own answers to the world's held-out prompts, with their gold as score."""
    prompts = [prompt_of(task.prompt) for task in tasks("held_out", WORLD_PROMPTS, config.seed)]
    prompt_of_each, responses = sample_answers([prompt for prompt in prompts for _ in range(WORLD_ANSWERS)])
    answers = [
        Answer(response=text, score=_gold(prompt, text), source="sft")
        for prompt, text in zip(prompt_of_each, responses, strict=True)
    ]
    return tuple(
        JudgedPrompt(prompt=prompt_of_each[i], answers=tuple(answers[i : i + WORLD_ANSWERS]))
        for i in range(0, len(prompt_of_each), WORLD_ANSWERS)
    )


def gold_accuracy(own_answers: Sequence[JudgedPrompt], scorer: Scorer) -> dict[str, Any]:
    """On the SFT model's own answers to the world's held-out prompts: is the truly better one preferred?

    Counted are pairs of one prompt whose gold differs by `GOLD_GAP` or more. The interval is Wilson's.
    """
    rewards = _rewards(scorer, own_answers)
    right = total = start = 0
    for record in own_answers:
        clear = [pair for pair in record.pairs().preferences if pair.difference >= GOLD_GAP]
        total += len(clear)
        right += sum(rewards[start + pair.better] > rewards[start + pair.worse] for pair in clear)  # equal: neither preferred
        start += len(record.answers)
    interval = wilson(right, total)
    return {
        "gold_accuracy": interval.value,
        "gold_accuracy_low": interval.low,
        "gold_pairs": total,
        "gold_correlation": correlation(rewards, [score for record in own_answers for score in record.scores]),
    }


class ScoreCache:
    """A scorer that asks the one behind it once for each answer: loss, figures and probes meet the same ones again."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.scores: dict[tuple[Prompt, str], float] = {}

    @property
    def cut(self) -> int:
        """Answers that the scorer could not read to their end."""
        return int(getattr(self.scorer, "cut", 0))

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        cases = list(zip(prompts, responses, strict=True))
        new = [case for case in dict.fromkeys(cases) if case not in self.scores]
        if new:
            scores = self.scorer([prompt for prompt, _ in new], [response for _, response in new])
            self.scores.update(zip(new, scores, strict=True))
        return [self.scores[case] for case in cases]


def in_world(prompt: Prompt) -> bool:
    """Whether the built-in world knows the prompt, and so what an answer to it is worth."""
    try:
        find_task(prompt.text)
    except WorldError:
        return False
    return True


def _gold(prompt: Prompt, response: str) -> float:
    return gold(prompt.text, response).score


def reward_gates(figures: Mapping[str, Any], probes: Sequence[Probe]) -> list[Gate]:
    """Is the reward model better than simple rules, does it reject damage, has it learned, does it know gold?"""
    low, bar, longer = figures["accuracy_low"], figures["baseline_high"], figures["baseline_longer"]
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
        share = figures["gold_accuracy"]
        gates.append(
            Gate(
                stage=STAGE,
                name="reward_knows_gold",
                verdict="ok" if share >= KNOWS_GOLD else "warn" if figures["gold_accuracy_low"] > 0.5 else "fail",
                value=share,
                threshold=KNOWS_GOLD,
                message=f"{share:.1%} of {figures['gold_pairs']:,} pairs of the SFT model's own answers that differ clearly in "
                "gold are ranked rightly",
                advice="RL learns what is ranked wrongly: have more of the SFT model's own answers judged, and watch greedy "
                "answers",
            )
        )
    return gates


def _damage_gate(figures: Mapping[str, Any], probes: Sequence[Probe]) -> Gate:
    """Damage is judged by the probe that comes off worst."""
    verdicts: dict[str, Literal["ok", "warn", "fail"]] = {"ok": "ok", "guard": "warn", "refuse": "fail"}
    order = list(verdicts)
    worst = max(
        (probe for probe in probes if probe.wins.cases),
        key=lambda probe: (order.index(level(probe)), probe.wins.value),
        default=None,
    )
    message = f"damaged answers beat the whole ones {figures['corrupted_win_rate']:.1%} of the time"
    if worst is not None:
        message += f" (worst: {worst.name}, {worst.wins.value:.0%}, from {worst.wins.low:.0%} to {worst.wins.high:.0%})"
    if unseen := sum(probe.unseen for probe in probes):
        message += f"; {unseen:,} more scored the same as the whole ones, to rounding"
    return Gate(
        stage=STAGE,
        name="reward_rejects_damage",
        verdict="ok" if worst is None else verdicts[level(worst)],
        value=worst.wins.value if worst is not None else 0.0,
        threshold=GUARD_WIN_RATE,
        message=message,
        advice="add judged answers of that kind; the policy will find this weakness",
    )
