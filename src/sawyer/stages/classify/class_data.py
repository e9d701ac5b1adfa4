"""Labelled texts -> what a classifier learns from and is checked on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sawyer.config import Config, required_section
from sawyer.errors import DataError
from sawyer.records import Labelled, Read, insufficient, split
from sawyer.runs import Run
from sawyer.text import Row, plain_row
from sawyer.train import read_data

STAGE = "classify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Rows of the files, by the hash of their text either trained on or held out; and the classes of the trained ones."""

    train: tuple[Labelled, ...]
    held_out: tuple[Labelled, ...]
    labels: tuple[str, ...]  # in the order of the model's logits
    many: bool  # any number of labels may apply to a text
    source: Read  # the files, as they were read


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRow:
    """A text as the model reads it. `truth` holds its labels' places among the classes: one, or with `many` any number."""

    record: Labelled
    row: Row
    truth: tuple[int, ...]


def load(config: Config, run: Run) -> Texts:
    """Read the config's files. Raises DataError where no classifier can be learnt from them, or not be checked."""
    asked = required_section(config.classify, "classify")
    found = read_data(run, STAGE, asked.data, want="labels", columns=asked.columns, max_bad_rows=config.max_bad_rows)
    records: tuple[Labelled, ...] = found.records
    if (problem := insufficient(records, "labels")) is not None:
        raise DataError(problem.message, where=problem.where, todo=problem.todo)
    train, held_out = split(records, asked.eval_fraction)
    if not train:
        raise DataError(
            f"classify.eval_fraction is {asked.eval_fraction:g}: all {len(held_out):,} rows of classify.data are held out, "
            "none is left to train on",
            expected="rows on both sides",
            todo="lower classify.eval_fraction, or give more rows",
        )
    labels = _classes(train)
    _check(train, held_out, labels)
    return Texts(train=train, held_out=held_out, labels=labels, many=records[0].many, source=found)


def encoder(texts: Texts, tokenizer: Any, context: int) -> Callable[[Labelled], LabelledRow]:
    """What makes a record what the model reads."""
    place = {label: i for i, label in enumerate(texts.labels)}

    def example(record: Labelled) -> LabelledRow:
        truth = tuple(sorted(place[label] for label in record.labels))
        return LabelledRow(record=record, row=plain_row(tokenizer, record.text, context), truth=truth)

    return example


def _classes(records: Sequence[Labelled]) -> tuple[str, ...]:
    """Every label once: whole numbers by their size, else by name."""
    found = {label for record in records for label in record.labels}
    numbers = all(label.removeprefix("-").isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label) if numbers else 0, label)))


def _check(train: Sequence[Labelled], held_out: Sequence[Labelled], labels: Sequence[str]) -> None:
    kinds = Counter(frozenset(record.labels) for record in train)
    if len(labels) < 2 or len(kinds) < 2:
        told = f"the label {labels[0]!r} alone" if len(labels) == 1 else f"the same labels ({', '.join(labels) or 'none'})"
        raise DataError(
            f"all {len(train):,} training rows of classify.data have {told}",
            where=str(train[0].where),
            expected="two classes or more",
            why="whoever always says the same is always right: nothing is learnt",
            todo="give rows of another class; for `toxic` or not, call the label yes and no",
        )
    known = set(labels)
    for record in held_out:
        for label in record.labels:
            if label not in known:
                raise DataError(
                    f"the label {label!r} stands in held-out rows alone",
                    where=f"{record.where}:{'labels' if record.many else 'label'}",
                    expected="every label in at least one training row",
                    why="a class that was never shown cannot be found, and the figures would say that the classifier is bad",
                    todo=f"give more rows of {label!r}, remove them, or change classify.eval_fraction",
                )
