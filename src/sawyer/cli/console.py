"""Where words go: results and progress to standard output, troubles to standard error. No word of a user is taken as markup."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from sawyer.cli.streams import steady
from sawyer.errors import SawyerError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sawyer.cli.terminal import Terminal

CHIPS = {"ok": ("✓ ok  ", "green"), "warn": ("! warn", "yellow"), "fail": ("✕ fail", "red")}


def stdout(*, quiet: bool = False) -> Terminal:
    """Made anew for each command, so that it writes to the standard output of now."""
    from sawyer.cli.terminal import Terminal

    return Terminal(steady(sys.stdout), quiet=quiet)


def stderr() -> Terminal:
    """The console for troubles."""
    from sawyer.cli.terminal import Terminal

    return Terminal(steady(sys.stderr), stderr=True)


def say(console: Console, *parts: str | Text | tuple[str, str]) -> None:
    """Print parts, each plain or (text, style), as one line; only a terminal's lines are folded."""
    from rich.text import Text

    console.print(Text.assemble(*parts), soft_wrap=not console.is_terminal)


def chip(verdict: str) -> tuple[str, str]:
    """A verdict as (text, style)."""
    return CHIPS.get(verdict, (verdict, ""))


def show_error(error: SawyerError) -> None:
    """What was given, what was expected, why it matters, what to do; each on its line."""
    console = stderr()
    first, *rest = str(error).split("\n")
    say(console, ("Error: ", "bold red"), first)
    for line in rest:
        label, colon, words = line.strip().partition(": ")
        say(console, (f"  {label}{colon}", "bold" if label == "what to do" else "dim"), words)


def show_unexpected(error: BaseException) -> Path | None:
    """A failure nobody foresaw: one line here, all of it in a file whose path is shown and returned, if one can be written."""
    words = str(error).strip().split("\n")[0]
    console = stderr()
    say(console, ("Error: ", "bold red"), f"something unforeseen ({type(error).__name__}{': ' + words if words else ''})")
    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sawyer-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(trace)
    except OSError:  # no place for it: then here, rather than nowhere
        say(console, (trace, "dim"))
        return None
    say(console, ("  where it happened: ", "dim"), file.name)
    say(console, ("  what to do: ", "bold"), "what was saved is intact; please report this with that file")
    return Path(file.name)
