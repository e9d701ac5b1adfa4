"""The report's plain words: names, numbers, and the verdict in a paragraph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sawyer.report.run_facts import Check, Facts
from sawyer.runs import SETTINGS, STAGES

NAMES: Mapping[str, str] = {**STAGES, "report": "Report"}
VERDICTS: Mapping[str, str] = {"ok": "ok", "warn": "warn", "fail": "fail"}


def setting_name(setting: str) -> str:
    """A decoding setting in words; an unknown one as it is."""
    return SETTINGS.get(setting, setting)


def number(value: Any, digits: int = 3) -> str:
    """A figure with `digits` significant digits, thousands grouped; text stays text, nothing stays a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, str) or isinstance(value, bool):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}".replace("-", "−")
    decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
    return f"{value:.{min(decimals, digits)}f}".replace("-", "−")


def signed(value: float) -> str:
    """A reward: two decimals and always a sign."""
    return f"{value:+.2f}".replace("-", "−")


def share(value: float) -> str:
    """0.934 -> 93 %."""
    return f"{100 * value:.0f} %"


def key_figure(facts: Facts, stage: str) -> str:
    """What a stage is best known by, in a few words; empty before it is known."""
    found = facts.figures(stage)
    rate, _ = _win_rate(facts)
    told: dict[str, tuple[str, Callable[[], str]]] = {
        "base": ("eval_loss", lambda: f"loss {number(found['eval_loss'])}"),
        "classify": ("accuracy", lambda: f"accuracy {share(found['accuracy'])}"),
        "sft": ("eval_loss", lambda: f"loss {number(found['eval_loss'])}"),
        "collect": ("answers", lambda: f"{number(found['answers'])} answers"),
        "reward": ("accuracy", lambda: f"accuracy {share(found['accuracy'])}"),
        "rl": ("reward_best", lambda: f"reward {signed(found['reward_best'])}"),
    }
    if stage == "compare":
        return f"RL wins {share(rate['value'])}" if rate else ""
    key, say = told[stage]
    if stage == "rl" and "pair_loss_best" in found:
        key, say = "pair_loss_best", lambda: f"pairs' loss {number(found['pair_loss_best'])}"
    return say() if isinstance(found.get(key), int | float) else ""


def state_words(facts: Facts) -> str:
    """Whether the run is whole, in a sentence; empty when it is."""
    for stage in facts.stages:
        status, reason = facts.status(stage), str(facts.states.get(stage, {}).get("reason") or "")
        if status == "waiting":
            return "The run waits for people: its collected answers have no scores yet."
        if status in ("failed", "interrupted"):
            return (
                f"The run is not finished: {_lower(NAMES[stage])} {'failed' if status == 'failed' else 'was interrupted'}"
                + (f" ({reason.rstrip('.')})." if reason else ".")
            )
        if status in ("running", "pending"):
            return (
                f"The run is not finished: {_lower(NAMES[stage])} {'is under way' if status == 'running' else 'has not begun'}."
            )
    return ""


def headline(facts: Facts) -> str:
    """One sentence with the figure that matters most: did RL make answers better?"""
    table, measure, scale = facts.summary.get("gold"), "gold", " of 10"
    if not table:
        table, measure, scale = facts.summary.get("reward_mean"), "reward", ""
    said = ""
    rate, start = _win_rate(facts)
    if table and all(isinstance(table.get(model), dict) for model in (start, "rl")):
        setting = next((s for s in ("t07", "t1", "greedy") if s in table[start] and s in table["rl"]), None)
        if setting:
            sft, rl = table[start][setting], table["rl"][setting]
            say = (lambda x: number(x, 2)) if measure == "gold" else signed
            moved = "lifts" if rl > sft else "lowers" if rl < sft else "leaves"
            said = f"At {setting_name(setting)} RL {moved} the mean {measure} of answers from {say(sft)} to {say(rl)}{scale}"
    if rate:
        against = {"sft": "SFT", "base": "the model it started from"}[start]
        wins = f"wins {share(rate['value'])} of the prompts against {against} ({share(rate['low'])} to {share(rate['high'])})"
        said = f"{said} and {wins}" if said else f"RL {wins}"
    return f"{said}." if said else ""


def _win_rate(facts: Facts) -> tuple[Mapping[str, Any] | None, str]:
    """(RL's win rate, the model that it started from): SFT's where the run has one, else the run's own."""
    start = "sft" if "sft" in facts.stages else "base"
    key = f"win_rate_rl_vs_{start}"
    return facts.summary.get("compare", {}).get(key) or facts.figures("compare").get(key), start


def verdict_words(facts: Facts) -> list[str]:
    """The gates as sentences: the stage to mend first comes first."""
    bad = [stage for stage in facts.stages if facts.worst(stage) == "fail"]
    doubtful = [stage for stage in facts.stages if facts.worst(stage) == "warn"]
    good = [stage for stage in facts.stages if facts.worst(stage) == "ok"]
    if not facts.checks:
        done = bool(facts.stages) and all(facts.status(stage) == "done" for stage in facts.stages)
        return ["No stage of this run has checks." if done else "No stage has been checked yet."]
    said = []
    if bad:
        first = _gravest(facts.checks, bad[0])
        said.append(f"{_upper(NAMES[bad[0]])} is bad: {_sentence(first.message)} What to do: {_sentence(first.advice)}")
        later = [_lower(NAMES[stage]) for stage in bad[1:]]
        if later:
            said.append(
                f"{_upper(_listed(later))} failed too, and may only be suffering from it: mend the earliest stage first."
            )
    for stage in doubtful:
        said.append(f"{_upper(NAMES[stage])} deserves a look: {_sentence(_gravest(facts.checks, stage).message)}")
    if good and (bad or doubtful):
        names = [_lower(NAMES[stage]) for stage in good]
        said.append(f"The rest ({_listed(names)}) passed every check.")
    elif good:
        count = len(facts.checks)
        said.append(f"Every stage is good: {'its one check passes' if count == 1 else f'all {count} checks pass'}.")
    return said


def _gravest(checks: Sequence[Check], stage: str) -> Check:
    ours = [check for check in checks if check.stage == stage]
    return next(c for verdict in ("fail", "warn", "ok") for c in ours if c.verdict == verdict)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".") if text else ""


def _lower(name: str) -> str:
    return (
        f"the {name[:1].lower()}{name[1:]}"
        if name in ("Reward model", "Base model", "Comparison")
        else name[:1].lower() + name[1:]
    )


def _upper(name: str) -> str:
    name = _lower(name)
    return name[:1].upper() + name[1:]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
