"""An ensemble's members trained one after another as one work, and what they have in common afterwards."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.config import EnsembleSettings
from sawyer.errors import RunError, TrainingError
from sawyer.maths import disagreement
from sawyer.models import Ensemble, Member, RewardModel, RewardScorer, Scorer, member_folder, save_model
from sawyer.records import Prompt
from sawyer.stages.reward.reward_data import STAGE
from sawyer.train import StageLoop, distributed, generator, load_checkpoint, restore_weights, save_checkpoint, trained_weights


def member_seed(seed: int, number: int) -> int:
    """The seed of an ensemble's member: the run's own for the first, so that it is the model that would be trained alone."""
    if number == 0:
        return seed
    return int(torch.randint(2**32, (), generator=generator(seed, STAGE, "member", number)))


class EnsembleLoop:
    """Several trainings, each with all its steps, one after another; `begin` makes the training of a member.

    A member that is trained is put by in `kept`, once: memory and checkpoints hold the one in training alone.
    """

    def __init__(self, members: int, begin: Callable[[int], tuple[nn.Module, StageLoop]], kept: Path) -> None:
        self.begin, self.number, self.kept = begin, 0, kept
        self.model, self.work = begin(0)
        self.each = self.work.steps
        self.steps = members * self.each

    @property
    def models(self) -> list[nn.Module]:
        """The members so far, the one in training last; the others as they were put by."""
        return [*map(self._taken_out, range(self.number)), self.model]

    @property
    def step_tokens(self) -> int:
        """As the member that is trained counts them."""
        return self.work.step_tokens

    def step(self, index: int) -> Mapping[str, float] | None:
        number, inside = divmod(index, self.each)
        if number != self.number:
            save_checkpoint(self.kept / str(self.number), {"weights": trained_weights(self.model)})
            self.number = number
            self.model, self.work = self.begin(number)
        found = self.work.step(inside)
        return None if found is None else {**found, "member": number}

    def state(self) -> dict[str, Any]:
        return {"number": self.number, "work": self.work.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.number = int(state["number"])
        self.model, self.work = self.begin(self.number)
        self.work.load(state["work"])

    def _taken_out(self, number: int) -> nn.Module:
        saved = load_checkpoint(self.kept / str(number), self.kept.parent)
        if saved is None:
            raise RunError(
                f"{self.kept / str(number)} is gone: the ensemble's member {number + 1} was put by there",
                expected="the members that are trained, until all of them are",
                why="the ensemble is not whole without it",
                todo=f"restore the folder, or delete {self.kept.parent} to train all members again",
            )
        model, _ = self.begin(number)
        restore_weights(model, saved["weights"])
        return model


def calibrated(
    judge: RewardModel, models: Sequence[nn.Module], asked: EnsembleSettings | None, own: tuple[Sequence[Prompt], Sequence[str]]
) -> RewardScorer:
    """The trained models as one scorer, each member's score with the mean 0 and the deviation 1 on the SFT model's own answers.

    Raises TrainingError for scores that are not finite.
    """
    heads = asked.members if asked is not None and asked.by == "heads" else 1
    members = [Member(model=model, head=head) for model in models for head in range(heads)]
    raw = RewardScorer(prompt_encoder=judge.prompt_encoder, members=members, map_rows=distributed.map_sharded).raw(*own)
    if not bool(raw.isfinite().all()):
        raise TrainingError(
            "reward: after its last update the model's scores are not finite",
            expected="finite numbers",
            why="training has destroyed its weights; nothing can be judged by them",
            todo="lower reward.learning_rate, or look for extreme scores in its data",
        )
    units = [(statistics.fmean(row), statistics.pstdev(row) or 1.0) for row in raw.tolist()]
    members = [
        Member(model=member.model, head=member.head, shift=shift, scale=scale)
        for member, (shift, scale) in zip(members, units, strict=True)
    ]
    if asked is None:
        return RewardScorer(prompt_encoder=judge.prompt_encoder, members=members, map_rows=distributed.map_sharded)
    apart = float(disagreement(_standardised(raw, units)).mean())
    how = Ensemble(reward=asked.reward, penalty=asked.penalty, own_disagreement=apart)
    return RewardScorer(prompt_encoder=judge.prompt_encoder, members=members, ensemble=how, map_rows=distributed.map_sharded)


def _standardised(raw: Tensor, units: Sequence[tuple[float, float]]) -> Tensor:
    shift, scale = torch.tensor(units, dtype=raw.dtype).unbind(1)
    return (raw - shift[:, None]) / scale[:, None]


def as_trained(scorer: RewardScorer) -> Scorer:
    """The scorer in the unit its members were trained in: a single model's raw score; an ensemble's reward times the members'
    mean scale, plus their mean shift."""
    if len(scorer.members) == 1:
        return RewardScorer(
            prompt_encoder=scorer.prompt_encoder, members=[Member(model=scorer.model)], map_rows=distributed.map_sharded
        )
    shift = statistics.fmean(member.shift for member in scorer.members)
    scale = statistics.fmean(member.scale for member in scorer.members)
    return lambda prompts, responses: [shift + scale * reward for reward in scorer(prompts, responses)]


def save_members(
    folder: Path, judge: RewardModel, scorer: RewardScorer, asked: EnsembleSettings | None, extra: Mapping[str, Any]
) -> None:
    """The first member into `folder`, the other seeds' models beside it, each a model folder that loads by itself."""
    units = [(member.shift, member.scale) for member in scorer.members]

    def told(number: int) -> dict[str, Any]:
        return {"reward_shift": units[number][0], "reward_scale": units[number][1], **extra}

    if asked is None:
        save_model(folder, judge.model, judge.tokenizer, told(0))
        return
    heads = asked.members if asked.by == "heads" else 1
    ensemble = {"members": asked.members, "by": asked.by, "heads": heads, "units": units, **asdict(scorer.ensemble)}
    save_model(folder, scorer.model, judge.tokenizer, {**told(0), "ensemble": ensemble})
    if asked.by == "seeds":
        for number, member in enumerate(scorer.members[1:], 1):
            member_folder(folder, number).mkdir()
            save_model(member_folder(folder, number), member.model, judge.tokenizer, told(number))
