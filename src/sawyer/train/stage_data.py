"""A stage's data: files read for it and rows encoded, with what the user should know of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sawyer.records import Read, leave_out, read
from sawyer.records.formats import Want
from sawyer.runs import Run
from sawyer.text import RewardEncoder, Row, find_unrenderable
from sawyer.train.stage_loop import stop_if_asked

Record = TypeVar("Record")
Encoded = TypeVar("Encoded")
AT_ONCE = 512  # records between two looks at whether to stop


def read_data(
    run: Run,
    stage: str,
    paths: Sequence[str],
    *,
    want: Want,
    columns: Mapping[str, str],
    max_bad_rows: float | None,
    prompt_encoder: RewardEncoder | None = None,
    unrendered: float | None = None,
) -> Read:
    """Read a stage's files. Bad rows and what else their owner should act on is a warning; what is as it is in any large file
    (`Read.remarks`) the stage adds to its plan. With a `prompt_encoder`, a row that its template cannot render is bad as well;
    `unrendered` is the share that these may bring a file's bad rows to, where it is another than `max_bad_rows`, by which the
    files are read. Raises DataError for files that cannot be used."""
    found = read(paths, want=want, columns=columns, max_bad_rows=max_bad_rows)
    if prompt_encoder is not None:
        found = leave_out(
            found, find_unrenderable(prompt_encoder, found.records), max_bad_rows if unrendered is None else unrendered
        )
    if found.warning:
        run.journal.event(stage, "warning", message=found.warning)
    return found


def readable(run: Run, stage: str, found: Read, readers: Mapping[str, RewardEncoder | Any], max_bad_rows: float) -> Read:
    """What was read without the rows that the template of any of these cannot render; which and whose is a warning. `readers`:
    codecs or tokenizers, by the names under which they are told. Raises DataError where too many rows go."""
    left = found
    for name, reader in readers.items():
        left = leave_out(left, find_unrenderable(reader, left.records, by=name), max_bad_rows)
    if left is not found:
        told = replace(left, skipped=left.skipped[len(found.skipped) :])
        run.journal.event(stage, "warning", message=told.warning)
    return left


def report_remarks(run: Run, stage: str, setting: str, found: Read) -> None:
    """What is as it is in any large file, on a line of its own, for a stage whose plan is told elsewhere."""
    if words := found.remarks():
        run.journal.event(stage, "data", message=f"{setting}: {words.removeprefix('; ')}", unread=dict(found.unread))


def encode_all(
    run: Run, stage: str, records: Sequence[Record], encode: Callable[[Record], Encoded], name: str = "rows encoded"
) -> list[Encoded]:
    """`encode` of each record. A million of them take many minutes: how far it is is shown, and a wish to stop is heard.

    Raises Interrupted once the run was asked to stop; nothing is lost, since nothing was trained.
    """
    found: list[Encoded] = []
    for start in range(0, len(records), AT_ONCE):
        found += map(encode, records[start : start + AT_ONCE])
        if len(found) < len(records):  # all of them at once is nothing to wait for
            run.journal.progress(f"{stage}, {name}", len(found), len(records), name)
        stop_if_asked(run, stage, "while its data was encoded")
    return found


def lengths_in_words(rows: Iterable[Row]) -> str:
    """Tokens in all and of the longest row: it decides the memory that a batch takes."""
    lengths = [len(row.ids) for row in rows]
    return f"{sum(lengths):,} tokens an epoch (the longest row has {max(lengths):,})"
