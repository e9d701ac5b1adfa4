"""The picture of the run: each stage a box with its state and key figure, each arrow what one hands to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sawyer.report.run_facts import Facts
from sawyer.report.wording import key_figure
from sawyer.runs import SHORT

# Whose model or data each stage takes; the arrow is drawn from the nearest of them that the run has.
TAKES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "classify": (("base",),),
    "sft": (("base",),),
    "collect": (("sft", "base"),),
    "reward": (("collect", "sft", "base"),),
    "rl": (("reward",), ("sft", "base")),
    "compare": (("rl", "reward", "sft", "base"),),
}
WIDTH, HEIGHT, GAP, TOP = 134.0, 78.0, 34.0, 44.0  # of a box, between boxes, above them
STATES: Mapping[str, str] = {
    "done": "done",
    "running": "under way",
    "waiting": "waits for people",
    "failed": "failed",
    "interrupted": "interrupted",
    "pending": "not begun",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One stage. `look` names the style: the worst verdict, else the state."""

    x: float
    y: float
    name: str
    figure: str
    state: str
    look: str
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The whole picture, in units of the SVG's view box."""

    width: float
    height: float
    box_width: float
    box_height: float
    boxes: Sequence[Box]
    arrows: Sequence[str]  # SVG paths


def flow(facts: Facts) -> Flow:
    """Lay the run's stages out from left to right; a given base model is a box of its own."""
    names = list(facts.stages)
    if "base" not in names and facts.config.get("model"):
        names.insert(0, "base")
    boxes = [_box(facts, name, place) for place, name in enumerate(names)]
    places = {name: place for place, name in enumerate(names)}
    arrows = []
    for name in names:
        for sources in TAKES.get(name, ()):
            source = next((s for s in sources if s in places), None)
            if source is not None:
                arrows.append(_arrow(boxes[places[source]], boxes[places[name]], places[name] - places[source]))
    return Flow(
        width=max(1, len(names)) * (WIDTH + GAP) - GAP + 4,
        height=TOP + HEIGHT + 4,
        box_width=WIDTH,
        box_height=HEIGHT,
        boxes=boxes,
        arrows=arrows,
    )


def _box(facts: Facts, name: str, place: int) -> Box:
    given = name == "base" and name not in facts.stages
    status = "done" if given else facts.status(name)
    verdict = facts.worst(name)
    figure = _short(str(facts.config.get("model"))) if given else key_figure(facts, name)
    look = verdict if verdict and status == "done" else {"failed": "fail", "interrupted": "warn"}.get(status, status)
    return Box(
        x=2 + place * (WIDTH + GAP),
        y=TOP,
        name="Base model" if given else SHORT[name],
        figure=figure,
        state="given" if given else STATES.get(status, status),
        look="given" if given else look,
        stage=name,
    )


def _arrow(source: Box, target: Box, steps: int) -> str:
    """Straight to a neighbour; over the boxes between to one further away."""
    if steps == 1:
        y = source.y + HEIGHT / 2
        return f"M{source.x + WIDTH + 3:.1f},{y:.1f} H{target.x - 5:.1f}"
    start, end = source.x + WIDTH * 0.72, target.x + WIDTH * 0.28
    top = source.y - 16 - 8 * min(steps, 3)
    return f"M{start:.1f},{source.y - 2:.1f} C{start:.1f},{top:.1f} {end:.1f},{top:.1f} {end:.1f},{target.y - 5:.1f}"


def _short(model: str, most: int = 18) -> str:
    """The last part of a path or hub id."""
    name = model.rstrip("/").split("/")[-1]
    return name if len(name) <= most else f"{name[: most - 1]}…"
