"""The gates of RL: what must hold before the first update, and what the whole must have gained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from sawyer.config import Rl
from sawyer.errors import TrainingError
from sawyer.runs import Gate
from sawyer.stages.rl.guards import coefficient_setting, guard_advice
from sawyer.stats import PairedInterval, paired_interval

SMALL = 1e-3  # what fp32's rounding may do: nats for log-probs and KL, a share for the ratio, reward units for a score
# In bf16 two readings of one model differ by more. By how much is measured on the run's own model and answers: the log-probs
# of training's forward pass in bf16 against the same in fp32. Sampling and training may then be twice as far apart on average,
# and three times for the worst token, since the largest of some thousand differences is itself a matter of chance.
MEAN_TIMES, MOST_TIMES = 2.0, 3.0
IDLE = 0.5  # share of groups without variance from which on they are the first suspect where nothing was gained
SCORED_ALONE = 8  # answers whose score inside RL is compared with the saved reward model's


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The differences between two readings of the same numbers."""

    mean: float
    most: float

    @classmethod
    def between(cls, one: Tensor, other: Tensor) -> Drift:
        """Of two tensors of equal shape; 0 where they are empty."""
        if one.numel() == 0:
            return NO_DRIFT
        differences = (one.double() - other.double()).abs()
        return cls(mean=float(differences.mean()), most=float(differences.max()))

    def tolerance(self) -> Drift:
        """The drift that is allowed where rounding alone drifts by this much."""
        return Drift(mean=SMALL + MEAN_TIMES * self.mean, most=SMALL + MOST_TIMES * self.most)

    def worst(self, limits: Drift) -> tuple[float, float]:
        """(value, limit) of the mean or of the largest difference, whichever is nearer to its limit."""
        if self.most / limits.most > self.mean / limits.mean or math.isnan(self.most):
            return self.most, limits.most
        return self.mean, limits.mean


NO_DRIFT = Drift(mean=0.0, most=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepZero:
    """Measures before the first update, when policy, reference and sampler are one model."""

    kl: float  # the largest sum over a response of |log pi - log pi_ref|: a mean could be 0 by differences that cancel
    ratio_error: float  # the largest |pi / pi_old - 1| of the first minibatch
    clip_fraction: float  # share of its counted tokens whose ratio was clipped
    clip_range: float  # how far the ratio may move before it is
    sampler: Drift  # log-probs of the tokens drawn, by the sampler and by training's forward pass, in nats
    rounding: Drift  # training's log-probs in the run's precision against fp32
    score: Drift | None = None  # rewards inside RL against the saved reward models; None: there are none
    score_rounding: Drift = NO_DRIFT  # rewards in the run's precision against fp32


def step_zero_gates(measures: StepZero) -> list[Gate]:
    """Ratio 1, KL 0, clip fraction 0, same log-probs by sampler and training, same rewards inside RL and outside.

    A gate that fails names the stage at fault.
    """
    limits = measures.rounding.tolerance()
    rows = [
        (
            "kl",
            # Policy and reference read the very same batches: equal weights give equal numbers in any precision.
            (measures.kl, SMALL),
            f"KL to the reference is up to {measures.kl:.2g} nats a response",
            "the reference is not the SFT model the policy starts from (stage at fault: sft): delete the run's rl folder and "
            "run again",
        ),
        (
            "ratio",
            (measures.ratio_error, limits.most),
            f"the ratio pi/pi_old is off 1 by at most {measures.ratio_error:.2g}",
            "two passes of the policy over one answer differ (stage at fault: rl): look for dropout or a changed model "
            "between them",
        ),
        (
            "clip",
            # A clip range within the precision's rounding says nothing.
            (measures.clip_fraction, 0.0 if limits.most < measures.clip_range else 1.0),
            f"the clip fraction is {measures.clip_fraction:.2g}",
            "answers and their old log-probs do not belong together (stage at fault: rl)",
        ),
        (
            "sampler",
            measures.sampler.worst(limits),
            f"sampling and training log-probs differ by at most {measures.sampler.most:.2g} nats a token, "
            f"{measures.sampler.mean:.2g} on average",
            "the model handles padding, its cache or the temperature wrongly when it samples (stage at fault: rl's sampling of "
            "the sft model): try precision: fp32, then report the model's architecture",
        ),
    ]
    if measures.score is not None:
        row = (
            "score",
            measures.score.worst(measures.score_rounding.tolerance()),
            f"an answer's score inside RL and from the saved reward model differ by at most {measures.score.most:.2g}",
            "the reward model's scores change inside RL (stage at fault: reward): its padding, its template or its files; "
            "train the reward stage again, or report the model's architecture",
        )
        rows.append(row)
    return [
        _gate(f"step0_{name}", value <= limit, value, limit, message, advice, otherwise="fail")
        for name, (value, limit), message, advice in rows
    ]


def stop_if_failed(gates: Sequence[Gate]) -> None:
    """Raises TrainingError for the first gate of step zero that failed."""
    for gate in gates:
        if gate.verdict == "fail":
            raise TrainingError(
                f"rl: before its first update, {gate.message}",
                expected=f"at most {gate.threshold:g}",
                why="policy, reference and sampler are the same model then; every later figure would be wrong",
                todo=gate.advice,
            )


def _gate(
    name: str,
    is_ok: bool,
    value: float,
    threshold: float,
    message: str,
    advice: str,
    *,
    otherwise: Literal["warn", "fail"] = "warn",
) -> Gate:
    verdict: Literal["ok", "warn", "fail"] = "ok" if is_ok else otherwise
    return Gate(stage="rl", name=name, verdict=verdict, value=value, threshold=threshold, message=message, advice=advice)


@dataclass(frozen=True, slots=True, kw_only=True)
class RlOutcome:
    """Rewards of the same P held-out prompts, (P,) each, before RL, by the best model and by the last one."""

    start: tuple[float, ...]
    best: tuple[float, ...]
    last: tuple[float, ...]
    evaluations: int
    is_ruined: bool = False  # no answer of the last model's could be read
    eos_rate: float | None = None  # of the last model's answers; None: it has not been evaluated
    zero_variance: float | None = None  # mean share over the updates of groups without variance; None: it has no groups

    @property
    def is_idle(self) -> bool:
        """Whether most groups had nothing to teach."""
        return self.zero_variance is not None and self.zero_variance >= IDLE

    @property
    def gain(self) -> PairedInterval:
        """The best model's gain; its interval is as wide as the best of so many evaluations asks."""
        return paired_interval(self.start, self.best, looks=max(1, self.evaluations - 1))

    @property
    def last_change(self) -> PairedInterval:
        """The last model's gain or loss."""
        return paired_interval(self.start, self.last)

    def figures(self, *, of_pairs: bool) -> dict[str, float]:
        """The best model's gain with its interval, for summary.json; `of_pairs`: in loss of held-out pairs."""
        gain, name = self.gain, "pair_loss" if of_pairs else "reward"
        ends = (-gain.value, -gain.high, -gain.low) if of_pairs else (gain.value, gain.low, gain.high)
        values = (*ends, gain.detectable)
        names = (f"{name}_change", f"{name}_change_low", f"{name}_change_high", f"{name}_detectable")
        # One prompt has no interval: infinite ends would come back from summary.json as text.
        figures = {name: value for name, value in zip(names, values, strict=True) if math.isfinite(value)}
        return figures | ({} if self.zero_variance is None else {"zero_variance_groups": self.zero_variance})


def final_gates(figures: Mapping[str, Any], rl: Rl, outcome: RlOutcome, budget: float) -> list[Gate]:
    """Did the reward rise beyond noise on held-out prompts, within the KL `budget`, without a guard's stop or rollback?"""
    budget_setting = "rl.kl.budget" if budget == rl.kl.budget else "rl.guards.kl_budget.threshold"
    stop, rollbacks = figures["stopped"], figures["rollbacks"]
    times = {1: "once", 2: "twice"}.get(rollbacks, f"{rollbacks} times")
    back = f"guards put the run back to its best model {times}" if rollbacks else "no guard had to stop the run"
    return [
        _pairs_gate(figures, outcome) if "pair_loss_best" in figures else reward_gate(figures, rl, outcome),
        _gate(
            "rl_kl_budget",
            # The best model is within the budget by choice; that the last one is not tells where the run was going.
            figures["kl_last"] <= budget,
            figures["kl_last"],
            budget,
            f"the last model is {figures['kl_last']:.2f} nats a response away from its reference, "
            f"the kept one {figures['kl']:.2f}",
            f"raise {coefficient_setting(rl)}, or {budget_setting} if the last answers are still good: what came after the "
            "kept model was spent in vain",
        ),
        _gate(
            "rl_unstopped",
            not stop and not rollbacks,
            rollbacks + float(bool(stop)),
            0.0,
            stop or back,
            "read the samples around that update; the best model before it was kept",
        ),
    ]


def reward_gate(figures: Mapping[str, Any], rl: Rl, outcome: RlOutcome) -> Gate:
    """ok for a rise of the held-out reward beyond noise."""
    message = _change_message("held-out reward", figures["reward_sft"], figures["reward_best"], figures, outcome)
    if outcome.is_idle:
        message += f"; in {outcome.zero_variance:.0%} of the groups all answers had the same score"
    return _gain_gate(outcome, message, _gain_advice(rl, outcome))


def _pairs_gate(figures: Mapping[str, Any], outcome: RlOutcome) -> Gate:
    """Where no scorer judges answers: ok where the loss of held-out pairs fell beyond noise."""
    first, best = figures["pair_loss_first"], figures["pair_loss_best"]
    message = _change_message("loss of the held-out pairs", first, best, figures, outcome, sign=-1.0)
    advice = "lower rl.learning_rate if the training loss fell, else raise it or rl.epochs; more pairs tell more"
    return _gain_gate(outcome, message, advice)


def _change_message(
    name: str, first: float, best: float, figures: Mapping[str, Any], outcome: RlOutcome, sign: float = 1.0
) -> str:
    """From the first evaluation to the best one, or to the last where the first is the best. A loss has the `sign` -1."""
    separator = ": " if sign > 0 else "; gained: "
    if figures["best_step"]:
        message = f"{name} {first:.3f} -> {best:.3f} (update {figures['best_step']} of {figures['updates']})"
        return f"{message}{separator}{outcome.gain.summary}"
    last = sign * sum(outcome.last) / len(outcome.last)
    message = f"{name} {first:.3f} -> {last:.3f} after {figures['updates']} updates"
    return f"{message}{separator}{outcome.last_change.summary}; none is kept"


def _gain_gate(outcome: RlOutcome, message: str, advice: str) -> Gate:
    return _gate("rl_improves", outcome.gain.low > 0, outcome.gain.low, 0.0, message, advice)


def _gain_advice(rl: Rl, outcome: RlOutcome) -> str:
    """What to try after a run without a significant gain, in settings that its algorithm has and by gates that it has."""
    if outcome.is_ruined or outcome.last_change.high < 0:
        return f"training made the policy worse than it began: lower rl.learning_rate or raise {coefficient_setting(rl)}"
    if outcome.eos_rate == 0:
        return (
            f"no held-out answer ended within {rl.max_new_tokens:,} tokens: raise rl.max_new_tokens, look at what "
            "rl.missing_eos_penalty takes from each, or begin with a model that has learnt to stop"
        )
    if outcome.best == outcome.start and outcome.last_change.low > 0:
        return (
            "the reward rose, but every later model was beyond rl.kl.budget or gave one answer to too many prompts (the event "
            "best_checkpoint has the limits): read rl's samples; where that answer is right for many prompts, raise "
            f"rl.guards.mode_response_rate.threshold, else raise {coefficient_setting(rl)}"
        )
    if outcome.is_idle:
        return f"nothing could be learnt from groups of equal scores: {guard_advice(rl)['zero_variance_groups']}"
    longer = "rl.episodes" if rl.uses("episodes") else "rl.epochs"
    gates = "the reward model's gates" if rl.uses_stage else "the eval_score figures of each part of rl.rewards"
    return (
        f"raise {longer} or rl.learning_rate to gain more, rl.eval_prompts (and rl.eval_fraction) to see smaller gains; if the "
        f"reward is flat, look at {gates} first"
    )
