"""How far can a reward model be trusted, and why: the figures, each with its interval, and the verdict in words.

`trust` takes any scorer and judged answers; a run's reward stage and `sawyer trust` go through this one door.
The figures and trust.json are read without torch: `trust` is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sawyer.trust.trust_file import as_json, from_json
from sawyer.trust.trust_values import Figure, Gap, JudgeFigures, NeededGuard, Probe, SourceAccuracy, Trust, Verdict
from sawyer.trust.verdict import GUARD_WIN_RATE, decide_verdict, level

if TYPE_CHECKING:
    from sawyer.trust.judge_figures import JudgeAccess
    from sawyer.trust.trust_report import trust


def __getattr__(name: str) -> Any:
    if name == "trust":
        from sawyer.trust.trust_report import trust

        return trust
    if name == "JudgeAccess":
        from sawyer.trust.judge_figures import JudgeAccess

        return JudgeAccess
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
