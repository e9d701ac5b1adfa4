"""Judged prompts with the model's rewards beside them: what every figure is counted from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sawyer.records import JudgedPrompt, Pair, Prompt

if TYPE_CHECKING:
    from sawyer.models import Scorer

SFT = "sft"  # the source that collected answers name


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardedPrompt:
    """A judged prompt, all of whose answers have a score, with the reward of each answer."""

    record: JudgedPrompt
    pairs: tuple[Pair, ...]  # the decided pairs of `record`
    rewards: tuple[float, ...]
    truths: tuple[float, ...] = ()  # the true scores, where they are known

    def of_sources(self, accepts: Callable[[str], bool]) -> RewardedPrompt:
        """The answers whose source is accepted."""
        indices = [i for i, answer in enumerate(self.record.answers) if accepts(answer.source)]
        record = replace(self.record, answers=tuple(self.record.answers[i] for i in indices))
        return RewardedPrompt(
            record=record,
            pairs=record.pairs().preferences,
            rewards=tuple(self.rewards[i] for i in indices),
            truths=tuple(self.truths[i] for i in indices) if self.truths else (),
        )

    @property
    def best(self) -> int:
        """The answer that wins its pairs by most in sum (the first of equals)."""
        wins = [0.0] * len(self.record.answers)
        for pair in self.pairs:
            wins[pair.better] += pair.difference
        return wins.index(max(wins))

    @property
    def worst(self) -> int:
        """The answer that loses its pairs by most in sum (the first of equals)."""
        losses = [0.0] * len(self.record.answers)
        for pair in self.pairs:
            losses[pair.worse] += pair.difference
        return losses.index(max(losses))


def score_prompts(
    records: Sequence[JudgedPrompt], scorer: Scorer, truth: Callable[[Prompt, str], float] | None = None
) -> tuple[RewardedPrompt, ...]:
    """Each record with the scorer's rewards, and with the true scores where `truth` knows them.

    Answers without a score are left out, and prompts without any.
    """
    records = [record for record in (one.drop_unscored() for one in records) if record.answers]
    rewards = scorer([one.prompt for one in records for _ in one.answers], [text for one in records for text in one.responses])
    in_order = iter(map(float, rewards))
    return tuple(
        RewardedPrompt(
            record=record,
            pairs=record.pairs().preferences,
            rewards=tuple(next(in_order) for _ in record.answers),
            truths=tuple(truth(record.prompt, text) for text in record.responses) if truth is not None else (),
        )
        for record in records
    )
