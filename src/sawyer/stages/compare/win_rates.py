"""Figures of a comparison: means by model and setting, and who wins how often."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sawyer.stages.compare.comparison_rows import Compared, Measure
from sawyer.stats import bootstrap, length_controlled_win_rate, win_rate


def pairs_of(models: Sequence[str]) -> list[tuple[str, str]]:
    """Whose answers are held against whose: RL's against those of the model it started from, SFT's against the base model's,
    the run's last model's against each other one that is named; where the run has none, each against the first named."""
    own = [name for name in ("base", "sft", "rl") if name in models]
    start = "sft" if "sft" in models else "base"
    named = [name for name in models if name not in own]
    found = [(better, worse) for better, worse in (("rl", start), ("sft", "base")) if better in own and worse in own]
    if own:
        return found + [(own[-1], name) for name in named]
    return [(name, named[0]) for name in named[1:]]


def figures_of(rows: Sequence[Compared], *, seed: int) -> dict[str, Any]:
    """Mean reward, gold and length by model and setting; who wins how often at temperature 0.7, of `pairs_of`.

    A win is the higher gold where the truth is known, else the higher reward; ties count half; the interval is a bootstrap
    over prompts.
    """
    figures: dict[str, Any] = {}
    for measure in get_args(Measure):
        table: dict[str, dict[str, float]] = {}
        for model, setting in dict.fromkeys((row.model, row.setting) for row in rows):
            found = [row.measured(measure) for row in rows if (row.model, row.setting) == (model, setting)]
            if values := [value for value in found if value is not None]:
                table.setdefault(model, {})[setting] = statistics.fmean(values)
        if table:
            figures[measure] = table
    pairs = pairs_of(list(dict.fromkeys(row.model for row in rows)))
    for better, worse in pairs:
        rate = _rate(rows, better, worse, seed)
        if rate is not None:
            figures[f"win_rate_{better}_vs_{worse}"] = rate
    for start in ("sft", "base"):
        change = _greedy_change(rows, start, seed) if ("rl", start) in pairs else None
        if change is not None:
            figures[f"greedy_change_rl_vs_{start}"] = change
    return figures


def _greedy_change(rows: Sequence[Compared], start: str, seed: int) -> dict[str, Any] | None:
    """Mean of RL's less its start's judgement of greedy answers, prompt by prompt: sharper sampling cannot show in it."""
    both = _paired(rows, "rl", start, "greedy")
    if both is None:
        return None
    found = bootstrap([a - b for a, b in zip(both.ours, both.theirs, strict=True)], seed=seed)
    return {"value": found.value, "low": found.low, "high": found.high, "judge": both.judge}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Two models' answers to the P prompts that both answered: each tuple has one entry a prompt, in the prompts' order."""

    judge: Measure  # gold where the truth is known, else reward
    ours: tuple[float, ...]  # by the judge
    theirs: tuple[float, ...]
    our_lengths: tuple[float, ...]  # tokens
    their_lengths: tuple[float, ...]


def _paired(rows: Sequence[Compared], better: str, worse: str, setting: str) -> PairedComparison | None:
    """None where the two share no prompt, or nobody judges."""
    ours = {row.number: row for row in rows if row.model == better and row.setting == setting}
    theirs = {row.number: row for row in rows if row.model == worse and row.setting == setting}
    both = [(ours[i], theirs[i]) for i in sorted(ours.keys() & theirs.keys())]
    judges: tuple[Measure, ...] = ("gold", "reward")
    judge = next((name for name in judges if both and both[0][0].measured(name) is not None), None)
    if judge is None:
        return None
    return PairedComparison(
        judge=judge,
        ours=tuple(a.measured(judge) or 0.0 for a, _ in both),
        theirs=tuple(b.measured(judge) or 0.0 for _, b in both),
        our_lengths=tuple(float(a.length) for a, _ in both),
        their_lengths=tuple(float(b.length) for _, b in both),
    )


def _rate(rows: Sequence[Compared], better: str, worse: str, seed: int) -> dict[str, Any] | None:
    both = _paired(rows, better, worse, "t07")
    if both is None:
        return None
    plain = win_rate(both.ours, both.theirs, seed=seed)
    controlled = length_controlled_win_rate(both.ours, both.theirs, both.our_lengths, both.their_lengths)
    return {
        "value": plain.value,
        "low": plain.low,
        "high": plain.high,
        "judge": both.judge,
        "length_controlled": controlled.value,
        "length_controlled_low": controlled.low,
        "length_controlled_high": controlled.high,
    }
