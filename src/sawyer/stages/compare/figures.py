"""Figures of a comparison: means by model and setting, and who wins how often."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.stats import length_controlled_win_rate, win_rate


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
    return figures


def _rate(rows: Sequence[Mapping[str, Any]], better: str, worse: str, seed: int) -> dict[str, Any] | None:
    ours = {row["number"]: row for row in rows if row["model"] == better and row["setting"] == "t07"}
    theirs = {row["number"]: row for row in rows if row["model"] == worse and row["setting"] == "t07"}
    both = sorted(ours.keys() & theirs.keys())
    judge = next((name for name in ("gold", "reward") if both and name in ours[both[0]]), None)
    if judge is None:
        return None
    a, b = [ours[i][judge] for i in both], [theirs[i][judge] for i in both]
    plain = win_rate(a, b, seed=seed)
    lengths = [float(ours[i]["length"]) for i in both], [float(theirs[i]["length"]) for i in both]
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
