"""The command `sawyer`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sawyer.cli import check_loss_command, data_commands, inspect, score_command, stage_commands, study_command
from sawyer.cli.ablate_command import study_losses
from sawyer.cli.bakeoff_command import study_algorithms
from sawyer.cli.bench_command import bench
from sawyer.cli.console import say, show_error, show_unexpected, stdout
from sawyer.cli.merge_command import merge
from sawyer.cli.panels import Panels
from sawyer.cli.streams import steady_streams
from sawyer.cli.threads import set_waiting
from sawyer.cli.trust_command import trust
from sawyer.errors import Interrupted, ProcessError, SawyerError
from sawyer.train import distributed
from sawyer.version import __version__

app = typer.Typer(
    name="sawyer",
    cls=Panels,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PANELS = {
    "whole": "The whole way",
    "stages": "One stage",
    "data": "Data",
    "look": "Look",
    "lab": "Laboratory",
}
app.command("demo", rich_help_panel=PANELS["whole"])(stage_commands.demo)
app.command("init", rich_help_panel=PANELS["whole"])(data_commands.init)
app.command("run", rich_help_panel=PANELS["whole"])(stage_commands.run)
for _stage in stage_commands.STAGES:
    app.command(_stage, rich_help_panel=PANELS["stages"])(stage_commands.stage_command(_stage))
app.command("check", rich_help_panel=PANELS["data"])(data_commands.check)
app.command("world", rich_help_panel=PANELS["data"])(data_commands.world)
app.command("score", rich_help_panel=PANELS["look"])(score_command.score)
app.command("report", rich_help_panel=PANELS["look"])(inspect.report)
app.command("trust", rich_help_panel=PANELS["look"])(trust)
app.command("chat", rich_help_panel=PANELS["look"])(inspect.chat)
app.command("merge", rich_help_panel=PANELS["look"])(merge)
app.command("runs", rich_help_panel=PANELS["look"])(inspect.runs)
app.command("loss", rich_help_panel=PANELS["look"])(check_loss_command.loss)
app.command("ablate", rich_help_panel=PANELS["lab"])(study_losses)
app.command("bakeoff", rich_help_panel=PANELS["lab"])(study_algorithms)
app.command("bench", rich_help_panel=PANELS["lab"])(bench)
app.add_typer(study_command.app, name="study", rich_help_panel=PANELS["lab"])


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sawyer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")] = False,
) -> None:
    """From a base model and people's judgements of answers to a model that follows instructions, on one machine."""


STOPPED = 130  # 128 + SIGINT


def main() -> None:
    """Run the command. A user's mistake is explained and exits 1; nothing shows a traceback.

    A stop that saved exits 130, as a shell says of what Ctrl-C ended: `sawyer run a.yaml && next` must not go on to the next. A
    run that waits for scores has done all it can and exits 0.
    """
    set_waiting()
    with steady_streams():
        _run()


def _run() -> None:
    try:
        app(prog_name="sawyer")
    except Interrupted as stop:
        if distributed.is_rank_zero():
            console = stdout()
            console.print()
            say(console, ("Saved; run the same command to go on. ", "bold"), f"({stop.given})")
        sys.exit(STOPPED)
    except SawyerError as error:
        # Of several processes the first one tells what they all found, or what another one left word of.
        if distributed.is_rank_zero() or (isinstance(error, ProcessError) and error.silent):
            show_error(error)
        sys.exit(1)
    except Exception as error:
        show_unexpected(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
