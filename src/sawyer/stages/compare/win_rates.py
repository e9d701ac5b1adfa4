"""Figures of a comparison: means by model and setting, and who wins how often."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, get_args

from sawyer.stages.compare.comparison_rows import ComparedAnswer, Measure
from sawyer.stats import bootstrap, length_controlled_win_rate, win_rate

JUDGES: tuple[Measure, ...] = ("gold", "reward")  # the first that there is decides


def compared_pairs(models: Sequence[str]) -> list[tuple[str, str]]:
    """Whose answers are compared with whose: RL's with those of the model it started from, SFT's with the base model's, the
    run's last model's with each other one that is named; where the run has none, each with the first named."""
    run_models = [name for name in ("base", "sft", "rl") if name in models]
    start = "sft" if "sft" in models else "base"
    others = [name for name in models if name not in run_models]
    if not run_models:
        return [(name, others[0]) for name in others[1:]]
    pairs = [
        (better, worse) for better, worse in (("rl", start), ("sft", "base")) if better in run_models and worse in run_models
    ]
    return pairs + [(run_models[-1], name) for name in others]


def comparison_figures(rows: Sequence[ComparedAnswer], *, seed: int) -> dict[str, Any]:
    """Mean reward, gold and length by model and setting; who wins how often at temperature 0.7, of `compared_pairs`.

    A win is the higher gold where the truth is known, else the higher reward; ties count half; the interval is a bootstrap
    over prompts.
    """
    figures: dict[str, Any] = {}
    for measure in get_args(Measure):
        values: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if (value := row.value(measure)) is not None:
                values.setdefault((row.model, row.setting), []).append(value)
        for (model, setting), numbers in values.items():
            figures.setdefault(measure, {}).setdefault(model, {})[setting] = statistics.fmean(numbers)
    pairs = compared_pairs(list(dict.fromkeys(row.model for row in rows)))
    for better, worse in pairs:
        if (rate := _win_rate(rows, better, worse, seed)) is not None:
            figures[f"win_rate_{better}_vs_{worse}"] = rate
    for start in ("sft", "base"):
        change = _greedy_change(rows, start, seed) if ("rl", start) in pairs else None
        if change is not None:
            figures[f"greedy_change_rl_vs_{start}"] = change
    return figures


def _paired_answers(
    rows: Sequence[ComparedAnswer], better: str, worse: str, setting: str
) -> tuple[Measure, list[ComparedAnswer], list[ComparedAnswer]] | None:
    """(the judge, the answers of both models to the prompts that both answered, in the prompts' order); None where they share
    no prompt, or there is no judge."""
    ours, theirs = ({r.number: r for r in rows if (r.model, r.setting) == (model, setting)} for model in (better, worse))
    numbers = sorted(ours.keys() & theirs.keys())
    judge = next((name for name in JUDGES if numbers and ours[numbers[0]].value(name) is not None), None)
    return None if judge is None else (judge, [ours[i] for i in numbers], [theirs[i] for i in numbers])


def _greedy_change(rows: Sequence[ComparedAnswer], start: str, seed: int) -> dict[str, Any] | None:
    """Mean of RL's less its start's judgement of greedy answers, prompt by prompt: sharper sampling cannot show in it."""
    answers = _paired_answers(rows, "rl", start, "greedy")
    if answers is None:
        return None
    judge, ours, theirs = answers
    change = bootstrap(
        [(a.value(judge) or 0.0) - (b.value(judge) or 0.0) for a, b in zip(ours, theirs, strict=True)], seed=seed
    )
    return {"value": change.value, "low": change.low, "high": change.high, "judge": judge}


def _win_rate(rows: Sequence[ComparedAnswer], better: str, worse: str, seed: int) -> dict[str, Any] | None:
    answers = _paired_answers(rows, better, worse, "t07")
    if answers is None:
        return None
    judge, *sides = answers
    ours, theirs = ([answer.value(judge) or 0.0 for answer in side] for side in sides)
    lengths = ([float(answer.length) for answer in side] for side in sides)
    plain = win_rate(ours, theirs, seed=seed)
    same_length = length_controlled_win_rate(ours, theirs, *lengths)
    return {
        "value": plain.value,
        "low": plain.low,
        "high": plain.high,
        "judge": judge,
        "length_controlled": same_length.value,
        "length_controlled_low": same_length.low,
        "length_controlled_high": same_length.high,
    }
