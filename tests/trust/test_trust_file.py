"""trust.json is read back as it was written, whatever was judged, and nothing else is taken for one."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from judges import record

from sawyer.records import JudgedPrompt, Prompt, prompt_of
from sawyer.report.trust_section import view
from sawyer.trust import Trust, Verdict, as_json, decide_verdict, from_json, trust


def score(prompts: list[Prompt], responses: list[str]) -> list[float]:
    """Mostly by the figure at the answer's end."""
    known = [float(text.rsplit(" ", 1)[-1]) if text[-1:].isdigit() else 0.0 for text in responses]
    return [value + random.Random(text).gauss(0, 1.0) for value, text in zip(known, responses, strict=True)]


def pairs(count: int, margin: float | None = None) -> list[JudgedPrompt]:
    return [JudgedPrompt.ready_made(prompt_of(f"q {i}"), f"an answer of {i} 6", f"another {i} 2", margin) for i in range(count)]


def scored(count: int, source: str = "", scale: float = 1.0) -> list[JudgedPrompt]:
    rng = random.Random(count)
    told = [
        [(f"{letter} word {i} {s}", s * scale) for letter, s in zip("abc", rng.sample(range(1, 10), 3), strict=True)]
        for i in range(count)
    ]
    return [record(f"p {i}", *answers, source=source) for i, answers in enumerate(told)]


JUDGED: dict[str, list[Any]] = {
    "8 pairs": pairs(8),
    "1 pair": pairs(1),
    "pairs with margins": pairs(8, 3.0),
    "scored": scored(9),
    "collected and scored later": scored(9, "sft"),
    "pairs and collected": pairs(8) + scored(9, "sft"),
    "pairs and scores of another scale": pairs(8) + scored(5, "sft", 0.1),
    "files and collected": scored(8) + scored(9, "sft", 10.0),
    "ties": [record(f"t {i}", ("one", 3.0), ("two", 3.0)) for i in range(4)],
    "many": scored(40) + pairs(60),
}


def examined(judged: str, world: bool, held_out: bool = True, loss: str | None = "squared") -> tuple[Trust, Verdict]:
    own = scored(6, "sft") if world else []
    truth = (lambda prompt, text: float(len(text) % 7)) if world else None
    found = trust(score, JUDGED[judged], own_answers=own, truth=truth, held_out=held_out, loss=loss)
    return found, decide_verdict(found)


@pytest.mark.parametrize("judged", JUDGED)
def test_every_report_is_read_back_and_drawn(judged: str) -> None:
    for world, held_out, loss in ((False, True, "squared"), (True, False, None)):
        found, verdict = examined(judged, world, held_out, loss)
        values = json.loads(json.dumps(as_json(found, verdict), allow_nan=False))
        assert from_json(values) == (found, verdict)
        page = view(values)
        assert page.words == verdict.words and page.kind == verdict.kind
        assert len(page.panels) == (3 if any(side.pairs for side in found.sides) else 0)


def test_classes_of_one_bound_on_two_scales_keep_their_places() -> None:
    """Pairs without a margin are one class from 1 on, scores from 1 to 9 have one from 1 to 2: a bound is no name."""
    found, verdict = examined("pairs and collected", world=False)
    (_, _), (panel, _), _ = view(as_json(found, verdict)).panels
    assert sorted({gap.low for side in found.sides for gap in side.by_gap if gap.low == 1.0}) == [1.0]
    assert set(panel.x_names or ()) == {gap.name for side in found.sides for gap in side.by_gap} > {"all", "1 to 2"}
    for line, side in zip(panel.lines, found.sides, strict=True):
        assert [(panel.x_names or ())[round(x)] for x in line.xs] == [gap.name for gap in side.by_gap]


def changed(values: dict[str, Any], path: tuple[Any, ...], new: Any) -> dict[str, Any]:
    found = copy.deepcopy(values)
    inside: Any = found
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = new
    return found


@pytest.mark.parametrize(
    ("path", "new", "named"),
    [
        (("sides",), [], "sides"),
        (("sides", 0, "pairs"), "many", r"sides\[0\]\.pairs"),
        (("sides", 0, "accuracy", "low"), float("nan"), r"sides\[0\]\.accuracy\.low"),
        (("sides", 0, "accuracy", "low"), None, r"sides\[0\]\.accuracy\.low"),
        (("sides", 0, "name"), "mine", r"sides\[0\]\.name"),
        (("sides", 0, "points", 0), [1, 2.0, 3.0], r"sides\[0\]\.points\[0\]"),
        (("verdict", "kind"), "maybe", r"verdict\.kind"),
        (("verdict",), None, "verdict"),
        (("held_out",), 1, "held_out"),
        (("probes",), "none", "probes"),
    ],
)
def test_what_was_not_written_so_is_named(path: tuple[Any, ...], new: Any, named: str) -> None:
    values = json.loads(json.dumps(as_json(*examined("scored", world=False))))
    with pytest.raises(ValueError, match=named):
        from_json(changed(values, path, new))
    with pytest.raises(ValueError, match=named):
        view(changed(values, path, new))
