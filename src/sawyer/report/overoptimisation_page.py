"""The over-optimisation study as a page: proxy and gold against distance, Gao's curves, their turn, and sample answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.report.answer_gallery import excerpt
from sawyer.report.page_templates import write_page
from sawyer.report.svg_plots import Panel, PlotLine, Tone, draw
from sawyer.report.wording import number, signed

Values = Mapping[str, Any]
SIZE = (5.4, 2.9)  # inches: two plots fit next to each other
MAX_CHARACTERS = 420  # of an answer
FEW_POINTS = 12  # up to which the proxy's points are joined
NAMES: Mapping[str, str] = {"rl": "RL without KL", "best_of_n": "Best-of-n"}
DISTANCE = "d = √KL, in √nats"


def build_overoptimisation(values: Values, path: Path) -> Path:
    """Write the page from the values of overoptimisation.json (see sawyer.studies.overoptimisation); returns its path."""
    panels = [(panel, draw(panel, f"over{index}", SIZE)) for index, panel in enumerate(_panels(values))]
    fits = [_fit_row(values[name]) for name in NAMES]
    return write_page(path, "overoptimisation.html.j2", study=values, panels=panels, fits=fits, samples=_sample_cards(values))


def _panels(values: Values) -> list[Panel]:
    rl, best_of_n = values["rl"], values["best_of_n"]
    return [_gains(rl, values), _gains(best_of_n, values), _gold_by_distance(rl, best_of_n), _distance_by_update(rl)]


def _gains(curve: Values, values: Values) -> Panel:
    """Proxy and gold on one scale: the gain over the SFT model, in standard deviations of its own answers."""
    points = curve["points"]
    start, xs = points[0], [point["distance"] for point in points]
    gold_unit, proxy_unit = values["gold_deviation"] or 1.0, values["proxy_deviation"] or 1.0

    def gains(golds: Sequence[float]) -> list[float]:
        return [float((gold - start["gold"]) / gold_unit) for gold in golds]

    few = len(points) <= FEW_POINTS
    intervals: dict[str, Any] = {}
    if all(point["gold_low"] is not None for point in points):
        intervals = {f"{end}s": gains([point[f"gold_{end}"] for point in points]) for end in ("low", "high")}
    proxy = [(point["proxy"] - start["proxy"]) / proxy_unit for point in points]
    lines = [
        PlotLine(name="proxy: what is optimised", tone="reward", xs=xs, ys=proxy, dots=few, cloud=not few),
        PlotLine(name="gold: the true score", tone="rl", xs=xs, ys=gains([p["gold"] for p in points]), cloud=True, **intervals),
        PlotLine(
            name=f"{curve['formula']}, fitted to gold",
            tone="rl",
            xs=[distance for distance, _ in curve["line"]],
            ys=gains([gold for _, gold in curve["line"]]),
        ),
    ]
    return Panel(
        title=f"{NAMES[curve['name']]}: proxy against gold",
        note="gain over the SFT model, in standard deviations of its own answers",
        lines=[line for line in lines if line.xs],
        mark=curve["turn"],
        mark_name="the curve turns",
        zero=True,
        x_name=DISTANCE,
        x_whole=farthest(points) > 6,
    )


def _gold_by_distance(rl: Values, best_of_n: Values) -> Panel:
    lines = []
    curves: tuple[tuple[Values, Tone], ...] = ((rl, "rl"), (best_of_n, "sft"))
    for curve, tone in curves:
        points, fit, name = curve["points"], curve["line"], NAMES[curve["name"]]
        xs, ys = [p["distance"] for p in points], [p["gold"] for p in points]
        lines.append(PlotLine(name=name, tone=tone, xs=xs, ys=ys, cloud=True))
        if fit:
            lines.append(PlotLine(name=f"{name}, fitted", tone=tone, xs=[d for d, _ in fit], ys=[gold for _, gold in fit]))
    return Panel(
        title="Gold at a given distance from the SFT model",
        note="gold, 0 to 10; higher at the same distance is better",
        lines=lines,
        x_name=DISTANCE,
        x_whole=farthest(rl["points"]) > 6,
    )


def _distance_by_update(rl: Values) -> Panel:
    xs, ys = [point["at"] for point in rl["points"]], [point["distance"] for point in rl["points"]]
    return Panel(
        title="How fast RL moves away",
        note="distance by update; the mark is the highest measured gold",
        lines=[PlotLine(name="√KL", tone="ink", xs=xs, ys=ys)],
        mark=rl["top"]["at"],
        mark_name="highest gold",
        zero=True,
        x_name="update",
    )


def farthest(points: Sequence[Values]) -> float:
    """The largest distance of the points."""
    return float(max(point["distance"] for point in points))


def _fit_row(curve: Values) -> dict[str, str]:
    """A curve's row in the table below the plots."""
    unit = {"rl": "update", "best_of_n": "n ="}[str(curve["name"])]
    row = {"name": NAMES[curve["name"]], "formula": str(curve["formula"])}
    row |= {name: number(curve[name]) for name in ("a", "b", "r_squared")}
    row["turn"] = f"d = {number(curve['turn'])}" if curve["turn"] is not None else "none within the measured range"
    for name in ("top", "last"):
        point = curve[name]
        row[name] = f"{number(point['gold'])} at d = {number(point['distance'])}, {unit} {point['at']}"
    return row


def _sample_cards(values: Values) -> list[dict[str, Any]]:
    """For some prompts, the policy's answers before RL, at the highest gold and at the end."""
    words = {0: "before RL", values["rl"]["top"]["at"]: "at the highest gold", values["rl"]["last"]["at"]: "at the end"}
    by_prompt: dict[str, list[dict[str, str]]] = {}
    for row in values["samples"]:
        by_prompt.setdefault(str(row["prompt"]), []).append(
            {
                "when": f"{words.get(row['at'], '')}, update {row['at']}".lstrip(", "),
                "text": excerpt(row["response"], MAX_CHARACTERS),
                "proxy": signed(row["proxy"]),
                "gold": number(row["gold"]),
            }
        )
    return [{"prompt": prompt, "rows": rows} for prompt, rows in by_prompt.items()]
