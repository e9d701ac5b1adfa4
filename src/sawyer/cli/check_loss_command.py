"""The command that looks at a loss before anything is trained with it."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sawyer.cli.console import CHIPS, say, stdout
from sawyer.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sawyer.maths import LossCheck, WorkedExample


def loss(
    name: Annotated[str, typer.Argument(help="One of ours, or your own as module:function.", metavar="NAME")],
    out: Annotated[str | None, typer.Option(help="The picture's file; left out: loss-NAME.png.", metavar="FILE.png")] = None,
) -> None:
    """Try a reward model's loss, show it on an example and draw it. Exit code 1 if training would refuse it."""
    from sawyer.maths import check_loss, loss_curves, worked_example
    from sawyer.report.loss_plot import draw_loss
    from sawyer.stages.reward.loss_choice import open_loss

    path = Path(out or f"loss-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.png")
    if out is not None and path.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}", expected="a file that ends in .png", todo="name one, e.g. --out loss.png")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"there is no folder {path.parent}", todo="make it first")
    found = open_loss(name)
    formula = found.formula or _first_line(getattr(found, "function", None))
    checked = check_loss(found)
    console = stdout()
    say(console, (name, "bold"), f"   {formula}")
    console.print(_table(checked))
    if checked.failure is not None:
        say(console, ("Training would refuse it", "bold red"), f": {checked.failure.message}, at {checked.failure.point}")
        raise typer.Exit(1)
    _show_example(console, found.counts, worked_example(found))
    try:
        draw_loss(path, name, formula, loss_curves(found))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", todo="name another file with --out") from error
    say(console, ("Picture  ", "bold"), str(path))


def _first_line(function: object) -> str:
    """What a user's function says of itself."""
    words = (getattr(function, "__doc__", None) or "").strip()
    return words.splitlines()[0] if words else "your own function of r_j, r_k and d = s_j - s_k"


def _table(checked: LossCheck) -> Table:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for finding in checked.findings:
        tried = finding.ok or finding.point is not None
        chip = CHIPS["ok" if finding.ok else "fail"] if tried else ("· –   ", "dim")
        words = Text(finding.message)
        if finding.point is not None:
            words.append(f"\nat {finding.point}", style="bold")
        drawn.add_row(Text(*chip), finding.name, words)
    if checked.findings[0].ok:
        yes = checked.shift_invariant
        told = "loss(r + c) = loss(r): differences alone are learnt" if yes else "loss(r + c) differs: a zero is learnt too"
        drawn.add_row(Text("  yes" if yes else "  no", style="dim"), "shift invariant", told)
    return drawn


def _show_example(console: Console, counts: str, example: WorkedExample) -> None:
    scores = [f"{score:g}" for score in example.scores]
    rewards = [f"{reward:g}" for reward in example.rewards]
    value = example.losses[0]
    if counts == "pairs":
        gap = example.rewards[0] - example.rewards[1]
        told = f"scores {scores[0]} and {scores[1]}, r_j - r_k = {gap:g}: loss {value:.4f}"
    elif counts == "prompts":
        told = f"scores {', '.join(scores)} with rewards {', '.join(rewards)}: loss {value:.4f}; "
        told += f"this ranking has probability {math.exp(-value):.4f}"
    else:
        told = "; ".join(
            f"score {s} (standardised {t:+g}) with reward {r}: loss {x:.4f}"
            for s, t, r, x in zip(scores, (1, -1), rewards, example.losses, strict=True)
        )
    say(console, ("Example  ", "bold"), told)
