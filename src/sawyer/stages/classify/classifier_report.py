"""The classifier on held-out texts, beside the baseline that always predicts the commonest label."""

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

MAX_SAMPLES = 24  # texts in the report, the most confident mistakes first


def label_matrix(examples: Sequence[LabelledRow], classes: int) -> Tensor:
    """(N, C) float32: 1 where a label applies."""
    matrix = torch.zeros(len(examples), classes)
    for row, example in enumerate(examples):
        matrix[row, list(example.truth)] = 1.0
    return matrix


def predict_classes(logits: Tensor, *, many: bool) -> list[tuple[int, ...]]:
    """The predicted classes from logits (N, C): with `many` those with a probability above one half, else the likeliest."""
    if many:
        return [tuple(torch.nonzero(row).flatten().tolist()) for row in logits > 0]
    return [(index,) for index in logits.argmax(1).tolist()]


def classifier_figures(
    texts: Texts, examples: Sequence[LabelledRow], logits: Tensor, majority: tuple[int, ...]
) -> dict[str, Any]:
    """The figures. `accuracy` is the share of rows whose label, or whose whole set of labels, is predicted exactly.

    `majority` is the labels that most training rows have: `baseline_majority` is the accuracy of always predicting them.
    """
    predictions = predict_classes(logits, many=texts.many)
    right = sum(p == example.truth for p, example in zip(predictions, examples, strict=True))
    accuracy = wilson(right, len(examples))
    figures: dict[str, Any] = {
        "eval_rows": len(texts.held_out),
        "many": texts.many,
        "labels": list(texts.labels),
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "baseline_majority": sum(majority == example.truth for example in examples) / len(examples),
        "baseline_label": " + ".join(texts.labels[i] for i in majority) or "none",
        "eval_loss": float(LABEL_LOSSES[texts.many](logits, label_matrix(examples, len(texts.labels))).mean()),
    }
    if texts.many:
        pairs = list(zip(predictions, (example.truth for example in examples), strict=True))
        counts = [
            (sum(c in p and c in t for p, t in pairs), sum(c in p for p, _ in pairs), sum(c in t for _, t in pairs))
            for c in range(len(texts.labels))
        ]
        scores = [class_scores(*count) for count in counts]
        figures["micro_f1"] = class_scores(*(sum(column) for column in zip(*counts, strict=True))).f1
    else:
        table = confusion([example.truth[0] for example in examples], [p[0] for p in predictions], len(texts.labels))
        scores = scores_of(table)
        figures |= {"confusion": table, "mcc": matthews_correlation(table)}
    # With `many` it may be that no row has a label and none is predicted: there is no class to average over.
    figures["macro_f1"] = macro_f1(scores) if any(score.rows or score.predicted_rows for score in scores) else 0.0
    figures["classes"] = {label: asdict(score) for label, score in zip(texts.labels, scores, strict=True)}
    return figures


def majority_labels(examples: Sequence[LabelledRow]) -> tuple[int, ...]:
    """The labels that most rows have; the first such in the order of the classes."""
    counts = Counter(example.truth for example in examples)
    return min(counts, key=lambda truth: (-counts[truth], truth))


def sample_rows(texts: Texts, examples: Sequence[LabelledRow], logits: Tensor) -> list[dict[str, Any]]:
    """Some rows with their predictions: the most confident mistakes first, then the least confident right ones."""
    predictions = predict_classes(logits, many=texts.many)
    shares = torch.sigmoid(logits) if texts.many else torch.softmax(logits, dim=1)
    confidence = (torch.where(shares > 0.5, shares, 1 - shares).min(1) if texts.many else shares.max(1)).values.tolist()
    wrong = [p != example.truth for p, example in zip(predictions, examples, strict=True)]
    order = sorted(range(len(examples)), key=lambda i: (not wrong[i], -confidence[i] if wrong[i] else confidence[i], i))
    return [
        {
            "text": examples[i].record.text,
            "labels": [texts.labels[c] for c in examples[i].truth],
            "predicted_labels": [texts.labels[c] for c in predictions[i]],
            "probabilities": dict(zip(texts.labels, shares[i].tolist(), strict=True)),
        }
        for i in order[:MAX_SAMPLES]
    ]


def classifier_gates(figures: Mapping[str, Any]) -> list[Gate]:
    """The gates. The baseline's accuracy on these rows is exact, so that the interval is the classifier's alone."""
    low, baseline = figures["accuracy_low"], figures["baseline_majority"]
    where = "held-out rows" if figures["eval_rows"] else "training rows (none was held out)"
    beats = Gate(
        stage=STAGE,
        name="classify_beats_majority",
        verdict="ok" if low > baseline else "warn" if figures["accuracy"] > baseline else "fail",
        value=low,
        threshold=baseline,
        message=f"accuracy {figures['accuracy']:.3f} on {where}, at least {low:.3f}; always predicting "
        f"{figures['baseline_label']!r} would get {baseline:.3f}",
        advice="train longer or at a higher rate if the training loss is still high; else give more rows, a larger "
        "classify.eval_fraction for a narrower interval, or a model that knows the language",
    )
    return [beats, learned_gate(STAGE, figures)]
