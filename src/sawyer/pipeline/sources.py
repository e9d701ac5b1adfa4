"""The data files that a config names, by setting: what each is read as, and how much of it is held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sawyer.config import Config
from sawyer.runs import Layout

Want = Literal["text", "labels", "demonstrations", "prompts", "comparisons"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Files of one setting. `room`: tokens that must be left for an answer beside a prompt."""

    setting: str
    paths: tuple[str, ...]
    want: Want
    columns: Mapping[str, str] = field(default_factory=dict)
    held_out: float = 0.0
    limit: int | None = None
    max_tokens: int | None = None
    room: int = 1


def sources_of(config: Config, layout: Layout, stage: str) -> Iterator[Source]:
    """What the stage will read, as it will read it. Collected answers are a source once they are there."""
    if stage == "base" and config.base is not None:
        yield Source(setting="base.text", paths=tuple(config.base.text), want="text")
    if stage == "classify" and config.classify is not None:
        yield _of(config, stage, "data", "labels")
    if stage == "sft" and config.sft is not None:
        yield _of(config, stage, "data", "demonstrations")
    if stage == "collect" and config.collect is not None:
        yield _of(config, stage, "prompts", "prompts")
    if stage == "reward" and config.reward is not None and config.reward.data:
        yield _of(config, stage, "data", "comparisons")
    if stage == "rl" and config.rl is not None:
        if config.rl.prompts:
            yield _of(config, stage, "prompts", "prompts", room=config.rl.max_new_tokens)
        if config.rl.data:
            yield _of(config, stage, "data", "comparisons")
        elif config.rl.algorithm == "dpo" and config.reward is not None and config.reward.data:
            yield _of(config, "reward", "data", "comparisons")
    if stage == "compare" and config.compare is not None and config.compare.prompts:
        yield _of(config, stage, "prompts", "prompts")
    learns = stage == "reward" or (stage == "rl" and config.rl is not None and config.rl.algorithm == "dpo")
    if learns and config.collect is not None and layout.answers.exists():
        yield Source(setting="collect", paths=(str(layout.answers),), want="comparisons")


def _of(config: Config, stage: str, setting: str, want: Want, room: int = 1) -> Source:
    section = getattr(config, stage)
    return Source(
        setting=f"{stage}.{setting}",
        paths=tuple(getattr(section, setting)),
        want=want,
        columns=section.columns,
        held_out=getattr(section, "held_out", 0.0),
        limit=getattr(section, "limit", None),
        max_tokens=getattr(section, "max_tokens", None),
        room=room,
    )
