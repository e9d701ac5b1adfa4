"""The data files that a config names, by setting: what each is read as, by which limits, and how much of it is held out. The
plan and the stages ask here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sawyer.config.schema import Config, required_section

Want = Literal["text", "labels", "demonstrations", "prompts", "comparisons"]
COLLECTED = "collect"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Files of one setting. `room`: tokens that must be left for an answer beside a prompt. `max_bad_rows`: the share of a
    file's rows that reading may leave out; None: none, whatever the config says. What a template refuses is no misprint: it
    may be the config's share of any file."""

    setting: str
    paths: tuple[str, ...]
    want: Want
    max_bad_rows: float | None
    columns: Mapping[str, str] = field(default_factory=dict)
    eval_fraction: float = 0.0
    limit: int | None = None
    max_tokens: int | None = None  # of a row; of prompts alone: of the prompt
    room: int = 1
    by_fields: bool = False  # prompts that differ in their rows' other fields alone are two


def sources_of(config: Config, stage: str, answers: Path) -> Iterator[DataSource]:
    """What the stage will read, as it will read it. `answers`: where the collected ones are, or will be."""
    if stage == "base" and config.base is not None:
        yield DataSource(setting="base.text", paths=tuple(config.base.text), want="text", max_bad_rows=config.max_bad_rows)
    if stage == "classify" and config.classify is not None:
        yield _of(config, stage, "data", "labels")
    if stage == "sft" and config.sft is not None:
        yield _of(config, stage, "data", "demonstrations", max_tokens=config.sft.max_tokens)
    if stage == "collect" and config.collect is not None:
        yield _of(config, stage, "prompts", "prompts")
    if stage == "rl" and config.rl is not None and config.rl.prompts:
        most, room = config.rl.max_prompt_tokens, config.rl.max_new_tokens
        yield _of(config, stage, "prompts", "prompts", max_tokens=most, room=room)
    if stage == "compare" and config.compare is not None and config.compare.prompts:
        yield _of(config, stage, "prompts", "prompts")
    yield from judged_sources(config, stage, answers)


def judged_sources(config: Config, stage: str, answers: Path) -> Iterator[DataSource]:
    """The judgements that `reward` learns from, and `rl` where it is DPO: files, then the collected answers."""
    if stage == "reward" and config.reward is not None:
        name, eval_fraction, most, room = "reward", config.reward.eval_fraction, config.reward.max_tokens, 1
    elif stage == "rl" and config.rl is not None and config.rl.algorithm == "dpo":
        name, eval_fraction = pairs_of(config)
        most = config.rl.max_tokens
        # Without prompts of their own those of its pairs are answered.
        room = config.rl.max_new_tokens if name == "rl" and not config.rl.prompts else 1
    else:
        return
    if getattr(config, name).data:
        yield _of(config, name, "data", "comparisons", eval_fraction=eval_fraction, max_tokens=most, room=room)
    if config.collect is not None:  # a slip of the pen in what somebody judged by hand is told, and costs no judgement
        yield DataSource(
            setting=COLLECTED,
            paths=(str(answers),),
            want="comparisons",
            max_bad_rows=None,
            eval_fraction=eval_fraction,
            max_tokens=most,
        )


def pairs_of(config: Config) -> tuple[str, float]:
    """Where DPO's pairs come from: (the section that names the files, the share of its prompts that is held out)."""
    rl = required_section(config.rl, "rl")
    own = bool(rl.data) or config.reward is None
    return ("rl", rl.eval_fraction) if own else ("reward", required_section(config.reward, "reward").eval_fraction)


def _of(
    config: Config,
    stage: str,
    setting: str,
    want: Want,
    *,
    eval_fraction: float | None = None,
    max_tokens: int | None = None,
    room: int = 1,
) -> DataSource:
    section = getattr(config, stage)
    return DataSource(
        setting=f"{stage}.{setting}",
        paths=tuple(getattr(section, setting)),
        want=want,
        max_bad_rows=config.max_bad_rows,
        columns=section.columns,
        eval_fraction=getattr(section, "eval_fraction", 0.0) if eval_fraction is None else eval_fraction,
        limit=getattr(section, "limit", None),
        max_tokens=max_tokens,
        room=room,
        by_fields=stage == "rl" and section.has_functions,
    )
