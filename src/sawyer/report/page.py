"""From facts to the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from markupsafe import Markup

from sawyer.report.answer_gallery import bar, gallery
from sawyer.report.classifier_section import classified
from sawyer.report.curves import panels
from sawyer.report.page_templates import environment, styled
from sawyer.report.run_facts import Facts, gather
from sawyer.report.stage_flow import flow
from sawyer.report.svg_plots import Panel, draw
from sawyer.report.trust_section import View, view
from sawyer.report.wording import (
    NAMES,
    headline,
    number,
    state_words,
    verdict_words,
)
from sawyer.runs import SHORT, Layout, write_text

TOLD = (
    *(
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
        "waiting",
        "scored",
    ),
    *("interrupted", "unheard"),
)
BRIEF = {"t1": "temp. 1", "t07": "temp. 0.7", "greedy": "greedy", "deliberate": "beam"}  # a table's columns, in order
PLACE = Markup("<!-- what cannot be drawn -->")  # what people wrote is escaped, and cannot hold it
GONE = "the file was moved away after the run had written it: what it told, failed checks included, is not on this page"
NOTHING: Mapping[str, str] = {}
Made = TypeVar("Made")
MOST_TRACKS, MOST_LOOKS = 6, 7  # prompts followed through RL, and at how many updates each


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSection:
    """One stage's part of the page."""

    stage: str
    name: str
    status: str
    reason: str
    seconds: float
    panels: Sequence[tuple[Panel, str]]  # with its SVG
    notes: Sequence[tuple[str, str]]  # (kind, words) of what happened
    facts: str  # key figures in words, where no plot shows them


def build(layout_root: Path) -> Path:
    """Write report.html from whatever is in the run's folder; returns its path.

    Raises RunError when there is no run, when one of its files is damaged, or when the page cannot be written.
    """
    layout = Layout(Path(layout_root))
    write_text(layout.report, page(gather(layout.root)))
    return layout.report


def page(facts: Facts) -> str:
    """The whole page as text. A part that cannot be drawn is left out, and named at the top: the rest is of use."""
    parts = Parts({name: GONE for name in facts.gone})
    sections = [_section(facts, stage, parts) for stage in facts.stages]
    made = environment()
    text = str(
        made.get_template("page.html.j2").render(
            title=facts.root.resolve().name,
            **styled(),
            facts=facts,
            names=NAMES,
            brief=BRIEF,
            short=SHORT,
            part=parts.drawn,
            undrawn=PLACE,
            total=parts.made("How long it took", lambda: (facts.summary.get("seconds") or {}).get("total"), None),
            unfinished=parts.made("How far the run is", lambda: state_words(facts), ""),
            headline=parts.made("The outcome in a sentence", lambda: headline(facts), ""),
            verdict=parts.made("Checks", lambda: verdict_words(facts), []),
            began=parts.made("When it began", lambda: _began(facts), ""),
            flow=parts.made("The picture of the stages", lambda: flow(facts), None),
            sections=sections,
            tables=parts.made("Outcome", lambda: _tables(facts), []),
            rates=parts.made("Win rate", lambda: _rates(facts), []),
            classified=parts.made("The classifier's figures", lambda: classified(facts), {"rows": []}),
            trust=parts.made("How far the reward model can be trusted", lambda: _trust(facts), None),
            gallery=parts.made("Answers side by side", lambda: gallery(facts.compared), gallery([])),
            tracks=parts.made("The same prompts through RL", lambda: _tracks(facts), []),
            seconds=parts.made("Versions and time", lambda: _seconds(facts), []),
        )
    )
    notice = made.get_template("undrawn.html.j2").render(undrawn=parts.undrawn) if parts.undrawn else ""
    return text.replace(PLACE, notice).encode("utf-8", "replace").decode("utf-8")


class Parts:
    """The parts of a page, each drawn by itself.

    A run's folder may come from others, or be damaged: a value of another kind than the run writes can go wrong anywhere, and
    must cost no more than the part that shows it. `undrawn` has what cannot be shown, and why.
    """

    def __init__(self, undrawn: Mapping[str, str] = NOTHING) -> None:
        self.undrawn = dict(undrawn)

    def made(self, name: str, make: Callable[[], Made], otherwise: Any) -> Made:
        """What `make` returns; `otherwise` where it fails, which is then noted."""
        try:
            return make()
        except Exception as error:  # whatever a forged value leads to
            words = str(error).strip().splitlines()
            self.undrawn.setdefault(name, f"{type(error).__name__}{f': {words[0][:160]}' if words else ''}")
            return cast(Made, otherwise)

    def drawn(self, name: str, caller: Callable[[], str]) -> str:
        """A block of the template, `{% call part("its name") %}`."""
        return self.made(name, caller, "")


def _section(facts: Facts, stage: str, parts: Parts) -> PageSection:
    state = facts.states.get(stage, {})

    def curve(panel: Panel, place: int) -> list[tuple[Panel, str]]:
        return parts.made(f"{NAMES[stage]}: {panel.title}", lambda: [(panel, draw(panel, f"{stage}{place}"))], [])

    planned = parts.made(f"{NAMES[stage]}: its curves", lambda: panels(facts, stage), [])
    return PageSection(
        stage=stage,
        name=NAMES[stage],
        status=facts.status(stage),
        reason=str(state.get("reason") or ""),
        seconds=parts.made("Versions and time", lambda: float(state.get("seconds") or 0.0), 0.0),
        panels=[drawn for place, panel in enumerate(planned) for drawn in curve(panel, place)],
        notes=_notes(facts, stage),
        facts=parts.made(f"{NAMES[stage]}: what was gathered", lambda: _collected(facts), "") if stage == "collect" else "",
    )


def _collected(facts: Facts) -> str:
    """What was gathered and how it was judged."""
    figures = facts.figures("collect")
    parts = [
        f"{number(figures[key])} {word}" for key, word in (("prompts", "prompts"), ("answers", "answers")) if key in figures
    ]
    if figures.get("waiting"):
        parts.append(f"{number(figures['waiting'])} of them not scored yet")
    if isinstance(figures.get("mean_score"), int | float):
        parts.append(f"mean score {number(figures['mean_score'])}")
    return f"{', '.join(parts)}." if parts else ""


def _notes(facts: Facts, stage: str) -> list[tuple[str, str]]:
    """What happened on the way, each thing once: a stage that was continued says its plan again."""
    found = []
    for row in facts.events:
        if row.get("stage") == stage and row.get("kind") in TOLD:
            step = f"at step {row['step']}" if "step" in row else ""
            words = str(row.get("message") or row.get("reason") or step)
            found.append((str(row["kind"]), words))
    return list(dict.fromkeys(found))


def _tables(facts: Facts) -> list[dict[str, Any]]:
    """Mean gold and mean reward by model and setting, from the summary."""
    found = []
    for key, title, note in (
        ("gold", "Gold", "mean true score of the answers to held-out prompts, 0 to 10"),
        ("reward_mean", "Reward", "mean reward, in standard deviations of the answers before RL"),
    ):
        table = facts.summary.get(key)
        if not isinstance(table, Mapping):
            continue
        models = [m for m, values in table.items() if isinstance(values, Mapping) and values]
        settings = [s for s in BRIEF if any(s in table[m] for m in models)]
        best_of = table.get("best_of_8")
        values = [v for m in models for v in table[m].values()] + ([best_of] if best_of is not None else [])
        if values:
            rows = [(m, [table[m].get(s) for s in settings]) for m in models]
            found.append(
                {
                    "key": key,
                    "title": title,
                    "note": note,
                    "settings": settings,
                    "rows": rows,
                    "best_of": best_of,
                    "top": 10.0 if key == "gold" else max(1.0, *(abs(v) for v in values)),
                }
            )
    return found


def _rates(facts: Facts) -> list[dict[str, Any]]:
    """The win rates with their intervals, plain and at equal length."""
    found = []
    compared: Mapping[str, Any] = facts.summary.get("compare") or facts.figures("compare")
    for name, rate in compared.items():
        better, _, worse = name.removeprefix("win_rate_").partition("_vs_")
        if not name.startswith("win_rate_") or not isinstance(rate, Mapping):
            continue
        judge = f"by {rate['judge']}" if rate.get("judge") else ""
        pair = f"{SHORT.get(better, better)} against {SHORT.get(worse, worse)}"
        found.append({"name": pair, "note": judge, "value": rate["value"], "low": rate["low"], "high": rate["high"]})
        if "length_controlled" in rate:
            low, high = rate.get("length_controlled_low"), rate.get("length_controlled_high")
            value = rate["length_controlled"]
            found.append(
                {
                    "name": pair,
                    "note": f"{judge}, at equal length".lstrip(", "),
                    "value": value,
                    "low": value if low is None else low,
                    "high": value if high is None else high,
                }
            )
    return found


def _trust(facts: Facts) -> View | None:
    """The reward model's trust report; None where the run has none."""
    return view(facts.trust) if facts.trust else None


def _tracks(facts: Facts) -> list[dict[str, Any]]:
    """For some prompts, what the policy answered at the evaluations, from before the first update to the last."""
    rows = [row for row in facts.samples if row.get("stage") == "rl"]
    by_prompt: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(str(row.get("prompt", "")), {})[row.get("step", 0)] = row
    sizes = [abs(row["reward"]) for row in rows if isinstance(row.get("reward"), int | float)]
    scale = max([1.0, *sizes])
    best: Any = facts.figures("rl").get("best_step")
    found = []
    for prompt, looks in list(by_prompt.items())[:MOST_TRACKS]:
        steps = sorted(looks)
        chosen = sorted(
            {steps[i * (len(steps) - 1) // max(1, MOST_LOOKS - 1)] for i in range(MOST_LOOKS)} | ({best} & set(steps))
        )
        lines = []
        for step in chosen:
            row = looks[step]
            left, width = bar(row.get("reward"), scale)
            lines.append({"step": step, "row": row, "left": left, "width": width, "best": step == best})
        found.append({"prompt": prompt, "looks": lines})
    return found


def _seconds(facts: Facts) -> list[tuple[str, float, float]]:
    """(name, seconds, share of the longest) of each stage that took time."""
    found = [(NAMES.get(s, s), float(state.get("seconds") or 0.0)) for s, state in facts.states.items()]
    longest = max((seconds for _, seconds in found), default=0.0) or 1.0
    return [(name, seconds, seconds / longest) for name, seconds in found if seconds > 0]


def _began(facts: Facts) -> str:
    starts: list[float] = [state["started"] for state in facts.states.values() if state.get("started")]
    if not starts:
        return ""
    began = datetime.fromtimestamp(min(starts), UTC)
    return f"{began.day} {began:%B %Y, %H:%M} UTC"  # `%-d` is unknown on Windows
