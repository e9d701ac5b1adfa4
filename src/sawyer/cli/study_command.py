"""The command `study`: what seeds do to a run, and how far a reward model can be pushed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    help="Many runs, one question: what do seeds do, how far can a reward be pushed?",
)

MaybeFile = Annotated[
    str | None,
    typer.Argument(help="A run's file; left out: the built-in world's demo.", metavar="[CONFIG]", show_default=False),
]
Settings = Annotated[list[str] | None, typer.Argument(help="Settings that replace the file's.", metavar="[KEY=VALUE]...")]
Out = Annotated[str | None, typer.Option(help="Where runs, figures and table go; left out: a folder in the run's own.")]


@app.command("seeds")
def seeds_command(
    config: MaybeFile = None,
    settings: Settings = None,
    seeds: Annotated[str, typer.Option(help="A whole run with each: 0,1,2 or 0-9.", metavar="NUMBERS")] = "0-9",
    out: Annotated[str | None, typer.Option(help="Where the runs go; left out: runs/seeds, or `seeds` in the run's.")] = None,
) -> None:
    """Repeat a whole run with several seeds: RL against SFT and best of eight, guards, gates, and the spread. Finished ones are
    skipped."""
    from sawyer.studies.seeds import STUDY, markdown, study_seeds

    console = stdout()
    with Watch(console) as watch:
        found = study_seeds(
            opened(config, settings),
            numbers(seeds),
            out=folder(out),
            listeners=[watch],
            tell=lambda words: announce(console, words),
        )
    finish(console, markdown(found), Path(found.out), STUDY)


@app.command("overoptimisation")
def overoptimisation_command(
    config: MaybeFile = None,
    settings: Settings = None,
    episodes: Annotated[int | None, typer.Option(help="Of RL without KL; left out: four times the config's.", min=1)] = None,
    most: Annotated[int, typer.Option("--most", help="Answers a prompt that best-of-n chooses from.", min=4)] = 128,
    out: Out = None,
) -> None:
    """RL without KL, and best-of-n: reward and truth against sqrt(KL), Gao's curves and the turn, as a table and a page."""
    from sawyer.studies.overoptimisation import STUDY, markdown, study_overoptimisation

    console = stdout()
    with Watch(console) as watch:
        found = study_overoptimisation(
            opened(config, settings),
            episodes=episodes,
            most=most,
            out=folder(out),
            listeners=[watch],
            tell=lambda words: announce(console, words),
        )
    finish(console, markdown(found), Path(found.out), STUDY, page=True)


def opened(config: str | None, settings: list[str] | None) -> Config | None:
    """The file with its settings; None where there is no file."""
    from sawyer.config import load

    if config is not None and "=" in config and not os.path.exists(config):
        raise ConfigError(
            f"{config!r} stands where a file should",
            expected="a run's file before its settings",
            why="the demo's settings are what makes its figures comparable",
            todo="name a file first, or leave the settings out",
        )
    return None if config is None else load(config, settings or [])


def announce(console: Console, words: str) -> None:
    """What comes next, or what it will cost."""
    console.print()
    say(console, (words, "bold cyan"))


def finish(console: Console, text: str, root: Path, study: str, *, page: bool = False) -> None:
    """The table in Markdown as it can be pasted, and where everything lies."""
    from sawyer.runs import Layout

    console.print()
    console.print(text, soft_wrap=True, markup=False)
    layout = Layout(root)
    if page:
        say(console, ("Page     ", "bold"), str(layout.table_page(study)))
    say(console, ("Wrote ", "dim"), f"{layout.table(study)}, {layout.table_text(study)}")


def folder(out: str | None) -> Path | None:
    """--out as a path, `~` written out."""
    return Path(out).expanduser() if out is not None else None


def parts(text: str) -> list[str]:
    """Names with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[int]:
    """Seeds with commas between them, each a number or a range: 0,3,10-19. Raises ConfigError for anything else."""
    found: list[int] = []
    for part in parts(text):
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
        found += range(low, high + 1)
    return found
