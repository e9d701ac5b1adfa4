"""The trust report as a part of the run's page, and as a page of its own: from trust.json's values to what is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sawyer.report.answer_gallery import bar, shown
from sawyer.report.page_templates import environment, styled
from sawyer.report.svg_plots import Level, Panel, PlotLine, Tone, draw
from sawyer.report.wording import number, share, signed
from sawyer.runs import write_text
from sawyer.trust import as_json, from_json

MOST_LETTERS = 420  # of an example's answer
CHIPS: Mapping[str, tuple[str, str]] = {  # what a verdict looks like
    "trust": ("ok", "✓ trust it"),
    "trust_above": ("warn", "! for clear differences"),
    "guarded": ("warn", "! only with guards"),
    "refuse": ("fail", "✕ no RL on it"),
}
SIDES: Mapping[str, str] = {"all": "All judged", "file": "The files'", "own": "SFT's own", "gold": "SFT's own, by gold"}
TONES: Mapping[str, Tone] = {"all": "reward", "file": "base", "own": "sft", "gold": "good"}
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One figure for every side: (value, interval) in words, or None where it is not known."""

    name: str
    note: str
    cells: Sequence[tuple[str, str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """A named share with its interval: a row of whiskers, whose dots are at `value`."""

    name: str
    note: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A probe with its example; `bars` place the two rewards, (left, width) in per cent."""

    bit: TableCell
    example: Values | None
    whole: str
    damaged: str
    bars: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that the template shows of a trust report."""

    kind: str
    look: str
    chip: str
    words: str
    decided: Sequence[tuple[str, str, str, str]]  # reason or doubt, its words, its figure and threshold
    panels: Sequence[tuple[Panel, str]]
    sides: Sequence[str]
    rows: Sequence[TableRow]
    sources: Sequence[TableCell]
    probes: Sequence[Damage]
    ceiling: tuple[str, str]  # the figure in words, the assumption behind it
    calibration: str  # whose probability it is


def view(found: Values, ident: str = "trust") -> View:
    """Lay out the values of trust.json (see sawyer.trust.trust_values). Raises ValueError for what was not written so."""
    found = as_json(*from_json(found))
    verdict, sides = found["verdict"], found["sides"]
    first = sides[0]
    look, chip = CHIPS.get(verdict["kind"], ("warn", str(verdict["kind"])))
    drawn = [(panel, draw(panel, f"{ident}{place}")) for place, panel in enumerate(_panels(found))]
    decided = [_decided(reason) for reason in (*verdict["reasons"], *verdict["doubts"])]
    calibration = first["calibration"][0] if first["calibration"] else None
    return View(
        kind=str(verdict["kind"]),
        look=look,
        chip=chip,
        words=str(verdict["words"]),
        decided=decided,
        panels=drawn,
        sides=[SIDES.get(side["name"], side["name"]) for side in sides],
        rows=_rows(sides),
        sources=[_bit(source["name"], source["accuracy"], "pairs") for source in first["by_source"]],
        probes=_probes(found["probes"]),
        ceiling=_ceiling(found.get("ceiling"), found.get("truth_agrees")),
        calibration=f"{calibration['formula']}: {calibration['why']}" if calibration else "",
    )


def build_trust(found: Values, path: Path, title: str) -> Path:
    """Write the trust report as a page of its own; returns its path."""
    text = environment().get_template("trust_page.html.j2").render(title=title, trust=view(found), **styled())
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    return path


def _panels(found: Values) -> list[Panel]:
    """Calibration, accuracy by gap, reward against length; none where there is no pair."""
    sides = [side for side in found["sides"] if side["pairs"]]
    if not sides:
        return []
    return [_reliability(sides[0]), _by_gap(sides, found.get("ceiling")), _against_length(sides[0])]


def _reliability(side: Values) -> Panel:
    lines = []
    tones: tuple[Tone, Tone] = ("reward", "faint")
    for tone, found in zip(tones, side["calibration"], strict=False):
        name = f"{found['formula']}, off by {share(found['error']['value'])}"
        lines.append(_dots(name, tone, found["bins"], [b["confidence"] for b in found["bins"]], "right"))
    return Panel(
        title="Calibration",
        note="how often the model is right where it is so sure; on the diagonal it is as sure as it should be",
        lines=lines,
        share=True,
        x_share=True,
        diagonal=True,
        x_name="the model's confidence",
    )


def _by_gap(sides: Sequence[Values], ceiling: Values | None) -> Panel:
    # Sides may be on different scales (pairs without a margin, a world's scores): one bound may belong to two classes then.
    bounds = {str(gap["name"]): (gap["low"], gap["high"] or math.inf) for side in sides for gap in side["by_gap"]}
    names = sorted(bounds, key=lambda name: bounds[name])
    lines = []
    for place, side in enumerate(sides):
        aside = 0.12 * (place - (len(sides) - 1) / 2)  # beside each other, not upon each other
        xs = [names.index(str(gap["name"])) + aside for gap in side["by_gap"]]
        lines.append(_dots(SIDES.get(side["name"], side["name"]), TONES[side["name"]], side["by_gap"], xs, "accuracy"))
    levels = [Level(name=sides[0]["best_rule"], tone="bad", at=sides[0]["best_rule_value"])]
    if ceiling:
        levels.append(Level(name="ceiling", tone="faint", at=ceiling["accuracy"]["value"]))
    return Panel(
        title="Accuracy by score gap",
        note="share of pairs ranked as the judges did; the finer the difference, the harder, also for people",
        lines=lines,
        levels=levels,
        share=True,
        x_names=names,
        x_name="gap between the judges' scores",
    )


def _against_length(side: Values) -> Panel:
    points, length = side["points"], side["length"]
    cloud = PlotLine(name="an answer", tone="reward", xs=[p[0] for p in points], ys=[p[1] for p in points], cloud=True)
    within = f"correlation {signed(length['all']['value'])}; within a prompt {signed(length['within']['value'])}"
    return Panel(title="Reward against length", note=within, lines=[cloud, _means(points)], x_name="words")


def _dots(name: str, tone: Tone, cells: Sequence[Values], xs: Sequence[float], key: str) -> PlotLine:
    figures = [cell[key] for cell in cells]
    return PlotLine(
        name=name,
        tone=tone,
        xs=list(xs),
        ys=[f["value"] for f in figures],
        dots=True,
        lows=[f["low"] for f in figures],
        highs=[f["high"] for f in figures],
    )


def _means(points: Sequence[Sequence[float]]) -> PlotLine:
    """The mean reward of answers of about one length, in eighths."""
    ordered = sorted((point[0], point[1]) for point in points)
    cuts = sorted({round(i * len(ordered) / 8) for i in range(9)})
    parts = [ordered[a:b] for a, b in pairwise(cuts)]
    return PlotLine(
        name="mean of an eighth",
        tone="ink",
        xs=[sum(p[0] for p in part) / len(part) for part in parts],
        ys=[sum(p[1] for p in part) / len(part) for part in parts],
        dots=True,
    )


def _rows(sides: Sequence[Values]) -> list[TableRow]:
    """The figures by side, one a row; a row that no side knows is left out."""
    told: list[tuple[str, str, Any, Any]] = [
        ("Accuracy", "pairs ranked as the judges did", lambda s: s["accuracy"], share),
        ("Ahead of the best simple rule", "accuracy less the rule's, on the same pairs", lambda s: s["ahead"], _points_of),
        ("Where the better answer is longer", "", lambda s: s["when_longer"], share),
        ("Where the better answer is shorter", "", lambda s: s["when_shorter"], share),
        ("Calibration error", "by the probability that belongs to the loss", _calibration_error, share),
        ("Reward with length", "correlation", lambda s: s["length"]["all"], signed),
        ("… within a prompt", "", lambda s: s["length"]["within"], signed),
        ("… at equal scores", "within a prompt, controlled for the judges' score", lambda s: s["length_controlled"], signed),
        ("Reward with the judges' score", "correlation within a prompt", lambda s: s["score"]["within"], signed),
        ("Reward with the true score", "correlation", lambda s: (s["truth"] or {}).get("all"), signed),
        ("… within a prompt", "", lambda s: (s["truth"] or {}).get("within"), signed),
    ]
    rows = []
    for name, note, of, say in told:
        figures = [of(side) for side in sides]
        cells = [_cell(figure, say) for figure in figures]
        if any(cells):
            rows.append(TableRow(name=name, note=note, cells=cells))
    rules = [(f"{side['best_rule']}: {share(side['best_rule_value'])}", "") if side["pairs"] else None for side in sides]
    rows.insert(1, TableRow(name="The best simple rule", note="of longer, shorter and random", cells=rules))
    counts = [(f"{number(side['pairs'])} pairs", _counted(side)) for side in sides]
    return [*rows, TableRow(name="Counted", note="", cells=counts)]


def _counted(side: Values) -> str:
    left = [f"{number(side[key])} {word}" for key, word in (("ties", "ties"), ("same", "of one text")) if side[key]]
    counts = f"{number(side['prompts'])} prompts, {number(side['answers'])} answers"
    return f"{counts}; left out: {', '.join(left)}" if left else counts


def _decided(reason: Values) -> tuple[str, str, str, str]:
    figure = f"{reason['figure']} {number(reason['value'])}"
    return reason["name"].replace("_", " "), reason["words"], figure, number(reason["threshold"])


def _cell(figure: Values | None, say: Any) -> tuple[str, str] | None:
    if not figure or not figure["cases"]:
        return None
    return say(figure["value"]), f"{say(figure['low'])} to {say(figure['high'])}"


def _points_of(value: float) -> str:
    return f"{100 * value:+.0f} points".replace("-", "−")


def _calibration_error(side: Values) -> Values | None:
    return side["calibration"][0]["error"] if side["calibration"] else None


def _bit(name: str, figure: Values, cases: str) -> TableCell:
    note = f"{share(figure['low'])} to {share(figure['high'])}, {number(figure['cases'])} {cases}"
    return TableCell(name=name, note=note, value=figure["value"], low=figure["low"], high=figure["high"])


def _probes(probes: Sequence[Values]) -> list[Damage]:
    """The probes that could be tried, the worst first."""
    tried = sorted((p for p in probes if p["wins"]["cases"]), key=lambda p: -p["wins"]["value"])
    rewards = [p["example"][key] for p in tried if p["example"] for key in ("whole_reward", "damaged_reward")]
    scale = max([1e-9, *map(abs, rewards)])
    found = []
    for probe in tried:
        example = probe["example"]
        cases = "answers" if not probe["unseen"] else f"answers; {number(probe['unseen'])} more scored the same, to rounding"
        found.append(
            Damage(
                bit=_bit(str(probe["what"]), probe["wins"], cases),
                example=example,
                whole=_short(example["whole"]) if example else "",
                damaged=_short(example["damaged_answer"]) if example else "",
                bars=[bar(example[key], scale) for key in ("whole_reward", "damaged_reward")] if example else [],
            )
        )
    return found


def _short(text: str) -> str:
    words, cut = shown(str(text), MOST_LETTERS)
    return f"{words} … and {number(cut)} more letters" if cut else words


def _ceiling(ceiling: Values | None, truth: Values | None) -> tuple[str, str]:
    said = ""
    if truth and truth["cases"]:
        said = f"The truth itself orders {share(truth['value'])} of these pairs as the judges did. "
    if not ceiling:
        words = "How high accuracy can get against these judges is not known: too few answers were judged twice."
        return said + words, ""
    figure, method = ceiling["accuracy"], ceiling["method"]
    how = {"repeats": "from answers judged twice", "saturation": "from an accuracy that stops rising with the gap"}
    interval = f"{share(figure['value'])} ({share(figure['low'])} to {share(figure['high'])})"
    words = f"Against these judges no model gets above {interval}, {how.get(method, method)}: {number(figure['cases'])} pairs."
    return said + words, str(ceiling["assumption"])
