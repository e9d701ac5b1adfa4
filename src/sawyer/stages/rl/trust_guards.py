"""The reward model's trust report in RL: its verdict is logged, and the guards that it recommends are set."""

from __future__ import annotations

import json

from sawyer.config import Rl
from sawyer.runs import Run, damage_error
from sawyer.stages.rl.guards import Guards
from sawyer.trust import Verdict, from_json


def reward_verdict(rl: Rl, run: Run) -> Verdict | None:
    """The verdict on the run's reward model; None where that is no part of the reward, or has no trust report.

    Raises RunError for a damaged report.
    """
    path = run.layout.trust
    if not rl.uses_stage or not path.exists():
        return None
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))[1]
    except (OSError, ValueError) as error:
        raise damage_error(path, error) from error


def verdict_summary(verdict: Verdict, rl: Rl, guards: Guards) -> str:
    """The guards that the verdict recommends as they are set now, and why; with those that `rl.guards` sets otherwise or
    that do not apply."""
    parts, by_name = [], {str(name): settings for name, settings in rl.guards.items()}
    for needed_guard in verdict.guards:
        name, rule = needed_guard.guard, guards.rules[needed_guard.guard]
        settings = by_name.get(name)
        is_overridden = settings is not None and (settings.threshold is not None or settings.action == "off")
        source = f" by rl.guards (the report recommends {needed_guard.threshold:g})" if is_overridden else ""
        if rule.action == "off":
            parts.append(f"{name} off{source}")
        elif name == "score_length_correlation" and not guards.learned_reward:
            parts.append(
                f"{name} not checked (the report recommends {needed_guard.threshold:g}): the reward includes your own function"
            )
        else:
            parts.append(f"{name} {rule.threshold:g}{source}")
    words = f"guards set by the reward model's trust report: {', '.join(parts)}" if parts else ""
    if verdict.kind == "refuse":
        return f"{why_not(verdict)}; {words}" if words else why_not(verdict)
    return f"{words}; because {_because(verdict)}"


def why_not(verdict: Verdict) -> str:
    """That RL should not be run on the model, and why."""
    return f"the reward model's trust report says not to run RL on it, because {_because(verdict)}"


def _because(verdict: Verdict) -> str:
    more = len(verdict.reasons) - 1
    return verdict.reasons[0].words + (f" (and {more} more reason{'s' * (more > 1)}: reward/trust.json)" if more else "")
