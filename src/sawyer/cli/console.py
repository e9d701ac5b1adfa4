"""Results and progress go to standard output, errors to standard error. Text from users is never read as markup."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from sawyer.cli.streams import safe_stream
from sawyer.errors import SawyerError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sawyer.cli.terminal import Terminal

CHIPS = {"ok": ("✓ ok  ", "green"), "warn": ("! warn", "yellow"), "fail": ("✕ fail", "red")}


def stdout(*, quiet: bool = False) -> Terminal:
    """A new console for each command, because tests and callers replace `sys.stdout`."""
    from sawyer.cli.terminal import Terminal

    return Terminal(safe_stream(sys.stdout), quiet=quiet)


def stderr() -> Terminal:
    """The console for errors and warnings."""
    from sawyer.cli.terminal import Terminal

    return Terminal(safe_stream(sys.stderr), stderr=True)


def say(console: Console, *parts: str | Text | tuple[str, str]) -> None:
    """Print parts, each a text or (text, style), as one line; only a terminal wraps lines."""
    from rich.text import Text

    console.print(Text.assemble(*parts), soft_wrap=not console.is_terminal)


def chip(verdict: str) -> tuple[str, str]:
    """A verdict as (text, style)."""
    return CHIPS.get(verdict, (verdict, ""))


def show_error(error: SawyerError) -> None:
    """What was given, what was expected, why it matters, what to do; each on its own line."""
    console = stderr()
    first, *rest = str(error).split("\n")
    say(console, ("Error: ", "bold red"), first)
    for line in rest:
        label, colon, words = line.strip().partition(": ")
        say(console, (f"  {label}{colon}", "bold" if label == "what to do" else "dim"), words)


def show_unexpected(error: BaseException) -> Path | None:
    """An unexpected error: one line here, the traceback in a file. Its path is printed and returned if it can be written."""
    words = str(error).strip().split("\n")[0]
    console = stderr()
    detail = f"{type(error).__name__}: {words}" if words else type(error).__name__
    say(console, ("Error: ", "bold red"), f"unexpected error (please report it): {detail}")
    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sawyer-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(trace)
    except OSError:  # no space for the file: print it, rather than lose it
        say(console, (trace, "dim"))
        return None
    say(console, ("  where it happened: ", "dim"), file.name)
    say(console, ("  what to do: ", "bold"), "what was saved is intact; please report this error with that file")
    return Path(file.name)
