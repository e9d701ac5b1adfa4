"""`sawyer score`: a reward beside each answer of a file."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.cli.console import say, stderr
from sawyer.cli.data_commands import column_names
from sawyer.cli.remote_code_option import TrustRemoteCode
from sawyer.cli.streams import as_json, print_line
from sawyer.errors import DataError, NotFiniteError

if TYPE_CHECKING:
    from sawyer.models import TextScorer
    from sawyer.records import AnsweredPrompt, Problem

CHUNK = 256  # rows scored together, and written at once


def score(
    model: Annotated[str, typer.Argument(help="A run's folder, a reward model's folder or a hub id.", metavar="MODEL")],
    file: Annotated[str, typer.Argument(help="A file of answers, or a pattern.", metavar="FILE")],
    out: Annotated[str | None, typer.Option(help="The JSONL file to write; without it rows go to standard output.")] = None,
    columns: Annotated[list[str] | None, typer.Option(help="Their column's name and ours, such as query=prompt.")] = None,
    template: Annotated[str | None, typer.Option(help="In place of what a decoder's tokenizer brings.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Add a reward to each row of a file: `reward`, and of an ensemble `disagreement`. The rest of the row stays as it is.

    A pair's is {"chosen", "rejected"}, that of several answers a list.
    """
    from sawyer.models import TextScorer, remote_code
    from sawyer.records import answered, expand

    files = expand(file)  # a file that is not there is told before a model is loaded
    with remote_code(trust_remote_code):
        judge = TextScorer(model, template=template)
    console = stderr()
    if judge.note:
        say(console, (f"{judge.note}.", "yellow"))
    problems: list[Problem] = []
    rows = answered(files, problems, columns=column_names(columns or []))
    scored = replaced = 0
    with _output(out, files) as write:
        while chunk := list(islice(rows, CHUNK)):
            replaced += sum("reward" in row.row for row in chunk)
            for row in with_rewards(judge, chunk):
                write(row)
            scored += len(chunk)
        if not scored:
            first = f": {problems[0].message}" if problems else ""
            raise DataError(
                f"no row can be scored{first}",
                where=problems[0].where if problems else files[0],
                expected="rows with a prompt and its answers",
                todo="name other columns with --columns THEIRS=OURS, or another file",
            )
    _tell(console, judge, scored, replaced, problems, out)


def with_rewards(judge: TextScorer, rows: Sequence[AnsweredPrompt]) -> Iterator[dict[str, Any]]:
    """The rows as they were, each with `reward` and, where the judge is an ensemble, `disagreement`.

    Raises NotFiniteError for an answer whose score is no number.
    """
    answers = [answer for row in rows for answer in row.answers]
    found = judge.detailed([prompt for prompt, _ in answers], [response for _, response in answers])
    for row in rows:
        mine, found = found[: len(row.answers)], found[len(row.answers) :]
        if not all(math.isfinite(score.reward) for score in mine):
            raise NotFiniteError(
                f"{row.records[0].where}: the model's score is {next(s.reward for s in mine if not math.isfinite(s.reward))}",
                expected="a finite number",
                why="no answer can be ranked by it, and JSON has no such number",
                todo="look at this row, and whether the model's weights are whole: it may score every row so",
            )
        told = dict(row.row) | {"reward": row.placed([score.reward for score in mine])}
        if mine[0].disagreement is not None:
            told["disagreement"] = row.placed([score.disagreement for score in mine])
        yield told


def _tell(console: Any, judge: TextScorer, scored: int, replaced: int, problems: Sequence[Problem], out: str | None) -> None:
    """How many rows were scored, and all that was not as it should be."""
    say(console, f"{scored:,} {'row' if scored == 1 else 'rows'} scored", f", written to {out}" if out else "")
    if replaced:
        say(console, (f"{replaced:,} rows had a `reward` already; it is replaced", "yellow"))
    if judge.cut:
        context = judge.inner.prompt_encoder.context
        told = f"{judge.cut:,} answers did not fit the {context:,} tokens that the model reads and were cut"
        say(console, (told, "yellow"))
    first = {problem.kind: problem for problem in reversed(problems)}
    for kind, count in Counter(problem.kind for problem in problems).items():
        told = f"{count:,} {'row' if count == 1 else 'rows'} skipped: {kind} ({first[kind].where}: {first[kind].message})"
        say(console, (told, "yellow"))


@contextmanager
def _output(out: str | None, files: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What writes a row: to standard output, or to a file that is there only once it is whole."""
    from sawyer.runs import disk_errors, new_file, plain, remove_leftovers

    def show(row: Mapping[str, Any]) -> None:
        if not print_line(as_json(row)):
            raise typer.Exit

    if out is None:
        yield show
        return
    path = _free(out, files)
    remove_leftovers(path)
    with new_file(path) as opened:

        def write(row: Mapping[str, Any]) -> None:
            with disk_errors(path):
                opened.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False, default=str) + "\n")

        yield write


def _free(out: str, files: Sequence[str]) -> Path:
    """The path of --out. Raises DataError where no file can be written there, or where one must not be."""
    path = Path(out)
    try:
        resolved = path.resolve()
        given = f"--out {out} is a folder" if path.is_dir() else f"--out {out}: there is no folder {path.parent}"
        if path.is_dir() or not path.parent.is_dir():
            raise DataError(given, expected="a file in a folder that is there", todo="mend --out, or make the folder first")
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, links in a circle, a NUL
        raise DataError(f"--out {out!r} is no path ({error})", expected="a file's name", todo="mend --out") from error
    if any(resolved == Path(name).resolve() for name in files):
        raise DataError(
            f"{out} is the file that is read", expected="another name", why="its rows would be lost", todo="mend --out"
        )
    if path.exists() and not path.is_file():
        raise DataError(
            f"--out {out} is no file", expected="a file's name", todo="leave --out away to write to standard output"
        )
    return path
