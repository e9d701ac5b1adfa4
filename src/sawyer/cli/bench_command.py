"""The command `bench`: how fast the stages are on this machine, with the user's model and data."""

from __future__ import annotations

from typing import Annotated

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.options import ConfigFile, Overrides
from sawyer.cli.progress import Watch
from sawyer.train import distributed

HEADER = ("stage", "tokens/s", "s a step", "peak MB")


def bench(
    config: ConfigFile,
    settings: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each stage that count, after one that does not.")] = 3,
) -> None:
    """Do a few steps of each stage with the file's model and data: tokens a second, seconds a step, memory. Keeps nothing."""
    from rich.table import Table
    from rich.text import Text

    from sawyer.config import load_config
    from sawyer.studies.throughput import measure_stages

    run_config = load_config(config, settings or [])
    console = stdout(quiet=not distributed.is_rank_zero())
    with Watch(console) as watch:
        speeds = measure_stages(run_config, steps=steps, listeners=[watch])
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column, name in enumerate(HEADER):
        table.add_column(name, justify="left" if not column else "right")
    for speed in speeds:
        figures = (
            (speed.tokens_per_second, ",.0f"),
            (speed.step_seconds, ".3g"),
            (speed.memory_mb, ",.0f"),
        )
        table.add_row(speed.stage, *(Text("–" if value is None else f"{value:{digits}}") for value, digits in figures))
    console.print()
    console.print(table)
    for speed in speeds:
        if speed.note:
            say(console, (f"{speed.stage}: ", "bold"), f"not measured: {speed.note}")
