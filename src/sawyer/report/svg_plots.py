"""Plots as inline SVG. Their colours are the page's CSS variables, so they follow light, dark and print."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

Tone = Literal["base", "sft", "rl", "reward", "ink", "faint", "good", "bad"]
# Matplotlib draws in these colours; each is then replaced by the page's CSS variable of that name.
COLOURS = {name: f"#0100{number:02d}" for number, name in enumerate((*get_args(Tone), "grid"), 1)}
MAX_POINTS = 400  # of a line; more are not visible and make the file large
FEW_POINTS = 120  # of a cloud, up to which its points are drawn larger
SMOOTH_FROM = 30  # points; a shorter line needs no running mean
WIDTH, HEIGHT = 3.7, 1.85  # inches of 72 units
DASHES, DOTS = (0, (4, 3)), (0, (1.5, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotLine:
    """One line or set of dots. `xs` and `ys` have one length."""

    name: str
    tone: Tone
    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False  # few measured points, joined by a thin line
    smooth: bool = False  # show the running mean, with the points faint behind it
    cloud: bool = False  # many points, each faint, not joined
    lows: Sequence[float] = ()  # the ends of each point's interval, if it has one
    highs: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A horizontal reference line."""

    name: str
    tone: Tone
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small plot, with a title and a note on how to read it."""

    title: str
    note: str
    lines: Sequence[PlotLine]
    levels: Sequence[Level] = ()
    mark: float | None = None  # x of a vertical line
    mark_name: str = "best checkpoint"
    share: bool = False  # y is a share from 0 to 1, shown in per cent
    zero: bool = False  # the y axis includes 0
    x_name: str = "step"
    x_whole: bool = True  # x ticks are whole numbers
    x_names: Sequence[str] = ()  # labels at x = 0, 1, 2, ... where x is a category
    x_share: bool = False  # x is a share, too
    diagonal: bool = False  # draw the line y = x


def draw(panel: Panel, ident: str, size: tuple[float, float] = (WIDTH, HEIGHT)) -> str:
    """The panel as an SVG element. `ident` is unique in the page. The same panel gives the same bytes. `size` is in inches."""
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
            axes.axhline(level.at, color=COLOURS[level.tone], linewidth=1.1, linestyle=DASHES, zorder=1)
        if panel.mark is not None:
            axes.axvline(panel.mark, color=COLOURS["good"], linewidth=1.1, linestyle=DOTS, zorder=1)
        if panel.diagonal:
            axes.axline((0.5, 0.5), (1.0, 1.0), color=COLOURS["faint"], linewidth=1.1, linestyle=DASHES, zorder=1)
        _set_limits(axes, panel)
        axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(COLOURS["faint"])
        axes.tick_params(colors=COLOURS["faint"], length=2.5, width=0.6, labelsize=8)
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
        axes.set_xlabel(panel.x_name, color=COLOURS["faint"], fontsize=8, loc="right", labelpad=1)
        FigureCanvasSVG(figure)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(target.getvalue(), ident, panel.title)


def running_mean(ys: Sequence[float], window: int) -> list[float]:
    """The mean of the `window` values around each, fewer at the ends."""
    half = window // 2
    windows = (ys[max(0, i - half) : i + half + 1] for i in range(len(ys)))
    return [sum(near) / len(near) for near in windows]


def downsample(xs: Sequence[float], ys: Sequence[float], limit: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """At most `limit` points: means of equal segments. Both axes are averaged, so a straight line stays where it is."""
    if len(xs) <= limit:
        return list(xs), list(ys)
    segments = list(pairwise(round(i * len(xs) / limit) for i in range(limit + 1)))
    return [sum(xs[a:b]) / (b - a) for a, b in segments], [sum(ys[a:b]) / (b - a) for a, b in segments]


def _draw_line(axes: Any, line: PlotLine) -> None:
    xs, ys = downsample(line.xs, line.ys)
    colour = COLOURS[line.tone]
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


def _set_limits(axes: Any, panel: Panel) -> None:
    low, high = axes.get_ylim()
    if panel.share:
        axes.set_ylim(0.0 if panel.zero else max(0.0, min(low, 0.5)), min(1.02, max(high, 0.05)))
    elif panel.zero:
        pad = 0.05 * (max(high, 0.0) - min(low, 0.0) or 1.0)
        axes.set_ylim(min(low, -pad if low < 0 else 0.0), max(high, 0.0))
    if panel.mark is not None:
        left, right = axes.get_xlim()
        axes.set_xlim(min(left, panel.mark), max(right, panel.mark))


def _inline(svg: str, ident: str, title: str) -> str:
    """Matplotlib's file as an element of the page: without prolog, with unique ids, in the page's colours and type."""
    svg = svg[svg.index("<svg") :]
    # Its <style> would apply to the whole page, and the page sets the fonts.
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    targets = set(re.findall(r"(?:xlink:href=\"#|url\(#)([\w.-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{ident}-{m[1]}"' if m[1] in targets else "", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{ident}-', svg)
    svg = re.sub(r"url\(#", f"url(#{ident}-", svg)
    for tone, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{tone})")
    # A tenth of a unit is finer than a pixel. Tick labels, which are between tags, keep their digits.
    svg = re.sub(r'="[^"]*"', lambda m: re.sub(r"(\.\d)\d+", r"\1", m[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("<defs> </defs>", "")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    head = f'<svg role="img" aria-label="{html.escape(title)}" {box[0]} stroke-linejoin="round">'
    return head + svg[svg.index(">") + 1 :].strip()
