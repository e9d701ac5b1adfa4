"""Sanity checks before the first update: ratio 1, KL 0, same scores and log-probs by every way of reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sawyer.config import RewardPart
from sawyer.maths import kl_k1, masked_sum
from sawyer.models import RewardScorer, Scorer, TextScorer, WeightedScorer
from sawyer.records import Prompt
from sawyer.stages.rl.rl_algorithms import UpdateReport
from sawyer.stages.rl.rl_gates import NO_DRIFT, SCORED_ALONE, Drift, StepZero
from sawyer.stages.rl.rollout import Rollout, RolloutSettings, logprobs_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondPass:
    """The first batch read a second time, by ways that training does not use."""

    logprobs: Tensor | None  # (B, T) in fp32 by the policy before its first update; None where training computes in fp32
    score: Drift | None  # between rewards inside RL and from the saved models; None: no reward model in the reward
    score_rounding: Drift  # between the saved models' scores in the run's precision and in fp32


def second_pass(
    rollout: Rollout,
    policy: nn.Module,
    settings: RolloutSettings,
    saved_models: Sequence[tuple[str | None, str]],
    template: str,
) -> SecondPass:
    """Read the batch before the first update: later, gradients and optimizer states need the saved models' memory.

    `saved_models` are those of `saved_reward_models`; `template` is for one that has none of its own.
    """
    score, rounding = _score_drift(rollout, settings, saved_models, template)
    exact = replace(settings, placement=replace(settings.placement, precision="fp32"))
    is_exact = settings.placement.precision == "fp32"
    logprobs = None if is_exact else logprobs_of(policy, rollout.rows, exact)
    return SecondPass(logprobs=logprobs, score=score, score_rounding=rounding)


def step_zero_measures(rollout: Rollout, second: SecondPass, report: UpdateReport, clip_range: float) -> StepZero:
    """What the gates of step zero judge."""
    mask, ref_logprobs = rollout.mask, rollout.ref_logprobs
    kl = masked_sum(kl_k1(rollout.old_logprobs, ref_logprobs).abs(), mask, dim=1)
    return StepZero(
        kl=float(kl.max()),
        ratio_error=report.first_ratio_error,
        clip_fraction=report.first_clip_fraction,
        clip_range=clip_range,
        sampler=Drift.between(rollout.sampled_logprobs, rollout.old_logprobs[mask]),
        rounding=NO_DRIFT if second.logprobs is None else Drift.between(ref_logprobs[mask], second.logprobs[mask]),
        score=second.score,
        score_rounding=second.score_rounding,
    )


def _score_drift(
    rollout: Rollout, settings: RolloutSettings, saved_models: Sequence[tuple[str | None, str]], template: str
) -> tuple[Drift | None, Drift]:
    """(rewards of some answers against the saved models' scores of each alone, in fp32 on the CPU; the saved models' scores in
    the run's precision against fp32)."""
    prompts, texts = rollout.prompts[:SCORED_ALONE], rollout.texts[:SCORED_ALONE]
    cpu = replace(settings.placement, device=torch.device("cpu"))
    inside: list[Tensor] = []
    exact: list[float] = []
    rounded_scores: list[float] = []
    for name, source in saved_models:
        saved_model = TextScorer(source, device="cpu") if name is None else RewardScorer.load(source, fallback=template)
        # A reward model applies to every answer: none of its scores is None.
        scores = rollout.scores if name is None else torch.tensor(rollout.parts[name])
        inside.append(scores[: len(texts)])
        exact += _score_one_by_one(saved_model, prompts, texts)
        with cpu.autocast():
            rounded_scores += _score_one_by_one(saved_model, prompts, texts) if cpu.precision != "fp32" else []
    if not inside:
        return None, NO_DRIFT
    rounding = Drift.between(torch.tensor(rounded_scores), torch.tensor(exact)) if rounded_scores else NO_DRIFT
    return Drift.between(torch.cat(inside), torch.tensor(exact)), rounding


def _score_one_by_one(saved_model: Scorer, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    return [saved_model([prompt], [text])[0] for prompt, text in zip(prompts, texts, strict=True)]


def saved_reward_models(scorer: Scorer, parts: Sequence[RewardPart], stage_model: str) -> list[tuple[str | None, str]]:
    """(name of its part, its folder) of every reward model in the reward; a single one has no name. `parts` are those of
    `rl.rewards`, `stage_model` is the reward stage's folder."""
    if isinstance(scorer, RewardScorer):
        return [(None, stage_model)]
    if not isinstance(scorer, WeightedScorer):
        return []
    return [
        (part.name, stage_model if settings.is_stage else str(settings.model))
        for part, settings in zip(scorer.parts, parts, strict=True)
        if isinstance(part.scorer, RewardScorer)
    ]
