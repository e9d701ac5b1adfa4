"""Train a classifier on labelled texts, then evaluate it on those held out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.config import Config, required_section
from sawyer.errors import TrainingError
from sawyer.maths import LABEL_LOSSES, linear_schedule
from sawyer.models import (
    class_logits,
    context_length,
    freeze,
    load_reader,
    lora_summary,
    near_duplicates,
    new_classifier,
    save_model,
    sequence_logits,
)
from sawyer.runs import Run, remove_folder
from sawyer.stages.classify.class_data import STAGE, LabelledRow, Texts, load_texts, row_encoder
from sawyer.stages.classify.classifier_report import (
    classifier_figures,
    classifier_gates,
    label_matrix,
    majority_labels,
    sample_rows,
)
from sawyer.text import Batch, batches
from sawyer.train import (
    OptimizerStep,
    Placement,
    batch_indices,
    choose_device,
    distributed,
    encode_all,
    losses_of,
    record_fast_paths,
    run_steps,
    shard_micro_batches,
    stop_if_requested,
    write_folder,
)


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train on `config.classify.data`, save the classifier, evaluate it; returns its key figures."""
    settings = required_section(config.classify, "classify")
    texts = load_texts(config, run)
    source = settings.model or config.model or run.layout.model("base")
    tokenizer = load_reader(source, fixed_size=config.lora is not None)
    model: Any = new_classifier(source, tokenizer, texts.labels, many=texts.many, seed=config.seed, lora=config.lora)
    placement = choose_device(config.device, config.precision, width=model.config.get_text_config().hidden_size)
    model.to(placement.device)
    record_fast_paths(run, STAGE, {"the classifier": model})
    context = context_length(model)
    encode = row_encoder(texts, tokenizer, context)
    examples, held_out = (encode_all(run, STAGE, records, encode) for records in (texts.train, texts.held_out))
    _warn_of_cut_texts([*examples, *held_out], context, run)
    frozen = (
        f", {freeze(model, settings.freeze, setting='classify.freeze').summary}" if settings.freeze else lora_summary(model)
    )
    pad_id = int(tokenizer.pad_token_id)
    train_rows = _deduplicate(config, run, model, placement, examples, pad_id)
    loop = ClassifierLoop(config, placement, model, pad_id, train_rows, texts)
    plan = f"{_data_summary(texts, train_rows)}, {loop.steps:,} steps{frozen}, {placement.reason}{texts.source.remarks()}"
    run.journal.event(STAGE, "plan", message=plan, unread=dict(texts.source.unread))
    steps = run_steps(run, STAGE, loop, save_every_seconds=config.save_every_seconds)
    # Saved first: an evaluation that fails must not cost the user the trained model.
    write_folder(run.layout.model(STAGE), lambda new: save_model(new, model, tokenizer))
    stop_if_requested(run, STAGE)

    eval_rows = held_out or examples
    with placement.autocast():
        logits = class_logits(
            model,
            [e.row for e in eval_rows],
            pad_id=pad_id,
            token_budget=config.micro_batch_tokens,
            map_rows=distributed.map_sharded,
        )
    if not bool(torch.isfinite(logits).all()):
        distributed.on_rank_zero(lambda: remove_folder(run.layout.model(STAGE)))
        raise TrainingError(
            "classify: after its last update the model's logits are not finite",
            expected="finite numbers",
            why="training has destroyed the model's weights",
            todo="lower classify.learning_rate",
        )
    figures = {"rows": len(train_rows), **classifier_figures(texts, eval_rows, logits, majority_labels(train_rows))}
    figures |= losses_of(run, STAGE)
    run.journal.samples(STAGE, steps, sample_rows(texts, eval_rows, logits))
    run.journal.metrics(STAGE, steps, {name: value for name, value in figures.items() if isinstance(value, float)})
    for gate in classifier_gates(figures):
        run.journal.gate(gate)
    return figures


class ClassifierLoop:
    """The optimizer steps of the classifier, one batch of rows each."""

    def __init__(
        self, config: Config, placement: Placement, model: nn.Module, pad_id: int, examples: Sequence[LabelledRow], texts: Texts
    ) -> None:
        classify = required_section(config.classify, "classify")
        self.config, self.settings, self.placement, self.model = config, classify, placement, model
        self.pad_id, self.examples, self.many = pad_id, examples, texts.many
        self.truth = label_matrix(examples, len(texts.labels))
        self.step_tokens = 0
        self.total = max(1, round(classify.epochs * len(examples)))
        self.steps = math.ceil(self.total / classify.batch_size)
        factor = partial(linear_schedule, steps=self.steps, warmup_steps=math.ceil(classify.warmup_fraction * self.steps))
        self.optimizer_step = OptimizerStep(model, name=STAGE, learning_rate=classify.learning_rate, factor=factor)

    def step(self, index: int) -> Mapping[str, float]:
        chosen = batch_indices(
            len(self.examples), self.settings.batch_size, index, total=self.total, seed=self.config.seed, stage=STAGE
        )
        self.step_tokens = sum(len(self.examples[i].row.ids) for i in chosen)
        right: list[float] = []
        batch = shard_micro_batches(chosen, lambda i: len(self.examples[i].row.ids), self._split)
        update = self.optimizer_step.update(
            batch, lambda part: self._loss(*part, right), len(chosen), idle_loss=lambda part: self._loss(*part, [])
        )
        return {
            "loss": update.loss,
            "accuracy": distributed.all_reduce_sum(sum(right))[0] / len(chosen),
            "learning_rate": update.learning_rate,
            "grad_norm": update.grad_norm,
            "rows": len(chosen),
        }

    def _split(self, chosen: Sequence[int]) -> Iterator[tuple[Batch, Tensor]]:
        """Micro-batches of these examples, each with its rows of the label matrix."""
        rows = [self.examples[i].row for i in chosen]
        for indices, batch in batches(rows, pad_id=self.pad_id, token_budget=self.config.micro_batch_tokens):
            yield batch, self.truth[[chosen[i] for i in indices]]

    def _loss(self, batch: Batch, truth: Tensor, right: list[float]) -> Tensor:
        """The sum of the part's losses; appends the number of rows that are predicted exactly to `right`."""
        with self.placement.autocast():
            logits = sequence_logits(self.model, batch.to(self.placement.device)).float()
        truth = truth.to(logits.device)
        predictions = logits > 0 if self.many else logits == logits.max(1, keepdim=True).values
        right.append(float((predictions == (truth > 0)).all(1).sum()))
        return LABEL_LOSSES[self.many](logits, truth).sum()

    def state(self) -> dict[str, Any]:
        return self.optimizer_step.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.optimizer_step.load(state)


def _deduplicate(
    config: Config, run: Run, model: nn.Module, placement: Placement, examples: Sequence[LabelledRow], pad_id: int
) -> list[LabelledRow]:
    """The training rows without near-duplicates of the same labels, with `classify.dedup_threshold`; the number is an event."""
    classify = required_section(config.classify, "classify")
    if classify.dedup_threshold is None:
        return list(examples)
    with placement.autocast():
        duplicates = near_duplicates(
            model,
            [example.row for example in examples],
            classify.dedup_threshold,
            pad_id=pad_id,
            token_budget=config.micro_batch_tokens,
            groups=[example.truth for example in examples],
            map_rows=distributed.map_sharded,
        )
    run.journal.event(
        STAGE,
        "deduplicated",
        message=duplicates.summary([example.record.text for example in examples], classify.dedup_threshold),
    )
    return [examples[i] for i in duplicates.indices]


def _warn_of_cut_texts(examples: Sequence[LabelledRow], context: int, run: Run) -> None:
    cut = sum(example.row.cut for example in examples)
    if cut:
        message = f"{cut:,} of {len(examples):,} texts are longer than the model's {context:,} tokens and lose their end"
        run.journal.event(STAGE, "warning", message=message)


def _data_summary(texts: Texts, rows: Sequence[LabelledRow]) -> str:
    counts = Counter(index for example in rows for index in example.truth)
    classes = ", ".join(f"{label} {counts[index]:,}" for index, label in enumerate(texts.labels))
    kind = "labels, any number a row" if texts.many else "classes"
    held_out = f"{len(texts.held_out):,} held out"
    return f"{len(rows):,} rows ({texts.source.format}), {held_out}, {len(texts.labels)} {kind} ({classes})"
