"""The scorer contract and the reward model behind it: prompts and responses as text in, floats out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from sawyer.models.artifact import read_extra
from sawyer.models.forward import sequence_scores
from sawyer.models.load import context_length, load_reward, load_tokenizer
from sawyer.records import Prompt
from sawyer.text import Codec, batches, set_template

TOKEN_BUDGET = 16384


class Scorer(Protocol):
    """Whatever judges answers: a reward model, a world's gold score, a Python function. RL cannot tell them apart."""

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        """One score a (prompt, response), higher is better."""
        ...


class RewardScorer:
    """A reward model as a scorer: (raw score - shift) / scale, so that the SFT model's answers have mean 0 and deviation 1.

    `cut` counts the answers so far that were longer than the model's context and were scored without their end.
    """

    def __init__(self, *, model: nn.Module, codec: Codec, shift: float = 0.0, scale: float = 1.0) -> None:
        self.model, self.codec, self.shift, self.scale = model, codec, shift, scale
        self.cut = 0

    @classmethod
    def load(cls, folder: str | Path, *, device: torch.device | None = None) -> RewardScorer:
        """A trained reward model; one that says nothing of shift and scale is taken as it is."""
        tokenizer = load_tokenizer(folder)
        set_template(tokenizer, "tokenizer")
        model = load_reward(folder, tokenizer)
        if device is not None:
            model.to(device)
        extra = read_extra(folder)
        return cls(
            model=model,
            codec=Codec(tokenizer=tokenizer, context=context_length(model)),
            shift=float(extra.get("reward_shift", 0.0)),
            scale=float(extra.get("reward_scale", 1.0)),
        )

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        rows = [self.codec.answer(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        self.cut += sum(row.cut for row in rows)
        device = next(self.model.parameters()).device
        scores = [0.0] * len(rows)
        for indices, batch in batches(rows, pad_id=self.codec.pad_id, token_budget=TOKEN_BUDGET):
            found = sequence_scores(self.model, batch.to(device)).tolist()
            for i, score in zip(indices, found, strict=True):
                scores[i] = (score - self.shift) / self.scale
        return scores
