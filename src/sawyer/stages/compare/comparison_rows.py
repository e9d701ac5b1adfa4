"""What passes between the comparison's steps: what is asked, what was answered, and what the judges say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Setting = Literal["t1", "t07", "greedy", "deliberate", "best_of_8"]
Measure = Literal["gold", "reward", "length", "kl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One step: a model answers the prompts `start` to `end` (not included) under a setting."""

    model: str
    setting: Setting
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """One answer as it was sampled."""

    number: int  # of its prompt
    prompt: str
    model: str
    setting: Setting
    response: str
    ids: tuple[int, ...]  # (T,) the tokens that were sampled
    ended: bool  # with EOS

    def state(self) -> dict[str, Any]:
        """For a checkpoint, which holds plain values."""
        return asdict(self)

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> ModelAnswer:
        """From `state`."""
        return cls(**{**state, "ids": tuple(state["ids"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One answer with what is known of it: a row of compare.jsonl. None where nobody judged."""

    number: int
    prompt: str
    model: str
    setting: Setting
    response: str
    length: int  # tokens
    ended: bool
    reward: float | None = None
    gold: float | None = None  # 0 to 10
    parts: tuple[str, ...] | None = None  # why the gold is what it is
    kl: float | None = None  # nats: log pi_rl - log pi_sft of an answer that RL sampled

    def row(self) -> dict[str, Any]:
        """As compare.jsonl has it: what is not known is left out."""
        told = {name: value for name, value in asdict(self).items() if value is not None}
        return told | ({"parts": list(self.parts)} if self.parts is not None else {})

    def measured(self, measure: Measure) -> float | None:
        """A figure of the row by its name; None where it is not known."""
        value: float | None = getattr(self, measure)
        return value
