"""The commands of `sawyer study`: many runs, one question, one table."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.options import CommandGroup
from sawyer.cli.progress import Watch
from sawyer.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from sawyer.config import Config

MOST_SEEDS = 1000  # more in one command are a slip of the finger

app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Many runs, one question: which loss, which algorithm, what do seeds do, how far can a reward be pushed?",
)

MaybeFile = Annotated[
    str | None,
    typer.Argument(help="A run's file; left out: the built-in world's demo.", metavar="[CONFIG]", show_default=False),
]
Settings = Annotated[list[str] | None, typer.Argument(help="Settings that replace the file's.", metavar="[KEY=VALUE]...")]
Out = Annotated[str | None, typer.Option(help="Where runs, figures and table go; left out: a folder in the run's own.")]


@app.command("losses")
def losses_command(
    config: MaybeFile = None,
    settings: Settings = None,
    loss: Annotated[
        str | None,
        typer.Option(help="Losses, commas between them: ours, or yours as module:function; left out: ours.", metavar="NAMES"),
    ] = None,
    seeds: Annotated[str, typer.Option(help="A reward model for each loss with each: 0-2 or 0,5.", metavar="NUMBERS")] = "0-2",
    out: Out = None,
) -> None:
    """The reward model's losses from one SFT model, data and budget: figures with their spread over seeds. Finished runs are
    skipped."""
    from sawyer.studies.losses import LOSSES, study_losses

    losses = LOSSES if loss is None else _names(loss)
    _study(partial(study_losses, losses=losses, seeds=parse_seeds(seeds)), config, settings, out)


@app.command("algorithms")
def algorithms_command(
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
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting for one algorithm alone, as dpo.learning_rate=1e-4.", metavar="SETTING"),
    ] = None,
    out: Out = None,
) -> None:
    """The RL algorithms from one SFT model and reward model at one budget: reward, gold, KL, length, seconds, memory, win rate
    against SFT, with intervals. Finished runs are skipped."""
    from sawyer.studies.algorithms import study_algorithms

    run = partial(
        study_algorithms,
        algorithms=_names(algorithms) if algorithms is not None else None,
        seeds=parse_seeds(seeds) if seeds is not None else None,
        episodes=episodes,
        minutes=minutes,
        overrides=overrides or [],
    )
    _study(run, config, settings, out)


@app.command("seeds")
def seeds_command(
    config: MaybeFile = None,
    settings: Settings = None,
    seeds: Annotated[str, typer.Option(help="A whole run with each: 0,1,2 or 0-9.", metavar="NUMBERS")] = "0-9",
    out: Annotated[str | None, typer.Option(help="Where the runs go; left out: runs/seeds, or `seeds` in the run's.")] = None,
) -> None:
    """A whole run with several seeds: RL against SFT and best of eight, guards, gates, and the spread. Finished runs are
    skipped."""
    from sawyer.studies.seed_spread import study_seeds

    _study(partial(study_seeds, seeds=parse_seeds(seeds)), config, settings, out)


@app.command("overoptimisation")
def overoptimisation_command(
    config: MaybeFile = None,
    settings: Settings = None,
    episodes: Annotated[int | None, typer.Option(help="Of RL without KL; left out: four times the config's.", min=1)] = None,
    limit: Annotated[int, typer.Option(help="Answers a prompt that best-of-n chooses from.", min=4)] = 128,
    out: Out = None,
) -> None:
    """RL without KL, and best-of-n: reward and truth against sqrt(KL), Gao's curves and the turn, as a table and a page."""
    from sawyer.studies.overoptimisation import study_overoptimisation

    _study(partial(study_overoptimisation, episodes=episodes, limit=limit), config, settings, out)


def _study(run: Callable[..., Any], config: str | None, settings: list[str] | None, out: str | None) -> None:
    """Run the study under a watch, then print its text, which can be pasted, and where everything lies."""
    from sawyer.runs import Layout

    console = stdout()
    run_config = _load(config, settings)
    with Watch(console) as watch:
        result = run(
            run_config,
            out=Path(out).expanduser() if out is not None else None,
            listeners=[watch],
            tell=partial(_announce, console),
        )
    console.print()
    console.print(result.text, soft_wrap=True, markup=False)
    layout = Layout(Path(result.out))
    if layout.table_page(result.study).exists():
        say(console, ("Page     ", "bold"), str(layout.table_page(result.study)))
    say(console, ("Wrote ", "dim"), f"{layout.table(result.study)}, {layout.table_text(result.study)}")


def _load(config: str | None, settings: list[str] | None) -> Config | None:
    """The file with its settings; None where there is no file."""
    from sawyer.config import load_config

    if config is not None and "=" in config and not os.path.exists(config):
        raise ConfigError(
            f"{config!r} stands where a file should",
            expected="a run's file before its settings",
            why="the demo's settings are what makes its figures comparable",
            todo="name a file first, or leave the settings out",
        )
    return None if config is None else load_config(config, settings or [])


def _announce(console: Console, words: str) -> None:
    """What comes next, or what it will cost."""
    console.print()
    say(console, (words, "bold cyan"))


def _names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_seeds(text: str) -> list[int]:
    """Seeds with commas between them, each a number or a range: 0,3,10-19. Raises ConfigError for anything else."""
    seeds: list[int] = []
    for part in _names(text):
        first, dash, last = part.partition("-") if not part.startswith("-") else (part, "", "")
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError as error:
            raise ConfigError(f"--seeds {text}", expected="whole numbers, such as 0,1,2 or 0-9", todo="mend it") from error
        if high < low or high - low >= MOST_SEEDS:
            raise ConfigError(
                f"--seeds {part}", expected=f"a range from the lower number up, of at most {MOST_SEEDS}", todo="mend it"
            )
        seeds += range(low, high + 1)
    return seeds
