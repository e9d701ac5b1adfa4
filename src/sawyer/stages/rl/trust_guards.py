"""What RL makes of the reward model's trust report: its verdict is told, and the guards that it asks for are set."""

from __future__ import annotations

import json

from sawyer.config import Rl
from sawyer.runs import Run, damaged
from sawyer.stages.rl.guards import Guards
from sawyer.trust import Verdict, from_json


def reward_verdict(asked: Rl, run: Run) -> Verdict | None:
    """The verdict on the run's own reward model; None where it is no part of what is paid for, or nobody has examined it.

    Raises RunError for a report that is not as it was written.
    """
    path = run.layout.trust
    if not asked.uses_stage or not path.exists():
        return None
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))[1]
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def verdict_summary(verdict: Verdict, asked: Rl, guards: Guards) -> str:
    """The guards that the verdict asks for as they are set now, and why; whose threshold `rl.guards` gives is told as such, and
    so is one that is not looked at."""
    given = {str(name): guard for name, guard in asked.guards.items()}
    told = []
    for needed in verdict.guards:
        rule, named = guards.rules[needed.guard], given.get(needed.guard)
        own = named is not None and (named.threshold is not None or named.action == "off")
        kept = f" by rl.guards, though {needed.threshold:g} is asked for" if own else ""
        if rule.action == "off":
            told.append(f"{needed.guard} off{kept}")
        elif needed.guard == "score_length_correlation" and not guards.learned:
            told.append(
                f"{needed.guard} not looked at, though {needed.threshold:g} is asked for: a function of yours is paid for"
            )
        else:
            told.append(f"{needed.guard} {rule.threshold:g}{kept}")
    words = f"guards set by the reward model's trust report: {', '.join(told)}" if told else ""
    if verdict.kind == "refuse":
        return f"{why_not(verdict)}; {words}" if words else why_not(verdict)
    return f"{words}; because {_because(verdict)}"


def why_not(verdict: Verdict) -> str:
    """That RL should not be run on the model, and why."""
    return f"the reward model's trust report says not to run RL on it, because {_because(verdict)}"


def _because(verdict: Verdict) -> str:
    more = len(verdict.reasons) - 1
    return verdict.reasons[0].words + (f" (and {more} more reason{'s' * (more > 1)}: reward/trust.json)" if more else "")
