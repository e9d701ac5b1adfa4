"""A stage's data: files are read and rows encoded, with warnings for the user. Long encodings are kept for a resumed run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, TypeVar

import torch

from sawyer.records import Read, leave_out, read
from sawyer.records.formats import Want
from sawyer.runs import Run
from sawyer.text import RewardEncoder, Row, find_unrenderable
from sawyer.train.checkpoint import load_checkpoint, save_checkpoint
from sawyer.train.stage_loop import stop_if_requested

Record = TypeVar("Record")
EncodedRow = TypeVar("EncodedRow")
RECORDS_A_CHECK = 512  # records between two looks at whether to stop
KEPT_FROM = 20_000  # rows: about a minute to encode, seconds to read back


def read_data(
    run: Run,
    stage: str,
    paths: Sequence[str],
    *,
    want: Want,
    columns: Mapping[str, str],
    max_bad_rows: float | None,
    prompt_encoder: RewardEncoder | None = None,
    max_unrendered: float | None = None,
) -> Read:
    """Read a stage's files. Bad rows, and what else the user should act on, are a warning; what is common in large files
    (`Read.remarks`) the stage adds to its plan. With a `prompt_encoder` a row that its template cannot render is bad as well;
    with these the bad rows of a file may be up to `max_unrendered`, by default `max_bad_rows`. Raises DataError for files that
    cannot be used."""
    rows = read(paths, want=want, columns=columns, max_bad_rows=max_bad_rows)
    if prompt_encoder is not None:
        rows = leave_out(
            rows, find_unrenderable(prompt_encoder, rows.records), max_bad_rows if max_unrendered is None else max_unrendered
        )
    if rows.warning:
        run.journal.event(stage, "warning", message=rows.warning)
    return rows


def readable(run: Run, stage: str, rows: Read, readers: Mapping[str, RewardEncoder | Any], max_bad_rows: float) -> Read:
    """The rows without those that the template of any of `readers` (encoders or tokenizers, by their names in messages) cannot
    render; these are a warning. Raises DataError where they are too many."""
    left = rows
    for name, reader in readers.items():
        left = leave_out(left, find_unrenderable(reader, left.records, by=name), max_bad_rows)
    if left is not rows:
        refusals = replace(left, problems=left.problems[len(rows.problems) :])
        run.journal.event(stage, "warning", message=refusals.warning)
    return left


def report_remarks(run: Run, stage: str, setting: str, rows: Read) -> None:
    """Log what is common in large files as an event, for a stage whose plan does not contain it."""
    if words := rows.remarks():
        run.journal.event(stage, "data", message=f"{setting}: {words.removeprefix('; ')}", unread=dict(rows.unread))


def encode_all(
    run: Run, stage: str, records: Sequence[Record], encode: Callable[[Record], EncodedRow], name: str = "rows encoded"
) -> list[EncodedRow]:
    """`encode` of each record. A million of them take many minutes: progress is shown, and a stop is possible.

    Raises Interrupted once a stop was requested; nothing is lost, since nothing was trained.
    """
    rows: list[EncodedRow] = []
    for start in range(0, len(records), RECORDS_A_CHECK):
        rows += map(encode, records[start : start + RECORDS_A_CHECK])
        if len(rows) < len(records):  # a single round takes no time worth showing
            run.journal.progress(f"{stage}, {name}", len(rows), len(records), name)
        stop_if_requested(run, stage, "while its data was encoded")
    return rows


def lengths_in_words(rows: Iterable[Row]) -> str:
    """Tokens in all and of the longest row, which decides the memory of a batch."""
    lengths = [len(row.ids) for row in rows]
    return f"{sum(lengths):,} tokens an epoch (the longest row has {max(lengths):,})"


def encode_rows(
    run: Run, stage: str, records: Sequence[Record], encode: Callable[[Record], Row | None]
) -> Sequence[Row | None]:
    """`encode` of each record, as `encode_all`. From `KEPT_FROM` records on the rows are kept until the stage is done.

    They are read back under the same fingerprint of the stage's settings and data, the same models that it builds on and the
    same versions of the libraries; else they are made anew.
    """
    state = run.manifest.stage(stage)
    made_of = repr((state.fingerprint, sorted(state.parents.items()), run.manifest.content.get("versions"), len(records)))
    if len(records) < KEPT_FROM or not state.fingerprint:
        return encode_all(run, stage, records, encode)
    folder = run.layout.encoded_rows(stage)
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None and checkpoint["made_of"] == made_of:
        return _unpack_rows(checkpoint)
    rows = encode_all(run, stage, records, encode)
    save_checkpoint(folder, {"made_of": made_of, **_pack_rows(rows)})
    return rows


def _pack_rows(rows: Sequence[Row | None]) -> dict[str, torch.Tensor]:
    """All rows end to end; the length of one that is left out is -1."""
    ids, loss_mask = array("i"), bytearray()
    for row in rows:
        if row is not None:
            ids.extend(row.ids)
            loss_mask.extend(row.loss_mask)
    return {
        "ids": torch.frombuffer(ids, dtype=torch.int32) if ids else torch.zeros(0, dtype=torch.int32),
        "loss_mask": torch.frombuffer(loss_mask, dtype=torch.bool) if loss_mask else torch.zeros(0, dtype=torch.bool),
        "lengths": torch.tensor([-1 if row is None else len(row.ids) for row in rows]),
        "prompts": torch.tensor([0 if row is None else row.prompt_length for row in rows]),
        "cut": torch.tensor([row is not None and row.cut for row in rows]),
    }


def _unpack_rows(tensors: Mapping[str, Any]) -> list[Row | None]:
    ids, loss_mask = tensors["ids"], tensors["loss_mask"]
    lengths = tensors["lengths"].tolist()
    ends = list(accumulate(max(0, length) for length in lengths))
    return [
        None
        if length < 0
        else Row(
            ids=tuple(ids[end - length : end].tolist()),
            loss_mask=tuple(loss_mask[end - length : end].tolist()),
            prompt_length=prompt,
            cut=cut,
        )
        for length, end, prompt, cut in zip(lengths, ends, tensors["prompts"].tolist(), tensors["cut"].tolist(), strict=True)
    ]
