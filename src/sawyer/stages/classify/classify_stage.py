"""Train a classifier on labelled texts, then judge it on those held out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
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
from sawyer.stages.classify.class_data import STAGE, LabelledRow, Texts, encoder, load
from sawyer.stages.classify.classifier_report import examine, judge, samples, truths, usual_of
from sawyer.text import batches
from sawyer.train import (
    OptimizerStep,
    Placement,
    batch_indices,
    choose_device,
    distributed,
    encode_all,
    losses_of,
    run_steps,
    stop_if_asked,
    write_folder,
)


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train on `config.classify.data`, save the classifier, judge it; returns its key figures."""
    asked = required_section(config.classify, "classify")
    texts = load(config, run)
    source = asked.model or config.model or run.layout.model("base")
    tokenizer = load_reader(source, fixed=config.lora is not None)
    model: Any = new_classifier(source, tokenizer, texts.labels, many=texts.many, seed=config.seed, lora=config.lora)
    place = choose_device(config.device, config.precision, width=model.config.get_text_config().hidden_size)
    model.to(place.device)
    context = context_length(model)
    encode = encoder(texts, tokenizer, context)
    examples, held_out = (encode_all(run, STAGE, records, encode) for records in (texts.train, texts.held_out))
    _tell_cut([*examples, *held_out], context, run)
    frozen = f", {freeze(model, asked.freeze, setting='classify.freeze').told}" if asked.freeze else lora_summary(model)
    pad_id = int(tokenizer.pad_token_id)
    kept = _thinned(config, run, model, place, examples, pad_id)
    work = ClassifierLoop(config, place, model, pad_id, kept, texts)
    told = f"{_plan(texts, kept)}, {work.steps:,} steps{frozen}, {place.reason}{texts.source.remarks()}"
    run.journal.event(STAGE, "plan", message=told, unread=dict(texts.source.unread))
    steps = run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds)
    # Saved before anything is asked of it: what follows may fail, and must not keep the model from its user.
    write_folder(run.layout.model(STAGE), lambda new: save_model(new, model, tokenizer))
    stop_if_asked(run, STAGE)

    judged = held_out or examples
    with place.autocast():
        logits = class_logits(
            model,
            [e.row for e in judged],
            pad_id=pad_id,
            token_budget=config.micro_batch_tokens,
            map_rows=distributed.map_sharded,
        )
    if not bool(torch.isfinite(logits).all()):
        distributed.on_rank_zero(lambda: remove_folder(run.layout.model(STAGE)))
        raise TrainingError(
            "classify: after its last update the model's logits are not finite",
            expected="finite numbers",
            why="training has destroyed its weights; nothing can be told by them",
            todo="lower classify.learning_rate",
        )
    figures = {"rows": len(kept), **examine(texts, judged, logits, usual_of(kept)), **losses_of(run, STAGE)}
    run.journal.samples(STAGE, steps, samples(texts, judged, logits))
    run.journal.metrics(STAGE, steps, {name: value for name, value in figures.items() if isinstance(value, float)})
    for gate in judge(figures):
        run.journal.gate(gate)
    return figures


class ClassifierLoop:
    """The optimizer steps of the classifier, one batch of rows each."""

    def __init__(
        self, config: Config, place: Placement, model: nn.Module, pad_id: int, examples: Sequence[LabelledRow], texts: Texts
    ) -> None:
        classify = required_section(config.classify, "classify")
        self.config, self.asked, self.place, self.model = config, classify, place, model
        self.pad_id, self.examples, self.many = pad_id, examples, texts.many
        self.truth = truths(examples, len(texts.labels))
        self.total = max(1, round(classify.epochs * len(examples)))
        self.steps = math.ceil(self.total / classify.batch_size)
        factor = partial(linear_schedule, steps=self.steps, warmup_steps=math.ceil(classify.warmup_fraction * self.steps))
        self.learner = OptimizerStep(model, name=STAGE, learning_rate=classify.learning_rate, factor=factor)

    def step(self, index: int) -> Mapping[str, float]:
        chosen = batch_indices(
            len(self.examples), self.asked.batch_size, index, total=self.total, seed=self.config.seed, stage=STAGE
        )
        mine = [chosen[i] for i in distributed.shard_indices([len(self.examples[i].row.ids) for i in chosen])]
        rows, truth = [self.examples[i].row for i in mine], self.truth[mine]
        right: list[float] = []
        parts = batches(rows, pad_id=self.pad_id, token_budget=self.config.micro_batch_tokens)
        update = self.learner.update(parts, lambda part: self._loss(part, truth[part[0]], right), len(chosen))
        return {
            "loss": update.loss,
            "accuracy": distributed.all_reduce_sum(sum(right))[0] / len(chosen),
            "learning_rate": update.learning_rate,
            "grad_norm": update.grad_norm,
            "rows": len(chosen),
        }

    def _loss(self, part: Any, truth: Tensor, right: list[float]) -> Tensor:
        """The sum of the part's losses; the number of rows named exactly is appended to `right`."""
        with self.place.autocast():
            logits = sequence_logits(self.model, part[1].to(self.place.device)).float()
        truth = truth.to(logits.device)
        named = logits > 0 if self.many else logits == logits.max(1, keepdim=True).values
        right.append(float((named == (truth > 0)).all(1).sum()))
        return LABEL_LOSSES[self.many](logits, truth).sum()

    def state(self) -> dict[str, Any]:
        return self.learner.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)


def _thinned(
    config: Config, run: Run, model: nn.Module, place: Placement, examples: Sequence[LabelledRow], pad_id: int
) -> list[LabelledRow]:
    """The training rows without near-duplicates of the same labels, where the config asks for that; what it did is said."""
    classify = required_section(config.classify, "classify")
    if classify.dedup_threshold is None:
        return list(examples)
    with place.autocast():
        found = near_duplicates(
            model,
            [example.row for example in examples],
            classify.dedup_threshold,
            pad_id=pad_id,
            token_budget=config.micro_batch_tokens,
            groups=[example.truth for example in examples],
            map_rows=distributed.map_sharded,
        )
    run.journal.event(
        STAGE, "deduplicated", message=found.told([example.record.text for example in examples], classify.dedup_threshold)
    )
    return [examples[i] for i in found.kept]


def _tell_cut(examples: Sequence[LabelledRow], context: int, run: Run) -> None:
    cut = sum(example.row.cut for example in examples)
    if cut:
        message = f"{cut:,} of {len(examples):,} texts are longer than the model's {context:,} tokens and lose their end"
        run.journal.event(STAGE, "warning", message=message)


def _plan(texts: Texts, kept: Sequence[LabelledRow]) -> str:
    counts = Counter(place for example in kept for place in example.truth)
    classes = ", ".join(f"{label} {counts[place]:,}" for place, label in enumerate(texts.labels))
    kind = "labels, any number a row" if texts.many else "classes"
    held_out = f"{len(texts.held_out):,} held out"
    return f"{len(kept):,} rows ({texts.source.format}), {held_out}, {len(texts.labels)} {kind} ({classes})"
