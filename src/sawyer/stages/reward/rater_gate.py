"""Whether the votes that a reward model learns from carry information: a gate on the raters' agreement and profiles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sawyer.runs import Gate, Layout
from sawyer.stages.reward.reward_data import STAGE

# How flags begin that leave nothing to learn of quality; any other flag says that a rater is worth a look.
UNINFORMATIVE = (
    "always the longer answer",
    "always the shorter answer",
    "always left",
    "always right",
    "the same score for everything",
    "ties nearly everything",
    "faster than can be read",
    "contradicts itself",
)
ENOUGH_PROMPTS = 20  # judged by two raters, below which an interval that includes chance says nothing of them
MOST_FLAGS = 3  # shown in the message; `sawyer rate RUN --agreement` has all


def read_agreement(layout: Layout) -> Mapping[str, Any]:
    """The agreement report beside the run's votes; empty where nobody voted, or where it cannot be read."""
    try:
        content = json.loads(layout.agreement.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    report = content.get("report") if isinstance(content, dict) else None
    return report if isinstance(report, dict) else {}


def raters_gate(report: Mapping[str, Any], other_prompts: int = 0) -> Gate | None:
    """fail: the raters agree no more than chance does (alpha's interval ends at 0 or below, for each measure that is defined),
    or no judgement prefers an answer, or every rater is flagged for votes that go by something else than quality. warn:
    they may agree no more than chance does, of 20 prompts or more, or somebody is flagged; and where more prompts were judged
    elsewhere (`other_prompts`) than by these votes, what else fails: they are the smaller part. None without votes.

    Raters that reward.raters leaves out do not count. Nobody is named: the gate stands on the run's page.
    """
    gate = _gate_of_votes(report)
    if gate is None or gate.verdict != "fail":
        return gate
    votes = sum(profile["votes"] - profile["skips"] for profile in _voters(report))
    if votes >= other_prompts:
        return gate
    message = f"{gate.message}; the other {other_prompts:,} judged prompts are not theirs"
    return replace(gate, verdict="warn", message=message)


def _voters(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The profiles of the raters whose judgements count."""
    profiles = [profile for profile in report.get("profiles", []) if not profile.get("left_out", False)]
    return [profile for profile in profiles if profile["votes"] > profile["skips"]]


def _gate_of_votes(report: Mapping[str, Any]) -> Gate | None:
    profiles = _voters(report)
    if not profiles:
        return None
    flags = [profile["flags"] for profile in profiles if profile["flags"]]
    useless = sum(any(flag.startswith(UNINFORMATIVE) for flag in flags_of) for flags_of in flags)
    alphas = [figure for figure in report.get("alphas", []) if figure["value"] is not None]
    raters = f"{len(profiles):,} rater{'s' * (len(profiles) != 1)}"
    if alphas and all(figure["high"] <= 0 for figure in alphas):
        best = max(alphas, key=lambda figure: float(figure["high"]))
        message = f"{raters} agree no more than chance does: {best['words']}"
        return _gate_on_raters("fail", best["high"], message + _flags_in_words(flags))
    judgements = sum(profile["votes"] - profile["skips"] for profile in profiles)
    if judgements == sum(profile["ties"] for profile in profiles):
        message = f"no judgement of {judgements:,} by {raters} prefers an answer: all are ties"
        return _gate_on_raters("fail", judgements, message + _flags_in_words(flags))
    if useless == len(profiles):
        message = f"every rater ({len(profiles):,}) votes by something else than quality"
        return _gate_on_raters("fail", useless, message + _flags_in_words(flags))
    if flags:
        return _gate_on_raters("warn", len(flags), f"{len(flags):,} of {raters} flagged" + _flags_in_words(flags))
    if alphas and all(figure["low"] <= 0 and figure["prompts"] >= ENOUGH_PROMPTS for figure in alphas):
        best = max(alphas, key=lambda figure: float(figure["low"]))
        message = f"{raters} may agree no more than chance does: {best['words']}"
        return _gate_on_raters("warn", best["low"], message)
    agreement = alphas[0]["words"] if alphas else "nothing was judged twice, so nothing is known of their agreement"
    return _gate_on_raters("ok", 0, f"{raters}, none flagged; {agreement}")


def _flags_in_words(flags: Sequence[Sequence[str]]) -> str:
    words = ["; ".join(flags_of) for flags_of in flags]
    more = f" | and {len(words) - MOST_FLAGS:,} more" if len(words) > MOST_FLAGS else ""
    return f": {' | '.join(words[:MOST_FLAGS])}{more}" if words else ""


def _gate_on_raters(verdict: Any, value: float, message: str) -> Gate:
    return Gate(
        stage=STAGE,
        name="raters",
        verdict=verdict,
        value=float(value),
        threshold=0.0,
        message=message,
        advice="`sawyer rate RUN --agreement` names them: talk to them, or leave somebody out by reward.raters: {NAME: 0}, and "
        "run the same command again",
    )
