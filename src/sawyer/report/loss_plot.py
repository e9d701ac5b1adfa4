"""A plot of a reward loss: the loss and its slope side by side, with a curve for each score gap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sawyer.maths import LossCurve, LossCurves

PAPER, TEXT, SOFT, GRID = "#fbfaf7", "#23272e", "#646b76", "#e4e1d9"
RAMP = ("#a9bfdd", "#6f98cb", "#3f74b8", "#1f3f6b")  # of the curves, from the smallest to the largest score gap
MAX_LOSS = 6.0  # above the lowest; further up the curves only continue
MAX_RATIO = 12.0  # between the largest slopes of two curves; beyond it the scale is logarithmic away from zero


def draw_loss(path: Path, title: str, formula: str, family: LossCurves) -> None:
    """Write the plot as PNG. Raises OSError if the file cannot be written."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 10.5, "axes.linewidth": 0.7, "axes.unicode_minus": True}):
        figure = Figure(figsize=(10.4, 4.7), dpi=150, facecolor=PAPER)
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.05, right=0.985, top=0.765, bottom=0.13, wspace=0.15)
        figure.text(0.05, 0.925, title, color=TEXT, fontsize=17, fontweight="bold", parse_math=False)
        figure.text(0.05, 0.865, formula, color=SOFT, fontsize=10.5, parse_math=False)
        _draw_curves(left, family, [curve.losses for curve in family.curves], "Loss")
        _draw_curves(right, family, [curve.slopes for curve in family.curves], "Slope")
        _limit_loss(left, family.curves)
        _scale_slopes(right, family.curves)
        left.legend(
            title=family.differ_by,
            ncols=len(family.curves),
            loc="lower right",
            bbox_to_anchor=(0.988, 0.862),
            bbox_transform=figure.transFigure,
            frameon=False,
            labelcolor=TEXT,
            columnspacing=1.4,
            handlelength=1.5,
            borderaxespad=0.0,
        ).get_title().set_color(SOFT)
        figure.savefig(path, format="png", facecolor=PAPER, metadata={"Software": None})


def _draw_curves(axes: Any, family: LossCurves, columns: Sequence[Sequence[float]], title: str) -> None:
    axes.set_facecolor(PAPER)
    axes.set_title(title, color=TEXT, fontsize=11, loc="left", pad=9)
    axes.axvline(0, color=GRID, linewidth=1.2, zorder=1)
    axes.axhline(0, color=GRID, linewidth=1.2, zorder=1)
    for index, (curve, ys) in enumerate(zip(family.curves, columns, strict=True)):
        colour = RAMP[index % len(RAMP)]
        axes.plot(curve.xs, ys, color=colour, linewidth=2.1, label=curve.name, zorder=3, solid_capstyle="round")
    axes.margins(x=0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=SOFT, length=0)
    axes.set_xlabel(family.x_name, color=SOFT, loc="right", labelpad=5)


def _limit_loss(axes: Any, curves: Sequence[LossCurve]) -> None:
    """From the lowest loss to at most `MAX_LOSS` above it."""
    low = min(min(curve.losses) for curve in curves)
    high = max(max(curve.losses) for curve in curves)
    floor = min(0.0, low)
    top = min(high, floor + MAX_LOSS)
    axes.set_ylim(floor - 0.03 * (top - floor), top + 0.03 * (top - floor))


def _scale_slopes(axes: Any, curves: Sequence[LossCurve]) -> None:
    """A scale on which the weakest slope is visible next to the strongest."""
    sizes = [max(abs(slope) for slope in curve.slopes) for curve in curves]
    if max(sizes) > MAX_RATIO * min(sizes) > 0:
        least = max(sizes) / 200
        axes.set_title("Slope, on a logarithmic scale away from 0", color=TEXT, fontsize=11, loc="left", pad=9)
        axes.set_yscale("symlog", linthresh=least, linscale=0.35)
        low, high = min(min(curve.slopes) for curve in curves), max(max(curve.slopes) for curve in curves)
        powers = [10.0**power for power in range(-4, 5) if least <= 10.0**power < 1.5 * max(sizes)]
        ticks = [-t for t in reversed(powers) if low < 0] + [0.0] + [t for t in powers if high > 0]
        axes.set_yticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
        axes.minorticks_off()
