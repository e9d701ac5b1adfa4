"""Models and functions that a config names, before anything is trained: what their files tell, and which rows they can read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.config import Config, DataSource, Start, load_user_function, start_of
from sawyer.errors import ConfigError, DataError, ModelError, SawyerError, TrainingError
from sawyer.pipeline.stage_graph import named_models
from sawyer.records import Prompt, Read, leave_out, prompt_in
from sawyer.runs import Layout, base_of, is_adapter, is_complete, is_local, language_model, model_in_run, settings_of
from sawyer.train import distributed

if TYPE_CHECKING:
    from sawyer.text import PromptEncoder

# How config.json calls the number of layers: BERT and Llama, GPT-2, DistilBERT, some others.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
WITH_LABEL = "add `label:` with one of them ({}), or "
TRIAL_RESPONSES = ("An answer in a few words.", "")  # a policy can produce an empty response
REWARD_MODEL = "the reward model"
Attempt = Callable[[Callable[[], Any]], Any]  # runs a check; returns None where it is refused, and notes that


def check_named_models(config: Config, stage: str, is_coming: Callable[[str], bool]) -> None:
    """Raise ModelError or ConfigError for models that a section names and its stage could not use.

    `is_coming(source)`: whether this run is to train the model itself before.
    """
    sources = {setting: source for setting, source in named_models(config, stage).items() if not is_coming(source)}
    for setting, source in sources.items():
        check_model_folder(setting, source)
    _check_freeze(config, stage)
    if stage == "rl" and config.rl is not None:
        for part in config.rl.rewards:
            if f"rl.rewards.{part.name}" in sources:
                _check_scorer(f"rl.rewards, {part.name}: {part.model}", part.label, settings_of(str(part.model)), WITH_LABEL)
    if "compare.reward" in sources:
        source = sources["compare.reward"]
        _check_scorer(f"compare.reward: {source}", None, settings_of(source), "")


def check_model_folder(setting: str, source: str) -> None:
    """Raise ModelError where a setting names a folder that holds no model; a hub id passes."""
    exists = os.path.isdir(source)
    if is_adapter(source):
        base_of(source)  # raises where the model that it adapts could not be found
        return
    if (exists and not os.path.isfile(Path(source) / "config.json")) or (not exists and is_local(source)):
        if inside := model_in_run(source):
            raise ModelError(f"{setting}: {source} is a run's folder", expected="a model's folder", todo=inside)
        raise ModelError(
            f"{setting}: {source} has no config.json" if exists else f"{setting}: there is no model folder {source}",
            expected="a folder in Hugging Face's format, or a hub id",
            todo="check the path; it is taken from the folder the command runs in",
        )


def _check_freeze(config: Config, stage: str) -> None:
    """No more layers are to be frozen than the model has, where its config.json says how many that is."""
    section = getattr(config, stage)
    freeze = getattr(section, "freeze", 0)
    if not isinstance(freeze, int) or not freeze:
        return
    source = getattr(section, "model", None) or config.model
    layers = _layers(settings_of(source)) if source is not None else getattr(config.base, "layers", None)
    if layers is not None and freeze > layers:
        raise ConfigError(
            f"{stage}.freeze: {freeze} layers, but the model has {layers}",
            expected=f"0 to {layers}",
            todo=f"give at most {layers}",
        )


def _layers(settings: Mapping[str, Any]) -> int | None:
    text = settings.get("text_config")
    sections = (settings, text) if isinstance(text, Mapping) else (settings,)
    counts = (section.get(name) for section in sections for name in LAYERS)
    return next((count for count in counts if isinstance(count, int)), None)


def _check_scorer(where: str, label: str | None, settings: Mapping[str, Any], advice: str) -> None:
    """With a label it is a classifier that has this label, without one a reward model. `advice`: how the section names a
    label, empty where it cannot."""
    if not settings:
        return
    if architecture := language_model(settings):
        raise ModelError(
            f"{where} is a language model ({architecture})",
            expected="a reward model or a classifier" if advice else "a reward model",
            why="it has no head that scores an answer; a random one would be believed",
            todo="name a reward model's folder, or train one with `sawyer reward`",
        )
    labels = _labels_of(settings)
    heads = int(((settings.get("sawyer") or {}).get("ensemble") or {}).get("heads", 1))
    if label is None and len(labels) != heads:
        raise ModelError(
            f"{where} has {len(labels)} labels",
            expected="one: the reward",
            why="it is a classifier, and no label of it is named",
            todo=f"{advice.format(', '.join(labels[:12]))}name a reward model",
        )
    if label is not None and len(labels) < 2:
        raise ModelError(
            f"{where} has one label",
            expected="a classifier: two labels or more",
            why="one label is a reward model's, whose score is no probability",
            todo="leave `label` out to use its score, or name a classifier",
        )
    if label is not None and label not in labels:
        raise ModelError(
            f"{where} has no label {label!r}",
            expected=f"one of: {', '.join(labels[:12])}",
            todo="name one of its labels, as its config.json has them",
        )


def _labels_of(settings: Mapping[str, Any]) -> list[str]:
    """The labels in the order of their numbers; transformers takes two, by number, where a config.json names none."""
    labels = settings.get("id2label")
    if isinstance(labels, Mapping) and all(str(key).isdecimal() for key in labels):
        return [str(labels[key]) for key in sorted(labels, key=int)]
    return [f"LABEL_{number}" for number in range(int(settings.get("num_labels", 2)))]


def try_functions(config: Config, prompts: Sequence[Prompt]) -> None:
    """Call each user's reward on two of RL's prompts, one with an answer in words, one with an empty response.

    Raises ConfigError for one that does not exist, TrainingError for one that fails. Without prompts it is only imported. Of
    several processes rank 0 calls it: it may be a service that counts its calls.
    """
    rewards = config.rl.rewards if config.rl is not None else []
    parts = [part for part in rewards if part.function is not None]
    functions = [load_user_function(str(part.function), f"rl.rewards, {part.name}") for part in parts]
    if not parts or not prompts:
        return
    from sawyer.models import FunctionScorer, RewardComponent, WeightedScorer

    scorers = [
        FunctionScorer(function, str(part.function), call=distributed.on_rank_zero)
        for part, function in zip(parts, functions, strict=True)
    ]
    for part, scorer in zip(parts, scorers, strict=True):
        try:
            scorer([prompts[0], prompts[-1]], list(TRIAL_RESPONSES))
        except TrainingError as error:
            raise TrainingError(
                f"rl.rewards, {part.name}: {error.given}, tried on two prompts of rl.prompts, the second with an empty "
                "response",
                expected=error.expected,
                why=error.why,
                todo=error.todo,
            ) from error
    if len(parts) == len(rewards):  # a model applies to every answer; functions alone may leave one without a reward
        pairs = zip(parts, scorers, strict=True)
        WeightedScorer([RewardComponent(name=part.name, weight=part.weight, scorer=scorer) for part, scorer in pairs])(
            [prompts[0], prompts[-1]], list(TRIAL_RESPONSES)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReader:
    """How a model reads conversations. `name` is empty for the model that the stage trains or starts from."""

    prompt_encoder: PromptEncoder
    name: str = ""
    is_scorer: bool = False  # it reads the answers to prompts, and no files of answers

    def readable_rows(self, config: Config, source: DataSource, rows: Read) -> Read:
        """The rows without those that the template refuses. Raises DataError where these are too many."""
        from sawyer.text import find_unrenderable

        needs_prompts = source.want == "prompts" or (
            source.setting == "rl.data" and config.rl is not None and not config.rl.prompts
        )
        if source.want in ("text", "labels") or (self.is_scorer and not needs_prompts):
            return rows
        return leave_out(rows, find_unrenderable(self.prompt_encoder, rows.records, by=self.name), config.max_bad_rows)

    def check_room(self, source: DataSource, rows: Read) -> None:
        """Raise DataError where no prompt leaves room for an answer."""
        from sawyer.text import limit_tokens

        if source.want in ("text", "labels") or self.is_scorer:
            return
        whole, alone = self.prompt_encoder, source.want == "prompts"
        # Prompts alone have `max_prompt_tokens`; of rows with answers `max_tokens` bounds both together.
        name = "max_prompt_tokens" if alone else "max_tokens"
        cut = whole if alone else limit_tokens(whole, source.max_tokens)
        most = source.max_tokens if alone and source.max_tokens is not None else whole.context
        prompts = sorted(
            map(prompt_in, rows.records), key=lambda prompt: sum(len(message.content) for message in prompt.messages)
        )
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


def is_coming(layout: Layout, coming_stages: Sequence[str], source: str) -> bool:
    """Whether this run is still to train the model."""
    folders = map(layout.model, coming_stages)
    return any(Path(source).resolve() == folder.resolve() and not is_complete(folder) for folder in folders)


def readers_of(
    config: Config, layout: Layout, stage: str, coming_stages: Sequence[str], attempt: Attempt, facts: list[tuple[str, str]]
) -> list[ModelReader]:
    """The models with which the stage reads its files; how each reads is added to `facts`. `coming_stages` are not
    done yet."""
    look, readers = _ReaderLook(config=config, layout=layout, stage=stage, facts=facts), list[ModelReader | None]()
    start = start_of(config, stage)
    if stage == "compare" and config.model is not None:
        start = Start(source=config.model, template=config.template)
    if start is not None:
        open_model = look.scorer if stage in ("reward", "classify") else look.language_model
        readers.append(attempt(partial(open_model, "model", start, "`base`" if stage == "compare" else "")))
    for setting, source in named_models(config, stage).items():
        if source == getattr(start, "source", None) or is_coming(layout, coming_stages, source):
            continue
        model_start = Start(source=source)
        if setting.startswith("compare.models."):
            readers.append(
                attempt(partial(look.language_model, setting, model_start, f"`{setting.removeprefix('compare.models.')}`"))
            )
        else:
            part = setting.removeprefix("rl.rewards.")
            name = REWARD_MODEL if part == setting else f"{REWARD_MODEL} `{part}`"
            readers.append(
                attempt(partial(look.scorer, setting, model_start, name, scores=True, texts=_is_label(config, part)))
            )
    if (run_scorer := _run_scorer_name(config, stage)) is not None:
        work = partial(look.scorer, "", Start(stage="reward"), run_scorer, scores=True)
        # Before the reward stage is done, what is wrong with the model it starts from is a problem of that stage.
        readers.append(attempt(work) if "reward" not in coming_stages else _or_none(work))
    return [reader for reader in readers if reader is not None]


def _run_scorer_name(config: Config, stage: str) -> str | None:
    """The name in messages of the run's reward model, where it scores the stage's answers; None where it does not."""
    if config.reward is None:
        return None
    if stage == "compare" and config.compare is not None:
        return REWARD_MODEL if config.compare.reward is None else None
    if stage != "rl" or config.rl is None:
        return None
    if not config.rl.rewards:
        return REWARD_MODEL
    return next((f"{REWARD_MODEL} `{part.name}`" for part in config.rl.rewards if part.is_stage), None)


def _is_label(config: Config, name: str) -> bool:
    parts = config.rl.rewards if config.rl is not None else []
    return any(part.name == name and part.label is not None for part in parts)


def _or_none(work: Callable[[], ModelReader | None]) -> ModelReader | None:
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

    def language_model(self, setting: str, start: Start, name: str) -> ModelReader | None:
        """A language model as a stage would open it; None for one of which there is nothing to look at yet."""
        from sawyer.models import model_facts, open_tokenizer
        from sawyer.text import PromptEncoder

        available = self._available(setting, start)
        if available is None:
            return None
        source, template, words = available
        context = model_facts(source, "causal").context
        tokenizer, reads = open_tokenizer(source, template)
        self._add_fact(setting, words, reads)
        return ModelReader(prompt_encoder=PromptEncoder(tokenizer=tokenizer, context=context), name=name)

    def scorer(self, setting: str, start: Start, name: str, *, scores: bool = False, texts: bool = False) -> ModelReader | None:
        """A reward model or classifier as a stage would open it; None for one that reads any row."""
        from sawyer.models import load_reader, model_facts, set_reward_template
        from sawyer.text import ConversationEncoder

        available = self._available(setting, start)
        if available is None:
            return None
        source, template, words = available
        facts, tokenizer = model_facts(source, "classifier"), load_reader(source)
        texts = texts or self.stage == "classify"
        if facts.is_encoder or texts:
            self._add_fact(setting, words, "texts" if texts else "text pairs")
            return None
        reads, _ = set_reward_template(source, tokenizer, template, self.config.template)
        self._add_fact(setting, words, reads)
        return ModelReader(
            prompt_encoder=ConversationEncoder(tokenizer=tokenizer, context=facts.context), name=name, is_scorer=scores
        )

    def _available(self, setting: str, start: Start) -> tuple[str | Path, str | None, str] | None:
        """(folder or hub id, template, in words) of a model; of a stage to come, those of the model that it starts from."""
        words = start.source or f"the {start.stage} stage's model"
        template = start.template
        while start.stage is not None and not is_complete(self.layout.model(start.stage)):
            below = start_of(self.config, start.stage)
            if below is None:  # a base model that is yet to be trained reads any row
                self.facts.extend([("model", words)] * bool(setting))
                return None
            start, template = below, below.template
        return start.path(self.layout.model), template, words

    def _add_fact(self, setting: str, words: str, reads: str) -> None:
        if setting:
            self.facts.append((setting, f"{words}, which reads {reads}"))
