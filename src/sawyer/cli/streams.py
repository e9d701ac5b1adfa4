"""Standard streams whose failure cannot end a command, and text that cannot control a terminal.

A run writes for hours. Its terminal may be closed, its pipe broken, its disk full, or its encoding without a check mark: none
of that may cost a training step. Text of people, files and models is printed with its control characters escaped.
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

# C0 except tab and newline, DEL and C1 control a terminal; bidirectional controls reorder what is read; line and paragraph
# separators break a line of JSON; surrogates are bytes of a file's name that are not text.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Progress bars of libraries use the carriage return.
CONTROLS_BUT_RETURN = re.compile(CONTROLS.pattern.replace("\x0b-\x1f", "\x0b\x0c\x0e-\x1f"))
# Our own marks, for an encoding that has none of them.
PLAIN = {
    **{"✓": "+", "✕": "x", "…": "...", "‖": "|", "·": ".", "━": "=", "│": "|", "→": "->", "–": "-", "−": "-"},
    **{"×": "x", "±": "+-", "√": "sqrt ", "╸": "=", "╺": "="},
}
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def visible(text: str, controls: re.Pattern[str] = CONTROLS) -> str:
    """The text with control characters escaped, such as `\\x1b`; tabs and newlines stay."""
    return controls.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def encodable(text: str, encoding: str) -> str:
    """The text for an encoding: our marks become plain ones, other characters it lacks are escaped."""
    return text.encode(encoding, "sawyer.plain").decode(encoding)


def _plain_mark(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    mark = PLAIN.get(error.object[error.start])
    return (mark, error.start + 1) if mark is not None else codecs.backslashreplace_errors(error)


codecs.register_error("sawyer.plain", _plain_mark)


class SafeStream:
    """A stream to which writing never fails. `failure` is the error after which nothing can be written any more."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner
        self.failure: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Write what can be written; returns the length of `text`."""
        with self._guard() as can_write:
            if can_write:
                try:
                    self.inner.write(text)
                except UnicodeEncodeError:
                    self.inner.write(encodable(text, self.inner.encoding or "ascii"))
        return len(text)

    def flush(self) -> None:
        """Flush the inner stream."""
        with self._guard() as can_write:
            if can_write:
                self.inner.flush()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[bool]:
        try:
            yield self.failure is None
        except RuntimeError:  # a signal's handler wrote in the middle of a line: its text is left out
            pass
        except (OSError, ValueError) as error:
            self.failure = error
            silence(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class EscapingStream:
    """A stream for what libraries print by themselves: warnings that quote a file's text, progress bars."""

    def __init__(self, inner: SafeStream) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write the text with its control characters escaped."""
        self.inner.write(visible(text, CONTROLS_BUT_RETURN))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def safe_stream(stream: TextIO) -> SafeStream:
    """The stream for a console, which may write control characters of its own."""
    inner: Any = stream
    while isinstance(inner, EscapingStream):
        inner = inner.inner
    return inner if isinstance(inner, SafeStream) else SafeStream(inner)


def silence(stream: TextIO) -> None:
    """Redirect a failed stream to the null device: flushing its buffer must not fail when Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Within it printing never fails, and standard streams that were closed lead to the null device."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened would get this descriptor, and all that is printed
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdin, sys.stdout, sys.stderr
    if before[0] is None:
        sys.stdin = open(os.devnull, encoding="utf-8")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    out, err = (SafeStream(stream or open(os.devnull, "w", encoding="utf-8")) for stream in before[1:])
    sys.stdout, sys.stderr = cast(TextIO, EscapingStream(out)), cast(TextIO, EscapingStream(err))
    try:
        yield
    finally:
        out.flush()
        # A closed pipe or terminal is no error: the reader has gone.
        if isinstance(out.failure, OSError) and out.failure.errno not in (errno.EPIPE, errno.EIO):
            err.write(f"Standard output could not be written to its end: {out.failure.strerror}\n")
        err.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def print_line(line: str) -> bool:
    """Print a line for another program. Unlike with words for people, a failed write is an error.

    Returns whether somebody still reads; raises RunError if the system refuses.
    """
    stream = safe_stream(sys.stdout).inner
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        silence(stream)
        return False
    except (OSError, ValueError) as error:
        silence(stream)
        words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        full = isinstance(error, OSError) and error.errno in FULL_DISK
        raise RunError(
            f"standard output cannot be written: {words}",
            why="the output is incomplete",
            todo="free some space, then run the same command again" if full else "name a file, or another place for the output",
        ) from error
    return True


def as_json(value: Any) -> str:
    """One line of JSON for standard output: valid in any encoding, and without control characters for a terminal.

    Numbers that JSON does not have become text.
    """
    from sawyer.runs import json_safe

    stream = safe_stream(sys.stdout).inner
    ensure_ascii = not (stream.encoding or "ascii").lower().replace("-", "").startswith("utf")
    text = json.dumps(json_safe(value), ensure_ascii=ensure_ascii, allow_nan=False, default=str)
    return CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
