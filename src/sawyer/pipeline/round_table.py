"""What each round of training came to, for summary.json and the page: its judgements, its reward model, its RL model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sawyer.pipeline.votes import stored_agreement
from sawyer.runs import Layout, read_manifest

SETTING = "t07"  # at which win rates are counted
ENDS = ("value", "low", "high")
AGAINST = "win_rate_rl_vs_rl_round_"  # of a comparison's figures: RL against the RL model of an earlier round


def rounds_of(layout: Layout) -> list[dict[str, Any]]:
    """A row for each round, the run's own last; none for a run without votes that has one round alone.

    Each has `round`, `folder` (from the run's) and, as far as they are known: `judgements`, `raters`, `items`; of the reward
    model `accuracy`, `ceiling` (value, low, high), `verdict` and `change`, its accuracy less that of the round before on the
    same held-out prompts; of the RL model `win_rate` and `win_rate_before` (against the model it started from, and against the
    round before), `gold` or `reward` by model.
    """
    earlier = layout.earlier_rounds()
    if not earlier and not stored_agreement(layout):
        return []
    numbers = [*(int(one.root.name) for one in earlier), layout.count_rounds() + 1]
    rows = [_row(one, number, layout.root) for one, number in zip([*earlier, layout], numbers, strict=True)]
    return [row for row in rows if len(row) > 2]


def _row(layout: Layout, number: int, root: Path) -> dict[str, Any]:
    states = read_manifest(layout.manifest).get("stages", {})
    reward, compare = ({} if (state := states.get(name)) is None else state["figures"] for name in ("reward", "compare"))
    folder = "." if layout.root == root else str(layout.root.relative_to(root))
    row: dict[str, Any] = {"round": number, "folder": folder}
    row |= _judgement_counts(stored_agreement(layout)) | _reward_figures(reward, layout)
    start = "sft" if "win_rate_rl_vs_sft" in compare else "base"
    if f"win_rate_rl_vs_{start}" in compare:
        row["win_rate"] = dict(compare[f"win_rate_rl_vs_{start}"])
    for key in (key for key in compare if key.startswith(AGAINST)):
        row["win_rate_before"] = {**compare[key], "round": int(key.removeprefix(AGAINST))}
    for measure in ("gold", "reward"):
        means = compare.get(measure, {})
        values = {model: means[model][SETTING] for model in (start, "rl") if SETTING in means.get(model, {})}
        row |= {measure: values} if values else {}
    return row


def _judgement_counts(agreement: Mapping[str, Any]) -> dict[str, Any]:
    summary = agreement.get("summary", {})
    counts = {name: summary[name] for name in ("raters", "items") if name in summary}
    return ({"judgements": agreement["judgements"]} if "judgements" in agreement else {}) | counts


def _reward_figures(figures: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if "accuracy" in figures:
        ends = {"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
        row["accuracy"] = {end: figures[name] for end, name in ends.items() if name in figures}
    if "round_change" in figures:
        row["change"] = dict(figures["round_change"])
    try:
        trust = json.loads(layout.trust.read_text(encoding="utf-8"))
        row["verdict"] = {name: str(trust["verdict"][name]) for name in ("kind", "words")}
        if trust.get("ceiling"):
            row["ceiling"] = {end: float(trust["ceiling"]["accuracy"][end]) for end in ENDS}
    except (OSError, ValueError, LookupError, TypeError):
        return row  # without a trust report, or with one that somebody changed: the figures alone
    return row
