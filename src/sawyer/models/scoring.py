"""The scorer contract and the reward models behind it: prompts and responses as text in, floats out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sawyer.errors import ModelError
from sawyer.maths import COMBINATIONS, disagreement
from sawyer.models.forward import TOKEN_BUDGET, before_trained, last_tokens, sequence_logits, shares_prompts, trunk_states
from sawyer.models.load import facts, load_reward
from sawyer.models.map_rows import MapRows, map_here
from sawyer.models.reward_model import LoadNetwork, load_reward_model
from sawyer.records import Prompt
from sawyer.text import RewardEncoder, Row, batches

ENSEMBLE = ("by", "members", "units", "reward", "penalty")  # what is needed to make one reward of several voices


class Scorer(Protocol):
    """Anything that scores answers: a reward model, a world's gold score, a Python function. RL cannot tell them apart."""

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        """One score a (prompt, response), higher is better."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDetails:
    """One answer's score and what it is made of.

    Example: `ScoreDetails(reward=0.5, members=(0.2, 0.8), disagreement=0.3, parts={})`
    """

    reward: float
    members: tuple[float, ...] = ()  # of an ensemble: each member's standardised score
    disagreement: float | None = None  # their standard deviation; None without an ensemble
    parts: Mapping[str, float] = field(default_factory=dict)  # of a composition: each part's score by name, before its weight


@runtime_checkable
class DetailedScorer(Scorer, Protocol):
    """A scorer that can say what its scores are made of."""

    def score_details(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[ScoreDetails]:
        """The scores of `__call__`, each with its members or parts."""
        ...


def score_details(scorer: Scorer, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[ScoreDetails]:
    """What any scorer can say of its scores."""
    if isinstance(scorer, DetailedScorer):
        return scorer.score_details(prompts, responses)
    return [ScoreDetails(reward=reward) for reward in scorer(prompts, responses)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One voice of an ensemble: a network's score number `head`, in its own unit."""

    model: nn.Module
    head: int = 0
    shift: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """How the members' standardised scores become one reward.

    `own_disagreement` is their mean disagreement on the SFT model's own answers; None where it was not measured.
    """

    reward: str = "mean"  # mean | min | mean_minus_variance
    penalty: float = 0.0  # mean_minus_variance: what a unit of variance costs
    own_disagreement: float | None = None


class RewardScorer:
    """A reward model as a scorer: (raw score - shift) / scale, so that the SFT model's answers have mean 0 and deviation 1.

    With several `members` each one's score is standardised so, and then they are combined as `ensemble` says. `cut` counts the
    answers so far that were longer than the model's context and were scored without their end; `note` is what a user who did
    not write the model's folder should know about how it is read.
    """

    def __init__(
        self,
        *,
        prompt_encoder: RewardEncoder,
        members: Sequence[Member],
        ensemble: Ensemble | None = None,
        note: str = "",
        map_rows: MapRows = map_here,
    ) -> None:
        self.members, self.prompt_encoder, self.note = tuple(members), prompt_encoder, note
        self.ensemble, self.map_rows, self.cut = ensemble or Ensemble(), map_rows, 0
        self._captured_states: dict[Row, Tensor | None] | None = None  # None outside `captured_states`

    @property
    def model(self) -> Any:
        """The network, an ensemble's first."""
        return self.members[0].model

    @property
    def shift(self) -> float:
        """The raw score that counts as 0, of the first member."""
        return self.members[0].shift

    @property
    def scale(self) -> float:
        """The difference of raw scores that counts as 1, of the first member."""
        return self.members[0].scale

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: torch.device | None = None,
        template: str | None = None,
        fallback: str = "question",
        load: LoadNetwork = load_reward,
        map_rows: MapRows = map_here,
    ) -> RewardScorer:
        """A trained reward model, with the other members of its ensemble; one that says nothing of shift and scale is taken as
        it is. A decoder is read by `template`, or by its own, or by `fallback` where it brings none; `load` opens a network."""
        reward_model = load_reward_model(folder, template=template, fallback=fallback, load=load)
        settings = facts(reward_model.model)
        ensemble = settings.get("ensemble")
        if ensemble and (lacks := [name for name in ENSEMBLE if ensemble.get(name) is None]):
            raise ModelError(
                f"{folder}: its config.json says nothing of the ensemble's {', '.join(lacks)}",
                expected="what the reward stage wrote",
                todo="copy the folder again",
            )
        networks: list[nn.Module] = [reward_model.model]  # one with several heads, or one a member
        if ensemble and ensemble["by"] == "seeds":
            others = range(1, int(ensemble["members"]))
            networks += [load_reward_model(member_folder(folder, number), load=load).model for number in others]
        if device is not None:
            networks = [network.to(device) for network in networks]
        units = ensemble["units"] if ensemble else [(settings.get("reward_shift", 0.0), settings.get("reward_scale", 1.0))]
        heads = [0] * len(units) if len(networks) > 1 else range(len(units))
        return cls(
            prompt_encoder=reward_model.prompt_encoder,
            members=[
                Member(model=networks[number if len(networks) > 1 else 0], head=head, shift=float(shift), scale=float(scale))
                for number, (head, (shift, scale)) in enumerate(zip(heads, units, strict=True))
            ],
            ensemble=Ensemble(
                reward=ensemble["reward"], penalty=float(ensemble["penalty"]), own_disagreement=ensemble.get("own_disagreement")
            )
            if ensemble
            else None,
            note=reward_model.note,
            map_rows=map_rows,
        )

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [answer.reward for answer in self.score_details(prompts, responses)]

    def score_details(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[ScoreDetails]:
        """The rewards, and of an ensemble each member's standardised score and their disagreement."""
        if not responses and not prompts:
            return []
        units = torch.tensor([(member.shift, member.scale) for member in self.members], dtype=torch.float64)
        scores = (self.raw(prompts, responses) - units[:, :1]) / units[:, 1:]
        if len(self.members) == 1:
            return [ScoreDetails(reward=reward) for reward in scores[0].tolist()]
        rewards = COMBINATIONS[self.ensemble.reward](scores, self.ensemble.penalty).tolist()
        return [
            ScoreDetails(reward=reward, members=tuple(members), disagreement=spread)
            for reward, members, spread in zip(rewards, scores.T.tolist(), disagreement(scores).tolist(), strict=True)
        ]

    @contextmanager
    def captured_states(self) -> Iterator[dict[Row, Tensor | None]]:
        """Within it the states in which the first member, a decoder, reads the scored answers are collected.

        By row as it is encoded, without what the template writes after its end: (n, d) fp32 on the CPU, the state before each
        of the response's n tokens, its end included. None: another process has read the row.
        """
        self._captured_states = {}
        try:
            yield self._captured_states
        finally:
            self._captured_states = None

    @torch.no_grad()
    def raw(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """(M, N) fp64: each member's score of each answer, before shift and scale. Answers whose tokens are the same are read
        once."""
        every = list(zip(prompts, responses, strict=True))
        row_of = {one: self.prompt_encoder.answer(*one) for one in dict.fromkeys(every)}
        row_index = {row: index for index, row in enumerate(dict.fromkeys(row_of.values()))}
        rows, where = list(row_index), [row_index[row_of[one]] for one in every]
        self.cut += sum(rows[index].cut for index in where)
        if self._captured_states is not None:
            self._captured_states |= dict.fromkeys(row.without_tail() for row in rows)
        by_row = self.map_rows([len(row.ids) for row in rows], lambda mine: self._read([rows[i] for i in mine]).T)
        return by_row.T[:, where]

    def _read(self, rows: Sequence[Row]) -> Tensor:
        scores = torch.zeros(len(self.members), len(rows), dtype=torch.float64)
        networks = {id(member.model): member.model for member in self.members}
        by_prompt = all(map(shares_prompts, networks.values()))
        for indices, batch in batches(rows, pad_id=self.prompt_encoder.pad_id, token_budget=TOKEN_BUDGET, by_prompt=by_prompt):
            for key, model in networks.items():
                here, states = batch.to(next(model.parameters()).device), None
                if self._captured_states is not None and model is self.model:
                    before = before_trained(here)
                    states = trunk_states(model, here, before | last_tokens(here))
                    states_of_rows = states[before].float().cpu().split([sum(rows[i].loss_mask) for i in indices])
                    self._captured_states |= {
                        rows[i].without_tail(): one for i, one in zip(indices, states_of_rows, strict=True)
                    }
                logits = sequence_logits(model, here, states).double().cpu()
                for index, member in enumerate(self.members):
                    if id(member.model) == key:
                        scores[index, indices] = logits[:, member.head]
        return scores


def member_folder(folder: str | Path, number: int) -> Path:
    """Where an ensemble's member lies, counted from 1 (member 0 is the folder itself): a model folder of its own."""
    return Path(folder) / f"member-{number}"
