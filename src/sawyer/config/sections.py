"""Sections that know nothing of the others: the world, adapters, a base model, a classifier, a comparison."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A part of the tree: frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("columns", mode="before", check_fields=False)
    @classmethod
    def _numbered(cls, value: Any) -> Any:
        """Columns of a table without a header are asked for by number: `{2: label, 4: text}`."""
        return {str(k) if type(k) is int else k: v for k, v in value.items()} if isinstance(value, dict) else value


def _freeze(value: object) -> object:
    if value == "all_but_head" or (isinstance(value, int) and value >= 0):
        return value
    raise ValueError(f"`freeze` is {value!r}; expected: how many layers, 0 or more, or all_but_head")


Freeze = Annotated[int | Literal["all_but_head"], BeforeValidator(_freeze)]


class World(Section):
    """The built-in world judges: gold scores in rl and compare, its rater scores collected answers."""

    rater: Literal["honest", "length_lover", "lazy", "flipper"] = Field(
        "honest", description="who scores collected answers; the others are there to break a reward model with"
    )


class Lora(Section):
    """Low-rank adapters: the stages that learn leave the model's weights as they are and train small matrices beside them."""

    rank: int = Field(16, ge=1, description="of the matrices; with it grows what can be learnt, and memory")
    alpha: float = Field(
        default_factory=lambda asked: 2.0 * asked.get("rank", 16),
        gt=0,
        description="their product is multiplied by alpha / rank; none given: twice the rank",
    )
    targets: list[str] | None = Field(
        None, min_length=1, description="last names of the layers that get them; none given: every linear layer of the trunk"
    )


class Base(Section):
    """A tokenizer and a small GPT-2-architecture model from plain text, where no model is given."""

    text: list[str] = Field(min_length=1, description="files or patterns; .txt and .md are split at blank lines")
    vocab_size: int = Field(4096, ge=300, description="tokens of the byte-level BPE tokenizer")
    layers: int = Field(4, ge=1, description="transformer layers")
    width: int = Field(256, ge=8, description="hidden units")
    heads: int = Field(4, ge=1, description="attention heads; must divide the width")
    context: int = Field(512, ge=16, description="the most tokens the model can read")
    window: int | None = Field(None, ge=8, description="tokens of a training window; none given: the context")
    tokens: int = Field(1_000_000, ge=1, description="tokens to train on in all; the text is repeated as needed")
    batch_size: int = Field(16, ge=1, description="windows an optimizer step")
    learning_rate: float = Field(1e-3, gt=0, description="peak rate of AdamW")

    @model_validator(mode="after")
    def _fits(self) -> Base:
        if self.width % self.heads:
            raise ValueError(f"base.heads: {self.heads} heads do not divide a width of {self.width}")
        if self.window is not None and self.window > self.context:
            raise ValueError(f"base.window: {self.window} tokens are more than the context of {self.context}")
        return self


class Classify(Section):
    """A classifier of texts."""

    data: list[str] = Field(min_length=1, description="files or patterns of texts with their labels")
    columns: dict[str, str] = Field(default_factory=dict, description="their column names: ours; without a header, numbers")
    model: str | None = Field(None, min_length=1, description="encoder or decoder to start from; none given: the run's model")
    freeze: Freeze = Field(0, description="the first layers that stay as they are, or all_but_head")
    dedup_threshold: float | None = Field(
        None, gt=0, lt=1, description="similarity of meaning to an earlier row of the same label from which on one is left out"
    )
    epochs: float = Field(3.0, gt=0, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, description="rows an optimizer step")
    learning_rate: float = Field(2e-5, gt=0, description="peak rate of AdamW")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="share of the texts kept for checking")


# The run's own models in a comparison, which no other may be called.
COMPARED = ("base", "sft", "rl")


class Compare(Section):
    """The models side by side."""

    models: dict[str, str] = Field(
        default_factory=dict,
        description="any models beside the run's own: the name each has in the comparison, its folder or id",
    )
    reward: str | None = Field(
        None, min_length=1, description="a reward model's folder or id that judges; none given: the run's own, if it has one"
    )
    prompts: list[str] = Field(default_factory=list, description="files or patterns; none: the original's six questions")
    columns: dict[str, str] = Field(default_factory=dict, description="their column names: ours")
    limit: int | None = Field(None, ge=1, description="the most prompts taken")
    deliberate_limit: int = Field(24, ge=0, description="the most prompts answered with beam search, which is slow")
    max_new_tokens: int = Field(64, ge=1, description="longest answer")

    @field_validator("models")
    @classmethod
    def _names(cls, models: dict[str, str]) -> dict[str, str]:
        for name, source in models.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in COMPARED:
                raise ValueError(
                    f"compare.models: `{name}` is no name for a model; expected: small letters, digits and _, "
                    f"other than {', '.join(COMPARED)}, which are the run's own"
                )
            if not source:
                raise ValueError(f"compare.models.{name}: it names no folder and no hub id")
        return models
