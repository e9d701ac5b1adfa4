"""Standard streams that cannot end a command, and text that cannot steer a terminal.

A run writes for hours. Its terminal may be closed, its pipe broken, its disk full, its encoding one that knows no check mark:
none of that may cost a step. What people, files and models wrote is shown with its control characters spelt out.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from sawyer.errors import RunError

# C0 but tab and newline, DEL and C1 steer a terminal; the bidirectional controls reorder what is read; the separators of lines
# and paragraphs break a line of JSON; surrogates are bytes of a file's name that are no text.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
STEERING_BUT_RETURN = re.compile(
    STEERING.pattern.replace("\x0b-\x1f", "\x0b\x0c\x0e-\x1f")
)  # progress bars of libraries use it
# What our own marks become where the encoding has none.
PLAIN = {
    **{"✓": "+", "✕": "x", "…": "...", "‖": "|", "·": ".", "━": "=", "│": "|", "→": "->", "–": "-", "−": "-"},
    **{"×": "x", "±": "+-", "√": "sqrt ", "╸": "=", "╺": "="},
}


def visible(text: str, steering: re.Pattern[str] = STEERING) -> str:
    """The text with control characters spelt out, such as `\\x1b`; tabs and newlines stay."""
    return steering.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def encodable(text: str, encoding: str) -> str:
    """The text as `encoding` can have it: our marks by plain ones, whatever else it lacks spelt out."""
    return text.encode(encoding, "sawyer.plain").decode(encoding)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    mark = PLAIN.get(error.object[error.start])
    if mark is None:
        return codecs.backslashreplace_errors(error)
    return mark, error.start + 1


codecs.register_error("sawyer.plain", _plain)


class Steady:
    """A stream to which writing never fails. `lost` is why nothing can be written any more, if so."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner
        self.lost: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Write what can be written; returns the length of `text`."""
        if self.lost is None:
            try:
                try:
                    self.inner.write(text)
                except UnicodeEncodeError:
                    self.inner.write(encodable(text, self.inner.encoding or "ascii"))
            except RuntimeError:
                pass  # a signal came in the middle of a line: what its handler says is left out
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        if self.lost is None:
            try:
                self.inner.flush()
            except RuntimeError:
                pass
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        self.lost = error
        silence(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Escaped:
    """What libraries print without asking us: warnings that quote a file's text, progress bars."""

    def __init__(self, inner: Steady) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write the text with its control characters spelt out."""
        self.inner.write(visible(text, STEERING_BUT_RETURN))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def steady(stream: TextIO) -> Steady:
    """The stream that a console writes to, control characters of its own included."""
    found: Any = stream
    while isinstance(found, Escaped):
        found = found.inner
    return found if isinstance(found, Steady) else Steady(found)


def silence(stream: TextIO) -> None:
    """Lead a stream that is lost to nowhere: what it still holds must not fail when Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def steady_streams() -> Iterator[None]:
    """Within it nothing that is printed can fail, and standard streams that were closed lead to nowhere."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # a file that is opened next would take the number, and all that is printed would go into it
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdin, sys.stdout, sys.stderr
    if before[0] is None:
        sys.stdin = open(os.devnull, encoding="utf-8")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    out, err = (Steady(stream or open(os.devnull, "w", encoding="utf-8")) for stream in before[1:])
    sys.stdout, sys.stderr = cast(TextIO, Escaped(out)), cast(TextIO, Escaped(err))
    try:
        yield
    finally:
        out.flush()
        if isinstance(out.lost, OSError) and out.lost.errno not in (errno.EPIPE, errno.EIO):  # not that nobody reads any more
            err.write(f"Standard output could not be written to its end: {out.lost.strerror}\n")
        err.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def print_line(line: str) -> bool:
    """A line for another program, to standard output: that it cannot be written is an error, unlike with words for people.

    Returns whether somebody still reads; raises RunError where the system refuses.
    """
    stream = steady(sys.stdout).inner
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:  # whoever read has seen enough, as `head` does
        silence(stream)
        return False
    except (OSError, ValueError) as error:
        silence(stream)
        words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise RunError(
            f"standard output cannot be written: {words}",
            why="what was asked for is not whole",
            todo="free some space, then run the same command again" if full else "name a file, or another place for the output",
        ) from error
    return True


def as_json(value: Any) -> str:
    """One line of JSON for standard output: valid in any encoding, and no control character reaches a terminal as it is.

    Numbers that JSON does not know become text.
    """
    from sawyer.runs import json_safe

    stream = steady(sys.stdout).inner
    ascii_alone = not (stream.encoding or "ascii").lower().replace("-", "").startswith("utf")
    text = json.dumps(json_safe(value), ensure_ascii=ascii_alone, allow_nan=False, default=str)
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
