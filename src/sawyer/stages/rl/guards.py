"""Guards: what must not happen to a policy that learns, and what is done when it does. docs/guards.md explains them for users.

Each looks at every batch, before anything is learnt from it, or at every evaluation. It has a threshold, a patience (how often
in a row it must be beyond) and an action: warn, stop, or put the run back to its best model with a higher KL coefficient.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sawyer.config import Rl
from sawyer.stats import student_t
from sawyer.trust import NeededGuard

Action = Literal["warn", "stop", "rollback", "off"]
BEGINNING = 3  # batches whose mean is the reference of the collapses: one small batch is chance
RELATIVE_GUARDS = ("eos_rate", "distinct_2", "length")  # thresholds of these are shares of the first batches' figures
SHARED_BY = 4  # fewer prompts with one answer are no collapse, however small the batch is
RAISE_FACTOR, LEAST_RAISED = 2.0, 0.05  # of the KL coefficient after a rollback; 0 becomes the default of rl.kl.coefficient
ERRORS = 3.0  # standard errors that separate chance from a finding: the best of many evaluations was lucky too


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When one guard acts, and how."""

    threshold: float
    patience: int
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardKind:
    """One guard: its rule unless `rl.guards` changes it, and its words. In braces what `guard_advice` fills in."""

    rule: Rule
    explanation: str
    advice: str


def _guard_kind(
    threshold: float, explanation: str, advice: str, *, patience: int = 3, action: Action = "rollback"
) -> GuardKind:
    return GuardKind(rule=Rule(threshold=threshold, patience=patience, action=action), explanation=explanation, advice=advice)


_WORSE = "held-out answers got worse since the best evaluation while the training reward rose: "
GUARDS: Mapping[str, GuardKind] = {
    "non_finite": _guard_kind(
        0.0,
        "a figure was not finite; nothing was learnt from that batch",
        "lower rl.learning_rate, {bound}or look for prompts with extreme scores",
        patience=1,
    ),
    "kl_budget": _guard_kind(  # nats a response; rl.kl.budget is its threshold
        math.inf,
        "the policy has moved further from the SFT model than is allowed",
        "raise {tie}, or rl.guards.kl_budget.threshold if the samples are still good",
    ),
    "length": _guard_kind(  # of the first batches' mean length
        0.2,
        "answers have shrunk to a few tokens; saying nothing may pay",
        "look at the shortest samples and {judge}, or raise {tie}",
    ),
    # of the way from the first batches' mean length to the longest answer
    "length_limit": _guard_kind(0.9, "answers have grown to the longest that is allowed", "raise {ends}"),
    "eos_rate": _guard_kind(0.5, "answers no longer end by themselves", "raise {ends}"),  # of the first batches' rate
    "distinct_2": _guard_kind(  # of the first batches' share
        0.35, "answers have lost their variety", "raise {tie} or lower rl.learning_rate"
    ),
    "mode_response_rate": _guard_kind(  # of the different prompts
        0.25, "one answer is given to many different prompts; it scores well whatever the prompt", "{judge}, or raise {tie}"
    ),
    "score_length_correlation": _guard_kind(
        0.6,
        "the scores follow the answers' length: a policy learns to write long (below zero: short), whatever the prompt",
        "{report}have answers judged of which the better one is the shorter (or the longer)",
        patience=2,
        action="stop",  # a higher KL coefficient does not mend a reward model
    ),
    "disagreement": _guard_kind(  # times that on the SFT model's answers
        2.0,
        "the reward models no longer agree on the answers: they are unlike any that were judged, and the reward is a guess",
        "raise {tie}, or have such answers judged",
    ),
    # standard deviations
    "eval_score": _guard_kind(
        0.1, f"{_WORSE}the training prompts are learnt by heart", "raise {tie}, or give more prompts", patience=2
    ),
    # points of 10
    "eval_gold": _guard_kind(
        0.5, f"{_WORSE}the reward model is being gamed", "raise {tie}, or give more judgements", patience=2
    ),
    "zero_variance_groups": _guard_kind(  # of the groups
        0.9,
        "answers that are compared with each other all get the same score: nothing can be learnt from them",
        "raise {more}, or rl.max_new_tokens where no answer ends; take prompts that are sometimes answered rightly, or pay in "
        "steps and not all or nothing",
        patience=2,
        action="warn",  # such a batch teaches nothing and does no harm
    ),
}


def guard_advice(rl: Rl) -> dict[str, str]:
    """Each guard's advice, in settings that the algorithm has and by files that the run has."""
    words = {
        "tie": coefficient_setting(rl),
        "ends": "rl.missing_eos_penalty or rl.kl.coefficient" if rl.is_online else "rl.beta",
        "bound": "bound the scores with rl.reward_clip, " if rl.uses("reward_clip") else "",
        "judge": "have such answers judged" if rl.uses_stage else "let the reward tell them from good answers",
        "report": "see reward/trust.json; " if rl.uses_stage else "",
        "more": f"rl.temperature or {'rl.group_size' if rl.algorithm in ('rloo', 'grpo') else 'rl.batch_size'}",
    }
    return {name: kind.advice.format(**words) for name, kind in GUARDS.items()}


def coefficient_setting(rl: Rl) -> str:
    """The setting that ties the policy to its reference."""
    return "rl.kl.coefficient" if rl.uses("kl.coefficient") else "rl.beta"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardEvent:
    """A guard whose patience is over."""

    guard: str
    action: Action
    value: float
    threshold: float  # in the value's unit
    advice: str

    def message(self, updates: int) -> str:
        """What happened after so many updates."""
        figure = f" is {self.value:.3g} (threshold {self.threshold:.3g})" if math.isfinite(self.threshold) else ""
        return f"{self.guard}{figure} after {updates} update{'s' * (updates != 1)}: {GUARDS[self.guard].explanation}"


def guard_rules(rl: Rl, needed_guards: Sequence[NeededGuard] = ()) -> dict[str, Rule]:
    """Each guard's rule: its default, at least as strict as the trust report asks, with the changes of `rl.guards`."""
    rules = {name: kind.rule for name, kind in GUARDS.items()}
    rules["kl_budget"] = replace(rules["kl_budget"], threshold=rl.kl.budget)
    for guard in needed_guards:
        stricter = (
            max if guard.guard in RELATIVE_GUARDS else min
        )  # these must not fall below a share, the others not rise above one
        rule = rules[guard.guard]
        rules[guard.guard] = replace(rule, threshold=stricter(rule.threshold, guard.threshold))
    for name, settings in rl.guards.items():
        rules[name] = replace(rules[name], **settings.model_dump(exclude_none=True))
    return rules


def kl_budget(rules: Mapping[str, Rule], rl: Rl) -> float:
    """The most nats a response that the best model may be from its reference: the guard's, `rl.kl.budget` where that is off."""
    rule = rules["kl_budget"]
    return rl.kl.budget if rule.action == "off" else rule.threshold


def raised_coefficient(coefficient: float) -> float:
    """The KL coefficient after a rollback."""
    return max(RAISE_FACTOR * coefficient, LEAST_RAISED)


def stop_summary(message: str, event: GuardEvent, rollbacks: int, coefficient: str) -> str:
    """Why the run stops itself and what to try: `coefficient` is the last rollback's, in words."""
    failures = f"; {rollbacks} rollback{'s' * (rollbacks > 1)}, the last with a {coefficient}, did not help" * bool(rollbacks)
    return f"{message}{failures}; the best model so far is kept; what to try: {event.advice}"


def mode_response_rate(prompts: Sequence[Hashable], responses: Sequence[str]) -> float:
    """The share of the different prompts that get one and the same response; 0 where fewer than four share one.

    A prompt that comes again in the batch counts once: its answer may well be the same.
    """
    counts = Counter(response for _, response in set(zip(prompts, responses, strict=True)))
    most = max(counts.values(), default=0)
    return most / len(set(prompts)) if most >= SHARED_BY else 0.0


def significant_correlation(correlation: float, count: int) -> float:
    """How far from 0 a correlation of `count` cases is at least: `ERRORS` standard errors nearer, on Fisher's z scale."""
    if count < 4:
        return 0.0
    z = math.atanh(min(abs(correlation), 1 - 1e-9)) - ERRORS / math.sqrt(count - 3)
    return math.tanh(max(0.0, z))


def noise_margin(differences: Sequence[float]) -> float:
    """What chance alone makes of the mean of such differences: `ERRORS` standard errors, widened by Student's t for few."""
    if len(differences) < 2:
        return math.inf
    errors = student_t(statistics.NormalDist().cdf(ERRORS), len(differences) - 1)
    return errors * statistics.stdev(differences) / math.sqrt(len(differences))


class Guards:
    """Counts, for each guard, how often in a row it was beyond its threshold.

    Guards against a collapse compare with the mean over the first `BEGINNING` batches, and do not act before. `batch_size` is
    the number of answers that they look at, `disagreement` an ensemble's mean on the SFT model's answers (None: no ensemble).
    `learned_reward`: the reward includes no user's function; one that rewards length does so on purpose.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        *,
        max_new_tokens: int,
        batch_size: int,
        advice: Mapping[str, str],
        disagreement: float | None = None,
        learned_reward: bool = True,
    ) -> None:
        self.rules, self.max_new_tokens, self.batch_size, self.advice = rules, max_new_tokens, batch_size, advice
        self.disagreement, self.learned_reward = disagreement, learned_reward
        self.first: dict[str, float] = {}  # means over the first batches, of which there have been `batches`
        self.batches = 0
        self.streaks: dict[str, int] = {}
        self.scores: list[float] = []  # of the batches since the last evaluation
        # Of the best evaluation, for each measure: its values by prompt, and the batches' mean score before it.
        self.best: dict[str, tuple[list[float], float | None]] = {}

    def check_batch(self, metrics: Mapping[str, float]) -> list[GuardEvent]:
        """Take one batch's metrics; the guards that now act."""
        is_early = self.batches < BEGINNING
        if is_early:
            self.batches += 1
            for name in RELATIVE_GUARDS:
                mean = self.first.get(name, 0.0)
                self.first[name] = mean + (metrics[name] - mean) / self.batches
        self.scores.append(metrics["score"])
        self.streaks["non_finite"] = 0
        events = []
        for name, value, threshold, is_beyond in self._compare(metrics):
            events += self._count(
                name, value, threshold, is_beyond and not (is_early and name in (*RELATIVE_GUARDS, "length_limit"))
            )
        return events

    def count_non_finite(self) -> list[GuardEvent]:
        """Take a batch that had to be refused because one of its figures is not finite."""
        return self._count("non_finite", math.nan, math.nan, True)

    def check_evaluation(self, measures: Mapping[str, Sequence[float]]) -> list[GuardEvent]:
        """Take an evaluation: for `score` and, where it is known, `gold` the values of the same held-out prompts each time.

        Beyond its threshold is a measure that fell from its best evaluation by more than its margin and than noise, while the
        batches' mean score is higher than it was then: what is learnt pays, and is worth nothing.
        """
        score, self.scores = (statistics.fmean(self.scores) if self.scores else None), []
        events = []
        for name, values in measures.items():
            if not all(map(math.isfinite, values)):
                continue  # nothing can be compared with it
            best, score_then = self.best.get(name, (list(values), None))
            fall = statistics.fmean(best) - statistics.fmean(values)
            if name not in self.best or fall < 0:
                self.best[name] = list(values), score
            elif score_then is None:  # before the first evaluation there was no batch: those after it stand for them
                self.best[name] = best, score
            guard = f"eval_{name}"
            margin = max(self.rules[guard].threshold, noise_margin([a - b for a, b in zip(best, values, strict=True)]))
            is_rising = score is not None and score_then is not None and score > score_then
            events += self._count(guard, -fall, -margin, is_rising and fall > margin)
        return events

    def reset_streaks(self) -> None:
        """The policy was put back: what it did since counts no more; the first batches and the best evaluation stay."""
        self.streaks, self.scores = {}, []

    def _count(self, name: str, value: float, threshold: float, is_beyond: bool) -> list[GuardEvent]:
        """The guard, once, when its patience is over; one that warns does so again after it has been within bounds."""
        rule = self.rules[name]
        self.streaks[name] = streak = self.streaks.get(name, 0) + 1 if is_beyond else 0
        if streak < rule.patience or (streak > rule.patience and rule.action == "warn") or rule.action == "off":
            return []
        return [GuardEvent(guard=name, action=rule.action, value=value, threshold=threshold, advice=self.advice[name])]

    def _compare(self, metrics: Mapping[str, float]) -> Iterator[tuple[str, float, float, bool]]:
        """(guard, value, threshold in the value's unit, whether it is beyond) of every guard that looks at batches."""
        thresholds = {name: rule.threshold for name, rule in self.rules.items()}
        length, longest = self.first["length"], self.max_new_tokens
        # Where answers were long from the start, the limit is the user's choice and no drift.
        limit = length + thresholds["length_limit"] * (longest - length) if length <= longest / 2 else math.inf
        bounds = {  # guard: (metric, least value, most value)
            "kl_budget": ("kl", -math.inf, thresholds["kl_budget"]),
            **{name: (name, thresholds[name] * self.first[name], math.inf) for name in RELATIVE_GUARDS},
            "length_limit": ("length", -math.inf, limit),
            "mode_response_rate": ("mode_response_rate", -math.inf, thresholds["mode_response_rate"]),
        }
        if "zero_variance_groups" in metrics:  # dpo compares judged answers, not groups of its own
            bounds["zero_variance_groups"] = "zero_variance_groups", -math.inf, thresholds["zero_variance_groups"]
        for name, (metric, least, most) in bounds.items():
            value = metrics[metric]
            yield name, value, least if most == math.inf else most, value < least or value > most
        if self.learned_reward:
            name, value = "score_length_correlation", metrics["length_correlation"]
            is_beyond = significant_correlation(value, self.batch_size) > thresholds[name]
            yield name, value, math.copysign(thresholds[name], value), is_beyond
        if self.disagreement is not None:
            most = thresholds["disagreement"] * self.disagreement
            yield "disagreement", metrics["disagreement"], most, metrics["disagreement"] > most

    def state(self) -> dict[str, Any]:
        """All that is counted, as plain values."""
        best = {name: [list(values), score] for name, (values, score) in self.best.items()}
        counts = {"first": dict(self.first), "batches": self.batches, "streaks": dict(self.streaks)}
        return {**counts, "scores": list(self.scores), "best": best}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.first, self.batches = dict(state["first"]), int(state["batches"])
        self.streaks = {name: int(count) for name, count in state["streaks"].items()}
        self.scores = list(state["scores"])
        self.best = {name: (list(values), score) for name, (values, score) in state["best"].items()}
