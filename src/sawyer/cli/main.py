"""The command `sawyer`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from sawyer.cli import check_loss_command, data_commands, inspect, score_command, stage_commands, study_command
from sawyer.cli.bench_command import bench
from sawyer.cli.console import say, show_error, show_unexpected, stdout
from sawyer.cli.malloc import keep_freed_memory
from sawyer.cli.merge_command import merge
from sawyer.cli.options import CommandGroup
from sawyer.cli.rate_command import rate
from sawyer.cli.streams import safe_streams
from sawyer.cli.trust_command import trust
from sawyer.errors import Interrupted, ProcessError, SawyerError
from sawyer.train import distributed
from sawyer.version import __version__

app = typer.Typer(
    name="sawyer",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Whole runs": {"demo": stage_commands.demo, "init": data_commands.init, "run": stage_commands.run},
    "One stage": {stage: stage_commands.stage_command(stage) for stage in stage_commands.STAGES},
    "Data": {"check": data_commands.check, "world": data_commands.world},
    "People": {"rate": rate},
    "Models and results": {
        "score": score_command.score,
        "report": inspect.report,
        "trust": trust,
        "chat": inspect.chat,
        "merge": merge,
        "runs": inspect.runs,
        "check-loss": check_loss_command.check_loss,
    },
}
for _panel, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)
app.command("bench", rich_help_panel="Studies")(bench)
app.add_typer(study_command.app, name="study", rich_help_panel="Studies")


def _print_version(on: bool) -> None:
    if on:
        typer.echo(f"sawyer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a base model and people's judgements of answers to a model that follows instructions, on one machine."""


EXIT_INTERRUPTED = 130  # 128 + SIGINT


def main() -> None:
    """Run the command. A user's mistake is explained and exits 1; no error prints a traceback.

    An interrupted run that was saved exits 130, as shells do after Ctrl-C, so that `sawyer run a.yaml && next` stops. A run
    that waits for scores has done all it can and exits 0.
    """
    keep_freed_memory()
    with safe_streams():
        _run()


def _run() -> None:
    try:
        app(prog_name="sawyer")
    except Interrupted as stop:
        if distributed.is_rank_zero():
            console = stdout()
            console.print()
            say(console, ("Saved; run the same command to go on. ", "bold"), f"({stop.given})")
        sys.exit(EXIT_INTERRUPTED)
    except SawyerError as error:
        # Rank 0 prints the error that all processes raise. A process that died in silence is reported by all that notice.
        if distributed.is_rank_zero() or (isinstance(error, ProcessError) and error.silent):
            show_error(error)
        sys.exit(1)
    except Exception as error:
        show_unexpected(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
