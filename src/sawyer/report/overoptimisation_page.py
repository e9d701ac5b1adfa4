"""The over-optimisation study as a page: reward and truth against distance, Gao's curves, the turn, and what was said there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.report.answer_gallery import shown
from sawyer.report.page_templates import environment, styled
from sawyer.report.svg_plots import Panel, PlotLine, Tone, draw
from sawyer.report.wording import number, signed
from sawyer.runs import write_text

Values = Mapping[str, Any]
SIZE = (5.4, 2.9)  # inches: two beside each other
MOST_LETTERS = 420  # of an answer
NAMES: Mapping[str, str] = {"rl": "RL without KL", "best_of_n": "Best-of-n"}


def build_overoptimisation(found: Values, path: Path) -> Path:
    """Write the page from the values of overoptimisation.json (see sawyer.studies.overoptimisation); returns its path."""
    drawn = [(panel, draw(panel, f"over{place}", SIZE)) for place, panel in enumerate(_panels(found))]
    text = (
        environment()
        .get_template("overoptimisation.html.j2")
        .render(found=found, panels=drawn, fits=_fits(found), said=_said(found), **styled())
    )
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    return path


def _panels(found: Values) -> list[Panel]:
    rl, best = found["rl"], found["best_of_n"]
    return [_apart(rl, found), _apart(best, found), _both(rl, best), _pace(rl)]


def _apart(curve: Values, found: Values) -> Panel:
    """Proxy and gold on one scale: what was gained over the SFT model, in deviations of its own answers."""
    points = curve["points"]
    start, xs = points[0], [point["distance"] for point in points]
    wide = found["gold_deviation"] or 1.0, found["proxy_deviation"] or 1.0

    def gained(gold: float) -> float:
        return float((gold - start["gold"]) / wide[0])

    few = len(points) <= 12
    bounds = [p for p in points if p["gold_low"] is not None]
    intervals: dict[str, Any] = (
        {"lows": [gained(p["gold_low"]) for p in points], "highs": [gained(p["gold_high"]) for p in points]}
        if len(bounds) == len(points)
        else {}
    )
    lines = [
        PlotLine(
            name="proxy: what is optimised",
            tone="reward",
            xs=xs,
            ys=[(p["proxy"] - start["proxy"]) / wide[1] for p in points],
            dots=few,
            cloud=not few,
        ),
        PlotLine(name="gold: the truth", tone="rl", xs=xs, ys=[gained(p["gold"]) for p in points], cloud=True, **intervals),
        PlotLine(
            name=f"{curve['formula']}, fitted to gold",
            tone="rl",
            xs=[d for d, _ in curve["fitted"]],
            ys=[gained(gold) for _, gold in curve["fitted"]],
        ),
    ]
    return Panel(
        title=f"{NAMES[curve['name']]}: where proxy and truth part",
        note="gain over the SFT model, in standard deviations of its own answers",
        lines=[line for line in lines if len(line.xs)],
        mark=curve["turn"],
        mark_name="the curve turns",
        zero=True,
        x_name="d = √KL, in √nats",
        x_whole=farthest(points) > 6,
    )


def _both(rl: Values, best: Values) -> Panel:
    lines = []
    tones: tuple[tuple[Values, Tone], ...] = ((rl, "rl"), (best, "sft"))
    for curve, tone in tones:
        points = curve["points"]
        name = NAMES[curve["name"]]
        lines.append(
            PlotLine(name=name, tone=tone, xs=[p["distance"] for p in points], ys=[p["gold"] for p in points], cloud=True)
        )
        line = PlotLine(
            name=f"{name}, fitted",
            tone=tone,
            xs=[d for d, _ in curve["fitted"]],
            ys=[gold for _, gold in curve["fitted"]],
        )
        lines += [line] if len(line.xs) else []
    return Panel(
        title="What a step away from the SFT model buys",
        note="gold, 0 to 10; higher at the same distance is the better bargain",
        lines=lines,
        x_name="d = √KL, in √nats",
        x_whole=farthest(rl["points"]) > 6,
    )


def _pace(rl: Values) -> Panel:
    points = rl["points"]
    line = PlotLine(name="√KL", tone="ink", xs=[p["at"] for p in points], ys=[p["distance"] for p in points])
    return Panel(
        title="How fast RL moves away",
        note="distance by update; the mark is the highest gold that was measured",
        lines=[line],
        mark=rl["top"]["at"],
        mark_name="highest gold",
        zero=True,
        x_name="update",
    )


def farthest(points: Sequence[Values]) -> float:
    """The largest distance of the points."""
    return float(max(point["distance"] for point in points))


def _fits(found: Values) -> list[dict[str, str]]:
    """A row for each curve of the table below the plots."""
    rows = []
    for curve in (found["rl"], found["best_of_n"]):
        top, last = curve["top"], curve["last"]
        rows.append(
            {
                "name": NAMES[curve["name"]],
                "formula": str(curve["formula"]),
                **{name: number(curve[name]) for name in ("a", "b", "r_squared")},
                "turn": f"d = {number(curve['turn'])}" if curve["turn"] is not None else "none within what was measured",
                "top": f"{number(top['gold'])} at d = {number(top['distance'])}, {_at(curve)} {top['at']}",
                "last": f"{number(last['gold'])} at d = {number(last['distance'])}, {_at(curve)} {last['at']}",
            }
        )
    return rows


def _at(curve: Values) -> str:
    return {"rl": "update", "best_of_n": "n ="}[str(curve["name"])]


def _said(found: Values) -> list[dict[str, Any]]:
    """For some prompts, what RL's policy said at first, at the highest gold and at the end."""
    words = {0: "before RL", found["rl"]["top"]["at"]: "at the highest gold", found["rl"]["last"]["at"]: "at the end"}
    by_prompt: dict[str, list[dict[str, str]]] = {}
    for row in found["samples"]:
        text, cut = shown(str(row["response"]), MOST_LETTERS)
        by_prompt.setdefault(str(row["prompt"]), []).append(
            {
                "when": f"{words.get(row['at'], '')}, update {row['at']}".lstrip(", "),
                "text": f"{text} … and {number(cut)} more letters" if cut else text,
                "proxy": signed(row["proxy"]),
                "gold": number(row["gold"]),
            }
        )
    return [{"prompt": prompt, "rows": rows} for prompt, rows in by_prompt.items()]
