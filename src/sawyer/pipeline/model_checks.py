"""Models and functions that a config names, looked at before anything is trained: what their files tell, unloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.config import Config, load_user_function
from sawyer.errors import ConfigError, ModelError, TrainingError
from sawyer.pipeline.stage_graph import given_models
from sawyer.records import Prompt
from sawyer.runs import base_of, is_adapter, is_local, language_model, model_in_run, settings_of

# How config.json calls the number of layers: BERT and Llama, GPT-2, DistilBERT, some others.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
WITH_LABEL = "add `label:` with one of them ({}), or "
TRIED = ("An answer in a few words.", "")  # a policy may also end at once


def check_given(config: Config, stage: str, is_coming: Callable[[str], bool]) -> None:
    """Raise ModelError or ConfigError for given models that a stage yet to be done would stumble over, hours later.

    `is_coming` tells the models that the run itself is to train before.
    """
    given = {setting: source for setting, source in given_models(config, stage).items() if not is_coming(source)}
    for setting, source in given.items():
        check_there(setting, source)
    _check_freeze(config, stage)
    if stage == "rl" and config.rl is not None:
        for part in config.rl.rewards:
            if f"rl.rewards.{part.name}" in given:
                _check_judge(f"rl.rewards, {part.name}: {part.model}", part.label, settings_of(str(part.model)), WITH_LABEL)
    if "compare.reward" in given:
        source = given["compare.reward"]
        _check_judge(f"compare.reward: {source}", None, settings_of(source), "")


def check_there(setting: str, source: str) -> None:
    """Raise ModelError where a setting names a folder that is no model's; a hub id passes."""
    there = os.path.isdir(source)
    if is_adapter(source):
        base_of(source)  # says which model it needs and does not find
        return
    if (there and not os.path.isfile(Path(source) / "config.json")) or (not there and is_local(source)):
        if inside := model_in_run(source):
            raise ModelError(f"{setting}: {source} is a run's folder", expected="a model's folder", todo=inside)
        raise ModelError(
            f"{setting}: {source} has no config.json" if there else f"{setting}: there is no model folder {source}",
            expected="a folder in Hugging Face's format, or a hub id",
            todo="check the path; it is taken from the folder the command runs in",
        )


def _check_freeze(config: Config, stage: str) -> None:
    """No more layers are to be frozen than the model has, where its config.json says how many that is."""
    section = getattr(config, stage)
    asked = getattr(section, "freeze", 0)
    if not isinstance(asked, int) or not asked:
        return
    source = getattr(section, "model", None) or config.model
    layers = _layers(settings_of(source)) if source is not None else config.base.layers if config.base is not None else None
    if layers is not None and asked > layers:
        raise ConfigError(
            f"{stage}.freeze: {asked} layers, but the model has {layers}",
            expected=f"0 to {layers}",
            todo=f"give at most {layers}",
        )


def _layers(settings: Mapping[str, Any]) -> int | None:
    text = settings.get("text_config")
    places = (settings, text) if isinstance(text, Mapping) else (settings,)
    found = (place.get(name) for place in places for name in LAYERS)
    return next((number for number in found if isinstance(number, int)), None)


def _check_judge(where: str, label: str | None, settings: Mapping[str, Any], ask: str) -> None:
    """One of which a label is asked is a classifier that knows it; any other is a reward model. `ask`: how a label is asked
    there, empty where none can be."""
    if not settings:
        return
    if speaks := language_model(settings):
        raise ModelError(
            f"{where} is a language model ({speaks})",
            expected="a reward model or a classifier" if ask else "a reward model",
            why="it has no head that scores an answer; a random one would be believed",
            todo="name a reward model's folder, or train one with `sawyer reward`",
        )
    labels = _labels(settings)
    ours = settings.get("sawyer") or {}
    heads = int((ours.get("ensemble") or {}).get("heads", 1))
    if label is None and len(labels) != heads:
        raise ModelError(
            f"{where} has {len(labels)} labels",
            expected="one: the reward",
            why="it is a classifier, and which of its labels is wanted is not said",
            todo=f"{ask.format(', '.join(labels[:12]))}name a reward model",
        )
    if label is not None and len(labels) < 2:
        raise ModelError(
            f"{where} has one label",
            expected="a classifier: two labels or more",
            why="one label is a reward model's, whose score is no probability",
            todo="leave `label` out to be paid its score, or name a classifier",
        )
    if label is not None and label not in labels:
        raise ModelError(
            f"{where} has no label {label!r}",
            expected=f"one of: {', '.join(labels[:12])}",
            todo="name one of its labels, as its config.json has them",
        )


def _labels(settings: Mapping[str, Any]) -> list[str]:
    """The labels in the order of their numbers; transformers takes two, by number, where a config.json names none."""
    named = settings.get("id2label")
    if isinstance(named, Mapping) and all(str(key).isdecimal() for key in named):
        return [str(named[key]) for key in sorted(named, key=int)]
    return [f"LABEL_{number}" for number in range(int(settings.get("num_labels", 2)))]


def try_functions(config: Config, prompts: Sequence[Prompt]) -> None:
    """A user's own rewards are found, and asked about two of RL's prompts: one answered in words, one with nothing.

    Raises ConfigError for one that is not there, TrainingError for one that fails. Without prompts it is only looked for.
    """
    rewards = config.rl.rewards if config.rl is not None else []
    parts = [part for part in rewards if part.function is not None]
    functions = [load_user_function(str(part.function), f"rl.rewards, {part.name}") for part in parts]
    if not parts or not prompts:
        return
    from sawyer.models import FunctionScorer, RewardComponent, WeightedScorer

    scorers = [FunctionScorer(function, str(part.function)) for part, function in zip(parts, functions, strict=True)]
    for part, scorer in zip(parts, scorers, strict=True):
        try:
            scorer([prompts[0], prompts[-1]], list(TRIED))
        except TrainingError as error:
            raise TrainingError(
                f"rl.rewards, {part.name}: {error.given}, tried on two prompts of rl.prompts, the second answered with nothing",
                expected=error.expected,
                why=error.why,
                todo=error.todo,
            ) from error
    if len(parts) == len(rewards):  # a model applies to every answer; functions alone may leave one without a reward
        together = [
            RewardComponent(name=part.name, weight=part.weight, scorer=one) for part, one in zip(parts, scorers, strict=True)
        ]
        WeightedScorer(together)([prompts[0], prompts[-1]], list(TRIED))
