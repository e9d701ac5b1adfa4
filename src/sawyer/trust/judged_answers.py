"""Judged prompts with the model's rewards beside them: what every figure is counted from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sawyer.models import Scorer
from sawyer.records import JudgedPrompt, Pair, Prompt

SFT = "sft"  # the source that collected answers name


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardedPrompt:
    """A judged prompt, all of whose answers have a score, with the reward of each answer."""

    judged: JudgedPrompt
    pairs: tuple[Pair, ...]  # the decided pairs of `judged`
    rewards: tuple[float, ...]
    truths: tuple[float, ...] = ()  # the true scores, where they are known

    def of_sources(self, wanted: Callable[[str], bool]) -> RewardedPrompt:
        """The answers whose source is wanted."""
        indices = [i for i, answer in enumerate(self.judged.answers) if wanted(answer.source)]
        judged = replace(self.judged, answers=tuple(self.judged.answers[i] for i in indices))
        return RewardedPrompt(
            judged=judged,
            pairs=judged.pairs().decided,
            rewards=tuple(self.rewards[i] for i in indices),
            truths=tuple(self.truths[i] for i in indices) if self.truths else (),
        )

    @property
    def best(self) -> int:
        """The answer that wins its pairs by most in sum (the first of equals)."""
        wins = [0.0] * len(self.judged.answers)
        for pair in self.pairs:
            wins[pair.better] += pair.difference
        return wins.index(max(wins))


def score_prompts(
    records: Sequence[JudgedPrompt], scorer: Scorer, truth: Callable[[Prompt, str], float] | None = None
) -> tuple[RewardedPrompt, ...]:
    """Each record with the scorer's rewards, and with the true scores where `truth` knows them.

    Answers without a score are left out, and prompts without any.
    """
    judged = [scored for record in records if (scored := record.scored).answers]
    rewards = scorer([one.prompt for one in judged for _ in one.answers], [text for one in judged for text in one.responses])
    flat = iter(map(float, rewards))
    return tuple(
        RewardedPrompt(
            judged=one,
            pairs=one.pairs().decided,
            rewards=tuple(next(flat) for _ in one.answers),
            truths=tuple(truth(one.prompt, text) for text in one.responses) if truth is not None else (),
        )
        for one in judged
    )
