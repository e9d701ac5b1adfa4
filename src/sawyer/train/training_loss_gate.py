"""Did training lower its own loss? The figures and the gate that stages share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sawyer.runs import Gate, Run
from sawyer.train import distributed


def losses_of(run: Run, stage: str) -> dict[str, float]:
    """`loss_first`, of the first step, and `loss_last`, the mean of the last tenth of the steps: one batch alone is noise."""
    # Rank 0 alone has the journal's file for certain up to its last row.
    rows = distributed.on_rank_zero(lambda: run.journal.rows(stage))
    losses = [float(row["loss"]) for row in rows if "loss" in row]
    tail = losses[-max(1, len(losses) // 10) :]
    return {"loss_first": losses[0], "loss_last": sum(tail) / len(tail)}


def learned_gate(stage: str, figures: Mapping[str, Any]) -> Gate:
    """The gate on `losses_of`. A single update's loss is first and last at once: nothing is known then."""
    first, last = figures["loss_first"], figures["loss_last"]
    return Gate(
        stage=stage,
        name=f"{stage}_learned",
        verdict="ok" if last < first else "warn" if last == first else "fail",
        value=last,
        threshold=first,
        message=f"training loss {first:.3f} -> {last:.3f}",
        advice=f"raise {stage}.learning_rate or {stage}.epochs",
    )
