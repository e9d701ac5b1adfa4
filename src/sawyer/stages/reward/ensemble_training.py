"""An ensemble's members: trained one after another as one stage, then calibrated, combined and saved together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

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

    A trained member is saved into `folder`, once: memory and checkpoints hold only the one in training.
    """

    def __init__(self, members: int, begin: Callable[[int], tuple[nn.Module, StageLoop]], folder: Path) -> None:
        self.begin, self.number, self.folder = begin, 0, folder
        self.model, self.loop = begin(0)
        self.member_steps = self.loop.steps
        self.steps = members * self.member_steps

    @property
    def models(self) -> list[nn.Module]:
        """The members so far, the one in training last; the others as they were saved."""
        return [*map(self._load_member, range(self.number)), self.model]

    @property
    def step_tokens(self) -> int:
        """As the member that is trained counts them."""
        return self.loop.step_tokens

    def step(self, index: int) -> Mapping[str, float] | None:
        number, inside = divmod(index, self.member_steps)
        if number != self.number:
            save_checkpoint(self.folder / str(self.number), {"weights": trained_weights(self.model)})
            self.number = number
            self.model, self.loop = self.begin(number)
        metrics = self.loop.step(inside)
        return None if metrics is None else {**metrics, "member": number}

    def state(self) -> dict[str, Any]:
        return {"number": self.number, "loop": self.loop.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.number = int(state["number"])
        self.model, self.loop = self.begin(self.number)
        self.loop.load(state["loop"])

    def _load_member(self, number: int) -> nn.Module:
        checkpoint = load_checkpoint(self.folder / str(number), self.folder.parent)
        if checkpoint is None:
            raise RunError(
                f"{self.folder / str(number)} is gone: the ensemble's member {number + 1} was saved there",
                expected="the members that are trained, until all of them are",
                why="the ensemble is not whole without it",
                todo=f"restore the folder, or delete {self.folder.parent} to train all members again",
            )
        model, _ = self.begin(number)
        restore_weights(model, checkpoint["weights"])
        return model


def calibrate(
    reader: RewardModel,
    models: Sequence[nn.Module],
    settings: EnsembleSettings | None,
    answers: tuple[Sequence[Prompt], Sequence[str]],
) -> RewardScorer:
    """The trained models as one scorer, each member's score with the mean 0 and the deviation 1 on the SFT model's own answers.

    Raises TrainingError for scores that are not finite.
    """
    scorer = partial(RewardScorer, prompt_encoder=reader.prompt_encoder, map_rows=distributed.map_sharded)
    heads = settings.members if settings is not None and settings.by == "heads" else 1
    members = [Member(model=model, head=head) for model in models for head in range(heads)]
    raw = scorer(members=members).raw(*answers)
    if not bool(raw.isfinite().all()):
        raise TrainingError(
            "reward: after its last update the model's scores are not finite",
            expected="finite numbers",
            why="training has destroyed its weights",
            todo="lower reward.learning_rate, or look for extreme scores in its data",
        )
    units = [(statistics.fmean(row), statistics.pstdev(row) or 1.0) for row in raw.tolist()]
    members = [replace(member, shift=shift, scale=scale) for member, (shift, scale) in zip(members, units, strict=True)]
    if settings is None:
        return scorer(members=members)
    shift, scale = torch.tensor(units, dtype=raw.dtype).unbind(1)
    own_disagreement = float(disagreement((raw - shift[:, None]) / scale[:, None]).mean())
    ensemble = Ensemble(reward=settings.reward, penalty=settings.penalty, own_disagreement=own_disagreement)
    return scorer(members=members, ensemble=ensemble)


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
    folder: Path, reader: RewardModel, scorer: RewardScorer, settings: EnsembleSettings | None, extra: Mapping[str, Any]
) -> None:
    """The first member into `folder`, the other seeds' models beside it, each a model folder that loads by itself."""
    units = [(member.shift, member.scale) for member in scorer.members]
    extras = [{"reward_shift": shift, "reward_scale": scale, **extra} for shift, scale in units]
    if settings is None:
        save_model(folder, reader.model, reader.tokenizer, extras[0])
        return
    heads = settings.members if settings.by == "heads" else 1
    ensemble = {"members": settings.members, "by": settings.by, "heads": heads, "units": units, **asdict(scorer.ensemble)}
    save_model(folder, scorer.model, reader.tokenizer, {**extras[0], "ensemble": ensemble})
    if settings.by == "seeds":
        for number, member in enumerate(scorer.members[1:], 1):
            member_folder(folder, number).mkdir()
            save_model(member_folder(folder, number), member.model, reader.tokenizer, extras[number])
