"""A sitting: each measurement in fresh processes, then a line each, one table and one plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sawyer import processes
from sawyer.bench.launch import measured
from sawyer.bench.measure import Measured
from sawyer.bench.variant import GROWTH, MEASURED, Variant, values
from sawyer.config import Config
from sawyer.errors import ConfigError
from sawyer.runs import disk_errors

LINES, PLOT = "bench.jsonl", "bench.png"
HEADER = ("stage", "a second", "of the rate", "peak MB", "generate", "score", "forward", "backward", "optimizer", "else")


def bench(
    config: Config,
    *,
    stages: Sequence[str] = (),
    resize_embeddings: Sequence[str] = (),
    steps: int = 3,
    out: Path | None = None,
    tell: Callable[[Measured], None] = lambda found: None,
) -> list[Measured]:
    """Measure `stages` (none named: all in the config) and how each grows with `grow`; write what was found.

    Each measurement runs in a fresh process, so that its peak memory is its own; with `processes` it runs in several in step,
    each with its share of the threads. With `out`, a folder, a line of JSON each goes to bench.jsonl there as soon as it is
    known, and a plot to bench.png.
    """
    if processes.launched() > 1:
        raise ConfigError(
            f"a measurement was asked of {processes.launched()} processes",
            expected="one: it starts those that it measures by itself",
            todo="start the command without torchrun or accelerate launch, and let it grow with `processes`",
        )
    asked = chosen(config, stages)
    _check(resize_embeddings, tuple(GROWTH), "growth")
    found: list[Measured] = []
    with disk_errors(out or Path.cwd()):
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        for stage, variant in planned(config, asked, resize_embeddings):
            found.append(measured(config, stage, variant, steps=steps))
            tell(found[-1])
            if out is not None:
                with (out / LINES).open("a", encoding="utf-8") as file:
                    file.write(line(found[-1]) + "\n")
        if out is not None:
            _draw(found, out / PLOT)
    return found


def chosen(config: Config, stages: Sequence[str]) -> tuple[str, ...]:
    """`stages`, or where none is named all that the config speaks of. Raises ConfigError where one is not known."""
    _check(stages, MEASURED, "stage")
    return tuple(stages) or tuple(s for s in MEASURED if s == "sampling" or getattr(config, s) is not None)


def planned(config: Config, stages: Sequence[str], resize_embeddings: Sequence[str]) -> Iterator[tuple[str, Variant]]:
    """Each stage as the config has it, then each of its growths."""
    for stage in stages:
        yield stage, Variant()
        for axis in resize_embeddings:
            if stage in GROWTH[axis]:
                for value in values(config, stage, axis):
                    yield stage, Variant(**{axis: value})


def line(found: Measured) -> str:
    """The measurement as one line of JSON, figures to four digits."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: short(inner) for key, inner in value.items()}
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return json.dumps(short(dataclasses.asdict(found)))


def table(found: Sequence[Measured]) -> list[tuple[str, ...]]:
    """A row of words each, in `HEADER`'s order; phases in shares of the step."""
    return [
        (
            f"{m.stage} {m.variant.told}".strip(),
            f"{m.per_second:,.{0 if m.per_second >= 100 else 2}f} {m.units}",
            f"{m.share:.0%}",
            f"{m.peak_mb:,.0f}",
            *(f"{seconds / sum(m.phases.values()):.0%}" for seconds in m.phases.values()),
        )
        for m in found
    ]


def _check(asked: Sequence[str], known: Sequence[str], what: str) -> None:
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"no {what} is called {unknown[0]}", expected=", ".join(known), todo="name one of these")


def _draw(found: Sequence[Measured], path: Path) -> None:
    """Left where a step's time goes; right how it grows: seconds a step over what it grows with, both logarithmic, dashed what
    the largest measurement would be in proportion."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    plain = [m for m in found if not m.variant.told]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    begun = [0.0] * len(plain)
    for phase in plain[0].phases if plain else ():
        shares = [m.phases[phase] / sum(m.phases.values()) for m in plain]
        left.barh([m.stage for m in plain], shares, left=begun, label=phase)
        begun = [a + b for a, b in zip(begun, shares, strict=True)]
    left.set_xlabel("share of a step's time")
    left.invert_yaxis()
    _legend(left)
    for stage in dict.fromkeys(m.stage for m in found):
        for axis in GROWTH:
            points = [(getattr(m.variant, axis), m.seconds) for m in found if m.stage == stage and getattr(m.variant, axis)]
            if points:
                (drawn,) = right.loglog(*zip(*points, strict=True), marker="o", label=f"{stage}, {axis}")
                if axis != "processes":
                    right.loglog(*_in_proportion(points), linestyle="--", color=drawn.get_color(), alpha=0.5)
    right.set_xlabel("batch, tokens a row, answers a prompt, or processes")
    right.set_ylabel("seconds a step")
    if right.has_data():
        right.set_xticks(sorted({getattr(m.variant, axis) for m in found for axis in GROWTH if getattr(m.variant, axis)}))
        right.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        for scale in (right.xaxis, right.yaxis):
            scale.set_major_formatter("{x:g}")
            scale.set_minor_formatter("")
        _legend(right)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _legend(axes: Any) -> None:
    """Above the plot, where it hides nothing."""
    axes.legend(fontsize=8, ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _in_proportion(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """At each size the seconds of the largest one, in proportion to the sizes."""
    sizes = [size for size, _ in points]
    most, seconds = max(points)
    return sizes, [seconds * size / most for size in sizes]
