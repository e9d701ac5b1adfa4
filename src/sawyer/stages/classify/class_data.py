"""Labelled texts -> what a classifier learns from and is evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sawyer.config import Config, required_section
from sawyer.errors import DataError
from sawyer.records import LabelledText, Read, insufficient, split
from sawyer.runs import Run
from sawyer.text import Row, plain_row
from sawyer.train import read_data

STAGE = "classify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The files' rows, split by the hash of their text, and the classes of the training rows."""

    train: tuple[LabelledText, ...]
    held_out: tuple[LabelledText, ...]
    labels: tuple[str, ...]  # in the order of the model's logits
    many: bool  # any number of labels may apply to a text
    source: Read  # the files, as they were read


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRow:
    """A text as the model reads it. `truth` holds the indices of its labels: one, or with `many` any number."""

    record: LabelledText
    row: Row
    truth: tuple[int, ...]


def load_texts(config: Config, run: Run) -> Texts:
    """Read the config's files. Raises DataError where a classifier cannot be trained on them or cannot be evaluated."""
    settings = required_section(config.classify, "classify")
    data = read_data(run, STAGE, settings.data, want="labels", columns=settings.columns, max_bad_rows=config.max_bad_rows)
    records: tuple[LabelledText, ...] = data.records
    if (problem := insufficient(records, "labels")) is not None:
        raise DataError(problem.message, where=problem.where, todo=problem.todo)
    train, held_out = split(records, settings.eval_fraction)
    if not train:
        raise DataError(
            f"classify.eval_fraction is {settings.eval_fraction:g}: all {len(held_out):,} rows of classify.data are held out, "
            "none is left to train on",
            expected="rows on both sides",
            todo="lower classify.eval_fraction, or give more rows",
        )
    labels = _sorted_labels(train)
    _check_labels(train, held_out, labels)
    return Texts(train=train, held_out=held_out, labels=labels, many=records[0].many, source=data)


def row_encoder(texts: Texts, tokenizer: Any, context: int) -> Callable[[LabelledText], LabelledRow]:
    """The function from a record to its ids, cut at `context` tokens, and the indices of its labels."""
    index = {label: i for i, label in enumerate(texts.labels)}

    def encode(record: LabelledText) -> LabelledRow:
        truth = tuple(sorted(index[label] for label in record.labels))
        return LabelledRow(record=record, row=plain_row(tokenizer, record.text, context), truth=truth)

    return encode


def _sorted_labels(records: Sequence[LabelledText]) -> tuple[str, ...]:
    """Every label once: whole numbers by their size, else by name."""
    labels = {label for record in records for label in record.labels}
    numbers = all(label.removeprefix("-").isdecimal() for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label) if numbers else 0, label)))


def _check_labels(train: Sequence[LabelledText], held_out: Sequence[LabelledText], labels: Sequence[str]) -> None:
    """Refuse data with one class alone, and held-out labels that no training row has."""
    if len(labels) < 2 or len({frozenset(record.labels) for record in train}) < 2:
        content = f"the label {labels[0]!r} alone" if len(labels) == 1 else f"the same labels ({', '.join(labels) or 'none'})"
        raise DataError(
            f"all {len(train):,} training rows of classify.data have {content}",
            where=str(train[0].where),
            expected="two classes or more",
            why="a classifier that always predicts the one class is always right and has learnt nothing",
            todo="give rows of another class; for `toxic` or not, call the label yes and no",
        )
    for record in held_out:
        for label in record.labels:
            if label not in labels:
                raise DataError(
                    f"the label {label!r} stands in held-out rows alone",
                    where=f"{record.where}:{'labels' if record.many else 'label'}",
                    expected="every label in at least one training row",
                    why="a class that the model never saw cannot be predicted, and its accuracy would look bad for that",
                    todo=f"give more rows of {label!r}, remove them, or change classify.eval_fraction",
                )
