"""Classifiers: any folder of a sequence classifier in Hugging Face's format, an encoder or a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.errors import ModelError
from sawyer.models.adapters import LowRank, merge
from sawyer.models.forward import TOKEN_BUDGET, sequence_logits
from sawyer.models.load import (
    adapt,
    check_whole,
    context_length,
    load_reader,
    ready,
    resize_embeddings,
    seed_torch,
    sequence_model,
)
from sawyer.models.map_rows import MapRows, map_here
from sawyer.models.pretrained import remote_code
from sawyer.text import Row, batches, plain_row

PROBLEM: Mapping[bool, str] = {False: "single_label_classification", True: "multi_label_classification"}


def new_classifier(
    source: str | Path, tokenizer: Any, labels: Sequence[str], *, many: bool, seed: int, lora: LowRank | None = None
) -> nn.Module:
    """The trunk of the model in `source` with a head of one logit a label, in fp32 without dropout.

    The head's weights are drawn from `seed` as the architecture draws them, unless the source is a classifier with as many
    labels: then training goes on from its head. `many`: each label applies or not, by itself. With `lora` the trunk is frozen
    but for adapters.
    """
    label_names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    with seed_torch(seed):
        model, missing = sequence_model(source, "classifier", **label_names)
    trunk = f"{model.base_model_prefix}."
    check_whole(source, [key for key in missing if key.startswith(trunk) and "pooler" not in key])
    model.config.problem_type = PROBLEM[many]
    resize_embeddings(model, tokenizer)
    ready(model, tokenizer)
    adapt(model, source, lora, seed=seed)
    return model


def load_classifier(source: str | Path, tokenizer: Any) -> nn.Module:
    """A trained classifier: any folder that `AutoModelForSequenceClassification` loads with two labels or more."""
    model, missing = sequence_model(source, "classifier")
    if model.config.num_labels < 2:
        raise ModelError(
            f"{source} has one label",
            expected="a classifier: two labels or more, named in its config's id2label",
            why="one label is a reward model's, whose score is no probability",
            todo="name a classifier, or read it with sawyer.RewardScorer",
        )
    check_whole(source, missing)
    merge(model)
    resize_embeddings(model, tokenizer)
    return ready(model, tokenizer)


class Classifier:
    """What a text is: `Classifier("runs/mine/classify/model")(["Some text."])` -> `[{"yes": 0.9, "no": 0.1}]`.

    `labels` are its classes; with `many` each has a probability of its own, else they sum to 1. `cut` counts the texts so far
    that were longer than the model's context and were read without their end. With `trust_remote_code` Python that lies with
    the model may run. Raises ModelError for a folder without a classifier.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
        map_rows: MapRows = map_here,
    ) -> None:
        self.map_rows = map_rows
        with remote_code(trust_remote_code):
            self.tokenizer = load_reader(source)
            self.model = load_classifier(source, self.tokenizer)
        if device is not None:
            self.model.to(device)
        self.context = context_length(self.model)
        settings: Any = self.model.config
        self.labels = tuple(str(settings.id2label[index]) for index in range(settings.num_labels))
        self.many = settings.problem_type == PROBLEM[True]
        self.cut = 0

    def __call__(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label -> probability, for each text."""
        rows = [plain_row(self.tokenizer, text, self.context) for text in texts]
        self.cut += sum(row.cut for row in rows)
        if not rows:
            return []
        logits = class_logits(
            self.model, rows, pad_id=self.tokenizer.pad_token_id, token_budget=TOKEN_BUDGET, map_rows=self.map_rows
        )
        shares = torch.sigmoid(logits) if self.many else torch.softmax(logits, dim=1)
        return [dict(zip(self.labels, row, strict=True)) for row in shares.tolist()]


@torch.no_grad()
def class_logits(
    model: nn.Module, rows: Sequence[Row], *, pad_id: int, token_budget: int, map_rows: MapRows = map_here
) -> Tensor:
    """(N, C) fp32 on the CPU, in the rows' order."""
    device = next(model.parameters()).device

    def read(mine: list[int]) -> Tensor:
        logits: dict[int, Tensor] = {}
        for indices, batch in batches([rows[i] for i in mine], pad_id=pad_id, token_budget=token_budget):
            logits |= dict(zip(indices, sequence_logits(model, batch.to(device)).cpu(), strict=True))
        return torch.stack([logits[index] for index in range(len(mine))])

    return map_rows([len(row.ids) for row in rows], read)
