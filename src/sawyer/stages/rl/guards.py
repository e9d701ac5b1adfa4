"""Guards: looked at after every update or evaluation, each with a threshold and a streak; one that trips stops the run.

The best model so far is kept, so a stop costs the rest of the run and nothing that was won.
"""

from __future__ import annotations

import math
import statistics
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
COMPARED = ("eos_share", "distinct_2", "length")  # what the first updates had decides these guards' thresholds
LENGTH_LIMIT = 0.9  # of the way from the first updates' mean length to the longest answer
DISAGREEMENT_RISE = 2.0  # times what an ensemble's members disagree on the SFT model's own answers
EVALUATIONS = 2  # in a row that find held-out answers worse while the batches' score is better
ERRORS = 3.0  # standard errors of the mean difference on the same prompts: the best of many evaluations was lucky too
MARGINS: Mapping[str, float] = {"score": 0.1, "gold": 0.5}  # smaller falls are none: standard deviations, points of 10

GAMED = (
    "the change since the best evaluation, while the training reward rose: the reward model is being gamed or the training "
    "prompts are learnt by heart; raise rl.kl.coefficient, or give more prompts or judgements"
)


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
    is chance. `disagreement` is an ensemble's mean on the SFT model's own answers; None: the reward model is no ensemble.
    """

    def __init__(self, kl_budget: float, longest: int, *, disagreement: float | None = None) -> None:
        self.kl_budget, self.longest, self.disagreement = kl_budget, longest, disagreement
        self.first: dict[str, float] = {}  # means over the first updates, of which there have been `seen`
        self.seen = 0
        self.streaks: dict[str, int] = {}
        self.scores: list[float] = []  # of the batches since the last evaluation
        # What the best evaluation found, for each measure: its values by prompt, and the batches' mean score before it.
        self.best: dict[str, tuple[list[float], float | None]] = {}

    def look(self, metrics: Mapping[str, float]) -> Tripped | None:
        """Take one update's metrics; the first guard whose streak is full, if any."""
        early = self.seen < STREAK
        if early:
            self.seen += 1
            for name in COMPARED:
                mean = self.first.get(name, 0.0)
                self.first[name] = mean + (metrics[name] - mean) / self.seen
        self.scores.append(metrics["score"])
        for name, value, threshold, beyond, message in self._tests(metrics):
            beyond = beyond and not (early and name in (*COMPARED, "length_limit"))
            self.streaks[name] = self.streaks.get(name, 0) + 1 if beyond else 0
            if self.streaks[name] >= STREAK:
                return Tripped(guard=name, value=value, threshold=threshold, message=message)
        return None

    def evaluated(self, measures: Mapping[str, Sequence[float]]) -> Tripped | None:
        """Take an evaluation: for `score` and, where it is known, `gold` the values of the same held-out prompts each time.

        Beyond its threshold is a measure that fell from its best evaluation by more than its margin and `ERRORS` standard
        errors, while the batches' mean score is higher than it was then: what is learnt pays, and is worth nothing.
        """
        score, self.scores = (statistics.fmean(self.scores) if self.scores else None), []
        tripped = None
        for name, now in measures.items():
            if not all(map(math.isfinite, now)):
                continue  # nothing can be compared with it; it is not kept either
            best, score_then = self.best.get(name, (list(now), None))
            fall = statistics.fmean(best) - statistics.fmean(now)
            if name not in self.best or fall < 0:
                self.best[name] = list(now), score
            elif score_then is None:  # before the first evaluation there was no batch: those after it stand for them
                self.best[name] = best, score
            differences = [a - b for a, b in zip(best, now, strict=True)]
            error = statistics.stdev(differences) / len(now) ** 0.5 if len(now) > 1 else 0.0
            threshold = max(MARGINS[name], ERRORS * error)
            rising = score is not None and score_then is not None and score > score_then
            guard = f"held_out_{name}"
            self.streaks[guard] = self.streaks.get(guard, 0) + 1 if rising and fall > threshold else 0
            if self.streaks[guard] >= EVALUATIONS and tripped is None:
                tripped = Tripped(guard=guard, value=-fall, threshold=-threshold, message=GAMED)
        return tripped

    def _tests(self, now: Mapping[str, float]) -> Sequence[tuple[str, float, float, bool, str]]:
        """(name, value, threshold, beyond it, what it means)"""
        eos, distinct = EOS_COLLAPSE * self.first["eos_share"], DISTINCT_COLLAPSE * self.first["distinct_2"]
        length, first = LENGTH_COLLAPSE * self.first["length"], self.first["length"]
        # Where answers were long from the start, the limit is the user's choice and no drift.
        most = first + LENGTH_LIMIT * (self.longest - first) if first <= self.longest / 2 else math.inf
        apart = []
        if self.disagreement is not None:
            most_apart = DISAGREEMENT_RISE * self.disagreement
            apart.append(
                (
                    "disagreement",
                    now["disagreement"],
                    most_apart,
                    now["disagreement"] > most_apart,
                    "the reward models no longer agree on the answers: they are unlike any that were judged, and the reward "
                    "is a guess; raise rl.kl.coefficient, or have such answers judged",
                )
            )
        return (
            *apart,
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
                "length_limit",
                now["length"],
                most,
                now["length"] > most,
                "answers have grown to the longest that is allowed; raise rl.missing_eos_penalty or rl.kl.coefficient",
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
        best = {name: [list(values), score] for name, (values, score) in self.best.items()}
        lately = {"scores": list(self.scores), "best": best}
        return {"first": dict(self.first), "seen": self.seen, "streaks": dict(self.streaks), **lately}

    def load(self, state: Mapping[str, Any]) -> None:
        self.first, self.seen = dict(state["first"]), int(state["seen"])
        self.streaks = {name: int(count) for name, count in state["streaks"].items()}
        self.scores = list(state["scores"])
        self.best = {name: (list(values), score) for name, (values, score) in state["best"].items()}
