"""What several commands share: arguments and options, how help lists commands, and the answer to their former names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sawyer.errors import ConfigError

ConfigFile = Annotated[
    str,
    typer.Argument(help="A run's file, which `sawyer init` writes, or the folder of a run that was begun.", metavar="CONFIG"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings that replace the file's, such as rl.episodes=2048.", metavar="[KEY=VALUE]..."),
]
Columns = Annotated[list[str] | None, typer.Option(help="A column of the file and our name for it, such as query=prompt.")]
Template = Annotated[str | None, typer.Option(help="A chat template in place of the one in a decoder's tokenizer.")]
MaxBadRows = Annotated[float, typer.Option(help="Share of a file's rows that may be left out, as in the config.", min=0, max=1)]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python that comes with the model; it can do whatever you can.")
]

FORMER_COMMANDS = {"loss": "check-loss", "ablate": "study losses", "bakeoff": "study algorithms"}
FORMER_OPTIONS = {"--own": "--set", "--most": "--limit", "--held-out": "--eval-fraction"}
# What `sawyer bench` had before its parts that only developers need moved out of the package.
FORMER_BENCH_OPTIONS = ("--grow", "--stages", "--out")
# Click's errors. Newer releases of typer bring their own copy of click.
_click_errors: Any = sys.modules[typer.BadParameter.__module__]


class CommandGroup(TyperGroup):
    """Commands whose help is plain text by panel: typer's boxes take as long to load as all else."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List each command with the first paragraph of its help, under its panel's name. Called by click."""
        commands = {name: self.commands[name] for name in self.list_commands(ctx)}
        width = max(map(len, commands))
        for panel, names in groupby(commands, key=lambda name: getattr(commands[name], "rich_help_panel", None)):
            with formatter.section(panel or "Commands"):
                formatter.write_dl([(name.ljust(width), (commands[name].help or "").split("\n\n")[0]) for name in names])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of this name; a former name is answered by the new one. Called by click."""
        if args and args[0] in FORMER_COMMANDS and args[0] not in self.commands:
            raise _click_errors.UsageError(
                f"No such command '{args[0]}'; did you mean `sawyer {FORMER_COMMANDS[args[0]]}`?", ctx
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an option's former name is answered by the new one. Called by click."""
        try:
            return super().invoke(ctx)
        except _click_errors.NoSuchOption as error:
            # Groups nest, and the error passes through all of them: only the command's own group answers it.
            if error.ctx is not None and error.ctx.parent is ctx and (answer := _former_option(error)):
                error.message, error.possibilities = f"{error.message}; {answer}", None
            raise


def _former_option(error: Any) -> str:
    """What there is now in place of an option that the command had, empty where it never had it."""
    options = {name for parameter in error.ctx.command.params for name in parameter.opts}
    if (option := FORMER_OPTIONS.get(error.option_name)) in options:
        return f"did you mean `{option}`?"
    if error.ctx.info_name == "bench" and error.option_name in FORMER_BENCH_OPTIONS:
        return "`sawyer bench` measures all stages and has `--steps`; `python -m benchmarks` has `--stages` and `--out`"
    return ""


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    """What `--columns` gives: ["query=prompt"] -> {"query": "prompt"}. Raises ConfigError for anything else."""
    columns = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise ConfigError(f"--columns {pair!r}", expected="THEIRS=OURS, such as query=prompt", todo="name both columns")
        if "," in ours:
            each = " ".join(f"--columns {one}" for one in pair.split(",") if one)
            raise ConfigError(f"--columns {pair!r}", expected="one column each time", todo=f"write {each}")
        columns[theirs] = ours
    return columns
