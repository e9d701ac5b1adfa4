"""What came out: the page for people, the figures for scripts."""

from __future__ import annotations

import time
from typing import Any

from sawyer.pipeline.round_table import rounds_of
from sawyer.pipeline.stage_graph import STAGES
from sawyer.runs import Run, collected_files, last_gates, read_rows, write_json
from sawyer.train import distributed


def report(run: Run) -> None:
    began = time.monotonic()
    summarise(run)
    from sawyer.report import build

    distributed.on_rank_zero(lambda: build(run.layout.root))  # it reads the run's files, which rank 0 alone has written
    run.manifest.update("report", status="done", seconds=time.monotonic() - began, ended=time.time())


def summarise(run: Run) -> dict[str, Any]:
    """The figures a script wants (docs: README, "The folder of a run"), also written to summary.json: by rank 0, for all."""
    return distributed.on_rank_zero(lambda: _write_summary(run))


def _write_summary(run: Run) -> dict[str, Any]:
    states = {stage: run.manifest.stage(stage) for stage in (*STAGES, "report")}
    figures = {stage: dict(state.figures) for stage, state in states.items() if state.figures}
    seconds = {stage: round(state.seconds, 1) for stage, state in states.items() if state.seconds}
    summary: dict[str, Any] = {
        "out": str(run.layout.root),
        "seconds": seconds | {"total": round(sum(state.seconds for state in states.values()), 1)},
    }
    for stage in ("base", "classify", "sft", "collect", "reward", "rl"):
        if stage in figures:
            summary[stage] = figures[stage]
    comparison = figures.get("compare", {})
    for measure in ("gold", "reward_mean"):
        table = comparison.get("gold" if measure == "gold" else "reward")
        if table:
            summary[measure] = {model: dict(settings) for model, settings in table.items()}
            best = [values.pop("best_of_8") for values in list(summary[measure].values()) if "best_of_8" in values]
            if best:  # of the model that RL starts from
                summary[measure]["best_of_8"] = best[0]
    rates = {name: value for name, value in comparison.items() if name.startswith(("win_rate", "greedy_change"))}
    if rates:
        summary["compare"] = rates
    summary["gates"] = {row["name"]: row["verdict"] for row in last_gates(read_rows(run.layout.events))}
    later = [run.layout.collection(number) for number in range(2, len(collected_files(run.layout)) + 1)]
    summary |= {name: dict(run.manifest.stage(name).figures) for name in later}
    if rounds := rounds_of(run.layout):
        summary["rounds"] = rounds
    if any(state.status == "waiting" for state in states.values()):
        summary["waiting"] = str(run.layout.answers)
    write_json(run.layout.summary, summary)
    return summary
