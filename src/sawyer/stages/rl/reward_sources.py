"""What RL pays for: the run's reward model, or a weighted sum of named parts. Can the value network start from it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from sawyer.config import Config, RewardPart, load_user_function
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


def nothing_paid(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """The scorer of a run in which nobody scores: dpo from pairs alone. No figure is made of it."""
    return [0.0] * len(responses)


def open_scorer(config: Config, run: Run, device: torch.device, load: LoadNetwork = load_reward) -> Scorer:
    """The run's own reward model, unless `rl.rewards` names parts. `load` opens a reward model's network."""
    asked = config.rl
    assert asked is not None
    if not config.is_scored:
        return nothing_paid
    if not asked.rewards:
        return RewardScorer.load(run.layout.model("reward"), device=device, load=load, map_rows=distributed.map_sharded)
    return WeightedScorer(
        [
            RewardComponent(name=part.name, weight=part.weight, scorer=_opened(part, config, run, device, load))
            for part in asked.rewards
        ]
    )


def _opened(part: RewardPart, config: Config, run: Run, device: torch.device, load: LoadNetwork) -> Scorer | FunctionScorer:
    if part.function is not None:
        return FunctionScorer(load_user_function(part.function, "rl.rewards"), part.function, call=distributed.on_rank_zero)
    assert part.model is not None
    if part.label is not None:
        return LabelScorer(
            Classifier(part.model, device=device, map_rows=distributed.map_sharded),
            part.label,
            probability=part.measure == "probability",
        )
    if part.is_stage:
        return RewardScorer.load(run.layout.model("reward"), device=device, load=load, map_rows=distributed.map_sharded)
    scorer = RewardScorer.load(part.model, device=device, fallback=config.template, load=load, map_rows=distributed.map_sharded)
    if scorer.note:
        run.journal.event(STAGE, "warning", message=f"rl.rewards: {scorer.note}")
    return scorer


def parts_of(scorer: Scorer) -> Iterator[tuple[str, Scorer | FunctionScorer]]:
    """Every scorer that gives a score by itself, with how a message names it."""
    if isinstance(scorer, WeightedScorer):
        for part in scorer.parts:
            yield f"the reward model `{part.name}`" if isinstance(part.scorer, RewardScorer) else part.name, part.scorer
    else:
        yield "the reward model", scorer


def own_reward_model(config: Config, scorer: Scorer) -> RewardScorer | None:
    """The run's own reward model among what RL pays for."""
    asked = config.rl
    assert asked is not None
    if isinstance(scorer, WeightedScorer):
        own = (part.scorer for part, told in zip(scorer.parts, asked.rewards, strict=True) if told.is_stage)
        found: Any = next(own, None)
        return found
    return scorer if isinstance(scorer, RewardScorer) else None


def own_disagreement(scorer: Scorer) -> float | None:
    """How far the first ensemble's members disagree on the SFT model's own answers; None where there is none."""
    ensembles = (part for _, part in parts_of(scorer) if isinstance(part, RewardScorer) and len(part.members) > 1)
    return next((part.ensemble.own_disagreement for part in ensembles), None)


def all_learned(scorer: Scorer) -> bool:
    """Whether all that is paid for was learnt from judgements: no part is a user's function."""
    return all(isinstance(part, RewardScorer | LabelScorer) for _, part in parts_of(scorer))


def judges_of(scorer: Scorer) -> list[nn.Module]:
    """The reward models' networks, each once."""
    networks = (member.model for _, part in parts_of(scorer) if isinstance(part, RewardScorer) for member in part.members)
    return list(dict.fromkeys(networks))


def tell_cut(run: Run, scorer: Scorer) -> None:
    """A warning for each part that could not read all of an answer."""
    for name, part in parts_of(scorer):
        if isinstance(part, RewardScorer | LabelScorer) and part.cut:
            context = part.prompt_encoder.context if isinstance(part, RewardScorer) else part.classifier.context
            beside = " beside their prompts" if isinstance(part, RewardScorer) else ""
            run.journal.event(
                STAGE,
                "warning",
                message=f"{part.cut:,} answers did not fit {name}'s {context} tokens{beside} and were scored without their end",
            )


def begins_from_reward(config: Config, run: Run, scorer: Scorer, speaker: LanguageModel, unfit: str = "") -> bool:
    """Whether the value network begins as the reward model, not as the policy: as `rl.value_init` says; where it says nothing,
    or frozen, if that can be. `unfit` is a reason against it that somebody knows already.

    Raises ConfigError where the reward model is asked for and cannot be read token by token as the policy writes.
    """
    asked = config.rl
    assert asked is not None
    reason = "rl.value_init asks for it" if asked.value_init == "policy" else unfit or unfit_for_values(config, scorer, speaker)
    if not reason:
        return True
    if asked.value_init == "reward":
        raise ConfigError(
            f"rl.value_init: reward, but {reason}",
            expected="a reward model that is a decoder with the policy's own tokens",
            why="a value is read at every token that the policy writes",
            todo="leave rl.value_init out, or set it to policy",
        )
    if asked.value_init in (None, "ridge"):
        what = "the value network starts from" if asked.value_init is None else "values are read from the states of"
        start = "the run's own model" if config.sft is None else "the SFT model"
        run.journal.event(STAGE, "warning", message=f"{what} {start}: {reason}")
    return False


def unfit_for_values(config: Config, scorer: Scorer, speaker: LanguageModel) -> str:
    """Why the reward model cannot be valued at every token that the policy writes; empty where it can."""
    own = own_reward_model(config, scorer)
    if own is None:
        return "no part of rl.rewards is the run's own reward model"
    prompt_encoder: Any = own.prompt_encoder
    if isinstance(prompt_encoder, TextPairEncoder) or score_head(own.model) is None:
        return "the reward model is an encoder, which has no state for what is written so far"
    if prompt_encoder.tokenizer.get_vocab() != speaker.tokenizer.get_vocab():
        return "the reward model has other tokens than the policy"
    if prompt_encoder.context < speaker.prompt_encoder.context:
        return f"the reward model reads {prompt_encoder.context} tokens, the policy {speaker.prompt_encoder.context}"
    return ""
