"""The command `study_algorithms`: the algorithms side by side from one SFT and reward model, at one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sawyer.cli.console import stdout
from sawyer.cli.progress import Watch
from sawyer.cli.study_command import MaybeFile, Out, Settings, announce, finish, folder, numbers, opened, parts


def study_algorithms(
    config: MaybeFile = None,
    settings: Settings = None,
    algorithms: Annotated[
        str | None, typer.Option(help="Of rl.algorithm, commas between them; left out: all.", metavar="NAMES")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Of RL, each algorithm with each; left out: the config's.", metavar="NUMBERS")
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="The budget in answers; left out: the config's.", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="The budget in minutes of training instead.", min=0.01)] = None,
    own: Annotated[
        list[str] | None, typer.Option(help="A setting for one algorithm alone, as dpo.learning_rate=1e-4.", metavar="SETTING")
    ] = None,
    out: Out = None,
) -> None:
    """The RL algorithms from one SFT model and reward model at one budget: reward, gold, KL, length, seconds, memory, win rate
    against SFT, with intervals. Finished ones are skipped."""
    from sawyer.studies.algorithms import STUDY, markdown
    from sawyer.studies.algorithms import study_algorithms as contest

    console = stdout()
    with Watch(console) as watch:
        found = contest(
            opened(config, settings),
            parts(algorithms) if algorithms is not None else None,
            numbers(seeds) if seeds is not None else None,
            episodes=episodes,
            minutes=minutes,
            own=own or [],
            out=folder(out),
            listeners=[watch],
            tell=lambda words: announce(console, words),
        )
    finish(console, markdown(found), Path(found.out), STUDY)
