"""Guards: looked at after every update, each with a threshold and a streak; a guard that trips stops the run.

The best model so far is kept, so a stop costs the rest of the run and nothing that was won.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STREAK = 3  # updates in a row: one bad batch is chance
EOS_COLLAPSE = 0.5  # of the first updates' share
DISTINCT_COLLAPSE = 0.35  # of the first updates' distinct-2
SAME_ANSWER = 0.25  # share of different prompts that get one and the same answer
SHARED_BY = 4  # fewer prompts with one answer are no collapse, however small the batch is
LENGTH_COLLAPSE = 0.2  # of the first updates' mean length
COMPARED = ("eos_share", "distinct_2", "length")  # guards whose threshold is a part of what the first updates had


@dataclass(frozen=True, slots=True, kw_only=True)
class Tripped:
    """Why a run stops itself."""

    guard: str
    value: float
    threshold: float
    message: str


def same_answer(prompts: Sequence[Hashable], responses: Sequence[str]) -> float:
    """The share of the different prompts that get one and the same response; 0 where fewer than four share one.

    A prompt that comes again in the batch counts once: its answer may well be the same.
    """
    given = Counter(response for _, response in set(zip(prompts, responses, strict=True)))
    most = max(given.values(), default=0)
    return most / len(set(prompts)) if most >= SHARED_BY else 0.0


class Guards:
    """Counts, for each guard, the updates in a row that were beyond its threshold.

    What must not collapse is compared with its mean over the first `STREAK` updates, and is not judged before: one small batch
    is chance.
    """

    def __init__(self, kl_budget: float) -> None:
        self.kl_budget = kl_budget
        self.first: dict[str, float] = {}  # means over the first updates, of which there have been `seen`
        self.seen = 0
        self.streaks: dict[str, int] = {}

    def look(self, metrics: Mapping[str, float]) -> Tripped | None:
        """Take one update's metrics; the first guard whose streak is full, if any."""
        early = self.seen < STREAK
        if early:
            self.seen += 1
            for name in COMPARED:
                mean = self.first.get(name, 0.0)
                self.first[name] = mean + (metrics[name] - mean) / self.seen
        for name, value, threshold, beyond, message in self._tests(metrics):
            beyond = beyond and not (early and name in COMPARED)
            self.streaks[name] = self.streaks.get(name, 0) + 1 if beyond else 0
            if self.streaks[name] >= STREAK:
                return Tripped(guard=name, value=value, threshold=threshold, message=message)
        return None

    def _tests(self, now: Mapping[str, float]) -> Sequence[tuple[str, float, float, bool, str]]:
        """(name, value, threshold, beyond it, what it means)"""
        eos, distinct = EOS_COLLAPSE * self.first["eos_share"], DISTINCT_COLLAPSE * self.first["distinct_2"]
        length = LENGTH_COLLAPSE * self.first["length"]
        return (
            (
                "kl_budget",
                now["kl"],
                self.kl_budget,
                now["kl"] > self.kl_budget,
                "the policy has moved further from the SFT model than rl.kl.budget allows; raise rl.kl.coefficient",
            ),
            (
                "eos_share",
                now["eos_share"],
                eos,
                now["eos_share"] < eos,
                "answers no longer end by themselves; raise rl.missing_eos_penalty or rl.kl.coefficient",
            ),
            (
                "distinct_2",
                now["distinct_2"],
                distinct,
                now["distinct_2"] < distinct,
                "answers have lost their variety; raise rl.kl.coefficient or lower rl.learning_rate",
            ),
            (
                "length",
                now["length"],
                length,
                now["length"] < length,
                "answers have shrunk to a few tokens; the reward model may pay for saying nothing",
            ),
            (
                "same_answer",
                now["same_answer"],
                SAME_ANSWER,
                now["same_answer"] > SAME_ANSWER,
                "one answer is given to many different prompts; the reward model pays for it whatever the question",
            ),
        )

    def state(self) -> dict[str, Any]:
        return {"first": dict(self.first), "seen": self.seen, "streaks": dict(self.streaks)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.first, self.seen = dict(state["first"]), int(state["seen"])
        self.streaks = {name: int(count) for name, count in state["streaks"].items()}
