"""The command `study_losses`: the reward model's losses side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.options import ConfigFile, Overrides
from sawyer.cli.progress import Watch
from sawyer.cli.study_command import announce, folder, numbers, parts

if TYPE_CHECKING:
    from rich.console import Console

    from sawyer.studies.losses import LossStudy


def study_losses(
    config: ConfigFile,
    settings: Overrides = None,
    loss: Annotated[
        str, typer.Option(help="The losses, commas between them: ours, or your own as module:function.", metavar="NAMES")
    ] = "bradley_terry,squared,margin,scaled,listwise,regression",
    seeds: Annotated[str, typer.Option(help="A reward model for each loss with each of them.", metavar="NUMBERS")] = "0,1,2",
    out: Annotated[str | None, typer.Option(help="Where runs and table go; left out: ablation in the run's folder.")] = None,
) -> None:
    """Train the reward model with several losses and seeds, and compare them; finished ones are skipped."""
    from sawyer.config import load
    from sawyer.studies.losses import study_losses as compare

    asked = load(config, settings or [])
    console = stdout()
    with Watch(console) as watch:
        found = compare(
            asked, parts(loss), numbers(seeds), out=folder(out), listeners=[watch], tell=lambda words: announce(console, words)
        )
    show(console, found)


def show(console: Console, found: LossStudy) -> None:
    """The table, what may be said of it, and where it lies."""
    from rich.table import Table
    from rich.text import Text

    from sawyer.runs import Layout
    from sawyer.studies.losses import shown

    header, rows = shown(found)
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for place, name in enumerate(header):
        drawn.add_column(name, justify="left" if not place else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text.assemble(mean, "\n" if mean and spread else "", (spread, "dim")) for mean, spread in row))
    console.print()
    many = len(found.seeds) > 1
    mean = f"Mean of {len(found.seeds)} seeds (lowest to highest)" if many else f"Seed {found.seeds[0]}"
    say(console, (mean, "bold"))
    console.print(drawn)
    console.print()
    for note in found.notes:
        say(console, note)
    layout = Layout(Path(found.out))
    console.print()
    say(console, ("Wrote ", "dim"), f"{layout.table('ablation')}, {layout.table_text('ablation')}")
