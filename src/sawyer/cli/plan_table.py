"""What a run's file asks for, stage by stage, and whether it would be refused: `sawyer check sawyer.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sawyer.cli.console import say

if TYPE_CHECKING:
    from sawyer.cli.terminal import Terminal
    from sawyer.pipeline import StagePlan

WIDTH = 12  # of the column that says what a line is about


def show_plan(console: Terminal, plans: Sequence[StagePlan]) -> int:
    """Each stage with what it would do and its problems; returns how many problems there are."""
    from sawyer.runs import STAGES

    for plan in plans:
        verdict = ("✕", "red") if plan.problems else ("✓", "green")
        state = "" if plan.status == "pending" else f"  ({WORDS.get(plan.status, plan.status)})"
        say(console, verdict, " ", (STAGES[plan.stage], "bold"), (state, "dim"))
        for name, words in plan.facts:
            say(console, (f"  {name:<{WIDTH}} ", "yellow" if name == "warning" else "dim"), words)
        for problem in plan.problems:
            first, *rest = str(problem).split("\n")
            say(console, ("  refused      ", "bold red"), first)
            for line in rest:
                say(console, (f"  {'':<{WIDTH}} {line.strip()}", "dim"))
    return sum(len(plan.problems) for plan in plans)


WORDS = {
    "done": "done: it is not looked into again",
    "waiting": "waits for scores",
    "interrupted": "it goes on where it was",
    "running": "it goes on where it was",
    "failed": "it goes on where it was",
}
