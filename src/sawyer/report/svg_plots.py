"""Curves as SVG that lives inside the page: its colours are the page's variables, so it follows light, dark and print."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

Tone = Literal["base", "sft", "rl", "reward", "ink", "faint", "good", "bad"]
# Drawn in colours that stand for themselves, then replaced by the page's variable of that name.
TONES: dict[str, str] = {
    "base": "#010001",
    "sft": "#010002",
    "rl": "#010003",
    "reward": "#010004",
    "ink": "#010005",
    "faint": "#010006",
    "good": "#010007",
    "bad": "#010008",
    "grid": "#010009",
}
MOST_POINTS = 400  # of a line; more cannot be seen and make the file large
FEW_POINTS = 120  # of a cloud: so few are drawn larger
SMOOTH_FROM = 30  # points; a shorter line is read as it is
WIDTH, HEIGHT = 3.7, 1.85  # inches at 72 units an inch


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotLine:
    """One line or set of dots. `xs` and `ys` have one length."""

    name: str
    tone: Tone
    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False  # few points that were measured, joined by a thin line
    smooth: bool = False  # show the running mean, the points themselves faint behind it
    cloud: bool = False  # many points, each faint, not joined
    lows: Sequence[float] = ()  # the ends of each point's interval, where there are any
    highs: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    tone: Tone
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small plot: what it shows, and in a few words how to read it."""

    title: str
    note: str
    lines: Sequence[PlotLine]
    levels: Sequence[Level] = ()
    mark: float | None = None  # x of a vertical line
    mark_name: str = "kept model"
    share: bool = False  # y is a share: from 0 to 1, written in per cent
    zero: bool = False  # 0 belongs to the picture
    x_name: str = "step"
    x_whole: bool = True  # x is marked at whole numbers alone
    x_names: Sequence[str] = ()  # what stands under x = 0, 1, 2, ... where x is no number
    x_share: bool = False  # x is a share too
    diagonal: bool = False  # where x and y agree


def draw(panel: Panel, ident: str, size: tuple[float, float] = (WIDTH, HEIGHT)) -> str:
    """The panel as an SVG element. `ident` is unique in the page; nothing random or dated gets in. `size` is in inches."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": ident,
        "font.size": 8.5,
        "axes.linewidth": 0.6,
        "path.simplify": True,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        for line in panel.lines:
            _draw_line(axes, line)
        for level in panel.levels:
            axes.axhline(level.at, color=TONES[level.tone], linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        if panel.mark is not None:
            axes.axvline(panel.mark, color=TONES["good"], linewidth=1.1, linestyle=(0, (1.5, 2)), zorder=1)
        if panel.diagonal:
            axes.axline((0.5, 0.5), (1.0, 1.0), color=TONES["faint"], linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        _limits(axes, panel)
        axes.grid(axis="y", color=TONES["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(TONES["faint"])
        axes.tick_params(colors=TONES["faint"], length=2.5, width=0.6, labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=panel.x_whole and not panel.x_share))
        if panel.x_share:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        if panel.x_names:
            axes.set_xticks(range(len(panel.x_names)), panel.x_names)
            axes.set_xlim(-0.5, len(panel.x_names) - 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if panel.share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_xlabel(panel.x_name, color=TONES["faint"], fontsize=8, loc="right", labelpad=1)
        FigureCanvasSVG(figure)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return _embedded(target.getvalue(), ident, panel.title)


def running_mean(ys: Sequence[float], window: int) -> list[float]:
    """The mean of the `window` values around each, fewer at the ends."""
    half = window // 2
    found = []
    for i in range(len(ys)):
        near = ys[max(0, i - half) : i + half + 1]
        found.append(sum(near) / len(near))
    return found


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most `most` points: means of equal stretches. Both axes are averaged, so nothing shifts."""
    if len(xs) <= most:
        return list(xs), list(ys)
    cuts = [round(i * len(xs) / most) for i in range(most + 1)]
    parts = list(pairwise(cuts))
    return [sum(xs[a:b]) / (b - a) for a, b in parts], [sum(ys[a:b]) / (b - a) for a, b in parts]


def _draw_line(axes: Any, line: PlotLine) -> None:
    xs, ys = thinned(line.xs, line.ys)
    colour = TONES[line.tone]
    if line.lows:
        axes.vlines(xs, line.lows, line.highs, color=colour, linewidth=3.2, alpha=0.3, zorder=3)
    if line.cloud:
        size, alpha = (4.2, 0.6) if len(xs) <= FEW_POINTS else (2.4, 0.45)
        axes.plot(xs, ys, color=colour, linewidth=0, marker="o", markersize=size, markeredgewidth=0, alpha=alpha, zorder=2)
    elif line.dots:
        axes.plot(xs, ys, color=colour, linewidth=1.1, marker="o", markersize=3.4, zorder=4)
    elif line.smooth and len(xs) >= SMOOTH_FROM:
        axes.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.28, zorder=2)
        axes.plot(xs, running_mean(ys, max(3, len(ys) // 15)), color=colour, linewidth=1.7, zorder=3)
    else:
        axes.plot(xs, ys, color=colour, linewidth=1.5, zorder=3, marker="o" if len(xs) == 1 else None, markersize=3.4)


def _limits(axes: Any, panel: Panel) -> None:
    low, high = axes.get_ylim()
    if panel.share:
        axes.set_ylim(0.0 if panel.zero else max(0.0, min(low, 0.5)), min(1.02, max(high, 0.05)))
    elif panel.zero:
        pad = 0.05 * (max(high, 0.0) - min(low, 0.0) or 1.0)
        axes.set_ylim(min(low, -pad if low < 0 else 0.0), max(high, 0.0))
    if panel.mark is not None:
        left, right = axes.get_xlim()
        axes.set_xlim(min(left, panel.mark), max(right, panel.mark))


def _embedded(svg: str, ident: str, title: str) -> str:
    """matplotlib's file as an element: no prolog, ids of its own, the page's colours and type."""
    svg = svg[svg.index("<svg") :]
    # Its <style> would hold for the whole page, its fonts are the page's business.
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    used = set(re.findall(r"(?:xlink:href=\"#|url\(#)([\w.-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{ident}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{ident}-', svg)
    svg = re.sub(r"url\(#", f"url(#{ident}-", svg)
    for tone, colour in TONES.items():
        svg = svg.replace(colour, f"var(--{tone})")
    # A tenth of a unit is finer than any screen; text between tags keeps its digits.
    svg = re.sub(r'="[^"]*"', lambda m: re.sub(r"(\.\d)\d+", r"\1", m[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("<defs> </defs>", "")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    head = f'<svg role="img" aria-label="{html.escape(title)}" {box[0]} stroke-linejoin="round">'
    return head + svg[svg.index(">") + 1 :].strip()
