"""What a run will do, and what it would be refused for, before its first step: hours may lie between a mistake and the stage
that trips over it. `sawyer run` refuses by it, `sawyer check` shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sawyer.config import COLLECTED, COMPARED, Config, DataSource, left_out, pairs_of, parse_function_name, sources_of
from sawyer.errors import DataError, SawyerError
from sawyer.pipeline.foreign_code import check_world
from sawyer.pipeline.model_checks import check_given, check_there, try_functions
from sawyer.pipeline.reader_checks import RewardReader, is_coming, readers_of
from sawyer.pipeline.stage_graph import STAGES, product
from sawyer.records import JudgedPrompt, Read, insufficient, once_each, prompt_in, read, split
from sawyer.runs import Layout, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage: what it would do, in words by what they are about, and all that it would be refused for."""

    stage: str
    status: str  # as run.json has it: pending, done, interrupted, ...
    facts: tuple[tuple[str, str], ...] = ()
    problems: tuple[SawyerError, ...] = ()
    reads: tuple[Read, ...] = ()  # while somebody holds these, their files are not read again


def preflight(config: Config, *, only: str | None = None) -> list[StagePlan]:
    """Every stage of the config (or one), in order. Those that are done are not looked into. Nothing is trained or written."""
    layout = Layout(Path(config.out))
    states = read_manifest(layout.manifest).get("stages", {})
    status = {stage: str(states.get(stage, {}).get("status", "pending")) for stage in STAGES}
    required_section = [stage for stage in STAGES if getattr(config, stage) is not None and only in (None, stage)]
    done = {stage for stage in required_section if status[stage] in ("done", "waiting") and product(layout, stage).exists()}
    coming = [stage for stage in required_section if stage not in done]
    looks = {stage: _Look(config, layout, stage, coming) for stage in coming}
    with allow_remote_code(config):
        return [
            looks[stage].plan(status[stage]) if stage in looks else StagePlan(stage=stage, status=status[stage])
            for stage in required_section
        ]


def allow_remote_code(config: Config) -> AbstractContextManager[None]:
    """Within it code that lies with models may run, where the config says so."""
    if not config.trust_remote_code:
        return nullcontext()
    from sawyer.models import remote_code

    return remote_code(True)


def look_ahead(config: Config, only: str | None) -> list[Read]:
    """Raise the first problem of `preflight`, told how many more there are.

    Returns what the first stage to come will read: while it is held, its files are not read a second time. Those of later
    stages are, as they may be large and training may take hours.
    """
    plans = preflight(config, only=only)
    problems = [problem for plan in plans for problem in plan.problems]
    if not problems:
        return list(next((plan.reads for plan in plans if plan.reads), ()))
    if len(problems) > 1:
        more = f"{len(problems) - 1} more problem{'s' * (len(problems) > 2)}"
        problems[0].args = (f"{problems[0]}\n  also: {more}; `sawyer check` of the same file lists all",)
    raise problems[0]


@dataclass(slots=True)
class _Look:
    """A look at one stage that is to come."""

    config: Config
    layout: Layout
    stage: str
    coming: Sequence[str]
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[SawyerError] = field(default_factory=list)
    held: list[Read] = field(default_factory=list)  # the files as they were read
    reads: dict[str, Read] = field(default_factory=dict)  # by setting, without the rows that a template refuses

    def plan(self, status: str) -> StagePlan:
        """All that can be known of the stage."""
        self._try(self._given)
        readers = readers_of(self.config, self.layout, self.stage, self.coming, self._try, self.facts)
        for source in self._sources():
            self._try(partial(self._read, source, readers))
        self._try(self._enough)
        if self.stage == "rl":
            asked = next((found for setting, found in self.reads.items() if setting.startswith("rl.")), None)
            self._try(partial(try_functions, self.config, [prompt_in(one) for one in asked.records[:2]] if asked else []))
        self._steps()
        if words := left_out(self.config, self.stage):
            self.facts.append(("left out", words))
        return StagePlan(
            stage=self.stage,
            status=status,
            facts=tuple(self.facts),
            problems=tuple({str(problem): problem for problem in self.problems}.values()),
            reads=tuple(self.held),
        )

    def _try(self, work: Callable[[], Any]) -> Any:
        """What it gives; None where it is refused, which is kept."""
        try:
            return work()
        except SawyerError as error:
            self.problems.append(error)
            return None

    def _given(self) -> None:
        """What the files of given models, the user's functions and losses tell."""
        if self.config.model is not None:
            check_there("model", self.config.model)
        check_world(self.config)
        loss = self.config.reward.loss if self.stage == "reward" and self.config.reward is not None else ""
        if parse_function_name(loss) is not None:
            from sawyer.stages.reward.loss_choice import checked_loss

            checked_loss(loss)
        check_given(self.config, self.stage, self._is_coming)

    def _is_coming(self, source: str) -> bool:
        return is_coming(self.layout, self.coming, source)

    def _sources(self) -> list[DataSource]:
        """What the stage will read; collected answers once they are there, and are not to be collected anew."""
        there = "collect" not in self.coming and self.layout.answers.exists()
        found = sources_of(self.config, self.stage, self.layout.answers)
        return [source for source in found if source.setting != COLLECTED or there]

    def _read(self, source: DataSource, readers: Sequence[RewardReader]) -> None:
        found = read(source.paths, want=source.want, columns=source.columns, max_bad_rows=source.max_bad_rows)
        self.held.append(found)
        self.reads[source.setting] = found
        for reader in readers:
            left = self._try(partial(reader.readable, self.config, source, found)) or found
            if reader.is_scorer and source.want != "prompts":  # the pairs are learnt from: their prompts alone are not asked
                told = replace(left, skipped=left.skipped[len(found.skipped) :]).warning
                self.facts += [("warning", told)] if told else []
            else:
                self.reads[source.setting] = found = left
                self._try(partial(reader.check_room, source, found))
        if source.want == "prompts" and not source.by_fields:
            self.reads[source.setting] = once_each(found)

    def _enough(self) -> None:
        """Raise DataError where nothing can be learnt from all that the stage reads, taken together."""
        sources = [source for source in self._sources() if source.want in ("labels", "comparisons")]
        if any(source.setting not in self.reads for source in sources):
            return  # what is wrong there is told already
        records = [record for source in sources for record in self.reads[source.setting].records]
        if self.stage in ("reward", "rl") and self.config.collect is not None:
            known = self.reads[COLLECTED].records if COLLECTED in self.reads else ()
            if not any(isinstance(one, JudgedPrompt) and not one.is_pair and one.scores for one in known):
                return  # they are yet to be collected, or to be scored
        if records and (problem := insufficient(records, sources[0].want)) is not None:
            raise DataError(problem.message, where=problem.where, todo=problem.todo)

    def _steps(self) -> None:
        """Rows and steps, where the stage's files could be read."""
        for setting, found in self.reads.items():
            source = next(one for one in self._sources() if one.setting == setting)
            records = found.records[: source.limit]
            kept = len(split(records, source.eval_fraction)[1]) if source.eval_fraction and source.want != "labels" else 0
            aside = f", {kept:,} of them held out" if kept else ""
            kind = f" ({found.format})" if source.want not in ("text", "prompts") else ""
            self.facts.append((setting, f"{len(records):,} {NOUNS[source.want]}{kind}{aside}{found.remarks()}"))
            if found.warning:
                self.facts.append(("warning", found.warning))
        if words := steps_in_words(self.config, self.stage, self.reads):
            self.facts.append(("steps", words))


NOUNS = {"text": "texts", "labels": "rows", "demonstrations": "rows", "prompts": "prompts", "comparisons": "judged prompts"}


def steps_in_words(config: Config, stage: str, reads: Mapping[str, Read]) -> str:
    """How many steps a stage takes, by its settings and the rows that its files give; rows that turn out too long take none."""
    section = getattr(config, stage)
    if stage == "rl":
        return _rl_steps(config, reads)
    if stage in ("sft", "reward", "classify"):
        found = [one for one in reads.values() if one.records]
        count = sum(
            len(split(one.records, section.eval_fraction)[0]) if stage != "classify" else len(one.records) for one in found
        )
        count = round(count * (1 - section.eval_fraction)) if stage == "classify" else count
        steps = math.ceil(max(1, round(section.epochs * count)) / section.batch_size)
        return f"about {steps:,} of {section.batch_size} {'prompts' if stage == 'reward' else 'rows'}" if count else ""
    if stage == "base":
        return f"{section.tokens:,} tokens in all"
    count = sum(len(one.records[: section.limit]) for one in reads.values())
    if stage == "collect":
        return f"{count:,} prompts x {section.answers} answers"
    models = [*(name for name in COMPARED if name in _own_models(config)), *section.models]
    return f"{count or 'six well-known'} prompts to {', '.join(models)}"


def _own_models(config: Config) -> set[str]:
    own = {name for name in ("sft", "rl") if getattr(config, name) is not None}
    return own | ({"base"} if config.model is not None or config.base is not None else set())


def _rl_steps(config: Config, reads: Mapping[str, Read]) -> str:
    rl = config.rl
    assert rl is not None
    if rl.algorithm == "best_of_n":
        return f"none: of {rl.group_size} answers to each held-out prompt the best is given"
    if rl.algorithm != "dpo":
        return f"{rl.episodes // rl.batch_size:,} updates of {rl.batch_size} answers ({rl.algorithm})"
    share = pairs_of(config)[1]
    count = sum(len(split(one.records, share)[0]) for setting, one in reads.items() if setting != "rl.prompts")
    return f"about {math.ceil(rl.epochs * count / rl.batch_size):,} updates of {rl.batch_size} prompts with their pairs (dpo)"
