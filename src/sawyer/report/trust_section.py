"""The trust report, as a section of the run's page and as a page of its own: from the values of trust.json to its template."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sawyer.report.answer_gallery import bar, excerpt
from sawyer.report.page_templates import write_page
from sawyer.report.svg_plots import Level, Panel, PlotLine, Tone, draw
from sawyer.report.wording import number, signed
from sawyer.stats import percent
from sawyer.trust import as_json, from_json

MAX_CHARACTERS = 420  # of an example's answer
CHIPS: Mapping[str, tuple[str, str]] = {  # kind of verdict -> (style, words)
    "trust": ("ok", "✓ trust it"),
    "trust_above": ("warn", "! for clear differences"),
    "guarded": ("warn", "! only with guards"),
    "refuse": ("fail", "✕ no RL on it"),
}
JUDGE_CHIPS: Mapping[str, tuple[str, str]] = {
    **CHIPS,
    "guarded": ("warn", "! only beside people"),
    "refuse": ("fail", "✕ not as a judge"),
}
SIDES: Mapping[str, str] = {"all": "All judged", "file": "The files'", "own": "The policy's", "gold": "The policy's, by gold"}
TONES: Mapping[str, Tone] = {"all": "reward", "file": "base", "own": "sft", "gold": "good"}
CEILING_METHODS = {"repeats": "from answers judged twice", "saturation": "from an accuracy that stops rising with the gap"}
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One figure for every side: (value, interval) in words, or None where it is unknown."""

    name: str
    note: str
    cells: Sequence[tuple[str, str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """A named share with its interval."""

    name: str
    note: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A probe with its example; `bars` place the two rewards, (left, width) in per cent."""

    whisker: Whisker
    example: Values | None
    whole: str
    damaged_answer: str
    bars: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that the template shows of a trust report."""

    kind: str
    look: str
    chip: str
    words: str
    reasons: Sequence[tuple[str, str, str, str]]  # name, words, figure and threshold of a reason or doubt
    panels: Sequence[tuple[Panel, str]]
    sides: Sequence[str]
    rows: Sequence[TableRow]
    sources: Sequence[Whisker]
    probes: Sequence[Damage]
    injections: Sequence[Damage]  # of a judge: text in answers that addresses it
    order: Sequence[Whisker]  # of a judge: pairs in both orders
    judge_note: str  # what a judge did not judge; empty where there is none
    is_judge: bool
    ceiling: tuple[str, str]  # the figure in words, the assumption behind it
    calibration: str  # which probability is calibrated


def view(values: Values, ident: str = "trust") -> View:
    """The values of trust.json (see sawyer.trust.trust_values), laid out. Raises ValueError for values in another form."""
    values = as_json(*from_json(values))
    verdict, sides = values["verdict"], values["sides"]
    judge = values["judge"]
    look, chip = (CHIPS if judge is None else JUDGE_CHIPS).get(verdict["kind"], ("warn", str(verdict["kind"])))
    calibration = next(iter(sides[0]["calibration"]), None)
    return View(
        kind=str(verdict["kind"]),
        look=look,
        chip=chip,
        words=str(verdict["words"]),
        reasons=[
            (one["name"].replace("_", " "), one["words"], f"{one['figure']} {number(one['value'])}", number(one["threshold"]))
            for one in (*verdict["reasons"], *verdict["doubts"])
        ],
        panels=[(panel, draw(panel, f"{ident}{index}")) for index, panel in enumerate(_panels(values))],
        sides=[SIDES.get(side["name"], side["name"]) for side in sides],
        rows=trust_rows(sides),
        sources=[_whisker(source["name"], source["accuracy"], "pairs") for source in sides[0]["by_source"]],
        probes=_damages(values["probes"]),
        injections=_damages(judge["injections"]) if judge else [],
        order=[_whisker(name, figure, cases) for name, figure, cases in order_figures(judge)],
        judge_note=judge_note(judge),
        is_judge=judge is not None,
        ceiling=_ceiling_words(values.get("ceiling"), values.get("truth_agrees")),
        calibration=f"{calibration['formula']}: {calibration['why']}" if calibration else "",
    )


def build_trust(values: Values, path: Path, title: str) -> Path:
    """Write the trust report as a page of its own; returns its path."""
    return write_page(path, "trust_page.html.j2", title=title, trust=view(values))


def _panels(values: Values) -> list[Panel]:
    """Calibration, accuracy by gap, reward against length; none without pairs."""
    sides = [side for side in values["sides"] if side["pairs"]]
    if not sides:
        return []
    calibration = [_calibration(sides[0])] if sides[0]["calibration"] else []  # a judge's points have none
    return [*calibration, _by_gap(sides, values.get("ceiling")), _by_length(sides[0])]


def _calibration(side: Values) -> Panel:
    lines = []
    tones: tuple[Tone, Tone] = ("reward", "faint")
    for tone, curve in zip(tones, side["calibration"], strict=False):
        name = f"{curve['formula']}, error {percent(curve['error']['value'])}"
        lines.append(_dots(name, tone, [b["confidence"] for b in curve["bins"]], [b["right"] for b in curve["bins"]]))
    return Panel(
        title="Calibration",
        note="accuracy by the model's confidence; on the diagonal it is as confident as it should be",
        lines=lines,
        share=True,
        x_share=True,
        diagonal=True,
        x_name="the model's confidence",
    )


def _by_gap(sides: Sequence[Values], ceiling: Values | None) -> Panel:
    # Sides may have different scales (pairs without a margin, a world's scores): the classes of all are sorted by their bounds.
    bounds = {str(gap["name"]): (gap["low"], gap["high"] or math.inf) for side in sides for gap in side["by_gap"]}
    names = sorted(bounds, key=lambda name: bounds[name])
    lines = []
    for index, side in enumerate(sides):
        offset = 0.12 * (index - (len(sides) - 1) / 2)  # dots of several sides stand next to each other
        xs = [names.index(str(gap["name"])) + offset for gap in side["by_gap"]]
        name = SIDES.get(side["name"], side["name"])
        lines.append(_dots(name, TONES[side["name"]], xs, [gap["accuracy"] for gap in side["by_gap"]]))
    levels = [Level(name=sides[0]["best_rule"], tone="bad", at=sides[0]["best_rule_value"])]
    if ceiling:
        levels.append(Level(name="ceiling", tone="faint", at=ceiling["accuracy"]["value"]))
    return Panel(
        title="Accuracy by score gap",
        note="share of pairs ranked as the judges did; small differences are harder, for people as well",
        lines=lines,
        levels=levels,
        share=True,
        x_names=names,
        x_name="gap between the judges' scores",
    )


def _by_length(side: Values) -> Panel:
    points, length = side["points"], side["length"]
    cloud = PlotLine(name="an answer", tone="reward", xs=[p[0] for p in points], ys=[p[1] for p in points], cloud=True)
    by_length = sorted((point[0], point[1]) for point in points)
    eighths = [by_length[a:b] for a, b in pairwise(sorted({round(i * len(by_length) / 8) for i in range(9)}))]
    means = PlotLine(
        name="mean of an eighth",
        tone="ink",
        xs=[sum(p[0] for p in part) / len(part) for part in eighths],
        ys=[sum(p[1] for p in part) / len(part) for part in eighths],
        dots=True,
    )
    note = f"correlation {signed(length['all']['value'])}; within a prompt {signed(length['within']['value'])}"
    return Panel(title="Reward against length", note=note, lines=[cloud, means], x_name="words")


def _dots(name: str, tone: Tone, xs: Sequence[float], figures: Sequence[Values]) -> PlotLine:
    ys, lows, highs = ([figure[key] for figure in figures] for key in ("value", "low", "high"))
    return PlotLine(name=name, tone=tone, xs=xs, ys=ys, dots=True, lows=lows, highs=highs)


def _points(value: float) -> str:
    return f"{100 * value:+.0f} points".replace("-", "−")


FIGURES: Sequence[tuple[str, str, Callable[[Values], Values | None], Callable[[float], str]]] = (
    ("Accuracy", "pairs ranked as the judges did", lambda s: s["accuracy"], percent),
    ("Ahead of the best simple rule", "accuracy less the rule's, on the same pairs", lambda s: s["ahead"], _points),
    ("Where the better answer is longer", "", lambda s: s["when_longer"], percent),
    ("Where the better answer is shorter", "", lambda s: s["when_shorter"], percent),
    (
        "Calibration error",
        "by the probability that belongs to the loss",
        lambda s: s["calibration"][0]["error"] if s["calibration"] else None,
        percent,
    ),
    ("Reward with length", "correlation", lambda s: s["length"]["all"], signed),
    ("… within a prompt", "", lambda s: s["length"]["within"], signed),
    ("… at equal scores", "within a prompt, controlled for the judges' score", lambda s: s["length_controlled"], signed),
    ("Reward with the judges' score", "correlation within a prompt", lambda s: s["score"]["within"], signed),
    ("Reward with the true score", "correlation", lambda s: (s["truth"] or {}).get("all"), signed),
    ("… within a prompt", "", lambda s: (s["truth"] or {}).get("within"), signed),
)


def trust_rows(sides: Sequence[Values]) -> list[TableRow]:
    """The figures of trust.json's sides, one per row; a row that no side has is left out."""
    rows = []
    for name, note, figure_of, say in FIGURES:
        figures = [figure_of(side) for side in sides]
        cells = [
            (say(one["value"]), f"{say(one['low'])} to {say(one['high'])}") if one and one["cases"] else None for one in figures
        ]
        if any(cells):
            rows.append(TableRow(name=name, note=note, cells=cells))
    rules = [(f"{side['best_rule']}: {percent(side['best_rule_value'])}", "") if side["pairs"] else None for side in sides]
    rows.insert(1, TableRow(name="The best simple rule", note="of longer, shorter and random", cells=rules))
    counts = [(f"{number(side['pairs'])} pairs", _count_words(side)) for side in sides]
    return [*rows, TableRow(name="Counted", note="", cells=counts)]


def _count_words(side: Values) -> str:
    exclusions = [f"{number(side[key])} {word}" for key, word in (("ties", "ties"), ("same", "of one text")) if side[key]]
    counts = f"{number(side['prompts'])} prompts, {number(side['answers'])} answers"
    return f"{counts}; left out: {', '.join(exclusions)}" if exclusions else counts


def _whisker(name: str, figure: Values, cases: str) -> Whisker:
    note = f"{percent(figure['low'])} to {percent(figure['high'])}, {number(figure['cases'])} {cases}"
    return Whisker(name=name, note=note, value=figure["value"], low=figure["low"], high=figure["high"])


def _damages(probes: Sequence[Values]) -> list[Damage]:
    """The probes that could be tried, the worst first."""
    probes = sorted((p for p in probes if p["wins"]["cases"]), key=lambda p: -p["wins"]["value"])
    keys = ("whole_reward", "damaged_reward")
    scale = max([1e-9, *(abs(p["example"][key]) for p in probes if p["example"] for key in keys)])
    damages = []
    for probe in probes:
        example = probe["example"]
        cases = f"answers; {number(probe['unseen'])} more scored the same, to rounding" if probe["unseen"] else "answers"
        damages.append(
            Damage(
                whisker=_whisker(str(probe["what"]), probe["wins"], cases),
                example=example,
                whole=excerpt(example["whole"], MAX_CHARACTERS) if example else "",
                damaged_answer=excerpt(example["damaged_answer"], MAX_CHARACTERS) if example else "",
                bars=[bar(example[key], scale) for key in keys] if example else [],
            )
        )
    return damages


def order_figures(judge: Values | None) -> list[tuple[str, Values, str]]:
    """(name, figure, what its cases are) of the pairs that a judge compared; none where it compared none."""
    if judge is None:
        return []
    figures = [
        ("judged alike in both orders", judge["consistency"], "pairs"),
        ("the answer shown first wins (50 %: no bias)", judge["first_wins"], "verdicts"),
        ("judged as the file's judges did, ties half", judge["agreement"], "pairs"),
    ]
    return [one for one in figures if one[1]["cases"]]


def judge_note(judge: Values | None) -> str:
    """What a judge did not judge, in words."""
    parts = (
        [
            f"{number(judge[key])} {word}"
            for key, word in (("num_unjudged", "answers"), ("num_unjudged_pairs", "pairs"))
            if judge[key]
        ]
        if judge
        else []
    )
    return f"Without a judgement, and in no figure: {' and '.join(parts)}." if parts else ""


def _ceiling_words(ceiling: Values | None, truth: Values | None) -> tuple[str, str]:
    words = (
        f"The true score orders {percent(truth['value'])} of these pairs as the judges did. "
        if truth and truth["cases"]
        else ""
    )
    if not ceiling:
        unknown = "The highest possible accuracy against these judges is unknown: too few answers were judged twice."
        return words + unknown, ""
    figure, method = ceiling["accuracy"], ceiling["method"]
    interval = f"{percent(figure['value'])} ({percent(figure['low'])} to {percent(figure['high'])})"
    source = f"{CEILING_METHODS.get(method, method)}: {number(figure['cases'])} pairs"
    return f"{words}Against these judges no model gets above {interval}, {source}.", str(ceiling["assumption"])
