"""Guards: what must not happen to a policy that learns, and what is done when it does. docs/guards.md says it for users.

Each is looked at for every batch, before anything is learnt from it, or after every evaluation. It has a threshold, a streak
(how often in a row it must be beyond) and an action: warn, stop, or put the run back to its best model with the KL dearer.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sawyer.config import Rl
from sawyer.stats import student_t
from sawyer.trust import NeededGuard

Action = Literal["warn", "stop", "rollback", "off"]
BEGINNING = 3  # batches whose mean the collapses are held to: one small batch is chance
COMPARED = ("eos_rate", "distinct_2", "length")  # what the first batches had decides these guards' thresholds
SHARED_BY = 4  # fewer prompts with one answer are no collapse, however small the batch is
RAISED, RAISED_LEAST = 2.0, 0.05  # a rollback doubles the KL coefficient; one of 0 becomes the default of rl.kl.coefficient
ERRORS = 3.0  # standard errors by which chance is told from a finding: the best of many evaluations was lucky too


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one guard acts."""

    threshold: float
    patience: int
    action: Action


# What holds where `rl.guards` says nothing; kl_budget's threshold is rl.kl.budget then.
DEFAULTS: Mapping[str, Rule] = {
    "non_finite": Rule(threshold=0.0, patience=1, action="rollback"),
    "kl_budget": Rule(threshold=math.inf, patience=3, action="rollback"),  # nats a response
    "length": Rule(threshold=0.2, patience=3, action="rollback"),  # of the first batches' mean length
    "length_limit": Rule(threshold=0.9, patience=3, action="rollback"),  # of the way from that to the longest answer
    "eos_rate": Rule(threshold=0.5, patience=3, action="rollback"),  # of the first batches' share
    "distinct_2": Rule(threshold=0.35, patience=3, action="rollback"),  # of the first batches' share
    "mode_response_rate": Rule(threshold=0.25, patience=3, action="rollback"),  # of the different prompts
    "score_length_correlation": Rule(
        threshold=0.6, patience=2, action="stop"
    ),  # a correlation; a dearer KL does not mend a reward model
    "disagreement": Rule(threshold=2.0, patience=3, action="rollback"),  # times that on the SFT model's own answers
    "eval_score": Rule(threshold=0.1, patience=2, action="rollback"),  # standard deviations
    "eval_gold": Rule(threshold=0.5, patience=2, action="rollback"),  # points of 10
    "zero_variance_groups": Rule(threshold=0.9, patience=2, action="warn"),  # of the groups; nothing is lost, nothing learnt
}
MODE_RESPONSE_RATE = DEFAULTS["mode_response_rate"].threshold

# name -> (what it means, what to try); in braces what `advice_for` fills in by what the algorithm and the run have
WORDS: Mapping[str, tuple[str, str]] = {
    "non_finite": (
        "a figure was not finite; nothing was learnt from that batch",
        "lower rl.learning_rate, {bound}or look for prompts with extreme scores",
    ),
    "kl_budget": (
        "the policy has moved further from the SFT model than is allowed",
        "raise {tie}, or rl.guards.kl_budget.threshold if the samples are still good",
    ),
    "length": (
        "answers have shrunk to a few tokens; saying nothing may pay",
        "look at the shortest samples and {judged}, or raise {tie}",
    ),
    "length_limit": (
        "answers have grown to the longest that is allowed",
        "raise {ends}",
    ),
    "eos_rate": ("answers no longer end by themselves", "raise {ends}"),
    "distinct_2": ("answers have lost their variety", "raise {tie} or lower rl.learning_rate"),
    "mode_response_rate": (
        "one answer is given to many different prompts; it pays whatever the question",
        "{judged}, or raise {tie}",
    ),
    "score_length_correlation": (
        "the scores follow the answers' length: a policy learns to write long (below zero: short), whatever the question",
        "{report}have answers judged of which the better one is the shorter (or the longer)",
    ),
    "disagreement": (
        "the reward models no longer agree on the answers: they are unlike any that were judged, and the reward is a guess",
        "raise {tie}, or have such answers judged",
    ),
    "eval_score": (
        "held-out answers got worse since the best evaluation while the training reward rose: the training prompts are learnt "
        "by heart",
        "raise {tie}, or give more prompts",
    ),
    "eval_gold": (
        "held-out answers got worse since the best evaluation while the training reward rose: the reward model is being gamed",
        "raise {tie}, or give more judgements",
    ),
    "zero_variance_groups": (
        "answers that are compared with each other all get the same score: nothing can be learnt from them",
        "raise {more}, or rl.max_new_tokens where no answer ends; take prompts that are sometimes answered rightly, or pay in "
        "steps and not all or nothing",
    ),
}


def advice_for(asked: Rl) -> dict[str, str]:
    """What to try where a guard acts, by its name, in settings that the algorithm has and by files that the run has."""
    online, grouped = asked.is_online, asked.algorithm in ("rloo", "grpo")
    known = {
        "tie": "rl.kl.coefficient" if asked.uses("kl.coefficient") else "rl.beta",
        "ends": "rl.missing_eos_penalty or rl.kl.coefficient" if online else "rl.beta",
        "bound": "bound the scores with rl.reward_clip, " if asked.uses("reward_clip") else "",
        "judged": "have such answers judged" if asked.uses_stage else "let the reward tell them from good answers",
        "report": "see reward/trust.json; " if asked.uses_stage else "",
        "more": "rl.temperature or rl.group_size" if grouped else "rl.temperature or rl.batch_size",
    }
    return {name: advice.format(**known) for name, (_, advice) in WORDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardEvent:
    """A guard whose streak is full."""

    guard: str
    action: Action
    value: float
    threshold: float  # in the value's unit
    advice: str  # what to try

    def told(self, updates: int) -> str:
        """What has happened after so many updates, in words."""
        figure = f" is {self.value:.3g} (threshold {self.threshold:.3g})" if math.isfinite(self.threshold) else ""
        return f"{self.guard}{figure} after {updates} update{'s' * (updates != 1)}: {WORDS[self.guard][0]}"


def rules_of(asked: Rl, needed: Sequence[NeededGuard] = ()) -> dict[str, Rule]:
    """Each guard's rule: its default, as strict as the reward model's trust report asks, and what `rl.guards` changes of it."""
    found = {**DEFAULTS, "kl_budget": replace(DEFAULTS["kl_budget"], threshold=asked.kl.budget)}
    for one in needed:
        stricter = max if one.guard in COMPARED else min  # what must not fall below a share, and what must not rise above one
        rule = found[one.guard]
        found[one.guard] = replace(rule, threshold=stricter(rule.threshold, one.threshold))
    for name, guard in asked.guards.items():
        found[name] = replace(found[name], **guard.model_dump(exclude_none=True))
    return found


def kl_budget(rules: Mapping[str, Rule], asked: Rl) -> float:
    """The most nats a response that the best model may be from its reference: the guard's, `rl.kl.budget` where that is off."""
    rule = rules["kl_budget"]
    return asked.kl.budget if rule.action == "off" else rule.threshold


def raised(coefficient: float) -> float:
    """What a nat of KL costs after a rollback."""
    return max(RAISED * coefficient, RAISED_LEAST)


def stop_words(words: str, tripped: GuardEvent, rollbacks: int, price: str) -> str:
    """Why the run stops itself and what to try: `words` is what has happened, `price` what the last rollback changed."""
    tried = f"; {rollbacks} rollback{'s' * (rollbacks > 1)}{f'{price}, ' if price else ' '}did not help"
    return f"{words}{tried * bool(rollbacks)}; the best model so far is kept; what to try: {tripped.advice}"


def mode_response_rate(prompts: Sequence[Hashable], responses: Sequence[str]) -> float:
    """The share of the different prompts that get one and the same response; 0 where fewer than four share one.

    A prompt that comes again in the batch counts once: its answer may well be the same.
    """
    given = Counter(response for _, response in set(zip(prompts, responses, strict=True)))
    most = max(given.values(), default=0)
    return most / len(set(prompts)) if most >= SHARED_BY else 0.0


def surely(correlation: float, count: int) -> float:
    """How far from 0 a correlation of `count` cases surely is: `ERRORS` standard errors nearer, on Fisher's z scale."""
    if count < 4:
        return 0.0
    z = math.atanh(min(abs(correlation), 1 - 1e-9)) - ERRORS / math.sqrt(count - 3)
    return math.tanh(max(0.0, z))


def noise(differences: Sequence[float]) -> float:
    """What chance alone makes of the mean of such differences: `ERRORS` standard errors, as sure as these are of many."""
    if len(differences) < 2:
        return math.inf
    beyond = student_t(statistics.NormalDist().cdf(ERRORS), len(differences) - 1)
    return beyond * statistics.stdev(differences) / math.sqrt(len(differences))


class Guards:
    """Counts, for each guard, how often in a row it was beyond its threshold.

    What must not collapse is compared with its mean over the first `BEGINNING` batches, and is not judged before. `longest` is
    the most tokens of an answer, `answers` a batch's number of answers, `disagreement` an ensemble's mean on the SFT model's
    own answers (None: the reward model is no ensemble), `learned` whether all that is paid for was learnt from judgements: who
    pays for length by a function of their own knows what they do. `advice` is what to try, by a guard's name.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        *,
        longest: int,
        answers: int,
        advice: Mapping[str, str],
        disagreement: float | None = None,
        learned: bool = True,
    ) -> None:
        self.rules, self.longest, self.answers, self.advice = rules, longest, answers, advice
        self.disagreement, self.learned = disagreement, learned
        self.first: dict[str, float] = {}  # means over the first batches, of which there have been `seen`
        self.seen = 0
        self.streaks: dict[str, int] = {}
        self.scores: list[float] = []  # of the batches since the last evaluation
        # What the best evaluation found, for each measure: its values by prompt, and the batches' mean score before it.
        self.best: dict[str, tuple[list[float], float | None]] = {}

    def look(self, metrics: Mapping[str, float]) -> list[GuardEvent]:
        """Take one batch's metrics; the guards whose streak is now full."""
        early = self.seen < BEGINNING
        if early:
            self.seen += 1
            for name in COMPARED:
                mean = self.first.get(name, 0.0)
                self.first[name] = mean + (metrics[name] - mean) / self.seen
        self.scores.append(metrics["score"])
        self.streaks["non_finite"] = 0
        tripped = []
        for name, value, threshold, beyond in self._tests(metrics):
            beyond = beyond and not (early and name in (*COMPARED, "length_limit"))
            tripped += self._count(name, value, threshold, beyond)
        return tripped

    def not_finite(self) -> list[GuardEvent]:
        """Take a batch that had to be refused because one of its figures is not finite."""
        return self._count("non_finite", math.nan, math.nan, True)

    def evaluated(self, measures: Mapping[str, Sequence[float]]) -> list[GuardEvent]:
        """Take an evaluation: for `score` and, where it is known, `gold` the values of the same held-out prompts each time.

        Beyond its threshold is a measure that fell from its best evaluation by more than its margin and `ERRORS` standard
        errors (as sure as these are by Student's t, where the prompts are few), while the batches' mean score is higher than it
        was then: what is learnt pays, and is worth nothing.
        """
        score, self.scores = (statistics.fmean(self.scores) if self.scores else None), []
        tripped = []
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
            guard = f"eval_{name}"
            threshold = max(self.rules[guard].threshold, noise(differences))
            rising = score is not None and score_then is not None and score > score_then
            tripped += self._count(guard, -fall, -threshold, rising and fall > threshold)
        return tripped

    def begin_again(self) -> None:
        """The policy was put back: what it did since counts no more; the first batches and the best evaluation stay."""
        self.streaks, self.scores = {}, []

    def _count(self, name: str, value: float, threshold: float, beyond: bool) -> list[GuardEvent]:
        """The guard, once, when its streak is full; one that only warns does so again after it has been within bounds."""
        rule = self.rules[name]
        self.streaks[name] = self.streaks.get(name, 0) + 1 if beyond else 0
        again = self.streaks[name] > rule.patience and rule.action == "warn"
        if self.streaks[name] < rule.patience or again or rule.action == "off":
            return []
        return [GuardEvent(guard=name, action=rule.action, value=value, threshold=threshold, advice=self.advice[name])]

    def _tests(self, now: Mapping[str, float]) -> list[tuple[str, float, float, bool]]:
        """(name, value, threshold in the value's unit, beyond it) of every guard that looks at batches."""
        share = {name: rule.threshold for name, rule in self.rules.items()}
        first = self.first
        low = {name: share[name] * first[name] for name in COMPARED}
        # Where answers were long from the start, the limit is the user's choice and no drift.
        drifts = first["length"] <= self.longest / 2
        most = first["length"] + share["length_limit"] * (self.longest - first["length"]) if drifts else math.inf
        paid = now["length_correlation"]
        found = [
            ("kl_budget", now["kl"], share["kl_budget"], now["kl"] > share["kl_budget"]),
            *((name, now[name], low[name], now[name] < low[name]) for name in COMPARED),
            ("length_limit", now["length"], most, now["length"] > most),
            (
                "mode_response_rate",
                now["mode_response_rate"],
                share["mode_response_rate"],
                now["mode_response_rate"] > share["mode_response_rate"],
            ),
        ]
        if (unvaried := now.get("zero_variance_groups")) is not None:  # dpo compares judged answers, not groups of its own
            most = share["zero_variance_groups"]
            found.append(("zero_variance_groups", unvaried, most, unvaried > most))
        if self.learned:
            sure = surely(paid, self.answers)
            found.append(
                (
                    "score_length_correlation",
                    paid,
                    math.copysign(share["score_length_correlation"], paid),
                    sure > share["score_length_correlation"],
                )
            )
        if self.disagreement is not None:
            apart = share["disagreement"] * self.disagreement
            found.append(("disagreement", now["disagreement"], apart, now["disagreement"] > apart))
        return found

    def state(self) -> dict[str, Any]:
        """All that is counted, as plain values."""
        best = {name: [list(values), score] for name, (values, score) in self.best.items()}
        lately = {"scores": list(self.scores), "best": best}
        return {"first": dict(self.first), "seen": self.seen, "streaks": dict(self.streaks), **lately}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.first, self.seen = dict(state["first"]), int(state["seen"])
        self.streaks = {name: int(count) for name, count in state["streaks"].items()}
        self.scores = list(state["scores"])
        self.best = {name: (list(values), score) for name, (values, score) in state["best"].items()}
