"""Commands that train: demo, run, and one for each stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.progress import Watch
from sawyer.train import distributed

Settings = Annotated[list[str] | None, typer.Argument(help="Settings that replace the file's, such as rl.episodes=2048.")]
File = Annotated[str, typer.Argument(help="A run's file; `sawyer init` writes one.", metavar="CONFIG")]
STAGES = {
    "base": "Train a base model from plain text.",
    "classify": "Train a classifier of texts.",
    "sft": "Teach the base model to follow instructions.",
    "collect": "Gather a model's answers, to be scored.",
    "reward": "Learn from scored answers which is better.",
    "rl": "Improve a model against what is paid for.",
    "compare": "Ask all models the same and judge the answers.",
}


def demo(
    out: Annotated[str, typer.Option(help="The run's folder.")] = "runs/demo",
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.", min=0)] = 0,
    rater: Annotated[
        str, typer.Option(help="Who scores: honest, or length_lover, lazy, flipper to see the gates at work.")
    ] = "honest",
) -> None:
    """The whole pipeline on the built-in world: offline, minutes on two cores."""
    from sawyer.pipeline import demo as run_demo

    _watched(lambda watch: run_demo(out, seed, rater=rater, listeners=[watch]))


def run(config: File, settings: Settings = None) -> None:
    """All stages the file names; finished ones are skipped, a broken one goes on where it was."""
    from sawyer.config import load
    from sawyer.pipeline import run as run_config

    asked = load(config, settings or [])
    _watched(lambda watch: run_config(asked, listeners=[watch]))


def stage_command(stage: str) -> Callable[..., None]:
    """The command that does one stage."""

    def command(config: File, settings: Settings = None) -> None:
        from sawyer.config import load
        from sawyer.pipeline import run as run_config

        asked = load(config, settings or [])
        _watched(lambda watch: run_config(asked, only=stage, listeners=[watch]))

    command.__doc__ = STAGES[stage]
    return command


def _watched(work: Callable[[Watch], dict[str, Any]]) -> None:
    """Do the work under a watch, then say what came out and where to look. Of several processes the first one speaks."""
    from pathlib import Path

    from sawyer.cli.summary_tables import show_summary
    from sawyer.runs import Layout

    console = stdout(quiet=not distributed.is_rank_zero())
    with Watch(console) as watch:
        summary = work(watch)
    show_summary(console, summary)
    layout = Layout(Path(summary["out"]))
    console.print()
    if layout.report.exists():
        say(console, ("Report   ", "bold"), str(layout.report))
    if layout.model("classify").exists():
        say(console, ("Classify ", "bold"), f'sawyer.Classifier("{layout.model("classify")}")(["a text"])')
    if layout.model("sft").exists() or layout.model("rl").exists():
        say(console, ("Talk     ", "bold"), f"sawyer chat {layout.root}")
