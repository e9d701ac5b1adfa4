"""What the rows of a file must be together, so that a stage can learn from them at all. `check` and the stages ask here."""

from __future__ import annotations

from collections.abc import Sequence

from sawyer.records.formats import Want
from sawyer.records.problems import Problem
from sawyer.records.record_types import JudgedPrompt, Labelled, Record


def insufficient(records: Sequence[Record], want: Want) -> Problem | None:
    """Why nothing can be learnt from these good rows taken as `want`; None where something can.

    Labels: written one way, and of two classes at least. Comparisons: two answers to a prompt of which one is better.
    """
    labelled = [record for record in records if isinstance(record, Labelled)]
    if labelled:
        return _mixed(labelled) or _one_class(labelled)
    judged = [record for record in records if isinstance(record, JudgedPrompt)]
    if not judged or want not in ("comparisons", "scored", "pairs") or any(map(_has_difference, judged)):
        return None
    return _of_file(
        judged[0].where.file,
        "no pair",
        "no prompt has two answers with different scores: a reward model learns from differences alone",
        "score the answers, or name another file",
    )


def _has_difference(record: JudgedPrompt) -> bool:
    found = record.pairs()
    return bool(found.decided or found.same_text)


def _mixed(records: Sequence[Labelled]) -> Problem | None:
    first = records[0]
    other = next((record for record in records if record.many != first.many), None)
    if other is None:
        return None
    return _of_file(
        f"{other.where}:{'labels' if other.many else 'label'}",
        "labels",
        f"one row has `label`, another `labels`: {first.where} and this one, and the two are learnt with different losses",
        "write every row the same way: one label in each, or a list in each",
    )


def _one_class(records: Sequence[Labelled]) -> Problem | None:
    kinds = {frozenset(record.labels) for record in records}
    labels = sorted({label for record in records for label in record.labels})
    if len(labels) > 1 and len(kinds) > 1:
        return None
    if len(kinds) > 1:  # `[]` in some rows and the one label in others
        told = f"the label {labels[0]!r} or none"
    else:
        told = f"the label {labels[0]!r} alone" if len(labels) == 1 else f"the same labels ({', '.join(labels) or 'none'})"
    return _of_file(
        str(records[0].where),
        "one class",
        f"all {len(records):,} rows have {told}: whoever always says the same is always right, and nothing is learnt",
        "give rows of another class; for `toxic` or not, call the label yes and no",
    )


def _of_file(where: str, kind: str, message: str, todo: str) -> Problem:
    return Problem(where=where, kind=kind, message=message, todo=todo, fatal=True)
