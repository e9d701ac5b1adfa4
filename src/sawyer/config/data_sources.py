"""The data files that a config names: their settings, formats and limits. The plan and the stages share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sawyer.config.schema import Config, required_section

Want = Literal["text", "labels", "demonstrations", "prompts", "comparisons"]
COLLECT_SETTING = "collect"  # the setting that collected answers belong to


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The files of one setting. Rows that a template refuses are no bad rows: the config's fraction holds for them."""

    setting: str
    paths: tuple[str, ...]
    want: Want
    max_bad_rows: float | None  # fraction of a file's rows that may be left out; None: none, whatever the config says
    columns: Mapping[str, str] = field(default_factory=dict)
    eval_fraction: float = 0.0
    limit: int | None = None
    max_tokens: int | None = None  # of a row; for prompts alone, of the prompt
    room: int = 1  # tokens that must be left for an answer after the prompt
    by_fields: bool = False  # prompts that differ only in their rows' other fields are two


def sources_of(config: Config, stage: str, judged_files: Sequence[Path]) -> Iterator[DataSource]:
    """The stage's sources, as it reads them. `judged_files`: those of the collected answers, which may not exist yet."""
    section: Any = getattr(config, stage, None)
    if section is None:
        return
    if stage == "base":
        yield DataSource(setting="base.text", paths=tuple(section.text), want="text", max_bad_rows=config.max_bad_rows)
    elif stage == "classify":
        yield _source(config, stage, "data", "labels")
    elif stage == "sft":
        yield _source(config, stage, "data", "demonstrations", max_tokens=section.max_tokens)
    elif stage == "rl" and section.prompts:
        room = section.max_new_tokens
        yield _source(config, stage, "prompts", "prompts", max_tokens=section.max_prompt_tokens, room=room)
    elif stage in ("collect", "compare") and section.prompts:
        yield _source(config, stage, "prompts", "prompts")
    yield from judged_sources(config, stage, judged_files)


def judged_sources(config: Config, stage: str, judged_files: Sequence[Path]) -> Iterator[DataSource]:
    """The judgements that `reward`, or `rl` with DPO, learns from: files, then the collected answers and people's votes."""
    if stage == "reward" and config.reward is not None:
        name, eval_fraction, max_tokens, room = "reward", config.reward.eval_fraction, config.reward.max_tokens, 1
    elif stage == "rl" and config.rl is not None and config.rl.algorithm == "dpo":
        name, eval_fraction = pairs_of(config)
        max_tokens = config.rl.max_tokens
        # Without prompts in the config, the policy answers those of the pairs.
        room = config.rl.max_new_tokens if name == "rl" and not config.rl.prompts else 1
    else:
        return
    if getattr(config, name).data:
        yield _source(config, name, "data", "comparisons", eval_fraction=eval_fraction, max_tokens=max_tokens, room=room)
    if config.collect is not None:
        yield DataSource(
            setting=COLLECT_SETTING,
            paths=tuple(map(str, judged_files)),
            want="comparisons",
            max_bad_rows=None,  # a typing mistake in hand-made judgements is reported, and no judgement is lost
            eval_fraction=eval_fraction,
            max_tokens=max_tokens,
        )


def learns_from_collected(config: Config, stage: str) -> bool:
    """Whether the stage learns from judgements of collected answers."""
    return any(source.setting == COLLECT_SETTING for source in judged_sources(config, stage, ()))


def pairs_of(config: Config) -> tuple[str, float]:
    """Where DPO's pairs come from: (the section that names the files, the fraction of its prompts that is held out)."""
    rl = required_section(config.rl, "rl")
    if rl.data or config.reward is None:
        return "rl", rl.eval_fraction
    return "reward", config.reward.eval_fraction


def _source(
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
