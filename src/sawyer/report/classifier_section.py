"""The classifier's part of the page: its figures in words, a row a class, and what it was surest of and wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sawyer.report.run_facts import Facts
from sawyer.report.wording import number, share, signed

MOST_CLASSES = 24  # whose confusions are drawn; a table of more is no picture
MOST_SHOWN = 12  # texts


def classified(facts: Facts) -> dict[str, Any]:
    """`rows` of (name, value, interval); `labels`; a row a class; `texts` with what was said of them. Empty without figures."""
    figures = facts.figures("classify")
    if not isinstance(figures.get("classes"), Mapping):
        return {"rows": []}
    held = figures.get("eval_rows")
    where = f"{number(held)} held-out texts" if held else "training texts (none was held out)"
    found = [
        (
            f"Accuracy on {where}",
            share(figures["accuracy"]),
            f"{share(figures['accuracy_low'])} to {share(figures['accuracy_high'])}",
        ),
        (f"Always saying '{figures['baseline_label']}' would get", share(figures["baseline_majority"]), ""),
        ("Mean F1 of the classes (macro)", number(figures["macro_f1"]), ""),
    ]
    if figures.get("many"):
        found.append(("F1 over all labels (micro)", number(figures["micro_f1"]), ""))
    else:
        found.append(("Matthews correlation", signed(figures["mcc"]), ""))
    labels = list(figures["labels"])
    table = figures.get("confusion") if len(labels) <= MOST_CLASSES else None
    rows = []
    for place, label in enumerate(labels):
        whole = sum(table[place]) if table else 0
        cells = [(count, count / whole if whole else 0.0, i == place) for i, count in enumerate(table[place])] if table else []
        rows.append({"label": label, "cells": cells, "scores": figures["classes"][label]})
    texts = [row for row in facts.samples if row.get("stage") == "classify"]
    return {"rows": found, "labels": labels if table else [], "classes": rows, "texts": texts[:MOST_SHOWN]}
