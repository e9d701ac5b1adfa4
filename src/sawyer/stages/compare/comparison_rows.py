"""What passes between the comparison's steps: the jobs, the answers, and the answers with what the judges say."""

from __future__ import annotations

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
    ids: tuple[int, ...]  # (T,) the sampled tokens
    ended: bool  # with EOS


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedAnswer:
    """One answer with its judgements: a row of compare.jsonl. None where there is no judge."""

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
        return {name: value for name, value in asdict(self).items() if value is not None}

    def value(self, measure: Measure) -> float | None:
        """A figure of the row by its name; None where it is not known."""
        value: float | None = getattr(self, measure)
        return value
