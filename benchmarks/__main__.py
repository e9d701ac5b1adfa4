"""`python -m benchmarks --size small`: each stage's speed, phases, memory and share of the machine's rate of matrix products.

A model of your own goes in by `--model`, rows by `--sft`, `--reward` and `--prompts`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.inputs import config, parse_arguments

if TYPE_CHECKING:
    from benchmarks.measure import Measurement


def main() -> None:
    """Make the model, write the world's files, measure, show."""
    arguments = _arguments()
    from benchmarks.stage_table import LINES, measure_stages
    from sawyer.errors import SawyerError

    try:
        with TemporaryDirectory() as folder:
            run = config(arguments, Path(folder))
            measurements = measure_stages(run, stages=arguments.stages, steps=arguments.steps, out=Path(arguments.out))
    except SawyerError as error:
        raise SystemExit(str(error)) from error
    show(measurements)
    print(f"Wrote {arguments.out}/{LINES}")


def show(measurements: Sequence[Measurement]) -> None:
    """The table on the screen."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks.stage_table import HEADER, table

    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column, name in enumerate(HEADER):
        grid.add_column(name, justify="left" if not column else "right")
    for row in table(measurements):
        grid.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(grid)
    first = measurements[0]
    console.print(f"The rate: {first.gflops:,.0f} GFLOP/s of {first.precision} products measured beside it")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast each stage is on this machine.")
    parser.add_argument("--out", default="bench")
    return parse_arguments(parser)


if __name__ == "__main__":
    main()
