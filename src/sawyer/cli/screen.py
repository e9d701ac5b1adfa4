"""Where words go: results and progress to standard output, troubles to standard error. No word of a user is taken as markup."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from sawyer.errors import SawyerError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

CHIPS = {"ok": ("✓ ok  ", "green"), "warn": ("! warn", "yellow"), "fail": ("✕ fail", "red")}


def stdout(*, quiet: bool = False) -> Console:
    """Made anew for each command, so that it writes to the standard output of now."""
    from rich.console import Console

    return Console(highlight=False, quiet=quiet)


def stderr() -> Console:
    """The console for troubles."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


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


def show_unexpected(error: BaseException) -> Path:
    """A failure nobody foresaw: one line here, all of it in a file whose path is told and returned."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="sawyer-error-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    words = str(error).strip().split("\n")[0]
    console = stderr()
    say(console, ("Error: ", "bold red"), f"something unforeseen ({type(error).__name__}{': ' + words if words else ''})")
    say(console, ("  where it happened: ", "dim"), file.name)
    say(console, ("  what to do: ", "bold"), "what was saved is intact; please report this with that file")
    return Path(file.name)
