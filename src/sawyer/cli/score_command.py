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
from sawyer.cli.options import Columns, RemoteCode, Template, parse_columns
from sawyer.cli.streams import as_json, print_line
from sawyer.errors import DataError, NotFiniteError

if TYPE_CHECKING:
    from sawyer.models import TextScorer
    from sawyer.records import AnsweredPrompt, Problem

CHUNK = 256  # rows scored together, and written at once


def score(
    model: Annotated[str, typer.Argument(help="A run's folder, a reward model's folder or a hub id.", metavar="MODEL")],
    file: Annotated[str, typer.Argument(help="A file of answers, or a pattern.", metavar="FILE")],
    out: Annotated[str | None, typer.Option(help="The JSONL file to write; by default rows go to standard output.")] = None,
    columns: Columns = None,
    template: Template = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Add `reward` to each row of a file, and `disagreement` if the model is an ensemble. The rest of the row is unchanged.

    A pair's reward is {"chosen", "rejected"}; the reward of several answers is a list.
    """
    from sawyer.models import TextScorer, remote_code
    from sawyer.records import expand, read_answers

    files = expand(file)  # before the model is loaded: a missing file is reported at once
    with remote_code(trust_remote_code):
        scorer = TextScorer(model, template=template)
    if scorer.note:
        say(stderr(), (f"{scorer.note}.", "yellow"))
    problems: list[Problem] = []
    rows = read_answers(files, problems, columns=parse_columns(columns or []))
    row_count = overwrite_count = 0
    with _row_writer(out, files) as write:
        while chunk := list(islice(rows, CHUNK)):
            overwrite_count += sum("reward" in row.row for row in chunk)
            for row in with_rewards(scorer, chunk):
                write(row)
            row_count += len(chunk)
        if not row_count:
            first = f": {problems[0].message}" if problems else ""
            raise DataError(
                f"no row can be scored{first}",
                where=problems[0].where if problems else files[0],
                expected="rows with a prompt and its answers",
                todo="name other columns with --columns THEIRS=OURS, or another file",
            )
    notes = []
    if overwrite_count:
        notes.append(f"{overwrite_count:,} rows had a `reward` already; it is replaced")
    if scorer.cut:
        context = scorer.inner.prompt_encoder.context
        notes.append(f"{scorer.cut:,} answers did not fit the {context:,} tokens that the model reads and were cut")
    first_of = {problem.kind: problem for problem in reversed(problems)}
    for kind, count in Counter(problem.kind for problem in problems).items():
        example = f"{first_of[kind].where}: {first_of[kind].message}"
        notes.append(f"{count:,} {'row' if count == 1 else 'rows'} skipped: {kind} ({example})")
    console = stderr()
    say(console, f"{row_count:,} {'row' if row_count == 1 else 'rows'} scored", f", written to {out}" if out else "")
    for note in notes:
        say(console, (note, "yellow"))


def with_rewards(scorer: TextScorer, rows: Sequence[AnsweredPrompt]) -> Iterator[dict[str, Any]]:
    """The rows, each with `reward` and, from an ensemble, `disagreement`. Raises NotFiniteError for a score not finite."""
    answers = [answer for row in rows for answer in row.answers]
    scores = iter(scorer.score_details([prompt for prompt, _ in answers], [response for _, response in answers]))
    for row in rows:
        row_scores = list(islice(scores, len(row.answers)))
        if not all(math.isfinite(score.reward) for score in row_scores):
            bad = next(score.reward for score in row_scores if not math.isfinite(score.reward))
            raise NotFiniteError(
                f"{row.records[0].where}: the model's score is {bad}",
                expected="a finite number",
                why="no answer can be ranked by it, and JSON has no such number",
                todo="look at this row, and at the model: if its weights are damaged, it scores every row so",
            )
        fields = dict(row.row) | {"reward": row.in_row_form([score.reward for score in row_scores])}
        if row_scores[0].disagreement is not None:
            fields["disagreement"] = row.in_row_form([score.disagreement for score in row_scores])
        yield fields


@contextmanager
def _row_writer(out: str | None, files: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes a row: to standard output, or to a file that appears only once it is complete."""
    from sawyer.runs import disk_errors, json_safe, new_file, remove_leftovers

    def print_row(row: Mapping[str, Any]) -> None:
        if not print_line(as_json(row)):
            raise typer.Exit

    if out is None:
        yield print_row
        return
    path = _checked_output_path(out, files)
    remove_leftovers(path)
    with new_file(path) as file:

        def write_row(row: Mapping[str, Any]) -> None:
            with disk_errors(path):
                file.write(json.dumps(json_safe(row), ensure_ascii=False, allow_nan=False, default=str) + "\n")

        yield write_row


def _checked_output_path(out: str, files: Sequence[str]) -> Path:
    """The path of --out. Raises DataError where no file can be written there, or where an input would be overwritten."""
    path = Path(out)
    try:
        target = path.resolve()
        problem = f"--out {out} is a folder" if path.is_dir() else f"--out {out}: there is no folder {path.parent}"
        if path.is_dir() or not path.parent.is_dir():
            raise DataError(problem, expected="a file in an existing folder", todo="change --out, or make the folder first")
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, links in a circle, a NUL
        raise DataError(f"--out {out!r} is not a path ({error})", expected="a file's name", todo="change --out") from error
    if any(target == Path(name).resolve() for name in files):
        raise DataError(f"{out} is an input file", expected="another name", why="its rows would be lost", todo="change --out")
    if path.exists() and not path.is_file():
        raise DataError(f"--out {out} is not a file", expected="a file's name", todo="leave --out out to use standard output")
    return path
