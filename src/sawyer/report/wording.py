"""The report's plain words: names, numbers, and the verdict in a paragraph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.report.run_facts import Check, Facts
from sawyer.runs import SETTINGS, SHORT, STAGES
from sawyer.stats import percent

NAMES: Mapping[str, str] = {**STAGES, "report": "Report"}
STATES: Mapping[str, str] = {
    "done": "done",
    "running": "running",
    "waiting": "waits for scores",
    "failed": "failed",
    "interrupted": "interrupted",
    "pending": "not started",
}


def setting_name(setting: str) -> str:
    """A decoding setting in words; an unknown one unchanged."""
    return SETTINGS.get(setting, setting)


def model_name(model: str) -> str:
    """A model of a comparison in words: `SFT`, `RL, round 1`; one that the config names unchanged."""
    earlier = model.removeprefix("rl_round_")
    return f"RL, round {earlier}" if earlier != model and earlier.isdecimal() else SHORT.get(model, model)


def number(value: Any, digits: int = 3) -> str:
    """A number with `digits` significant digits and thousands separators; text stays text, an empty value is a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, str | bool) or not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}".replace("-", "−")
    decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
    return f"{value:.{min(decimals, digits)}f}".replace("-", "−")


def signed(value: float) -> str:
    """A reward or correlation: two decimals and always a sign."""
    return f"{value:+.2f}".replace("-", "−")


def key_figure(facts: Facts, stage: str) -> str:
    """A stage's most important figure in a few words; empty until it is known."""
    if stage == "compare":
        rate, _ = _win_rate(facts)
        return f"RL wins {percent(rate['value'])}" if rate else ""
    figures = facts.figures(stage)
    of_pairs = stage == "rl" and "pair_loss_best" in figures
    name, words, say = {
        "base": ("eval_loss", "loss {}", number),
        "classify": ("accuracy", "accuracy {}", percent),
        "sft": ("eval_loss", "loss {}", number),
        "collect": ("answers", "{} answers", number),
        "reward": ("accuracy", "accuracy {}", percent),
        "rl": ("pair_loss_best", "pairs' loss {}", number) if of_pairs else ("reward_best", "reward {}", signed),
    }[stage]
    value = figures.get(name)
    return words.format(say(value)) if isinstance(value, int | float) else ""


def state_words(facts: Facts) -> str:
    """Which stage is unfinished, in a sentence; empty if none is."""
    words = {"failed": "failed", "interrupted": "was interrupted", "running": "is running", "pending": "has not started"}
    for stage in facts.stages:
        status, reason = facts.status(stage), str(facts.states.get(stage, {}).get("reason") or "")
        if status == "waiting":
            return "The run waits for people: its collected answers have no scores yet."
        if status in words:
            detail = f" ({reason.rstrip('.')})" if reason and status in ("failed", "interrupted") else ""
            return f"The run is not finished: {_in_sentence(stage)} {words[status]}{detail}."
    return ""


def headline(facts: Facts) -> str:
    """One sentence with the most important figure: did RL make the answers better?"""
    table, measure, scale = facts.summary.get("gold"), "gold", " of 10"
    if not table:
        table, measure, scale = facts.summary.get("reward_mean"), "reward", ""
    parts = []
    rate, start = _win_rate(facts)
    if table and all(isinstance(table.get(model), dict) for model in (start, "rl")):
        setting = next((s for s in ("t07", "t1", "greedy") if s in table[start] and s in table["rl"]), None)
        if setting:
            before, after = table[start][setting], table["rl"][setting]
            say = (lambda x: number(x, 2)) if measure == "gold" else signed
            verb = "raises" if after > before else "lowers" if after < before else "leaves"
            change = f"from {say(before)} to {say(after)}" if after != before else f"at {say(before)}"
            parts.append(f"At {setting_name(setting)} RL {verb} the mean {measure} of answers {change}{scale}")
    if rate:
        opponent = {"sft": "SFT", "base": "the starting model"}[start]
        interval = f"{percent(rate['low'])} to {percent(rate['high'])}"
        parts.append(f"{'' if parts else 'RL '}wins {percent(rate['value'])} of the prompts against {opponent} ({interval})")
    return f"{' and '.join(parts)}." if parts else ""


def _win_rate(facts: Facts) -> tuple[Mapping[str, Any] | None, str]:
    """(RL's win rate, the model that it started from): against SFT if the run has it, else against the run's own model."""
    start = "sft" if "sft" in facts.stages else "base"
    key = f"win_rate_rl_vs_{start}"
    return facts.summary.get("compare", {}).get(key) or facts.figures("compare").get(key), start


def verdict_words(facts: Facts) -> list[str]:
    """The gates as sentences. The stage to fix first comes first."""
    if not facts.checks:
        done = bool(facts.stages) and all(facts.status(stage) == "done" for stage in facts.stages)
        return ["No stage of this run has checks." if done else "No stage has been checked yet."]
    failures, doubtful, good = ([s for s in facts.stages if facts.worst(s) == v] for v in ("fail", "warn", "ok"))
    sentences = []
    if failures:
        check = _worst_check(facts.checks, failures[0])
        name = _capital(_in_sentence(failures[0]))
        sentences.append(f"{name} fails: {_sentence(check.message)} What to do: {_sentence(check.advice)}")
    if failures[1:]:
        sentences.append(
            f"{_capital(_join_names(failures[1:]))} failed too, perhaps because of it: fix the earliest stage first."
        )
    for stage in doubtful:
        name = _capital(_in_sentence(stage))
        sentences.append(f"{name} needs a look: {_sentence(_worst_check(facts.checks, stage).message)}")
    if good and (failures or doubtful):
        sentences.append(f"The rest ({_join_names(good)}) passed every check.")
    elif good:
        count = len(facts.checks)
        sentences.append(f"Every stage is good: {'its one check passes' if count == 1 else f'all {count} checks pass'}.")
    return sentences


def _worst_check(checks: Sequence[Check], stage: str) -> Check:
    return next(
        check for verdict in ("fail", "warn", "ok") for check in checks if (check.stage, check.verdict) == (stage, verdict)
    )


def _sentence(text: str) -> str:
    text = _capital(text.strip())
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _in_sentence(stage: str) -> str:
    """The stage's name inside a sentence: `supervised fine-tuning`, `the reward model`."""
    name = NAMES[stage]
    article = "the " if name in ("Reward model", "Base model", "Comparison") else ""
    return f"{article}{name[:1].lower()}{name[1:]}"


def _join_names(stages: Sequence[str]) -> str:
    names = [_in_sentence(stage) for stage in stages]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
