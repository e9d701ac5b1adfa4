"""What a run would do, and why it would be refused, before its first step: hours may lie between a mistake and the stage that
trips over it. `sawyer run` refuses by it, `sawyer check` shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sawyer.config import (
    BUILT_IN_SOURCE,
    COLLECT_SETTING,
    RUN_MODELS,
    Collect,
    Config,
    DataSource,
    left_out,
    pairs_of,
    parse_function_name,
    sources_of,
    user_function_source,
)
from sawyer.errors import DataError, ModelError, RunError, SawyerError
from sawyer.pipeline.model_checks import (
    ModelReader,
    check_model_folder,
    check_named_models,
    is_coming,
    readers_of,
    try_functions,
)
from sawyer.pipeline.stage_graph import STAGES, builds_on, product
from sawyer.records import JudgedPrompt, Read, insufficient, once_each, prompt_in, read, split
from sawyer.runs import Layout, Run, read_manifest
from sawyer.worlds import VERSION

NOUNS = {"text": "texts", "labels": "rows", "demonstrations": "rows", "prompts": "prompts", "comparisons": "judged prompts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage: facts on what it would do, each with its subject, and every reason for which it would be refused."""

    stage: str
    status: str  # as run.json has it: pending, done, interrupted, ...
    facts: tuple[tuple[str, str], ...] = ()
    problems: tuple[SawyerError, ...] = ()
    reads: tuple[Read, ...] = ()  # the files' content; as long as these are referenced, the files are not read again


def preflight(config: Config, *, only: str | None = None) -> list[StagePlan]:
    """Every stage of the config (or one), in order. Finished stages are not looked into. Nothing is trained or written."""
    layout = Layout(Path(config.out))
    states = read_manifest(layout.manifest).get("stages", {})
    status = {stage: str(states.get(stage, {}).get("status", "pending")) for stage in STAGES}
    stages = [stage for stage in STAGES if getattr(config, stage) is not None and only in (None, stage)]
    coming_stages = [
        stage for stage in stages if status[stage] not in ("done", "waiting") or not product(layout, stage).exists()
    ]
    with allow_remote_code(config):
        return [
            _StagePreflight(config, layout, stage, coming_stages).plan(status[stage])
            if stage in coming_stages
            else StagePlan(stage=stage, status=status[stage])
            for stage in stages
        ]


def raise_first_problem(config: Config, only: str | None) -> list[Read]:
    """Raise the first problem of `preflight`, with the number of the others.

    Returns what the first stage to come will read: as long as the caller keeps it, its files are not read a second time. Those
    of later stages are, since they may be large and training may take hours.
    """
    plans = preflight(config, only=only)
    problems = [problem for plan in plans for problem in plan.problems]
    if not problems:
        return list(next((plan.reads for plan in plans if plan.reads), ()))
    if len(problems) > 1:
        more = f"{len(problems) - 1} more problem{'s' * (len(problems) > 2)}"
        problems[0].args = (f"{problems[0]}\n  also: {more}; `sawyer check` of the same file lists all",)
    raise problems[0]


def check_only(config: Config, only: str, stages: Sequence[str]) -> None:
    """Raise RunError where the one stage to do is not in the config, or what it builds on is not done."""
    if only not in stages:
        raise RunError(
            f"the config has no section `{only}`",
            expected=f"one of: {', '.join(stages)}",
            todo=f"add `{only}:` to the file, or name another stage",
        )
    layout = Layout(Path(config.out))
    states = read_manifest(layout.manifest).get("stages", {})
    done = {stage for stage in stages if states.get(stage, {}).get("status") in ("done", "waiting")}
    missing = [p for p in builds_on(config, only) if p in stages and not (p in done and product(layout, p).exists())]
    if missing:
        raise RunError(
            f"{only} builds on {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not done in {layout.root}",
            todo=f"run `sawyer {missing[0]}` with the same file first, or `sawyer run` for all stages",
        )


def allow_remote_code(config: Config) -> AbstractContextManager[None]:
    """Within it code that lies with models may run, where the config says so."""
    if not config.trust_remote_code:
        return nullcontext()
    from sawyer.models import remote_code

    return remote_code(True)


def foreign_code(config: Config, stage: str) -> str:
    """The code that the config names for a stage, with its files; empty where it is ours. A config may come from others."""
    losses = [config.reward.loss] if stage == "reward" and config.reward is not None else []
    losses = [loss for loss in losses if parse_function_name(loss)]
    rewards = [part.function for part in config.rl.rewards if part.function] if stage == "rl" and config.rl is not None else []
    foreign = [name for name in dict.fromkeys([*losses, *rewards]) if user_function_source(name) != BUILT_IN_SOURCE]
    return ", ".join(f"{name} ({user_function_source(name)})" for name in foreign)


def log_foreign_code(config: Config, run: Run, stages: Sequence[str]) -> None:
    """Log which code the config names for these stages before any of it is imported."""
    coming_stages = [stage for stage in stages if run.manifest.stage(stage).status != "done"]
    if config.trust_remote_code and coming_stages:
        run.journal.event(coming_stages[0], "code", message="trust_remote_code: Python that lies with the models may run")
    for stage in ("reward", "rl"):
        if stage in coming_stages and (code := foreign_code(config, stage)):
            run.journal.event(stage, "code", message=f"{stage} runs Python that the config names: {code}")


@dataclass(slots=True)
class _StagePreflight:
    """A look at one stage that is to come."""

    config: Config
    layout: Layout
    stage: str
    coming_stages: Sequence[str]
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[SawyerError] = field(default_factory=list)
    files: list[Read] = field(default_factory=list)  # the files as they were read
    reads: dict[str, Read] = field(default_factory=dict)  # by setting, without the rows that a template refuses

    def plan(self, status: str) -> StagePlan:
        """All that can be known of the stage."""
        self._attempt(self._check_settings)
        readers = readers_of(self.config, self.layout, self.stage, self.coming_stages, self._attempt, self.facts)
        for source in self._sources():
            self._attempt(partial(self._read, source, readers))
        self._attempt(self._check_enough)
        if self.stage == "rl":
            rows = next((rows for setting, rows in self.reads.items() if setting.startswith("rl.")), None)
            self._attempt(partial(try_functions, self.config, [prompt_in(row) for row in rows.records[:2]] if rows else []))
        self._add_steps()
        if words := left_out(self.config, self.stage):
            self.facts.append(("left out", words))
        return StagePlan(
            stage=self.stage,
            status=status,
            facts=tuple(self.facts),
            problems=tuple({str(problem): problem for problem in self.problems}.values()),
            reads=tuple(self.files),
        )

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """What `work` returns; None where it is refused, which is noted."""
        try:
            return work()
        except SawyerError as error:
            self.problems.append(error)
            return None

    def _check_settings(self) -> None:
        """The models, functions and losses that the config names, as far as their files tell."""
        if self.config.model is not None:
            check_model_folder("model", self.config.model)
        _check_world(self.config)
        if self.stage == "collect" and self.config.collect is not None and self.config.collect.judge is not None:
            from sawyer.judges import read_key, settings_from

            read_key(settings_from(self.config.collect.judge.model_dump()))
        loss = self.config.reward.loss if self.stage == "reward" and self.config.reward is not None else ""
        if parse_function_name(loss) is not None:
            from sawyer.stages.reward.loss_choice import checked_loss

            checked_loss(loss)
        check_named_models(self.config, self.stage, partial(is_coming, self.layout, self.coming_stages))

    def _sources(self) -> list[DataSource]:
        """What the stage will read; collected answers once they exist and are not to be collected again."""
        exists = "collect" not in self.coming_stages and self.layout.answers.exists()
        sources = sources_of(self.config, self.stage, self.layout.judged_files())
        return [source for source in sources if source.setting != COLLECT_SETTING or exists]

    def _read(self, source: DataSource, readers: Sequence[ModelReader]) -> None:
        rows = read(source.paths, want=source.want, columns=source.columns, max_bad_rows=source.max_bad_rows)
        self.files.append(rows)
        self.reads[source.setting] = rows
        for reader in readers:
            left = self._attempt(partial(reader.readable_rows, self.config, source, rows)) or rows
            if reader.is_scorer and source.want != "prompts":  # the pairs are learned from: only their prompts are answered
                warning = replace(left, problems=left.problems[len(rows.problems) :]).warning
                self.facts += [("warning", warning)] if warning else []
            else:
                self.reads[source.setting] = rows = left
                self._attempt(partial(reader.check_room, source, rows))
        if source.want == "prompts" and not source.by_fields:
            self.reads[source.setting] = once_each(rows)

    def _check_enough(self) -> None:
        """Raise DataError where nothing can be learned from all that the stage reads, taken together."""
        sources = [source for source in self._sources() if source.want in ("labels", "comparisons")]
        if any(source.setting not in self.reads for source in sources):
            return  # its file is a problem already
        records = [record for source in sources for record in self.reads[source.setting].records]
        if self.stage in ("reward", "rl") and self.config.collect is not None:
            answers = self.reads[COLLECT_SETTING].records if COLLECT_SETTING in self.reads else ()
            if not any(isinstance(row, JudgedPrompt) and not row.is_pair and row.scores for row in answers):
                return  # they are yet to be collected, or to be scored
        if records and (problem := insufficient(records, sources[0].want)) is not None:
            if "reward" in self.coming_stages and any(isinstance(row, JudgedPrompt) and row.rater for row in records):
                # People's votes that prefer nothing are refused by the stage, with a verdict on the run's page.
                self.facts.append(("warning", problem.message))
                return
            raise DataError(problem.message, where=problem.where, todo=problem.todo)

    def _add_steps(self) -> None:
        """Rows and steps, where the stage's files could be read."""
        sources = {source.setting: source for source in self._sources()}
        for setting, rows in self.reads.items():
            source = sources[setting]
            records = rows.records[: source.limit]
            num_eval = len(split(records, source.eval_fraction)[1]) if source.eval_fraction and source.want != "labels" else 0
            kind = f" ({rows.format})" if source.want not in ("text", "prompts") else ""
            held_out = f", {num_eval:,} of them held out" if num_eval else ""
            self.facts.append((setting, f"{len(records):,} {NOUNS[source.want]}{kind}{held_out}{rows.remarks()}"))
            if rows.warning:
                self.facts.append(("warning", rows.warning))
        if words := steps_in_words(self.config, self.stage, self.reads):
            self.facts.append(("steps", words))


def _check_world(config: Config) -> None:
    """The packaged base model must come from the world as it is now."""
    if config.world is None or config.model is None:
        return
    note = Path(config.model) / "world.txt"
    if note.exists() and note.read_text().strip() != VERSION:
        raise ModelError(
            f"the base model in {config.model} was trained on world version {note.read_text().strip()}",
            expected=f"version {VERSION}",
            why="the questions of this world need facts that it was not trained on",
            todo="train it again: `make world-base`",
        )


def steps_in_words(config: Config, stage: str, reads: Mapping[str, Read]) -> str:
    """How many steps a stage takes, by its settings and the rows that its files give; rows that turn out too long take none."""
    section = getattr(config, stage)
    if stage == "rl":
        return _rl_steps(config, reads)
    if stage in ("sft", "reward", "classify"):
        files = [rows.records for rows in reads.values() if rows.records]
        count = sum(len(split(rows, section.eval_fraction)[0]) if stage != "classify" else len(rows) for rows in files)
        count = round(count * (1 - section.eval_fraction)) if stage == "classify" else count
        steps = math.ceil(max(1, round(section.epochs * count)) / section.batch_size)
        return f"about {steps:,} of {section.batch_size} {'prompts' if stage == 'reward' else 'rows'}" if count else ""
    if stage == "base":
        return f"{section.tokens:,} tokens in all"
    count = sum(len(rows.records[: section.limit]) for rows in reads.values())
    if stage == "collect":
        return f"{count:,} prompts x {section.answers} answers{_judge_calls(section, count)}"
    own_models = {name for name in ("sft", "rl") if getattr(config, name) is not None}
    own_models |= {"base"} if config.model is not None or config.base is not None else set()
    models = [*(name for name in RUN_MODELS if name in own_models), *section.models]
    return f"{count or 'six well-known'} prompts to {', '.join(models)}"


def _judge_calls(collect: Collect, prompts: int) -> str:
    """The most calls that a judge takes, in words; empty without one."""
    if collect.judge is None:
        return ""
    from sawyer.judges import count_calls

    calls = count_calls(collect.judge.method, prompts, collect.answers)
    return f"; at most {calls:,} calls of the judge {collect.judge.model} ({urlsplit(collect.judge.url).netloc})"


def _rl_steps(config: Config, reads: Mapping[str, Read]) -> str:
    rl = config.rl
    assert rl is not None
    if rl.algorithm == "best_of_n":
        return f"none: of {rl.group_size} answers to each held-out prompt the best is given"
    if rl.algorithm != "dpo":
        return f"{rl.episodes // rl.batch_size:,} updates of {rl.batch_size} answers ({rl.algorithm})"
    fraction = pairs_of(config)[1]
    count = sum(len(split(rows.records, fraction)[0]) for setting, rows in reads.items() if setting != "rl.prompts")
    return f"about {math.ceil(rl.epochs * count / rl.batch_size):,} updates of {rl.batch_size} prompts with their pairs (dpo)"
