"""Figures of a comparison: means by model and setting, and who wins how often."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.stats import bootstrap, length_controlled_win_rate, win_rate


def figures_of(rows: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Any]:
    """Mean reward, gold and length by model and setting; RL against SFT and SFT against base at temperature 0.7.

    A win is the higher gold where the truth is known, else the higher reward; ties count half; the interval is a bootstrap
    over prompts.
    """
    figures: dict[str, Any] = {}
    for measure in ("gold", "reward", "length", "kl"):
        table: dict[str, dict[str, float]] = {}
        for model, setting in dict.fromkeys((row["model"], row["setting"]) for row in rows):
            values = [row[measure] for row in rows if (row["model"], row["setting"]) == (model, setting) and measure in row]
            if values:
                table.setdefault(model, {})[setting] = statistics.fmean(values)
        if table:
            figures[measure] = table
    for better, worse in (("rl", "sft"), ("sft", "base")):
        rate = _rate(rows, better, worse, seed)
        if rate is not None:
            figures[f"win_rate_{better}_vs_{worse}"] = rate
    change = _greedy_change(rows, seed)
    if change is not None:
        figures["greedy_change_rl_vs_sft"] = change
    return figures


def _greedy_change(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    """Mean of RL's less SFT's judgement of greedy answers, prompt by prompt: sharper sampling cannot show in it."""
    ours, theirs, judge = _paired(rows, "rl", "sft", "greedy")
    if judge is None:
        return None
    found = bootstrap([a[judge] - b[judge] for a, b in zip(ours, theirs, strict=True)], seed=seed)
    return {"value": found.value, "low": found.low, "high": found.high, "judge": judge}


def _paired(
    rows: Sequence[Mapping[str, Any]], better: str, worse: str, setting: str
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]], str | None]:
    """Both models' rows of the prompts that both answered, and what judges them: gold where the truth is known, else reward."""
    ours = {row["number"]: row for row in rows if row["model"] == better and row["setting"] == setting}
    theirs = {row["number"]: row for row in rows if row["model"] == worse and row["setting"] == setting}
    both = sorted(ours.keys() & theirs.keys())
    judge = next((name for name in ("gold", "reward") if both and name in ours[both[0]]), None)
    return [ours[i] for i in both], [theirs[i] for i in both], judge


def _rate(rows: Sequence[Mapping[str, Any]], better: str, worse: str, seed: int) -> dict[str, Any] | None:
    ours, theirs, judge = _paired(rows, better, worse, "t07")
    if judge is None:
        return None
    a, b = [row[judge] for row in ours], [row[judge] for row in theirs]
    plain = win_rate(a, b, seed=seed)
    lengths = [float(row["length"]) for row in ours], [float(row["length"]) for row in theirs]
    controlled = length_controlled_win_rate(a, b, *lengths)
    return {
        "value": plain.value,
        "low": plain.low,
        "high": plain.high,
        "judge": judge,
        "length_controlled": controlled.value,
        "length_controlled_low": controlled.low,
        "length_controlled_high": controlled.high,
    }
