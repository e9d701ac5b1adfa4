"""What is measured before the first update: are policy, reference, sampler and reward model what they are taken for?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sawyer.config import Config, required_section
from sawyer.maths import kl_k1, masked_sum
from sawyer.models import RewardScorer, Scorer, TextScorer, WeightedScorer
from sawyer.records import Prompt
from sawyer.runs import Run
from sawyer.stages.rl.rl_gates import SCORED_ALONE, LogprobDrift, StepZero
from sawyer.stages.rl.rollout import Episodes, Experience, logprobs_of
from sawyer.train import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """The first batch as nothing inside RL reads it."""

    exact: Tensor | None  # (B, T) log-probs in fp32 by the policy before its first update; None where all is computed so
    score: LogprobDrift | None  # rewards inside RL and from the saved models; None: nothing learnt is paid for
    score_rounding: LogprobDrift  # what the saved models say in the run's precision and in fp32


def reread(episodes: Episodes, policy: nn.Module, scorer: Scorer, config: Config, run: Run, place: Placement) -> Reread:
    """Read it so before the first update: what training holds of memory is not there yet, and the saved models are a while."""
    apart, rounding = _scores_apart(episodes, scorer, config, run, place)
    exact = None if place.precision == "fp32" else logprobs_of(policy, episodes.rows, config, replace(place, precision="fp32"))
    return Reread(exact=exact, score=apart, score_rounding=rounding)


def measured(
    episodes: Episodes, experience: Experience, again: Reread, *, ratio_error: float, clip_fraction: float, clip: float
) -> StepZero:
    """Look at the first batch; `ratio_error` and `clip_fraction` are of its first minibatch."""
    mask = experience.mask
    kl = masked_sum(kl_k1(experience.old_logprobs, experience.ref_logprobs).abs(), mask, dim=1)
    exact = again.exact
    return StepZero(
        kl=float(kl.max()),
        ratio_error=ratio_error,
        clip_fraction=clip_fraction,
        clip=clip,
        sampler=LogprobDrift.of(episodes.sampled_logprobs, experience.old_logprobs[mask]),
        rounding=LogprobDrift(mean=0.0, most=0.0)
        if exact is None
        else LogprobDrift.of(experience.ref_logprobs[mask], exact[mask]),
        score=again.score,
        score_rounding=again.score_rounding,
    )


def _scores_apart(
    episodes: Episodes, scorer: Scorer, config: Config, run: Run, place: Placement
) -> tuple[LogprobDrift | None, LogprobDrift]:
    """How far the rewards of some answers are from what the saved models say of each alone, in fp32 on the CPU; and how far
    the run's precision moves what the saved models say."""
    prompts, texts = episodes.prompts[:SCORED_ALONE], episodes.texts[:SCORED_ALONE]
    here = replace(place, device=torch.device("cpu"))
    inside: list[Tensor] = []
    outside: list[float] = []
    rounded: list[float] = []
    for name, source in _learned(scorer, config, run):
        saved = TextScorer(source, device="cpu") if name is None else RewardScorer.load(source, fallback=config.template)
        scores = (
            episodes.scores if name is None else torch.tensor(episodes.parts[name])
        )  # a reward model applies to every answer
        inside.append(scores[: len(texts)])
        outside += _alone(saved, prompts, texts)
        with here.autocast():
            rounded += _alone(saved, prompts, texts) if here.precision != "fp32" else []
    if not inside:
        return None, LogprobDrift(mean=0.0, most=0.0)
    found = torch.cat(inside)
    rounding = LogprobDrift.of(torch.tensor(rounded), torch.tensor(outside)) if rounded else LogprobDrift(mean=0.0, most=0.0)
    return LogprobDrift.of(found, torch.tensor(outside)), rounding


def _alone(saved: Scorer, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """Each answer's score, read by itself."""
    return [saved([prompt], [text])[0] for prompt, text in zip(prompts, texts, strict=True)]


def _learned(scorer: Scorer, config: Config, run: Run) -> Iterator[tuple[str | None, str]]:
    """(name of its part, its folder) of every reward model that is paid for; alone it has no name."""
    rl = required_section(config.rl, "rl")
    own = str(run.layout.model("reward"))
    if isinstance(scorer, RewardScorer):
        yield None, own
    elif isinstance(scorer, WeightedScorer):
        for part, told in zip(scorer.parts, rl.rewards, strict=True):
            if isinstance(part.scorer, RewardScorer):
                yield part.name, own if told.is_stage else str(told.model)
