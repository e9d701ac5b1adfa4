"""The gates of the comparison: RL against the model that it started from, by intervals over prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sawyer.config import Config
from sawyer.runs import Gate
from sawyer.stats import detectable

STAGE = "compare"
NAMES = {"sft": "SFT", "base": "the model it started from"}
EVEN = 0.5


def compare_gates(figures: Mapping[str, Any], start: str, config: Config, *, kept_start: bool = False) -> list[Gate]:
    """Whether RL wins against `start` (sft or base), and whether its greedy answers got worse, beyond noise; a gate for each
    figure that there is. A message within noise names the difference that so many prompts would have shown. `kept_start`: none
    of RL's updates was kept, so that it and its start are one model."""
    gates = []
    rate, change = figures.get(f"win_rate_rl_vs_{start}"), figures.get(f"greedy_change_rl_vs_{start}")
    if rate is not None:
        gates.append(_same_gate(rate, start) if kept_start else _win_gate(rate, start))
    if change is not None:
        gates.append(_greedy_gate(change, start, config))
    return gates


def _win_gate(rate: Mapping[str, Any], start: str) -> Gate:
    low, high = rate["low"], rate["high"]
    message = f"RL wins {rate['value']:.1%} of the prompts against {NAMES[start]} by {rate['judge']} ({low:.1%} to {high:.1%})"
    message += ", ties as half, temperature 0.7"
    if low <= EVEN <= high:
        message += f", which is within noise; {min(1.0, EVEN + detectable(low, high)):.0%} would probably be seen"
    return Gate(
        stage=STAGE,
        name=f"rl_beats_{start}",
        verdict="ok" if low > EVEN else "fail" if high < EVEN else "warn",
        value=low,
        threshold=EVEN,
        message=message,
        advice="look at the answers side by side; more prompts narrow the interval",
    )


def _same_gate(rate: Mapping[str, Any], start: str) -> Gate:
    """One model against itself: whatever the rate is, it is chance, and more prompts would show no more."""
    return Gate(
        stage=STAGE,
        name=f"rl_beats_{start}",
        verdict="warn",
        value=rate["low"],
        threshold=EVEN,
        message=f"RL kept none of its updates: its model is {NAMES[start]}; that it wins {rate['value']:.1%} of the prompts by "
        f"{rate['judge']} is the chance of sampling at temperature 0.7",
        advice="see the gate rl_improves for what RL may have lacked",
    )


def _greedy_gate(change: Mapping[str, Any], start: str, config: Config) -> Gate:
    low, high = change["low"], change["high"]
    message = (
        f"greedy answers change by {change['value']:+.2f} in {change['judge']} ({low:+.2f} to {high:+.2f}) from {NAMES[start]}"
    )
    message += " to RL"
    if low < 0 < high:
        message += f", which is within noise; a change of {detectable(low, high):.2g} would probably be seen"
    rl = config.rl
    tie = "rl.kl.coefficient" if rl is None or rl.uses("kl.coefficient") else "rl.beta"
    gates = "see the reward stage's gates, or " if config.reward is not None else ""
    return Gate(
        stage=STAGE,
        name="rl_keeps_greedy",
        verdict="ok" if high >= 0 else "warn",
        value=change["value"],
        threshold=0.0,
        message=message,
        advice=f"RL has learnt what its reward gets wrong: {gates}raise {tie}",
    )
