"""`sawyer check-loss`: try a reward loss before anything is trained with it."""

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
    from rich.table import Table

    from sawyer.maths import LossCheck, WorkedExample


def check_loss(
    name: Annotated[str, typer.Argument(help="A built-in loss, or your own as module:function.", metavar="NAME")],
    out: Annotated[
        str | None, typer.Option(help="The file for the plot; by default loss-NAME.png.", metavar="FILE.png")
    ] = None,
) -> None:
    """Run the checks of a reward loss, show it on an example and plot it. Exit code 1 if training would refuse it."""
    from sawyer.maths import check_loss as run_checks
    from sawyer.maths import loss_curves, worked_example
    from sawyer.report.loss_plot import draw_loss
    from sawyer.stages.reward.loss_choice import open_loss

    path = Path(out or f"loss-{re.sub(r'[^A-Za-z0-9_]+', '-', name)}.png")
    if out is not None and path.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}", expected="a file that ends in .png", todo="name one, e.g. --out loss.png")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"there is no folder {path.parent}", todo="make it first")
    loss = open_loss(name)
    formula = loss.formula or _docstring_summary(getattr(loss, "function", None))
    result = run_checks(loss)
    console = stdout()
    say(console, (name, "bold"), f"   {formula}")
    console.print(_checks_table(result))
    if result.failure is not None:
        say(console, ("Training would refuse it", "bold red"), f": {result.failure.message}, at {result.failure.point}")
        raise typer.Exit(1)
    say(console, ("Example  ", "bold"), _example_words(loss.counts, worked_example(loss)))
    try:
        draw_loss(path, name, formula, loss_curves(loss))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", todo="name another file with --out") from error
    say(console, ("Picture  ", "bold"), str(path))


def _docstring_summary(function: object) -> str:
    """The first line of a user function's docstring."""
    words = (getattr(function, "__doc__", None) or "").strip()
    return words.splitlines()[0] if words else "your own function of r_j, r_k and d = s_j - s_k"


def _checks_table(result: LossCheck) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in result.findings:
        # A check after a failed one has no point: it did not run.
        ran = finding.ok or finding.point is not None
        chip = CHIPS["ok" if finding.ok else "fail"] if ran else ("· –   ", "dim")
        words = Text(finding.message)
        if finding.point is not None:
            words.append(f"\nat {finding.point}", style="bold")
        table.add_row(Text(*chip), finding.name, words)
    if result.findings[0].ok:
        yes = result.shift_invariant
        words = Text(
            "loss(r + c) = loss(r): it learns differences alone" if yes else "loss(r + c) differs: it learns a zero too"
        )
        table.add_row(Text("  yes" if yes else "  no", style="dim"), "shift invariant", words)
    return table


def _example_words(counts: str, example: WorkedExample) -> str:
    scores = [f"{score:g}" for score in example.scores]
    rewards = [f"{reward:g}" for reward in example.rewards]
    value = example.losses[0]
    if counts == "pairs":
        gap = example.rewards[0] - example.rewards[1]
        return f"scores {scores[0]} and {scores[1]}, r_j - r_k = {gap:g}: loss {value:.4f}"
    if counts == "prompts":
        probability = f"this ranking has probability {math.exp(-value):.4f}"
        return f"scores {', '.join(scores)} with rewards {', '.join(rewards)}: loss {value:.4f}; {probability}"
    return "; ".join(
        f"score {s} (standardised {t:+g}) with reward {r}: loss {x:.4f}"
        for s, t, r, x in zip(scores, (1, -1), rewards, example.losses, strict=True)
    )
