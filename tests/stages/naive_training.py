"""The figures of the stages that train on rows, and of those that only answer: docs/metrics.md by loops."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from naive import logits_of, logprob, mean, norm_of, of_trained, percentiles, rate_of, sigmoid, tells, wilson

Texts = Sequence[tuple[Sequence[int], frozenset[int]]]  # the ids of a text, and the places of its labels


def language_step(model: Any, rows: Sequence[Any], step: int, steps: int, highest: float, warmup: float) -> dict[str, float]:
    """-log pi of the trained tokens of a batch."""
    each = [x for row in rows for x in of_trained(model, row)]
    loss = -torch.stack(each).sum() / len(each)
    return {
        "loss": float(loss.detach()),
        "tokens": len(each),
        "learning_rate": rate_of(step, steps, highest, warmup),
        "grad_norm": norm_of(loss, model),
    }


STEP = ("loss", "tokens", "learning_rate", "grad_norm")
base_step = tells("base", *STEP)(language_step)
sft_step = tells("sft", *STEP)(language_step)


def eval_loss(model: Any, rows: Sequence[Any]) -> float:
    each = []
    for row in rows:
        logits = logits_of(model, row.ids)
        each += [-logprob(logits[t - 1], row.ids[t]) for t in range(1, len(row.ids)) if row.loss_mask[t]]
    return mean(each)


@tells("base", "eval_loss", "eval_perplexity")
def base_held_out(model: Any, rows: Sequence[Any]) -> dict[str, float]:
    loss = eval_loss(model, rows)
    return {"eval_loss": loss, "eval_perplexity": math.exp(loss)}


@tells("summary.json", "base.eval_loss", "base.loss_before")
def base_summary(before: Any, after: Any, rows: Sequence[Any]) -> dict[str, float]:
    return {"base.eval_loss": eval_loss(after, rows), "base.loss_before": eval_loss(before, rows)}


@tells("summary.json", "STAGE.loss_first", "STAGE.loss_last", "sft.eval_loss", "sft.base_eval_loss", "sft.eos_rate")
def sft_summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """From the journal's rows."""
    losses, last = [row["loss"] for row in rows[:-1]], rows[-1]
    found = {f"sft.{name}": last[name] for name in ("eval_loss", "base_eval_loss", "eos_rate")}
    return found | {"sft.loss_first": losses[0], "sft.loss_last": mean(losses[-max(1, len(losses) // 10) :])}


@tells("sft", "eval_loss", "eval_perplexity", "base_eval_loss", "eos_rate")
def sft_held_out(model: Any, base: Any, rows: Sequence[Any], ended: Sequence[bool]) -> dict[str, float]:
    loss = eval_loss(model, rows)
    return {
        "eval_loss": loss,
        "eval_perplexity": math.exp(loss),
        "base_eval_loss": eval_loss(base, rows),
        "eos_rate": sum(ended) / len(ended),
    }


# Classify.


def of_labels(model: Any, text: Sequence[int], truth: frozenset[int], many: bool) -> tuple[torch.Tensor, frozenset[int]]:
    """(loss with its gradient, the labels that are named) of one text."""
    logits = model(input_ids=torch.tensor([list(text)])).logits[0]
    plain = logits.tolist()
    if not many:
        return -torch.log_softmax(logits, 0)[next(iter(truth))], frozenset([plain.index(max(plain))])
    signs = [1 if place in truth else -1 for place in range(len(plain))]
    loss = torch.stack([torch.log1p(torch.exp(-sign * x)) for sign, x in zip(signs, logits, strict=True)]).sum()
    return loss, frozenset(place for place, x in enumerate(plain) if x > 0)


@tells("classify", "loss", "accuracy", "rows", "learning_rate", "grad_norm")
def classify_step(model: Any, texts: Texts, many: bool, step: int, steps: int, highest: float) -> dict[str, float]:
    found = [(*of_labels(model, ids, truth, many), truth) for ids, truth in texts]
    loss = torch.stack([one for one, _, _ in found]).sum() / len(texts)
    return {
        "loss": float(loss.detach()),
        "accuracy": sum(said == truth for _, said, truth in found) / len(texts),
        "rows": len(texts),
        "learning_rate": rate_of(step, steps, highest, 0.1),
        "grad_norm": norm_of(loss, model),
    }


def judged(model: Any, texts: Texts, train: Texts, losses: Sequence[float], many: bool) -> tuple[dict[str, float], Any]:
    """What one label a row and any number have in common, and (named, true) of each row."""
    losses_held, pairs = [], []
    for ids, truth in texts:
        loss, said = of_labels(model, ids, truth, many)
        losses_held.append(float(loss.detach()))
        pairs.append((said, truth))
    accuracy = sum(said == truth for said, truth in pairs) / len(pairs)
    low, high = wilson(accuracy, len(pairs))
    usual = Counter(truth for _, truth in train).most_common(1)[0][0]
    classes = sorted({place for said, truth in pairs for place in said | truth})
    f1 = []
    for place in classes:
        right = sum(place in said and place in truth for said, truth in pairs)
        precision = right / max(1, sum(place in said for said, _ in pairs))
        recall = right / max(1, sum(place in truth for _, truth in pairs))
        f1.append(2 * precision * recall / (precision + recall) if right else 0.0)
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "baseline_majority": sum(truth == usual for _, truth in pairs) / len(pairs),
        "eval_loss": mean(losses_held),
        "macro_f1": mean(f1),
        "loss_first": losses[0],
        "loss_last": mean(tail),
    }, pairs


JUDGED = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "baseline_majority",
    "eval_loss",
    "macro_f1",
    "loss_first",
    "loss_last",
)


@tells("classify", *JUDGED, "mcc")
def classify_one(model: Any, texts: Texts, train: Texts, losses: Sequence[float]) -> dict[str, float]:
    """Matthews correlation as what it is: the correlation of the two tables of zeros and ones, said and true."""
    found, pairs = judged(model, texts, train, losses, many=False)
    classes = sorted({place for said, truth in pairs for place in said | truth})
    said = [[float(place in s) for s, _ in pairs] for place in classes]
    true = [[float(place in t) for _, t in pairs] for place in classes]

    def together(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
        return sum((x - mean(a)) * (y - mean(b)) for a, b in zip(one, other, strict=True) for x, y in zip(a, b, strict=True))

    size = together(said, said) * together(true, true)
    return found | {"mcc": together(said, true) / math.sqrt(size) if size else 0.0}


@tells("classify", *JUDGED, "micro_f1")
def classify_many(model: Any, texts: Texts, train: Texts, losses: Sequence[float]) -> dict[str, float]:
    found, pairs = judged(model, texts, train, losses, many=True)
    right = sum(len(said & truth) for said, truth in pairs)
    wrong = sum(len(said ^ truth) for said, truth in pairs)
    return found | {"micro_f1": right / (right + wrong / 2) if right + wrong else 0.0}


ITS_OWN = tuple(f"classify.{name}" for name in JUDGED if not name.startswith("loss_"))


@tells("summary.json", "classify.rows", "classify.eval_rows", *ITS_OWN, "STAGE.loss_first", "STAGE.loss_last")
def classify_summary(last: Mapping[str, float], train: Texts, held_out: Texts) -> dict[str, float]:
    """What is the same whatever labels there are; `last` is the journal's last row."""
    found = {f"classify.{name}": last[name] for name in JUDGED}
    return found | {"classify.rows": len(train), "classify.eval_rows": len(held_out)}


CLASS = ("precision", "recall", "f1", "rows", "predicted_rows")


@tells("summary.json", *(f"classify.classes.LABEL.{name}" for name in CLASS))
def classes_summary(model: Any, texts: Texts, labels: Sequence[str], many: bool) -> dict[str, float]:
    pairs = [(of_labels(model, ids, truth, many)[1], truth) for ids, truth in texts]
    found: dict[str, float] = {}
    for place, label in enumerate(labels):
        right = sum(place in said and place in truth for said, truth in pairs)
        said, rows = sum(place in said for said, _ in pairs), sum(place in truth for _, truth in pairs)
        precision, recall = right / said if said else 0.0, right / rows if rows else 0.0
        f1 = 2 / (1 / precision + 1 / recall) if right else 0.0
        found |= {f"classify.classes.{label}.{n}": v for n, v in zip(CLASS, (precision, recall, f1, rows, said), strict=True)}
    return found


@tells("summary.json", "classify.mcc", "classify.confusion")
def one_summary(last: Mapping[str, float], model: Any, texts: Texts, classes: int) -> dict[str, Any]:
    table = [[0] * classes for _ in range(classes)]
    for ids, truth in texts:
        table[next(iter(truth))][next(iter(of_labels(model, ids, truth, False)[1]))] += 1
    return {"classify.mcc": last["mcc"], "classify.confusion": table}


@tells("summary.json", "classify.micro_f1")
def many_summary(last: Mapping[str, float]) -> dict[str, float]:
    return {"classify.micro_f1": last["micro_f1"]}


# Stages that answer.


@tells("collect", "length", "eos_rate")
def collect_step(answers: Sequence[Sequence[int]], eos: int) -> dict[str, float]:
    return {
        "length": sum(len(ids) for ids in answers) / len(answers),
        "eos_rate": sum(ids[-1] == eos for ids in answers) / len(answers),
    }


@tells("summary.json", "collect.prompts", "collect.answers", "collect.waiting", "collect.mean_score")
def collect_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """From the lines of answers.jsonl."""
    scores = [answer["score"] for row in rows for answer in row["responses_and_scores"]]
    known = [score for score in scores if score is not None]
    return {
        "collect.prompts": len(rows),
        "collect.answers": len(scores),
        "collect.waiting": len(scores) - len(known),
        "collect.mean_score": sum(known) / len(known),
    }


@tells("compare", "length")
def compare_step(answers: Sequence[Sequence[int]]) -> dict[str, float]:
    return {"length": sum(len(ids) for ids in answers) / len(answers)}


# summary.json of a comparison, from the rows of compare.jsonl.

Row = Mapping[str, Any]
WIN_RATE = ("value", "low", "high", "length_controlled", "length_controlled_low", "length_controlled_high")
TELLS = ("gold.MODEL.SETTING", "gold.best_of_8", "reward_mean.MODEL.SETTING", "reward_mean.best_of_8")
TELLS += (*(f"compare.win_rate_rl_vs_sft.{name}" for name in WIN_RATE), "compare.win_rate_sft_vs_base.FIGURE")
TELLS += ("compare.win_rate_A_vs_B.FIGURE",)  # the same loop, whichever two they are
TELLS += tuple(f"compare.greedy_change_rl_vs_sft.{name}" for name in ("value", "low", "high"))


@tells("summary.json", *TELLS)
def compare_summary(rows: Sequence[Row], seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for table, column in (("gold", "gold"), ("reward_mean", "reward")):
        for model, setting in {(row["model"], row["setting"]) for row in rows}:
            name = "best_of_8" if setting == "best_of_8" else f"{model}.{setting}"
            of = [row[column] for row in rows if (row["model"], row["setting"]) == (model, setting)]
            found[f"{table}.{name}"] = mean(of)
    for ours, theirs in (("rl", "sft"), ("sft", "base")):
        both = paired(rows, ours, theirs, "t07")
        wins = [1.0 if a["gold"] > b["gold"] else 0.5 if a["gold"] == b["gold"] else 0.0 for a, b in both]
        low, high = drawn_again(wins, seed)
        least, most = wilson(mean(wins), len(wins))  # of fewer than 20 prompts
        lengths = at_equal_length(wins, [a["length"] - b["length"] for a, b in both])
        figures = (mean(wins), min(low, least), max(high, most), *lengths)
        found |= {f"compare.win_rate_{ours}_vs_{theirs}.{name}": x for name, x in zip(WIN_RATE, figures, strict=True)}
    change = [a["gold"] - b["gold"] for a, b in paired(rows, "rl", "sft", "greedy")]
    figures = (mean(change), *drawn_again(change, seed))
    return found | {
        f"compare.greedy_change_rl_vs_sft.{name}": x for name, x in zip(("value", "low", "high"), figures, strict=True)
    }


def paired(rows: Sequence[Row], ours: str, theirs: str, setting: str) -> list[tuple[Row, Row]]:
    return [
        (a, b)
        for a in rows
        for b in rows
        if (a["model"], b["model"]) == (ours, theirs) and a["setting"] == b["setting"] == setting and a["number"] == b["number"]
    ]


def drawn_again(values: Sequence[float], seed: int) -> tuple[float, float]:
    rng = random.Random(seed)
    return percentiles([mean(rng.choices(values, k=len(values))) for _ in range(2000)])


def at_equal_length(wins: Sequence[float], longer: Sequence[float]) -> tuple[float, float, float]:
    """Logistic regression of winning on the difference in length, uphill in small steps; of the intercept what it says of a
    difference of 0, and 1.96 standard errors on either side. A ridge of one half holds both coefficients."""
    spread = math.sqrt(mean([x * x for x in longer])) or 1.0
    xs = [x / spread for x in longer]
    intercept = slope = 0.0
    for _ in range(2000):
        left = [win - sigmoid(intercept + slope * x) for win, x in zip(wins, xs, strict=True)]
        intercept += 0.2 * (math.fsum(left) - 0.5 * intercept)
        slope += 0.2 * (math.fsum(e * x for e, x in zip(left, xs, strict=True)) - 0.5 * slope)
    weights = [sigmoid(intercept + slope * x) * (1 - sigmoid(intercept + slope * x)) for x in xs]
    a, c = math.fsum(weights) + 0.5, math.fsum(w * x * x for w, x in zip(weights, xs, strict=True)) + 0.5
    b = math.fsum(w * x for w, x in zip(weights, xs, strict=True))
    error = 1.959963984540054 * math.sqrt(1 / (a - b * b / c))
    return sigmoid(intercept), sigmoid(intercept - error), sigmoid(intercept + error)
