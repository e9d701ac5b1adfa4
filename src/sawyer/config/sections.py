"""What every section has in common, and the sections that depend on no other: world, LoRA, base, classify, compare."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

# A file, folder or hub id; `~` is the home folder.
HomePath = Annotated[str, StringConstraints(min_length=1), AfterValidator(os.path.expanduser)]
MAY_BE_OFF = ("guards", "action")  # settings with the value `off`, which YAML reads as false


class Section(BaseModel):
    """A part of the config: immutable, and without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse YAML's true, yes, on, false, no and off where no boolean is expected: pydantic takes them for 1 and 0."""
        name = info.field_name or ""
        if isinstance(value, bool) and cls.model_fields[name].annotation is not bool and not (name in MAY_BE_OFF and not value):
            raise PydanticCustomError("boolean", "a boolean")
        return value

    @field_validator("columns", mode="before", check_fields=False)
    @classmethod
    def _column_numbers(cls, value: Any) -> Any:
        """Columns of a table without a header are given by number: `{2: label, 4: text}`."""
        return {str(k) if type(k) is int else k: v for k, v in value.items()} if isinstance(value, dict) else value


def _checked_freeze(value: object) -> object:
    if value == "all_but_head" or (isinstance(value, int) and value >= 0):
        return value
    raise ValueError(f"`freeze` is {value!r}; expected: how many layers, 0 or more, or all_but_head")


Freeze = Annotated[int | Literal["all_but_head"], BeforeValidator(_checked_freeze)]

# Fields that several sections share.
DATA_COLUMNS = "their column names: ours, e.g. {question: prompt}"
PEAK_RATE = "peak learning rate of AdamW"
WARMUP = "fraction of the steps over which the learning rate rises"


class World(Section):
    """The built-in world as judge: gold scores in rl and compare; its rater scores collected answers."""

    rater: Literal["honest", "length_lover", "lazy", "flipper", "people"] = Field(
        "honest",
        description="who scores collected answers: length_lover, lazy and flipper are there to break a reward model with; "
        "people: the answers wait, for `sawyer rate`",
    )

    @property
    def scoring_rater(self) -> str | None:
        """The world's rater that scores collected answers; None: they wait for people."""
        return None if self.rater == "people" else self.rater


class Lora(Section):
    """Low-rank adapters: training stages leave the model's weights as they are and train small matrices beside them."""

    rank: int = Field(16, ge=1, description="rank of the matrices; a higher one learns more and takes more memory")
    alpha: float = Field(
        default_factory=lambda settings: 2.0 * settings.get("rank", 16),
        gt=0,
        description="the product of the matrices is scaled by alpha / rank; default: twice the rank",
    )
    targets: list[str] | None = Field(
        None, min_length=1, description="last names of the layers with adapters; default: every linear layer of the trunk"
    )


class Base(Section):
    """A tokenizer and a small model of GPT-2's architecture, trained from plain text."""

    text: list[HomePath] = Field(min_length=1, description="files or patterns; .txt and .md are split at blank lines")
    vocab_size: int = Field(4096, ge=300, description="tokens of the byte-level BPE tokenizer")
    layers: int = Field(4, ge=1, description="transformer layers")
    width: int = Field(256, ge=8, description="hidden units")
    heads: int = Field(4, ge=1, description="attention heads; must divide the width")
    context: int = Field(512, ge=16, description="the model's context length in tokens")
    window: int | None = Field(None, ge=8, description="tokens of a training window; default: the context")
    tokens: int = Field(1_000_000, ge=1, description="training tokens in all; the text is repeated as needed")
    batch_size: int = Field(16, ge=1, description="windows per optimizer step")
    learning_rate: float = Field(1e-3, gt=0, description=PEAK_RATE)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Base:
        if self.width % self.heads:
            raise ValueError(f"base.heads: {self.heads} heads do not divide a width of {self.width}")
        if self.window is not None and self.window > self.context:
            raise ValueError(f"base.window: {self.window} tokens are more than the context of {self.context}")
        return self


class Classify(Section):
    """A text classifier."""

    data: list[HomePath] = Field(min_length=1, description="files or patterns of texts with their labels")
    columns: dict[str, str] = Field(default_factory=dict, description=f"{DATA_COLUMNS}; without a header, by number")
    model: HomePath | None = Field(None, description="encoder or decoder to start from; default: the run's model")
    freeze: Freeze = Field(0, description="number of frozen first layers, or all_but_head")
    dedup_threshold: float | None = Field(
        None, gt=0, lt=1, description="cosine similarity to an earlier row of the same label from which a row is left out"
    )
    epochs: float = Field(3.0, gt=0, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, description="rows per optimizer step")
    learning_rate: float = Field(2e-5, gt=0, description=PEAK_RATE)
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description=WARMUP)
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="fraction of the texts held out for evaluation")


# Names of the run's own models in a comparison; no other model may have them, nor those of its earlier rounds.
RUN_MODELS = ("base", "sft", "rl")
EARLIER_RL = "rl_round_"


class Compare(Section):
    """The models side by side."""

    models: dict[str, HomePath] = Field(
        default_factory=dict, description="more models beside the run's own: a name for each, and its folder or hub id"
    )
    reward: HomePath | None = Field(
        None, description="the judge: a reward model's folder or id; default: the run's own, if any"
    )
    prompts: list[HomePath] = Field(default_factory=list, description="files or patterns; default: six well-known questions")
    columns: dict[str, str] = Field(default_factory=dict, description=DATA_COLUMNS)
    limit: int | None = Field(None, ge=1, description="the most prompts to use")
    deliberate_limit: int = Field(24, ge=0, description="the most prompts answered with beam search, which is slow")
    max_new_tokens: int = Field(64, ge=1, description="the most tokens of an answer")

    @field_validator("models")
    @classmethod
    def _valid_names(cls, models: dict[str, str]) -> dict[str, str]:
        for name in models:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RUN_MODELS or name.startswith(EARLIER_RL):
                raise ValueError(
                    f"compare.models: `{name}` is no name for a model; expected: small letters, digits and _, "
                    f"other than {', '.join(RUN_MODELS)} and {EARLIER_RL}1, which are the run's own"
                )
        return models
