"""A run's figures as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sawyer.cli.classifier_tables import show_classified
from sawyer.cli.console import CHIPS, say

MODELS = {"base": "base", "sft": "SFT", "rl": "RL"}
SHOWN = ("t1", "t07", "greedy")  # the settings in a table's columns


def show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """The outcome: gold or reward by model and setting, win rates, gates, time."""
    from sawyer.runs import clock

    console.print()
    for key, title in (
        ("gold", "Gold (mean true score, 0 to 10)"),
        ("reward_mean", "Reward (mean, in the {unit})"),
    ):
        if summary.get(key):
            unit = "SFT answers' deviations" if "sft" in summary[key] else "reward model's own unit"
            console.print(scores(summary[key], title.format(unit=unit), signed=key != "gold"))
            break
    for name, rate in (summary.get("compare") or {}).items():
        if isinstance(rate, Mapping) and name.startswith("win_rate_"):
            better, _, worse = name.removeprefix("win_rate_").partition("_vs_")
            judge = f" by {rate['judge']}, temperature 0.7" if "judge" in rate else ""
            say(
                console,
                ("Win rate ", "bold"),
                f"{MODELS.get(better, better)} against {MODELS.get(worse, worse)}{judge}: ",
                (f"{rate['value']:.1%}", "bold"),
                f" ({rate['low']:.1%} to {rate['high']:.1%})",
            )
    if summary.get("classify"):
        show_classified(console, summary["classify"])
    gates: Mapping[str, str] = summary.get("gates") or {}
    if gates:
        say(console, ("Gates    ", "bold"), counted(gates))
        for name, verdict in gates.items():
            if verdict != "ok":
                say(console, "         ", CHIPS.get(verdict, (verdict, "")), f"  {name}")
    seconds: Mapping[str, float] = summary.get("seconds") or {}
    spent = ", ".join(f"{stage} {clock(value)}" for stage, value in seconds.items() if stage != "total")
    if spent:
        say(console, ("Time     ", "bold"), f"{spent}; {clock(seconds.get('total', 0.0))} in all")


def scores(table: Mapping[str, Any], title: str, *, signed: bool) -> Table:
    """Rows base, SFT, RL, the models that the config names and, under temperature 1, the best of 8 SFT samples."""
    from sawyer.runs import SETTINGS

    drawn = Table(title=title, title_style="bold", title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    drawn.add_column("")
    for setting in SHOWN:
        drawn.add_column(SETTINGS[setting], justify="right", header_style="dim")

    def told(value: Any, best: bool = False) -> Text:
        return Text("–" if value is None else f"{value:{'+' if signed else ''}.2f}", style="bold green" if best else "")

    order = [*(model for model in MODELS if model in table), *(model for model in table if model not in MODELS)]
    rows = {model: table[model] for model in order if isinstance(table[model], Mapping)}
    highest = {s: max((row[s] for row in rows.values() if s in row), default=None) for s in SHOWN}
    for model, row in rows.items():
        cells = [told(row.get(s), best=row.get(s) is not None and row.get(s) == highest[s]) for s in SHOWN]
        drawn.add_row(MODELS.get(model, model), *cells)
    if table.get("best_of_8") is not None:
        drawn.add_row("best of 8", told(table["best_of_8"]), "", "", style="dim")
    return drawn


def counted(gates: Mapping[str, str]) -> Text:
    """How many gates said what, e.g. "9 ok, 1 warn"."""
    verdicts = list(gates.values())
    parts = [(f"{verdicts.count(v)} {v}", CHIPS[v][1]) for v in CHIPS if v in verdicts]
    text = Text()
    for place, (words, style) in enumerate(parts):
        text.append(", " if place else "").append(words, style)
    return text
