"""The run's page, report.html: from the facts to the values of its template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from markupsafe import Markup

from sawyer.report.answer_gallery import bar, gallery
from sawyer.report.curves import panels
from sawyer.report.page_templates import render
from sawyer.report.people_section import view_people, view_rounds
from sawyer.report.run_facts import Facts, gather
from sawyer.report.stage_flow import flow
from sawyer.report.svg_plots import Panel, draw
from sawyer.report.trust_section import view
from sawyer.report.wording import NAMES, STATES, headline, model_name, number, signed, state_words, verdict_words
from sawyer.runs import SHORT, Layout, write_text
from sawyer.stats import percent

# Kinds of events that a stage's notes show.
NOTE_KINDS: tuple[str, ...] = (
    "plan",
    "data",
    "code",
    "left_out",
    "deduplicated",
    "warning",
    "guard",
    "rollback",
    "best_checkpoint",
    "resume",
)
NOTE_KINDS += ("waiting", "scored", "interrupted", "unheard", "chosen")
LATER = "collect-"  # begins the name of a later collection
BRIEF = {"t1": "temp. 1", "t07": "temp. 0.7", "greedy": "greedy", "deliberate": "beam"}  # a table's columns, in order
TABLES = (  # key of summary.json, title, note
    ("gold", "Gold", "mean true score of the answers to held-out prompts, 0 to 10"),
    ("reward_mean", "Reward", "mean reward, in standard deviations of the answers before RL"),
)
NOTICE = Markup("<!-- notice -->")  # text from users is escaped, so it cannot contain this
MOVED_AWAY = "the file was moved away after the run wrote it: what it held, failed checks included, is missing from this page"
MAX_TRACKS, MAX_LOOKS = 6, 7  # prompts followed through RL, and updates shown of each
MAX_CLASSES = 24  # in a confusion table; a larger one is not readable
MAX_TEXTS = 12  # of a classifier's mistakes
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSection:
    """One stage's section of the page."""

    stage: str
    name: str
    status: str
    reason: str
    panels: Sequence[tuple[Panel, str]]  # with its SVG
    notes: Sequence[tuple[str, str]]  # (kind of event, message)
    facts: str  # key figures in words, for a stage without plots


def build(root: Path) -> Path:
    """Write report.html from whatever the run's folder has; returns its path.

    Raises RunError if there is no run, if one of its files is damaged, or if the page cannot be written.
    """
    layout = Layout(Path(root))
    write_text(layout.report, page(gather(layout.root)))
    return layout.report


def page(facts: Facts) -> str:
    """The whole page. A part that cannot be drawn is left out and named at the top, so that the rest is still of use."""
    parts = Parts({name: MOVED_AWAY for name in facts.gone})
    text = render(
        "page.html.j2",
        title=facts.root.resolve().name,
        facts=facts,
        names=NAMES,
        states=STATES,
        brief=BRIEF,
        short=SHORT,
        part=parts.draw,
        undrawn=NOTICE,
        total=parts.get("How long it took", lambda: (facts.summary.get("seconds") or {}).get("total"), None),
        unfinished=parts.get("How far the run is", lambda: state_words(facts), ""),
        headline=parts.get("The outcome in a sentence", lambda: headline(facts), ""),
        verdict=parts.get("Checks", lambda: verdict_words(facts), []),
        began=parts.get("When it began", lambda: _start_time(facts), ""),
        flow=parts.get("The picture of the stages", lambda: flow(facts), None),
        sections=[_section(facts, stage, parts) for stage in facts.stages],
        tables=parts.get("Outcome", lambda: _outcome_tables(facts), []),
        rates=parts.get("Win rate", lambda: _win_rates(facts), []),
        classified=parts.get("The classifier's figures", lambda: classifier_tables(facts), {"rows": []}),
        trust=parts.get("How far the reward model can be trusted", lambda: view(facts.trust) if facts.trust else None, None),
        people=parts.get("People", lambda: view_people(facts.agreement), None),
        rounds=parts.get("Rounds", lambda: view_rounds(facts.summary.get("rounds", ())), None),
        gallery=parts.get("Answers side by side", lambda: gallery(facts.answers), gallery([])),
        tracks=parts.get("The same prompts through RL", lambda: _tracks(facts), []),
        seconds=parts.get("Versions and time", lambda: _stage_times(facts), []),
    )
    notice = render("undrawn.html.j2", undrawn=parts.missing) if parts.missing else ""
    return text.replace(NOTICE, notice).encode("utf-8", "replace").decode("utf-8")


class Parts:
    """The parts of a page, each made by itself.

    A run's folder may come from somebody else, or be damaged: a value of an unexpected type can fail anywhere, and must cost no
    more than the part that shows it. `missing` has the parts that failed, and why.
    """

    def __init__(self, missing: Mapping[str, str]) -> None:
        self.missing = dict(missing)

    def get(self, name: str, make: Callable[[], Value], default: Any) -> Value:
        """What `make` returns; `default` if it fails, which is noted."""
        try:
            return make()
        except Exception as error:  # a forged value may raise anything
            words = str(error).strip().splitlines()
            self.missing.setdefault(name, f"{type(error).__name__}{f': {words[0][:160]}' if words else ''}")
            return cast(Value, default)

    def draw(self, name: str, caller: Callable[[], str]) -> str:
        """A block of the template, `{% call part("its name") %}`."""
        return self.get(name, caller, "")


def _section(facts: Facts, stage: str, parts: Parts) -> PageSection:
    name, drawings = NAMES[stage], []
    plots: list[Panel] = parts.get(f"{name}: its curves", lambda: panels(facts, stage), [])
    for index, panel in enumerate(plots):
        if svg := parts.get(f"{name}: {panel.title}", partial(draw, panel, f"{stage}{index}"), ""):
            drawings.append((panel, svg))
    return PageSection(
        stage=stage,
        name=name,
        status=facts.status(stage),
        reason=str(facts.states.get(stage, {}).get("reason") or ""),
        panels=drawings,
        notes=_stage_notes(facts, stage),
        facts=parts.get(f"{name}: its figures", lambda: _collect_words(facts), "") if stage == "collect" else "",
    )


def _collect_words(facts: Facts) -> str:
    """How many answers were collected, and their mean score."""
    figures = facts.figures("collect")
    words = [f"{number(figures[key])} {key}" for key in ("prompts", "answers") if key in figures]
    if figures.get("waiting"):
        words.append(f"{number(figures['waiting'])} of them not scored yet")
    if isinstance(figures.get("mean_score"), int | float):
        words.append(f"mean score {number(figures['mean_score'])}")
    sentences = [f"{', '.join(words)}."] if words else []
    for name, state in facts.states.items():
        more: Mapping[str, Any] = state.get("figures") or {}
        if name.startswith(LATER) and "answers" in more:
            answers = f"{number(more['answers'])} answers of the RL and the SFT model to {number(more.get('prompts'))} prompts"
            sentences.append(f"Round {name.removeprefix(LATER)}: {answers}.")
        figures = more if more.get("judge_verdicts") and name.startswith(LATER) else figures
    return " ".join([*sentences, *_judge_sentence(figures)])


def _judge_sentence(figures: Mapping[str, Any]) -> list[str]:
    """What a model that judges came to; its figures are of the answers of all rounds so far. Empty without one."""
    if not figures.get("judge_verdicts"):
        return []
    words = [f"{number(figures['judge_verdicts'])} verdicts of a model that judges"]
    num_flipped, num_unjudged = (figures.get(key) for key in ("judge_flipped", "judge_unjudged"))
    words += [f"{number(num_flipped)} pairs that it judged by their order and that count as ties"] if num_flipped else []
    words += [f"{number(num_unjudged)} questions without a judgement"] if num_unjudged else []
    return [f"{', '.join(words)}."]


def _stage_notes(facts: Facts, stage: str) -> list[tuple[str, str]]:
    """What happened on the way, each thing once: a resumed stage logs its plan again."""
    notes = []
    for row in facts.events:
        name = str(row.get("stage"))
        is_own = name == stage or (stage == "collect" and name.startswith(LATER))
        if is_own and row.get("kind") in NOTE_KINDS:
            step = f"at step {row['step']}" if "step" in row else ""
            notes.append((str(row["kind"]), str(row.get("message") or row.get("reason") or step)))
    return list(dict.fromkeys(notes))


def _outcome_tables(facts: Facts) -> list[dict[str, Any]]:
    """Mean gold and mean reward by model and setting, from the summary."""
    tables = []
    for key, title, note in TABLES:
        table = facts.summary.get(key)
        if not isinstance(table, Mapping):
            continue
        models = [m for m, values in table.items() if isinstance(values, Mapping) and values]
        settings = [s for s in BRIEF if any(s in table[m] for m in models)]
        best_of = table.get("best_of_8")
        values = [v for m in models for v in table[m].values()] + ([best_of] if best_of is not None else [])
        if values:
            rows = [(m, [table[m].get(s) for s in settings]) for m in models]
            top = 10.0 if key == "gold" else max(1.0, *map(abs, values))
            tables.append(
                {"key": key, "title": title, "note": note, "settings": settings, "rows": rows, "best_of": best_of, "top": top}
            )
    return tables


def _win_rates(facts: Facts) -> list[dict[str, Any]]:
    """The win rates with their intervals, as counted and at equal length."""
    rates = []
    figures: Mapping[str, Any] = facts.summary.get("compare") or facts.figures("compare")
    for key, rate in figures.items():
        if not key.startswith("win_rate_") or not isinstance(rate, Mapping):
            continue
        better, _, worse = key.removeprefix("win_rate_").partition("_vs_")
        name = f"{model_name(better)} against {model_name(worse)}"
        judge = f"by {rate['judge']}" if rate.get("judge") else ""
        rates.append({"name": name, "note": judge, "value": rate["value"], "low": rate["low"], "high": rate["high"]})
        if "length_controlled" in rate:
            value, note = rate["length_controlled"], f"{judge}, at equal length".lstrip(", ")
            ends = {end: rate.get(f"length_controlled_{end}") for end in ("low", "high")}
            ends = {end: value if bound is None else bound for end, bound in ends.items()}
            rates.append({"name": name, "note": note, "value": value, **ends})
    return rates


def classifier_tables(facts: Facts) -> dict[str, Any]:
    """`rows` of (name, value, interval), `labels`, `classes` with a row each, and `texts`. No rows without figures."""
    figures = facts.figures("classify")
    if not isinstance(figures.get("classes"), Mapping):
        return {"rows": []}
    count = figures.get("eval_rows")
    where = f"{number(count)} held-out texts" if count else "training texts (none was held out)"
    interval = f"{percent(figures['accuracy_low'])} to {percent(figures['accuracy_high'])}"
    last = ("F1 over all labels (micro)", number(figures["micro_f1"]), "") if figures.get("many") else ()
    rows = [
        (f"Accuracy on {where}", percent(figures["accuracy"]), interval),
        (f"Accuracy of always answering '{figures['baseline_label']}'", percent(figures["baseline_majority"]), ""),
        ("Mean F1 of the classes (macro)", number(figures["macro_f1"]), ""),
        last or ("Matthews correlation", signed(figures["mcc"]), ""),
    ]
    labels = list(figures["labels"])
    table = figures.get("confusion") if len(labels) <= MAX_CLASSES else None
    classes = []
    for i, label in enumerate(labels):
        total = sum(table[i]) if table else 0
        cells = [(n, n / total if total else 0.0, i == j) for j, n in enumerate(table[i])] if table else []
        classes.append({"label": label, "cells": cells, "scores": figures["classes"][label]})
    texts = [row for row in facts.samples if row.get("stage") == "classify"]
    return {"rows": rows, "labels": labels if table else [], "classes": classes, "texts": texts[:MAX_TEXTS]}


def _tracks(facts: Facts) -> list[dict[str, Any]]:
    """For some prompts, the policy's answers at the evaluations, from before the first update to the last."""
    rows = [row for row in facts.samples if row.get("stage") == "rl"]
    by_prompt: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(str(row.get("prompt", "")), {})[row.get("step", 0)] = row
    scale = max([1.0, *(abs(row["reward"]) for row in rows if isinstance(row.get("reward"), int | float))])
    best: Any = facts.figures("rl").get("best_step")
    tracks = []
    for prompt, answers in list(by_prompt.items())[:MAX_TRACKS]:
        steps = sorted(answers)
        chosen = {steps[i * (len(steps) - 1) // max(1, MAX_LOOKS - 1)] for i in range(MAX_LOOKS)} | ({best} & set(steps))
        looks = []
        for step in sorted(chosen):
            left, width = bar(answers[step].get("reward"), scale)
            looks.append({"step": step, "row": answers[step], "left": left, "width": width, "best": step == best})
        tracks.append({"prompt": prompt, "looks": looks})
    return tracks


def _stage_times(facts: Facts) -> list[tuple[str, float, float]]:
    """(name, seconds, fraction of the longest) of each stage that took time."""
    names = {s: f"{NAMES['collect']}, round {s.removeprefix(LATER)}" if s.startswith(LATER) else s for s in facts.states}
    times = [(NAMES.get(s, names[s]), float(state.get("seconds") or 0.0)) for s, state in facts.states.items()]
    longest = max((seconds for _, seconds in times), default=0.0) or 1.0
    return [(name, seconds, seconds / longest) for name, seconds in times if seconds > 0]


def _start_time(facts: Facts) -> str:
    starts: list[float] = [state["started"] for state in facts.states.values() if state.get("started")]
    if not starts:
        return ""
    start = datetime.fromtimestamp(min(starts), UTC)
    return f"{start.day} {start:%B %Y, %H:%M} UTC"  # Windows has no `%-d`
