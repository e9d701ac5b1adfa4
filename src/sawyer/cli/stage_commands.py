"""Commands that train: demo, run, and one for each stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.options import ConfigFile, Overrides
from sawyer.cli.progress import Watch
from sawyer.train import distributed

STAGES = {
    "base": "Train a base model from plain text.",
    "classify": "Train a text classifier.",
    "sft": "Teach the base model to follow instructions.",
    "collect": "Sample answers to be scored.",
    "reward": "Train a reward model on scored answers.",
    "rl": "Improve a model against its reward.",
    "compare": "Give all models the same prompts and judge their answers.",
}


def demo(
    out: Annotated[str, typer.Option(help="The run's folder.")] = "runs/demo",
    seed: Annotated[int, typer.Option(help="Seed of everything drawn at random.", min=0)] = 0,
    rater: Annotated[
        str, typer.Option(help="Who scores: honest, or length_lover, lazy, flipper to see the gates at work.")
    ] = "honest",
) -> None:
    """The whole pipeline on the built-in world: offline, minutes on two cores."""
    from sawyer.pipeline import demo as run_demo

    _run_with_progress(lambda watch: run_demo(out, seed, rater=rater, listeners=[watch]))


def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """All stages the file names; finished ones are skipped, an interrupted one resumes."""
    _run_config(config, overrides)


def collect(
    config: ConfigFile,
    overrides: Overrides = None,
    round: Annotated[
        int,
        typer.Option("--round", help="2 and more: the RL model's next answers, where the reward model is least sure.", min=1),
    ] = 1,
) -> None:
    """Sample answers to be scored."""
    _run_config(config, overrides, only="collect", collection=round)


def stage_command(stage: str) -> Callable[..., None]:
    """The command that runs one stage."""
    if stage == "collect":
        return collect

    def command(config: ConfigFile, overrides: Overrides = None) -> None:
        _run_config(config, overrides, only=stage)

    command.__doc__ = STAGES[stage]
    return command


def _run_config(config: str, overrides: list[str] | None, only: str | None = None, collection: int = 1) -> None:
    from sawyer.pipeline import run as run_stages
    from sawyer.pipeline import run_config

    settings = run_config(config, overrides or [])
    _run_with_progress(lambda watch: run_stages(settings, only=only, collection=collection, listeners=[watch]))


def _run_with_progress(stages: Callable[[Watch], dict[str, Any]]) -> None:
    """Run the stages under a progress display, then print the outcome and where to look. Only rank 0 prints."""
    from pathlib import Path

    from sawyer.cli.summary_tables import show_summary
    from sawyer.runs import Layout

    console = stdout(quiet=not distributed.is_rank_zero())
    with Watch(console) as watch:
        summary = stages(watch)
    show_summary(console, summary)
    layout = Layout(Path(summary["out"]))
    console.print()
    if layout.report.exists():
        say(console, ("Report   ", "bold"), str(layout.report))
    if layout.model("classify").exists():
        say(console, ("Classify ", "bold"), f'sawyer.Classifier("{layout.model("classify")}")(["a text"])')
    if layout.model("sft").exists() or layout.model("rl").exists():
        say(console, ("Talk     ", "bold"), f"sawyer chat {layout.root}")
