"""The gates of RL: what must hold before the first update, and what the whole must have brought."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sawyer.config import Rl
from sawyer.errors import TrainingError
from sawyer.runs import Gate
from sawyer.stages.rl.guards import advice_for
from sawyer.stats import PairedInterval, paired_interval

SMALL = 1e-3  # what fp32's rounding may do: nats for log-probs and KL, a share for the ratio, reward units for a score
# In bf16 two readings of one model differ by more. By how much is measured on the run's own model and answers: the log-probs
# of training's forward pass in bf16 against the same in fp32. Sampling and training may then be twice as far apart on average,
# and three times for the worst token, since the largest of some thousand differences is itself a matter of chance.
MEAN_TIMES, MOST_TIMES = 2.0, 3.0
IDLE = 0.5  # groups without variance from which on a run that gained nothing has them to blame first
SCORED_ALONE = 8  # answers whose score inside RL is compared with what the saved reward model says outside


@dataclass(frozen=True, slots=True, kw_only=True)
class LogprobDrift:
    """The difference between two readings of the same numbers."""

    mean: float
    most: float

    @classmethod
    def between(cls, one: Tensor, other: Tensor) -> LogprobDrift:
        """Of two tensors of equal shape; 0 where they are empty."""
        if one.numel() == 0:
            return NO_DRIFT
        differences = (one.double() - other.double()).abs()
        return cls(mean=float(differences.mean()), most=float(differences.max()))


NO_DRIFT = LogprobDrift(mean=0.0, most=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepZero:
    """What was found before the first update. Policy, reference and sampler are one model then."""

    kl: float  # the largest sum over a response of |log pi - log pi_ref|: a mean could be 0 by differences that cancel
    ratio_error: float  # the largest |pi / pi_old - 1| of the first minibatch
    clip_fraction: float  # share of its counted tokens whose ratio was clipped
    clip_range: float  # how far the ratio may move before it is
    sampler: LogprobDrift  # log-probs of the tokens drawn, as they were sampled and as training reads them, in nats
    rounding: LogprobDrift  # training's log-probs in the run's precision against fp32
    score: LogprobDrift | None = None  # rewards inside RL and from the saved reward model; None: nothing learnt is paid for
    score_rounding: LogprobDrift = NO_DRIFT  # rewards in the run's precision against fp32


def step_zero_gates(found: StepZero) -> list[Gate]:
    """Ratio 1, KL 0, clip fraction 0, sampling and training log-probs equal, rewards equal inside and outside.

    A gate that fails says which stage is at fault.
    """
    mean, most = SMALL + MEAN_TIMES * found.rounding.mean, SMALL + MOST_TIMES * found.rounding.most
    gates = [
        _zero(
            "kl",
            found.kl,
            SMALL,  # policy and reference read the very same batches: equal weights give equal numbers in any precision
            f"KL to the reference is up to {found.kl:.2g} nats a response",
            "the reference is not the SFT model the policy starts from (stage at fault: sft): delete the run's rl folder and "
            "run again",
        ),
        _zero(
            "ratio",
            found.ratio_error,
            most,
            f"the ratio pi/pi_old is off 1 by at most {found.ratio_error:.2g}",
            "two passes of the policy over one answer differ (stage at fault: rl): look for dropout or a changed model "
            "between them",
        ),
        _zero(
            "clip",
            found.clip_fraction,
            0.0 if most < found.clip_range else 1.0,  # a clip within the precision's own rounding says nothing
            f"the clip fraction is {found.clip_fraction:.2g}",
            "answers and their old log-probs do not belong together (stage at fault: rl)",
        ),
        _apart(
            "sampler",
            found.sampler,
            LogprobDrift(mean=mean, most=most),
            f"sampling and training log-probs differ by at most {found.sampler.most:.2g} nats a token, "
            f"{found.sampler.mean:.2g} on average",
            "the model handles padding, its cache or the temperature wrongly when it samples (stage at fault: rl's sampling of "
            "the sft model): try precision: fp32, then report the model's architecture",
        ),
    ]
    if found.score is not None:
        limits = LogprobDrift(
            mean=SMALL + MEAN_TIMES * found.score_rounding.mean, most=SMALL + MOST_TIMES * found.score_rounding.most
        )
        gates.append(
            _apart(
                "score",
                found.score,
                limits,
                f"an answer's score inside RL and from the saved reward model differ by at most {found.score.most:.2g}",
                "the reward model reads an answer otherwise inside RL than alone (stage at fault: reward): its padding, its "
                "template or its files; train the reward stage again, or report the model's architecture",
            )
        )
    return gates


def stop_if_failed(gates: Sequence[Gate]) -> None:
    """Raises TrainingError for the first gate of step zero that failed."""
    failed = [gate for gate in gates if gate.verdict == "fail"]
    if failed:
        raise TrainingError(
            f"rl: before its first update, {failed[0].message}",
            expected=f"at most {failed[0].threshold:g}",
            why="policy, reference and sampler are the same model then; every later figure would be wrong",
            todo=failed[0].advice,
        )


def _apart(name: str, found: LogprobDrift, limits: LogprobDrift, message: str, advice: str) -> Gate:
    """The gate on the mean or on the largest difference, whichever is nearer to its limit."""
    worse = found.most / limits.most > found.mean / limits.mean
    value, limit = (found.most, limits.most) if worse or math.isnan(found.most) else (found.mean, limits.mean)
    return _zero(name, value, limit, message, advice)


def _zero(name: str, value: float, limit: float, message: str, advice: str) -> Gate:
    return Gate(
        stage="rl",
        name=f"step0_{name}",
        verdict="ok" if value <= limit else "fail",
        value=value,
        threshold=limit,
        message=message,
        advice=advice,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Rewards of the same P held-out prompts, (P,) each, before RL, by the kept model and by the last one."""

    start: tuple[float, ...]
    best: tuple[float, ...]
    last: tuple[float, ...]
    evaluations: int
    ruined: bool = False  # no answer of the last model's could be read
    ended: float | None = None  # share of the last model's answers that end by themselves; None: it has not been asked
    zero_variance: float | None = None  # mean share over the updates of groups without variance; None: it has no groups

    @property
    def is_idle(self) -> bool:
        """Whether most groups had nothing to teach."""
        return self.zero_variance is not None and self.zero_variance >= IDLE

    @property
    def gained(self) -> PairedInterval:
        """What the kept model gained: the best of all evaluations but the first."""
        return paired_interval(self.start, self.best, looks=max(1, self.evaluations - 1))

    def figures(self, *, of_pairs: bool) -> dict[str, float]:
        """What the kept model gained with its interval, for summary.json; `of_pairs`: in loss of held-out pairs."""
        gained, name = self.gained, "pair_loss" if of_pairs else "reward"
        ends = (-gained.value, -gained.high, -gained.low) if of_pairs else (gained.value, gained.low, gained.high)
        found = dict(zip((f"{name}_change", f"{name}_change_low", f"{name}_change_high"), ends, strict=True))
        found[f"{name}_detectable"] = gained.detectable
        found = {name: value for name, value in found.items() if math.isfinite(value)}  # one prompt has no interval
        return found | ({} if self.zero_variance is None else {"zero_variance_groups": self.zero_variance})

    @property
    def moved(self) -> PairedInterval:
        """What the last model gained or lost."""
        return paired_interval(self.start, self.last)


def final_gates(figures: Mapping[str, Any], asked: Rl, outcome: Outcome, budget: float) -> list[Gate]:
    """Did the reward surely rise on held-out prompts, within the KL `budget`, without a guard having to step in?"""
    name = "rl.kl.budget" if budget == asked.kl.budget else "rl.guards.kl_budget.threshold"
    return [
        _pairs_gate(figures, outcome) if "pair_loss_best" in figures else reward_gate(figures, asked, outcome),
        Gate(
            stage="rl",
            name="rl_kl_budget",
            # The kept model is within the budget by choice; that the last one is not tells where the run was going.
            verdict="ok" if figures["kl_last"] <= budget else "warn",
            value=figures["kl_last"],
            threshold=budget,
            message=f"the last model is {figures['kl_last']:.2f} nats a response away from its reference, "
            f"the kept one {figures['kl']:.2f}",
            advice=f"raise {_tie(asked)}, or {name} if the last answers are still good: what came after the kept model "
            "was spent in vain",
        ),
        Gate(
            stage="rl",
            name="rl_unstopped",
            verdict="warn" if figures["stopped"] or figures["rollbacks"] else "ok",
            value=figures["rollbacks"] + float(bool(figures["stopped"])),
            threshold=0.0,
            message=figures["stopped"]
            or (
                f"guards put the run back to its best model {times(figures['rollbacks'])}"
                if figures["rollbacks"]
                else "no guard had to stop the run"
            ),
            advice="read the samples around that update; the best model before it was kept",
        ),
    ]


def reward_gate(figures: Mapping[str, Any], asked: Rl, outcome: Outcome) -> Gate:
    """A rise beyond the noise of the held-out prompts is ok; one within it, or none, is told as what it is."""
    start, updates, kept = figures["reward_sft"], figures["updates"], figures["best_step"]
    if kept:
        best, change = figures["reward_best"], outcome.gained.summary
        message = f"held-out reward {start:.3f} -> {best:.3f} (update {kept} of {updates}): {change}"
    else:
        last = sum(outcome.last) / len(outcome.last)
        message = f"held-out reward {start:.3f} -> {last:.3f} after {updates} updates: {outcome.moved.summary}; none is kept"
    if outcome.is_idle:
        message += f"; in {outcome.zero_variance:.0%} of the groups all answers had the same score"
    return _gate_of_gain(outcome, message, _advice(asked, outcome))


def _gate_of_gain(outcome: Outcome, message: str, advice: str) -> Gate:
    """ok where the kept model surely gained on held-out prompts or pairs."""
    return Gate(
        stage="rl",
        name="rl_improves",
        verdict="ok" if outcome.gained.low > 0 else "warn",
        value=outcome.gained.low,
        threshold=0.0,
        message=message,
        advice=advice,
    )


def _advice(asked: Rl, outcome: Outcome) -> str:
    """What to try after a run that did not surely gain, in settings that its algorithm has and by gates that it has."""
    if outcome.ruined or outcome.moved.high < 0:
        return f"training made the policy worse than it began: lower rl.learning_rate or raise {_tie(asked)}"
    if outcome.ended == 0:
        return (
            f"no held-out answer ended within {asked.max_new_tokens:,} tokens: raise rl.max_new_tokens, look at what "
            "rl.missing_eos_penalty takes from each, or begin with a model that has learnt to stop"
        )
    if outcome.is_idle:
        return f"nothing could be learnt from groups of equal scores: {advice_for(asked)['zero_variance_groups']}"
    longer = "rl.episodes" if asked.uses("episodes") else "rl.epochs"
    gates = "the reward model's gates" if asked.uses_stage else "the eval_score figures of each part of rl.rewards"
    return (
        f"raise {longer} or rl.learning_rate to gain more, rl.eval_prompts (and rl.eval_fraction) to see smaller gains; if the "
        f"reward is flat, look at {gates} first"
    )


def _pairs_gate(figures: Mapping[str, Any], outcome: Outcome) -> Gate:
    """Where nobody scores answers: are held-out pairs surely told apart better than by the model that dpo starts from?"""
    first, best, kept = figures["pair_loss_first"], figures["pair_loss_best"], figures["best_step"]
    message = f"loss of the held-out pairs {first:.3f} -> "
    if kept:
        message += f"{best:.3f} (update {kept} of {figures['updates']}); gained: {outcome.gained.summary}"
    else:  # the kept model is the one that dpo started from: what can be told is where the last one went
        last = -sum(outcome.last) / len(outcome.last)
        message += f"{last:.3f} after {figures['updates']} updates; gained: {outcome.moved.summary}; none is kept"
    advice = "lower rl.learning_rate if the training loss fell, else raise it or rl.epochs; more pairs tell more"
    return _gate_of_gain(outcome, message, advice)


def _tie(asked: Rl) -> str:
    return "rl.kl.coefficient" if asked.uses("kl.coefficient") else "rl.beta"


def times(count: int) -> str:
    """once, twice, 3 times"""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
