"""The RL reward: the run's reward model, or a weighted sum of named parts. Can the value network start from it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from sawyer.config import Config, RewardPart, load_user_function, required_section
from sawyer.errors import ConfigError
from sawyer.models import (
    Classifier,
    FunctionScorer,
    LabelScorer,
    LanguageModel,
    LoadNetwork,
    RewardComponent,
    RewardScorer,
    Scorer,
    WeightedScorer,
    load_reward,
    score_head,
)
from sawyer.records import Prompt
from sawyer.runs import Run
from sawyer.text import TextPairEncoder
from sawyer.train import distributed

STAGE = "rl"


def zero_scorer(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """The scorer of a run without one: dpo from pairs alone. No metric is made of it."""
    return [0.0] * len(responses)


def open_scorer(config: Config, run: Run, device: torch.device, load: LoadNetwork = load_reward) -> Scorer:
    """The run's reward model, unless `rl.rewards` names parts. `load` opens a reward model's network."""
    if not config.is_scored:
        return zero_scorer
    parts = required_section(config.rl, "rl").rewards
    if not parts:
        return RewardScorer.load(run.layout.model("reward"), device=device, load=load, map_rows=distributed.map_sharded)
    return WeightedScorer(
        [
            RewardComponent(name=part.name, weight=part.weight, scorer=_open_part(part, config, run, device, load))
            for part in parts
        ]
    )


def _open_part(part: RewardPart, config: Config, run: Run, device: torch.device, load: LoadNetwork) -> Scorer | FunctionScorer:
    if part.function is not None:
        return FunctionScorer(load_user_function(part.function, "rl.rewards"), part.function, call=distributed.on_rank_zero)
    assert part.model is not None
    if part.label is not None:
        classifier = Classifier(part.model, device=device, map_rows=distributed.map_sharded)
        return LabelScorer(classifier, part.label, probability=part.measure == "probability")
    if part.is_stage:
        return RewardScorer.load(run.layout.model("reward"), device=device, load=load, map_rows=distributed.map_sharded)
    scorer = RewardScorer.load(part.model, device=device, fallback=config.template, load=load, map_rows=distributed.map_sharded)
    if scorer.note:
        run.journal.event(STAGE, "warning", message=f"rl.rewards: {scorer.note}")
    return scorer


def parts_of(scorer: Scorer) -> Iterator[tuple[str, Scorer | FunctionScorer]]:
    """Every scorer that gives a score by itself, with its name in messages."""
    if isinstance(scorer, WeightedScorer):
        for part in scorer.parts:
            yield f"the reward model `{part.name}`" if isinstance(part.scorer, RewardScorer) else part.name, part.scorer
    else:
        yield "the reward model", scorer


def stage_reward_model(config: Config, scorer: Scorer) -> RewardScorer | None:
    """The run's reward model, if it is a part of the reward."""
    if isinstance(scorer, WeightedScorer):
        parts = zip(scorer.parts, required_section(config.rl, "rl").rewards, strict=True)
        models: Iterator[Any] = (part.scorer for part, settings in parts if settings.is_stage)
        return next(models, None)
    return scorer if isinstance(scorer, RewardScorer) else None


def sft_disagreement(scorer: Scorer) -> float | None:
    """The disagreement of the first ensemble's members on the SFT model's answers; None where there is no ensemble."""
    ensembles = (part for _, part in parts_of(scorer) if isinstance(part, RewardScorer) and len(part.members) > 1)
    return next((part.ensemble.own_disagreement for part in ensembles), None)


def has_only_models(scorer: Scorer) -> bool:
    """Whether every part was trained on judgements: none is a user's function."""
    return all(isinstance(part, RewardScorer | LabelScorer) for _, part in parts_of(scorer))


def reward_networks(scorer: Scorer) -> list[nn.Module]:
    """The reward models' networks, each once."""
    networks = (member.model for _, part in parts_of(scorer) if isinstance(part, RewardScorer) for member in part.members)
    return list(dict.fromkeys(networks))


def warn_of_cut_answers(run: Run, scorer: Scorer) -> None:
    """A warning for each part that could not read all of an answer."""
    for name, part in parts_of(scorer):
        if isinstance(part, RewardScorer | LabelScorer) and part.cut:
            context = part.prompt_encoder.context if isinstance(part, RewardScorer) else part.classifier.context
            beside = " beside their prompts" if isinstance(part, RewardScorer) else ""
            message = f"{part.cut:,} answers did not fit {name}'s {context} tokens{beside} and were scored without their end"
            run.journal.event(STAGE, "warning", message=message)


def starts_from_reward(config: Config, run: Run, scorer: Scorer, policy: LanguageModel, reason: str = "") -> bool:
    """Whether values start from the reward model rather than from the policy: as `rl.value_init` says; by default, and with
    ridge values, if that is possible. `reason`: why it is not, where the caller knows one.

    Raises ConfigError where `value_init` names a reward model that does not read the policy's tokens one by one.
    """
    value_init = required_section(config.rl, "rl").value_init
    if value_init == "policy":
        return False
    reason = reason or why_not_for_values(config, scorer, policy)
    if reason and value_init == "reward":
        raise ConfigError(
            f"rl.value_init: reward, but {reason}",
            expected="a reward model that is a decoder with the policy's own tokens",
            why="a value is read at every token that the policy writes",
            todo="leave rl.value_init out, or set it to policy",
        )
    if reason:
        what = "the value network starts from" if value_init is None else "values are read from the states of"
        model = "the run's own model" if config.sft is None else "the SFT model"
        run.journal.event(STAGE, "warning", message=f"{what} {model}: {reason}")
    return not reason


def why_not_for_values(config: Config, scorer: Scorer, policy: LanguageModel) -> str:
    """Why the reward model cannot estimate values at every token that the policy writes; empty where it can."""
    reward_model = stage_reward_model(config, scorer)
    if reward_model is None:
        return "no part of rl.rewards is the run's own reward model"
    encoder: Any = reward_model.prompt_encoder
    if isinstance(encoder, TextPairEncoder) or score_head(reward_model.model) is None:
        return "the reward model is an encoder, which has no state for what is written so far"
    if encoder.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        return "the reward model has other tokens than the policy"
    if encoder.context < policy.prompt_encoder.context:
        return f"the reward model reads {encoder.context} tokens, the policy {policy.prompt_encoder.context}"
    return ""
