"""Rows of a long encoding, kept beside the stage's checkpoint: a stage that goes on reads them back in seconds."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch

from sawyer.runs import Run
from sawyer.text import Row
from sawyer.train.checkpoint import load_checkpoint, save_checkpoint
from sawyer.train.stage_data import encode_all

Record = TypeVar("Record")
KEPT_FROM = 20_000  # rows: about a minute to encode, seconds to read back


def encode_rows(
    run: Run, stage: str, records: Sequence[Record], encode: Callable[[Record], Row | None]
) -> Sequence[Row | None]:
    """`encode` of each record, as `encode_all`. From `KEPT_FROM` records on the rows are kept until the stage is done.

    They are read back under the same fingerprint of the stage's settings and data, the same models that it builds on and the
    same versions of the libraries; else they are made anew.
    """
    begun = run.manifest.stage(stage)
    made_of = repr((begun.fingerprint, sorted(begun.parents.items()), run.manifest.content.get("versions"), len(records)))
    if len(records) < KEPT_FROM or not begun.fingerprint:
        return encode_all(run, stage, records, encode)
    folder = run.layout.encoded(stage)
    saved = load_checkpoint(folder)
    if saved is not None and saved["made_of"] == made_of:
        return _unpacked(saved)
    rows = encode_all(run, stage, records, encode)
    save_checkpoint(folder, {"made_of": made_of, **_packed(rows)})
    return rows


def _packed(rows: Sequence[Row | None]) -> dict[str, torch.Tensor]:
    """All rows end to end; the length of one that is left out is -1."""
    ids, trained = array("i"), bytearray()
    for row in rows:
        if row is not None:
            ids.extend(row.ids)
            trained.extend(row.loss_mask)
    return {
        "ids": torch.frombuffer(ids, dtype=torch.int32) if ids else torch.zeros(0, dtype=torch.int32),
        "trained": torch.frombuffer(trained, dtype=torch.bool) if trained else torch.zeros(0, dtype=torch.bool),
        "lengths": torch.tensor([-1 if row is None else len(row.ids) for row in rows]),
        "prompts": torch.tensor([0 if row is None else row.prompt_length for row in rows]),
        "cut": torch.tensor([row is not None and row.cut for row in rows]),
    }


def _unpacked(saved: Mapping[str, Any]) -> list[Row | None]:
    ids, trained = saved["ids"], saved["trained"]
    lengths = saved["lengths"].tolist()
    ends = list(accumulate(max(0, length) for length in lengths))
    return [
        None
        if length < 0
        else Row(
            ids=tuple(ids[end - length : end].tolist()),
            loss_mask=tuple(trained[end - length : end].tolist()),
            prompt_length=prompt,
            cut=cut,
        )
        for length, end, prompt, cut in zip(lengths, ends, saved["prompts"].tolist(), saved["cut"].tolist(), strict=True)
    ]
