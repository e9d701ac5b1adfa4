"""The models that read a stage's files, looked at before the stage runs: which there are, and which rows they can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.config import Config, DataSource, Start, start_of
from sawyer.errors import DataError, SawyerError
from sawyer.pipeline.stage_graph import given_models
from sawyer.records import Read, leave_out, prompt_in
from sawyer.runs import Layout, is_complete

if TYPE_CHECKING:
    from sawyer.text import PromptEncoder

Try = Callable[[Callable[[], Any]], Any]  # what it gives; None where it is refused, which is kept
THE_JUDGE = "the reward model"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardReader:
    """How a model reads conversations. `name` is told where it is not the stage's own model."""

    prompt_encoder: PromptEncoder
    name: str = ""
    is_scorer: bool = False  # it reads the answers to prompts, and no files of answers

    def readable(self, config: Config, source: DataSource, found: Read) -> Read:
        """What was read without the rows that the template refuses. Raises DataError where they are too many."""
        from sawyer.text import find_unrenderable

        asks = source.want == "prompts" or (source.setting == "rl.data" and config.rl is not None and not config.rl.prompts)
        if source.want in ("text", "labels") or (self.is_scorer and not asks):
            return found
        return leave_out(found, find_unrenderable(self.prompt_encoder, found.records, by=self.name), config.max_bad_rows)

    def check_room(self, source: DataSource, found: Read) -> None:
        """Raise DataError where no prompt leaves room for an answer."""
        from sawyer.text import limit_tokens

        if source.want in ("text", "labels") or self.is_scorer:
            return
        whole, alone = self.prompt_encoder, source.want == "prompts"
        # Prompts alone have `max_prompt_tokens`; of rows with answers `max_tokens` bounds both together.
        name = "max_prompt_tokens" if alone else "max_tokens"
        cut = whole if alone else limit_tokens(whole, source.max_tokens)
        most = source.max_tokens if alone and source.max_tokens is not None else whole.context
        prompts = sorted(map(prompt_in, found.records), key=lambda prompt: sum(len(one.content) for one in prompt.messages))
        if not prompts or any(
            whole.fits(prompt, room=source.room) and cut.fits(prompt) and len(whole.prompt(prompt)) <= most
            for prompt in prompts
        ):
            return
        by_limit = not any(cut.fits(prompt) for prompt in prompts) and cut.context < whole.context
        room, context = (1, cut.context) if by_limit else (source.room, whole.context)
        raise DataError(
            f"{source.setting}: none of its {len(prompts):,} prompts leaves room for {room} new "
            f"token{'s' * (room > 1)} in the {context:,} that {'max_tokens allows' if by_limit else 'the model reads'}"
            + f" and has at most the {most:,} of {name}"
            * (most < whole.context),
            where=str(prompts[0].where),
            expected="prompts that the model can answer",
            todo="give shorter prompts or a model that reads more"
            + f", or raise {name}" * (source.max_tokens is not None)
            + ", or lower rl.max_new_tokens" * (room > 1),
        )


def is_coming(layout: Layout, coming: Sequence[str], source: str) -> bool:
    """Whether the model is one that this run is still to train."""
    folders = map(layout.model, coming)
    return any(Path(source).resolve() == folder.resolve() and not is_complete(folder) for folder in folders)


def readers_of(
    config: Config, layout: Layout, stage: str, coming: Sequence[str], attempt: Try, facts: list[tuple[str, str]]
) -> list[RewardReader]:
    """The models that the stage opens can do what it asks of them; those that read its files, and how, is added to `facts`.
    `coming`: the stages that are still to be done."""
    look, found = _ReaderLook(config=config, layout=layout, stage=stage, facts=facts), list[RewardReader | None]()
    start = start_of(config, stage)
    if stage == "compare" and config.model is not None:
        start = Start(source=config.model, template=config.template)
    if start is not None:
        judges = stage in ("reward", "classify")
        name = "`base`" if stage == "compare" else ""
        found.append(attempt(partial(look.judge if judges else look.speaker, "model", start, name)))
    for setting, source in given_models(config, stage).items():
        if source == getattr(start, "source", None) or is_coming(layout, coming, source):
            continue
        given = Start(source=source)
        if setting.startswith("compare.models."):
            found.append(attempt(partial(look.speaker, setting, given, f"`{setting.removeprefix('compare.models.')}`")))
        else:
            part = setting.removeprefix("rl.rewards.")
            name = THE_JUDGE if part == setting else f"{THE_JUDGE} `{part}`"
            found.append(attempt(partial(look.judge, setting, given, name, scores=True, texts=_is_label(config, part))))
    if (own_name := _own_judge(config, stage)) is not None:
        own = partial(look.judge, "", Start(stage="reward"), own_name, scores=True)
        found.append(attempt(own) if "reward" not in coming else _or_none(own))
    return [reader for reader in found if reader is not None]


def _own_judge(config: Config, stage: str) -> str | None:
    """How the run's own reward model is named where it scores the stage's answers; None where it does not."""
    if config.reward is None:
        return None
    if stage == "compare" and config.compare is not None:
        return THE_JUDGE if config.compare.reward is None else None
    if stage != "rl" or config.rl is None:
        return None
    if not config.rl.rewards:
        return THE_JUDGE
    return next((f"{THE_JUDGE} `{part.name}`" for part in config.rl.rewards if part.is_stage), None)


def _is_label(config: Config, name: str) -> bool:
    parts = config.rl.rewards if config.rl is not None else []
    return any(part.name == name and part.label is not None for part in parts)


def _or_none(work: Callable[[], RewardReader | None]) -> RewardReader | None:
    """What is wrong with a model that an earlier stage is to train is told of that stage."""
    try:
        return work()
    except SawyerError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReaderLook:
    """A look at the models of one stage."""

    config: Config
    layout: Layout
    stage: str
    facts: list[tuple[str, str]]

    def speaker(self, setting: str, start: Start, name: str) -> RewardReader | None:
        """A language model as a stage would open it; None for one of which there is nothing to look at yet."""
        from sawyer.models import model_facts, open_tokenizer
        from sawyer.text import PromptEncoder

        known = self._there(setting, start)
        if known is None:
            return None
        source, template, words = known
        context = model_facts(source, "causal").context
        tokenizer, reads = open_tokenizer(source, template)
        self._tell(setting, words, reads)
        return RewardReader(prompt_encoder=PromptEncoder(tokenizer=tokenizer, context=context), name=name)

    def judge(self, setting: str, start: Start, name: str, *, scores: bool = False, texts: bool = False) -> RewardReader | None:
        """A reward model or classifier as a stage would open it; None for one that reads any row."""
        from sawyer.models import load_reader, model_facts, set_reward_template
        from sawyer.text import ConversationEncoder

        known = self._there(setting, start)
        if known is None:
            return None
        source, template, words = known
        facts, tokenizer = model_facts(source, "classifier"), load_reader(source)
        texts = texts or self.stage == "classify"
        if facts.is_encoder or texts:
            self._tell(setting, words, "texts" if texts else "text pairs")
            return None
        reads, _ = set_reward_template(source, tokenizer, template, self.config.template)
        self._tell(setting, words, reads)
        return RewardReader(
            prompt_encoder=ConversationEncoder(tokenizer=tokenizer, context=facts.context), name=name, is_scorer=scores
        )

    def _there(self, setting: str, start: Start) -> tuple[str | Path, str | None, str] | None:
        """(folder or hub id, template, in words) of what is there of a model: of a stage to come, that which it starts from."""
        words = start.source or f"the {start.stage} stage's model"
        template = start.template
        while start.stage is not None and not is_complete(self.layout.model(start.stage)):
            below = start_of(self.config, start.stage)
            if below is None:  # a base model that is yet to be made reads any row
                self.facts.extend([("model", words)] * bool(setting))
                return None
            start, template = below, below.template
        return start.path(self.layout.model), template, words

    def _tell(self, setting: str, words: str, reads: str) -> None:
        if setting:
            self.facts.append((setting, f"{words}, which reads {reads}"))
