"""The command `bench`: how fast the stages are on this machine, with one's own model and data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.stage_commands import File, Settings

if TYPE_CHECKING:
    from sawyer.bench import Measured


def bench(
    config: File,
    settings: Settings = None,
    stages: Annotated[
        str, typer.Option(help="Commas between them: sft, reward, rl, sampling; none: what the file names.", metavar="NAMES")
    ] = "",
    resize_embeddings: Annotated[
        str, typer.Option(help="Also how the time grows with these: batch, length, answers, processes.", metavar="NAMES")
    ] = "",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps measured, after one that is not.")] = 3,
    out: Annotated[str, typer.Option(help="The folder for bench.jsonl and bench.png.")] = "bench",
) -> None:
    """Measure the stages with the file's model and data: speed, phases, memory, share of the machine's rate. Trains nothing."""
    from sawyer.bench import bench as measure
    from sawyer.config import load

    console = stdout()
    asked = load(config, settings or [])
    show(
        measure(
            asked,
            stages=_parts(stages),
            resize_embeddings=_parts(resize_embeddings),
            steps=steps,
            out=Path(out).expanduser(),
            tell=lambda found: say(console, (f"{found.stage} {found.variant.told} ", "bold"), f"{found.seconds:.2f} s a step"),
        )
    )
    say(console, ("Wrote ", "dim"), f"{out}/bench.jsonl, {out}/bench.png")


def show(found: list[Measured]) -> None:
    """The table on the screen."""
    from rich.table import Table

    from sawyer.bench import HEADER, table

    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for place, name in enumerate(HEADER):
        drawn.add_column(name, justify="left" if not place else "right")
    for row in table(found):
        drawn.add_row(*row)
    console = stdout()
    console.print()
    console.print(drawn)
    one = found[0]  # a measurement on several processes has their rates together
    say(console, ("The rate: ", "dim"), f"{one.gflops:,.0f} GFLOP/s of {one.precision} products measured beside it")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
