"""Each stage measured in fresh processes, then a line of JSON each, and one table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.launch import measure_in_processes
from benchmarks.measure import Measurement
from benchmarks.variant import STAGES, Variant
from sawyer.config import Config
from sawyer.errors import ConfigError
from sawyer.train import distributed

LINES = "bench.jsonl"
HEADER = ("stage", "a second", "of the rate", "peak MB", "generate", "score", "forward", "backward", "optimizer", "else")


def measure_stages(config: Config, *, stages: Sequence[str], steps: int, out: Path) -> list[Measurement]:
    """Measure `stages` (none named: all in the config), each in a fresh process, so that its peak memory is its own. A line of
    JSON each goes to bench.jsonl in the folder `out` as soon as it is there."""
    if distributed.world_size() > 1:
        raise ConfigError(
            f"the benchmarks were started by a launcher of {distributed.world_size()} processes",
            expected="one: each measurement starts the processes that it needs",
            todo="start the command without torchrun or accelerate launch",
        )
    measurements: list[Measurement] = []
    out.mkdir(parents=True, exist_ok=True)
    for stage in stages_to_measure(config, stages):
        measurements.append(measure_in_processes(config, stage, Variant(), steps=steps))
        with (out / LINES).open("a", encoding="utf-8") as file:
            file.write(json_line(measurements[-1]) + "\n")
    return measurements


def stages_to_measure(config: Config, stages: Sequence[str]) -> tuple[str, ...]:
    """`stages`, or where none is named all that the config has. Raises ConfigError for an unknown name."""
    if unknown := [name for name in stages if name not in STAGES]:
        raise ConfigError(f"no stage is called {unknown[0]}", expected=", ".join(STAGES), todo="name one of these")
    return tuple(stages) or tuple(s for s in STAGES if s == "sampling" or getattr(config, s) is not None)


def json_line(measurement: Measurement) -> str:
    """The measurement as one line of JSON, figures to four digits."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: short(inner) for key, inner in value.items()}
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return json.dumps(short(dataclasses.asdict(measurement)))


def table(measurements: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """A row of words each, in `HEADER`'s order; phases in shares of the step."""
    return [
        (
            f"{m.stage} {m.variant.label}".strip(),
            f"{m.per_second:,.{0 if m.per_second >= 100 else 2}f} {m.units}",
            f"{m.share:.0%}",
            f"{m.peak_mb:,.0f}",
            *(f"{seconds / sum(m.phases.values()):.0%}" for seconds in m.phases.values()),
        )
        for m in measurements
    ]
