"""How good the classifier is on texts it has not seen, beside always saying the commonest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sawyer.maths import LABEL_LOSSES
from sawyer.runs import Gate
from sawyer.stages.classify.class_data import STAGE, LabelledRow, Texts
from sawyer.stats import class_scores, confusion, macro_f1, matthews_correlation, scores_of, wilson
from sawyer.train import learned_gate

MOST_SAMPLES = 24  # texts shown, the surest mistakes first


def truths(examples: Sequence[LabelledRow], classes: int) -> Tensor:
    """(N, C) float32: 1 where a label applies."""
    found = torch.zeros(len(examples), classes)
    for row, example in enumerate(examples):
        found[row, list(example.truth)] = 1.0
    return found


def said_of(logits: Tensor, *, many: bool) -> list[tuple[int, ...]]:
    """The classes that logits (N, C) name: with `many` those above one half, else the likeliest."""
    if many:
        return [tuple(torch.nonzero(row).flatten().tolist()) for row in logits > 0]
    return [(place,) for place in logits.argmax(1).tolist()]


def examine(texts: Texts, examples: Sequence[LabelledRow], logits: Tensor, usual: tuple[int, ...]) -> dict[str, Any]:
    """The figures. `accuracy` is the share of rows whose label, or whose whole set of labels, is named exactly.

    `usual` is what most training rows are: `baseline_majority` is the accuracy of always saying it, on the same rows.
    """
    said = said_of(logits, many=texts.many)
    right = sum(s == example.truth for s, example in zip(said, examples, strict=True))
    accuracy = wilson(right, len(examples))
    figures: dict[str, Any] = {
        "eval_rows": len(texts.held_out),
        "many": texts.many,
        "labels": list(texts.labels),
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "baseline_majority": sum(usual == example.truth for example in examples) / len(examples),
        "baseline_label": " + ".join(texts.labels[place] for place in usual) or "none",
        "eval_loss": float(LABEL_LOSSES[texts.many](logits, truths(examples, len(texts.labels))).mean()),
    }
    if texts.many:
        pairs = list(zip(said, (example.truth for example in examples), strict=True))
        counts = [
            (sum(c in s and c in t for s, t in pairs), sum(c in s for s, _ in pairs), sum(c in t for _, t in pairs))
            for c in range(len(texts.labels))
        ]
        scores = [class_scores(*count) for count in counts]
        figures["micro_f1"] = class_scores(*(sum(column) for column in zip(*counts, strict=True))).f1
    else:
        table = confusion([example.truth[0] for example in examples], [s[0] for s in said], len(texts.labels))
        scores = scores_of(table)
        figures |= {"confusion": table, "mcc": matthews_correlation(table)}
    # Nobody named and nobody there: no class to speak of.
    figures["macro_f1"] = macro_f1(scores) if any(score.rows or score.said for score in scores) else 0.0
    figures["classes"] = {label: asdict(score) for label, score in zip(texts.labels, scores, strict=True)}
    return figures


def usual_of(examples: Sequence[LabelledRow]) -> tuple[int, ...]:
    """What most rows are labelled: the first such in the order of the classes."""
    counts = Counter(example.truth for example in examples)
    return min(counts, key=lambda truth: (-counts[truth], truth))


def samples(texts: Texts, examples: Sequence[LabelledRow], logits: Tensor) -> list[dict[str, Any]]:
    """Some rows with what was said of them: the mistakes of which the classifier was surest, then the doubtful ones."""
    said = said_of(logits, many=texts.many)
    shares = torch.sigmoid(logits) if texts.many else torch.softmax(logits, dim=1)
    sure = (torch.where(shares > 0.5, shares, 1 - shares).min(1) if texts.many else shares.max(1)).values.tolist()
    wrong = [s != example.truth for s, example in zip(said, examples, strict=True)]
    order = sorted(range(len(examples)), key=lambda i: (not wrong[i], -sure[i] if wrong[i] else sure[i], i))
    return [
        {
            "text": examples[i].record.text,
            "labels": [texts.labels[place] for place in examples[i].truth],
            "said": [texts.labels[place] for place in said[i]],
            "probabilities": dict(zip(texts.labels, shares[i].tolist(), strict=True)),
        }
        for i in order[:MOST_SAMPLES]
    ]


def judge(figures: Mapping[str, Any]) -> list[Gate]:
    """The gates. What always saying the commonest would get is known exactly on these rows: the interval is the accuracy's."""
    low, bar = figures["accuracy_low"], figures["baseline_majority"]
    where = "held-out rows" if figures["eval_rows"] else "training rows (none was held out)"
    beats = Gate(
        stage=STAGE,
        name="classify_beats_majority",
        verdict="ok" if low > bar else "warn" if figures["accuracy"] > bar else "fail",
        value=low,
        threshold=bar,
        message=f"accuracy {figures['accuracy']:.3f} on {where}, at least {low:.3f}; always saying "
        f"{figures['baseline_label']!r} would get {bar:.3f}",
        advice="train longer or at a higher rate if the training loss is still high; else give more rows, a larger "
        "classify.eval_fraction for a narrower interval, or a model that knows the language",
    )
    return [beats, learned_gate(STAGE, figures)]
