"""A run's figures as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sawyer.cli.console import CHIPS, say

MODELS = {"base": "base", "sft": "SFT", "rl": "RL"}
COLUMNS = ("t1", "t07", "greedy")  # the sampling settings that a table has room for
CONFUSION_LIMIT = 8  # classes whose confusions fit beside each other


def show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """The outcome: gold or reward by model and setting, win rates, the classifier, gates, time."""
    from sawyer.runs import clock

    console.print()
    for key, title in (("gold", "Gold (mean true score, 0 to 10)"), ("reward_mean", "Reward (mean, in the {unit})")):
        if summary.get(key):
            unit = "SFT answers' deviations" if "sft" in summary[key] else "reward model's own unit"
            console.print(_score_table(summary[key], title.format(unit=unit), "+.2f" if key != "gold" else ".2f"))
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
        show_classifier(console, summary["classify"])
    gates: Mapping[str, str] = summary.get("gates") or {}
    if gates:
        say(console, ("Gates    ", "bold"), gate_counts(gates))
        for name, verdict in gates.items():
            if verdict != "ok":
                say(console, "         ", CHIPS.get(verdict, (verdict, "")), f"  {name}")
    seconds: Mapping[str, float] = summary.get("seconds") or {}
    if stages := ", ".join(f"{stage} {clock(value)}" for stage, value in seconds.items() if stage != "total"):
        say(console, ("Time     ", "bold"), f"{stages}; {clock(seconds.get('total', 0.0))} in all")


def _score_table(figures: Mapping[str, Any], title: str, digits: str) -> Table:
    """Rows base, SFT, RL, the models that the config names and, under temperature 1, the best of 8 SFT samples."""
    from sawyer.runs import SETTINGS

    table = Table(title=title, title_style="bold", title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for setting in COLUMNS:
        table.add_column(SETTINGS[setting], justify="right", header_style="dim")
    order = [*(model for model in MODELS if model in figures), *(model for model in figures if model not in MODELS)]
    rows = {model: figures[model] for model in order if isinstance(figures[model], Mapping)}
    best = {s: max((row[s] for row in rows.values() if s in row), default=None) for s in COLUMNS}
    for model, row in rows.items():
        values = {setting: row.get(setting) for setting in COLUMNS}
        table.add_row(
            MODELS.get(model, model),
            *(
                Text("–") if value is None else Text(f"{value:{digits}}", style="bold green" * (value == best[setting]))
                for setting, value in values.items()
            ),
        )
    if figures.get("best_of_8") is not None:
        table.add_row("best of 8", f"{figures['best_of_8']:{digits}}", "", "", style="dim")
    return table


def gate_counts(gates: Mapping[str, str]) -> Text:
    """The number of gates by verdict, e.g. "9 ok, 1 warn"."""
    verdicts = list(gates.values())
    return Text(", ").join(Text(f"{verdicts.count(v)} {v}", style=CHIPS[v][1]) for v in CHIPS if v in verdicts)


def show_classifier(console: Console, figures: Mapping[str, Any]) -> None:
    """Accuracy beside the majority's, then a row per class: how its texts were labelled, precision, recall, F1."""
    rows = "held-out texts" if figures["eval_rows"] else "training texts (none was held out)"
    say(
        console,
        ("Accuracy ", "bold"),
        (f"{figures['accuracy']:.1%}", "bold"),
        f" ({figures['accuracy_low']:.1%} to {figures['accuracy_high']:.1%}) on {rows}; always predicting "
        f"{figures['baseline_label']!r} gets {figures['baseline_majority']:.1%}",
    )
    name, words = ("micro_f1", "Micro F1") if figures["many"] else ("mcc", "Matthews correlation")
    say(console, f"Macro F1 {figures['macro_f1']:.3f}, {words} {figures[name]:.3f}")
    labels: list[str] = figures["labels"]
    counts = figures.get("confusion") if len(labels) <= CONFUSION_LIMIT else None
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for name in [*(f"said {label}" for label in labels if counts), "precision", "recall", "F1", "texts"]:
        table.add_column(Text(name), justify="right", header_style="dim")
    for i, label in enumerate(labels):
        scores = figures["classes"][label]
        cells = [Text(f"{n:,}", style="green" * (i == j)) for j, n in enumerate(counts[i])] if counts else []
        shares = [f"{scores[name]:.2f}" for name in ("precision", "recall", "f1")]
        table.add_row(Text(label), *cells, *shares, f"{scores['rows']:,}")
    console.print(table)
