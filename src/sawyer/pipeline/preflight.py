"""What a run will do, and what it would be refused for, before its first step: hours may lie between a mistake and the stage
that trips over it. `sawyer run` refuses by it, `sawyer check` shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.config import COMPARED, Config, Start, left_out, own_names, start_of
from sawyer.errors import DataError, SawyerError
from sawyer.pipeline.early import check_world
from sawyer.pipeline.given import check_given, check_there, try_functions
from sawyer.pipeline.order import STAGES, given_models, product
from sawyer.pipeline.sources import Source, sources_of
from sawyer.records import Read, leave_out, prompt_in, read, split
from sawyer.runs import Layout, is_complete, read_manifest

if TYPE_CHECKING:
    from sawyer.models.pretrained import Kind
    from sawyer.text import Codec


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
    wanted = [stage for stage in STAGES if getattr(config, stage) is not None and only in (None, stage)]
    done = {stage for stage in wanted if status[stage] in ("done", "waiting") and product(layout, stage).exists()}
    coming = [stage for stage in wanted if stage not in done]
    looks = {stage: _Look(config, layout, stage, coming) for stage in coming}
    with trusting(config):
        return [
            looks[stage].plan(status[stage]) if stage in looks else StagePlan(stage=stage, status=status[stage])
            for stage in wanted
        ]


def trusting(config: Config) -> AbstractContextManager[None]:
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
    reads: dict[str, Read] = field(default_factory=dict)  # by setting

    def plan(self, status: str) -> StagePlan:
        """All that can be known of the stage."""
        self._try(self._given)
        readers = self._readers()
        for source in sources_of(self.config, self.layout, self.stage):
            found = self._try(partial(self._read, source))
            for reader in readers if found is not None else ():
                self._try(partial(reader.look, source, found))
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
            reads=tuple(self.reads.values()),
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
        if own_names(loss) is not None:
            from sawyer.stages.reward.loss import checked_loss

            checked_loss(loss)
        check_given(self.config, self.stage, self._is_coming)

    def _readers(self) -> list[_Reader]:
        """The models that the stage opens can do what it asks of them; those that read its files, and how, is told."""
        found: list[_Reader | None] = []
        start = start_of(self.config, self.stage)
        kind: Kind = "classifier" if self.stage in ("reward", "classify") else "causal"
        if self.stage == "compare" and self.config.model is not None:
            start = Start(source=self.config.model, template=self.config.template)
        if start is not None:
            found.append(self._try(partial(self._kind, self.stage, start, kind)))
        for setting, source in given_models(self.config, self.stage).items():
            compared = setting.startswith("compare.models")
            if source != getattr(start, "source", None) and not self._is_coming(source):
                one = self._try(partial(self._kind, setting, Start(source=source), "causal" if compared else "classifier"))
                found += [one] if compared else []
        return [reader for reader in found if reader is not None]

    def _is_coming(self, source: str) -> bool:
        """Whether the model is one that this run is still to train."""
        folders = {stage: self.layout.model(stage) for stage in self.coming}
        return any(Path(source).resolve() == folder.resolve() and not is_complete(folder) for folder in folders.values())

    def _kind(self, setting: str, start: Start, kind: Kind) -> _Reader | None:
        """The reader of a model, by what is there of it: of a stage to come, by the model that this one starts from."""
        words = start.source or f"the {start.stage} stage's model"
        template = start.template
        while start.stage is not None and not is_complete(self.layout.model(start.stage)):
            below = start_of(self.config, start.stage)
            if below is None:  # a base model that is yet to be made reads any row
                self.facts.append(("model", words))
                return None
            start, template = below, below.template
        from sawyer.models import load_reader, load_tokenizer, look_at
        from sawyer.text import Codec, set_template

        source = start.path(self.layout.model)
        known = look_at(source, kind)
        tokenizer = load_tokenizer(source) if kind == "causal" else load_reader(source)
        if known.is_encoder or self.stage == "classify":
            self.facts.append(
                (_named(setting, self.stage), f"{words}, which reads {'texts' if self.stage == 'classify' else 'text pairs'}")
            )
            return None
        reads = set_template(tokenizer, template or "auto")
        self.facts.append((_named(setting, self.stage), f"{words}, which reads {reads}"))
        return _Reader(setting=setting, codec=Codec(tokenizer=tokenizer, context=known.context), bad=self.config.max_bad_rows)

    def _read(self, source: Source) -> Read:
        found = read(source.paths, want=source.want, columns=source.columns, max_bad_rows=self.config.max_bad_rows)
        self.reads[source.setting] = found
        return found

    def _steps(self) -> None:
        """Rows and steps, where the stage's files could be read."""
        for setting, found in self.reads.items():
            source = next(one for one in sources_of(self.config, self.layout, self.stage) if one.setting == setting)
            records = found.records[: source.limit]
            kept = len(split(records, source.held_out)[1]) if source.held_out and source.want != "labels" else 0
            aside = f", {kept:,} of them held out" if kept else ""
            kind = f" ({found.format})" if source.want not in ("text", "prompts") else ""
            self.facts.append((setting, f"{len(records):,} {NOUNS[source.want]}{kind}{aside}{found.remarks()}"))
            if found.warning:
                self.facts.append(("warning", found.warning))
        if words := steps_in_words(self.config, self.stage, self.reads):
            self.facts.append(("steps", words))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """How a stage's model reads conversations."""

    setting: str
    codec: Codec
    bad: float  # share of a file's rows that may be left out

    def look(self, source: Source, found: Read) -> None:
        """Raise DataError where the template refuses too many rows, and where no row leaves room for an answer."""
        from sawyer.text import limited, unrenderable

        if source.want in ("text", "labels"):
            return
        found = leave_out(found, unrenderable(self.codec, found.records), self.bad)
        prompts = [prompt_in(record) for record in found.records]
        prompts.sort(key=lambda prompt: sum(len(message.content) for message in prompt.messages))
        # Of prompts alone `max_tokens` bounds the prompt; of rows with answers, both together.
        codec = self.codec if source.want == "prompts" else limited(self.codec, source.max_tokens)
        most = (source.max_tokens or codec.context) if source.want == "prompts" else codec.context
        if prompts and not any(
            codec.fits(prompt, room=source.room) and len(codec.prompt(prompt)) <= most for prompt in prompts
        ):
            bound = "the model reads" if codec.context == self.codec.context else "max_tokens allows"
            raise DataError(
                f"{source.setting}: none of its {len(prompts):,} prompts leaves room for {source.room} new "
                f"token{'s' * (source.room > 1)} in the {codec.context:,} that {bound}"
                + f" and has at most the {most:,} of max_tokens"
                * (most < codec.context),
                where=str(prompts[0].where),
                expected="prompts that the model can answer",
                todo="give shorter prompts or a model that reads more"
                + ", or raise max_tokens" * (source.max_tokens is not None)
                + ", or lower rl.max_new_tokens" * (source.room > 1),
            )


NOUNS = {"text": "texts", "labels": "rows", "demonstrations": "rows", "prompts": "prompts", "comparisons": "judged prompts"}


def steps_in_words(config: Config, stage: str, reads: Mapping[str, Read]) -> str:
    """How many steps a stage takes, by its settings and the rows that its files give; rows that turn out too long take none."""
    section = getattr(config, stage)
    if stage == "rl":
        return _rl_steps(config, reads)
    if stage in ("sft", "reward", "classify"):
        found = [one for one in reads.values() if one.records]
        count = sum(len(split(one.records, section.held_out)[0]) if stage != "classify" else len(one.records) for one in found)
        count = round(count * (1 - section.held_out)) if stage == "classify" else count
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
        return f"none: of {rl.group} answers to each held-out prompt the best is given"
    if rl.algorithm != "dpo":
        return f"{rl.episodes // rl.batch_size:,} updates of {rl.batch_size} answers ({rl.algorithm})"
    count = sum(len(split(one.records, rl.held_out)[0]) for setting, one in reads.items() if setting != "rl.prompts")
    return f"about {math.ceil(rl.epochs * count / rl.batch_size):,} updates of {rl.batch_size} prompts with their pairs (dpo)"


def _named(setting: str, stage: str) -> str:
    return "model" if setting == stage else setting
