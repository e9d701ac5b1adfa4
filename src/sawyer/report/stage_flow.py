"""The diagram of the run: a box for each stage with its state and key figure, and an arrow for each model or file handed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sawyer.report.run_facts import Facts
from sawyer.report.wording import STATES, key_figure
from sawyer.runs import SHORT

# The stages whose model or data a stage takes; of each group the first that the run has.
INPUTS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "classify": (("base",),),
    "sft": (("base",),),
    "collect": (("sft", "base"),),
    "reward": (("collect", "sft", "base"),),
    "rl": (("reward",), ("sft", "base")),
    "compare": (("rl", "reward", "sft", "base"),),
}
WIDTH, HEIGHT, GAP, TOP = 134.0, 78.0, 34.0, 44.0  # of a box; between boxes; above them
MAX_NAME = 18  # characters of a model's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One stage. `look` names its style: the worst verdict, else the state."""

    x: float
    y: float
    name: str
    figure: str
    state: str
    look: str
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The whole diagram, in units of the SVG's view box."""

    width: float
    height: float
    box_width: float
    box_height: float
    boxes: Sequence[Box]
    arrows: Sequence[str]  # SVG paths


def flow(facts: Facts) -> Flow:
    """Lay out the run's stages from left to right. A base model that the config names has a box, too."""
    names = list(facts.stages)
    if "base" not in names and facts.config.get("model"):
        names.insert(0, "base")
    boxes = {name: _box(facts, name, 2 + i * (WIDTH + GAP)) for i, name in enumerate(names)}
    arrows = []
    for name in names:
        for group in INPUTS.get(name, ()):
            if source := next((s for s in group if s in boxes), None):
                arrows.append(_arrow(boxes[source], boxes[name], names.index(name) - names.index(source)))
    return Flow(
        width=max(1, len(names)) * (WIDTH + GAP) - GAP + 4,
        height=TOP + HEIGHT + 4,
        box_width=WIDTH,
        box_height=HEIGHT,
        boxes=list(boxes.values()),
        arrows=arrows,
    )


def _box(facts: Facts, stage: str, x: float) -> Box:
    if stage == "base" and stage not in facts.stages:
        model = str(facts.config.get("model")).rstrip("/").split("/")[-1]
        model = model if len(model) <= MAX_NAME else f"{model[: MAX_NAME - 1]}…"
        return Box(x=x, y=TOP, name="Base model", figure=model, state="given", look="given", stage=stage)
    status, verdict = facts.status(stage), facts.worst(stage)
    look = verdict if verdict and status == "done" else {"failed": "fail", "interrupted": "warn"}.get(status, status)
    state = STATES.get(status, status)
    return Box(x=x, y=TOP, name=SHORT[stage], figure=key_figure(facts, stage), state=state, look=look, stage=stage)


def _arrow(source: Box, target: Box, distance: int) -> str:
    """A straight line to the next box; an arc over the boxes in between to one further away."""
    if distance == 1:
        y = source.y + HEIGHT / 2
        return f"M{source.x + WIDTH + 3:.1f},{y:.1f} H{target.x - 5:.1f}"
    start, end = source.x + WIDTH * 0.72, target.x + WIDTH * 0.28
    top = source.y - 16 - 8 * min(distance, 3)
    return f"M{start:.1f},{source.y - 2:.1f} C{start:.1f},{top:.1f} {end:.1f},{top:.1f} {end:.1f},{target.y - 5:.1f}"
