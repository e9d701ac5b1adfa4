"""Whose judgements a reward model learns from, in words for its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sawyer.config import rater_weights_in_words
from sawyer.records import JudgedPrompt
from sawyer.stages.reward.reward_data import count_text


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgementCounts:
    """Counts over the rows that name their rater; none of them where no row does."""

    judgements: int
    raters: int
    ties: int  # judgements whose scores are all equal, both_bad among them
    both_bad: int
    with_weight: int  # with a weight other than 1
    are_pairs: bool = False  # all of two answers, of which the lower scores 0: only the difference means something

    @classmethod
    def of(cls, records: Sequence[JudgedPrompt]) -> JudgementCounts:
        """Of all records that were read, held-out ones included."""
        records = [record for record in records if record.rater]
        return cls(
            judgements=len(records),
            raters=len({record.rater for record in records}),
            ties=sum(len(record.scores) > 1 and len(set(record.scores)) == 1 for record in records),
            both_bad=sum(record.both_bad for record in records),
            with_weight=sum(record.weight != 1 for record in records),
            are_pairs=bool(records) and all(len(record.scores) == 2 and min(record.scores) == 0 for record in records),
        )

    def summary(self, settings: Mapping[str, float], *, pairwise: bool) -> str:
        """For the plan; empty where no row names its rater and `reward.raters` is not set."""
        parts = []
        if self.judgements:
            raters = f"{self.raters:,} rater{'s' * (self.raters != 1)}"
            parts.append(f"{self.judgements:,} judgement{'s' * (self.judgements != 1)} by {raters}")
            if self.ties:
                use = "without a pair to learn from" if pairwise else "learned from as ties"
                parts.append(f"{count_text(self.ties, 'tie')} {use}, {self.both_bad:,} of them both bad")
            if self.with_weight:
                parts.append(f"{count_text(self.with_weight, 'judgement')} weighted")
        if settings:
            parts.append(f"reward.raters: {rater_weights_in_words(settings)}")
        return ", ".join(parts)

    def warnings(self, settings: Mapping[str, float], *, by_score: bool) -> list[str]:
        """Where `reward.raters` has nothing to act on, and where a loss `by_score` learns scores that mean nothing alone."""
        messages = []
        if settings and not self.judgements:
            messages.append(
                f"reward.raters ({rater_weights_in_words(settings)}) changes nothing: no judgement of reward.data or of the "
                "collected answers names its rater; votes of `sawyer rate` do"
            )
        if by_score and self.are_pairs:
            messages.append(
                "the loss learns the scores themselves, but of judged pairs only the difference means something (the lower "
                "scores 0, and so do both of a tie): take a pairwise loss or listwise, or have answers scored with "
                "`sawyer rate --as score`"
            )
        return messages
