"""The gates of RL: what must hold before the first update, and what the whole must have brought."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sawyer.errors import TrainingError
from sawyer.runs import Gate

SMALL = 1e-3  # what fp32's rounding may do: nats for log-probs and KL, a share for the ratio, reward units for a score
# In bf16 two readings of one model differ by more. By how much is measured on the run's own model and answers: the log-probs
# of training's forward pass in bf16 against the same in fp32. Sampling and training may then be twice as far apart on average,
# and three times for the worst token, since the largest of some thousand differences is itself a matter of chance.
MEAN_TIMES, MOST_TIMES = 2.0, 3.0
SCORED_ALONE = 8  # answers whose score inside RL is compared with what the saved reward model says outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """How far two readings of the same numbers are from each other: on average, and at most."""

    mean: float
    most: float

    @classmethod
    def of(cls, one: Tensor, other: Tensor) -> Apart:
        """Two tensors of equal shape; nothing at all is not apart."""
        if one.numel() == 0:
            return cls(mean=0.0, most=0.0)
        differences = (one.double() - other.double()).abs()
        return cls(mean=float(differences.mean()), most=float(differences.max()))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepZero:
    """What was found before the first update. Policy, reference and sampler are one model then."""

    kl: float  # the largest sum over a response of |log pi - log pi_ref|: a mean could be 0 by differences that cancel
    ratio_error: float  # the largest |pi / pi_old - 1| of the first minibatch
    clip_fraction: float  # share of its counted tokens whose ratio was clipped
    clip: float  # how far the ratio may move before it is
    sampler: Apart  # log-probs of the tokens drawn, as they were sampled and as training reads them, in nats
    rounding: Apart  # training's log-probs in the run's precision against fp32
    score: Apart | None = None  # rewards inside RL and from the saved reward model; None: nothing learnt is paid for
    score_rounding: Apart = Apart(mean=0.0, most=0.0)  # rewards in the run's precision against fp32


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
            0.0 if most < found.clip else 1.0,  # a clip within the precision's own rounding says nothing
            f"the clip fraction is {found.clip_fraction:.2g}",
            "answers and their old log-probs do not belong together (stage at fault: rl)",
        ),
        _apart(
            "sampler",
            found.sampler,
            Apart(mean=mean, most=most),
            f"sampling and training log-probs differ by at most {found.sampler.most:.2g} nats a token, "
            f"{found.sampler.mean:.2g} on average",
            "the model handles padding, its cache or the temperature wrongly when it samples (stage at fault: rl's sampling of "
            "the sft model): try precision: fp32, then report the model's architecture",
        ),
    ]
    if found.score is not None:
        limits = Apart(mean=SMALL + MEAN_TIMES * found.score_rounding.mean, most=SMALL + MOST_TIMES * found.score_rounding.most)
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


def _apart(name: str, found: Apart, limits: Apart, message: str, advice: str) -> Gate:
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


def final_gates(figures: Mapping[str, Any], budget: float, *, ruined: bool) -> list[Gate]:
    """Did the reward rise on held-out prompts, within the KL budget, without a guard having to step in? `ruined`: the last
    model is worth less than the SFT model, or nothing."""
    gain = figures["reward_best"] - figures["reward_sft"]
    return [
        Gate(
            stage="rl",
            name="rl_improves",
            verdict="ok" if gain > 0 else "warn",
            value=figures["reward_best"],
            threshold=figures["reward_sft"],
            message=f"held-out reward {figures['reward_sft']:.3f} -> {figures['reward_best']:.3f} "
            f"(update {figures['best_step']} of {figures['updates']})",
            advice="training made the policy worse than it began: lower rl.learning_rate or raise rl.kl.coefficient"
            if ruined
            else "raise rl.episodes or rl.learning_rate; if the reward is flat, look at the reward model's gates first",
        ),
        Gate(
            stage="rl",
            name="rl_kl_budget",
            # The kept model is within the budget by choice; that the last one is not tells where the run was going.
            verdict="ok" if figures["kl_last"] <= budget else "warn",
            value=figures["kl_last"],
            threshold=budget,
            message=f"the last model is {figures['kl_last']:.2f} nats a response away from the SFT model, "
            f"the kept one {figures['kl']:.2f}",
            advice="raise rl.kl.coefficient, or rl.kl.budget if the last answers are still good: what came after the kept "
            "model was spent in vain",
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


def times(count: int) -> str:
    """once, twice, 3 times"""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
