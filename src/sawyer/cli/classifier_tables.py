"""The classifier's figures for the terminal: how good it is, and which classes it takes for which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sawyer.cli.console import say

MOST_SAID = 8  # classes whose confusions fit beside each other


def show_classified(console: Console, figures: Mapping[str, Any]) -> None:
    """Accuracy beside the majority's, then a row a class: what its texts were said to be, precision, recall, F1."""
    where = "held-out texts" if figures["eval_rows"] else "training texts (none was held out)"
    say(
        console,
        ("Accuracy ", "bold"),
        (f"{figures['accuracy']:.1%}", "bold"),
        f" ({figures['accuracy_low']:.1%} to {figures['accuracy_high']:.1%}) on {where}; always saying "
        f"{figures['baseline_label']!r} gets {figures['baseline_majority']:.1%}",
    )
    more = ("micro_f1", "Micro F1") if figures["many"] else ("mcc", "Matthews correlation")
    say(console, f"Macro F1 {figures['macro_f1']:.3f}, {more[1]} {figures[more[0]]:.3f}")
    console.print(classes(figures))


def classes(figures: Mapping[str, Any]) -> Table:
    """A row a class. The right ones of a confusion table are green."""
    labels: list[str] = figures["labels"]
    counts = figures.get("confusion") if len(labels) <= MOST_SAID else None
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    drawn.add_column("")
    for name in [*(f"said {label}" for label in labels if counts), "precision", "recall", "F1", "texts"]:
        drawn.add_column(Text(name), justify="right", header_style="dim")
    for place, label in enumerate(labels):
        scores = figures["classes"][label]
        said = [Text(f"{n:,}", style="green" if place == i else "") for i, n in enumerate(counts[place])] if counts else []
        shares = [f"{scores[name]:.2f}" for name in ("precision", "recall", "f1")]
        drawn.add_row(Text(label), *said, *shares, f"{scores['rows']:,}")
    return drawn
