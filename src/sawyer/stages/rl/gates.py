"""The gates of RL: what must hold before the first update, and what the whole must have brought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sawyer.runs import Gate

# What rounding may do: nats for the KL and the sampler's log-probs, a share for the ratio. Under bf16 a log-prob depends on
# the batch that its row is in, and the sampler's cached forward rounds otherwise than training's whole-sequence forward.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}
SAME_BATCHES = 1e-3  # policy and reference read the very same batches: equal weights give equal numbers in any precision


def step_zero_gates(*, kl: float, ratio_error: float, sampler_error: float, precision: str) -> list[Gate]:
    """Before the first update policy, reference and sampler are one model: ratio 1, KL 0, equal log-probs.

    `kl` is the largest sum over a response of |log pi - log pi_ref|: a mean could be 0 by differences that cancel.
    """
    wide = TOLERANCE[precision]
    found = (
        (
            "step0_kl",
            kl,
            SAME_BATCHES,
            f"KL to the reference is up to {kl:.2g} nats a response",
            "the reference is not the SFT model the policy starts from: delete the run's rl folder and run again",
        ),
        (
            "step0_ratio",
            ratio_error,
            wide,
            f"the ratio pi/pi_old is off 1 by at most {ratio_error:.2g}",
            "the policy's forward pass is not deterministic: look for dropout or a changed model between two passes",
        ),
        (
            "step0_sampler",
            sampler_error,
            wide,
            f"sampling and training log-probs differ by at most {sampler_error:.2g} nats a token",
            "the model handles padding or its cache wrongly: try precision: fp32, then report the model's architecture",
        ),
    )
    return [
        Gate(
            stage="rl",
            name=name,
            verdict="ok" if value <= tolerance else "fail",
            value=value,
            threshold=tolerance,
            message=message,
            advice=advice,
        )
        for name, value, tolerance, message, advice in found
    ]


def final_gates(figures: Mapping[str, Any], budget: float) -> list[Gate]:
    """Did the reward rise on held-out prompts, within the KL budget, without a guard having to step in?"""
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
            advice="raise rl.episodes or rl.learning_rate; if the reward is flat, look at the reward model's gates first",
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
            verdict="warn" if figures["stopped"] else "ok",
            value=float(bool(figures["stopped"])),
            threshold=0.0,
            message=figures["stopped"] or "no guard had to stop the run",
            advice="read the samples around that update; the best model before it was kept",
        ),
    ]
