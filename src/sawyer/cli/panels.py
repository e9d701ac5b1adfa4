"""How a command's help lists the commands below it."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from typer.core import TyperGroup


class Panels(TyperGroup):
    """By panel and in plain text, with the first paragraph of each help: typer's boxes take as long to load as all else."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """What typer and click call for it."""
        commands = {name: self.commands[name] for name in self.list_commands(ctx)}
        width = max(map(len, commands))
        for panel, names in groupby(commands, key=lambda name: getattr(commands[name], "rich_help_panel", None)):
            with formatter.section(panel or "Commands"):
                formatter.write_dl([(name.ljust(width), (commands[name].help or "").split("\n\n")[0]) for name in names])
