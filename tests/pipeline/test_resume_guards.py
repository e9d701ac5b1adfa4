"""A run that guards put back and stop in the end: cut off anywhere and gone on with, it is the same to the last digit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sawyer.runs import Layout, read_rows

pytestmark = pytest.mark.slow

# The policy's KL rises at once at this rate, so that the guard acts again and again, each time after a streak of two.
TRIPS = {
    "rl.guards": {"kl_budget": {"threshold": 0.02, "streak": 2}},
    "rl.rollbacks": 2,
    "rl.episodes": 96,
    "rl.kl.target": 6.0,
    "rl.kl.horizon": 200.0,
}


def acts(out: Path) -> list[tuple[Any, ...]]:
    """What guards did, each once: what was done again after a cut is told again."""
    rows = [row for row in read_rows(Layout(out).events) if row["kind"] in ("guard", "rollback")]
    return list(dict.fromkeys((row["kind"], row["step"], row.get("action"), row["message"]) for row in rows))


def done(tiny: Any, out: Path, save: float, at: int = -1) -> int:
    """Run the stage, cut off at the journal's word number `at`; how many words it had."""
    words = 0

    def listen(kind: str, row: dict[str, Any]) -> None:
        nonlocal words
        words += row.get("stage") == "rl"
        if words == at and row.get("stage") == "rl":
            raise SystemExit("killed")

    try:
        tiny.run(out, {**TRIPS, "save_every_seconds": save}, only="rl", listeners=[listen])
    except SystemExit:
        return -1
    return words


@pytest.fixture(scope="module")
def straight(tiny: Any, tmp_path_factory: pytest.TempPathFactory, shrinking: Any) -> tuple[Path, int]:
    with pytest.MonkeyPatch.context() as patch:
        shrinking(patch)
        out = tiny.prefix("rl", tmp_path_factory.mktemp("guards") / "run")
        return out, done(tiny, out, 0.0)


def check(tiny: Any, straight: tuple[Path, int], tmp_path: Path, at: int, save: float) -> None:
    out = tiny.prefix("rl", tmp_path / f"{at}")
    assert done(tiny, out, save, at) == -1
    done(tiny, out, save)
    found, expected = tiny.result(out), tiny.result(straight[0])
    for name in ("metrics", "samples", "products", "figures"):
        assert getattr(found, name) == getattr(expected, name), (name, at)
    assert acts(out) == acts(straight[0]), at


def test_the_straight_run_is_put_back_twice_and_stopped(straight: tuple[Path, int]) -> None:
    told = acts(straight[0])
    assert [(kind, action) for kind, _, action, _ in told] == [
        ("guard", "rollback"),
        ("rollback", None),
        ("guard", "rollback"),
        ("rollback", None),
        ("guard", "stop"),
    ]
    steps = [step for kind, step, _, _ in told if kind == "guard"]
    assert steps[0] < steps[1] < steps[2] < 11


@pytest.mark.parametrize("part", [0.3, 0.55, 0.8])
def test_cut_off_between_rollbacks(tiny: Any, straight: tuple[Path, int], tmp_path: Path, part: float) -> None:
    check(tiny, straight, tmp_path, int(part * straight[1]), 0.0)


@pytest.mark.parametrize("save", [0.0, 3600.0], ids=["often saved", "never saved"])
def test_cut_off_at_every_word(tiny: Any, straight: tuple[Path, int], tmp_path: Path, save: float) -> None:
    words = straight[1] if save == 0.0 else done(tiny, tiny.prefix("rl", tmp_path / "whole"), save)  # saves are words too
    for at in range(3, words, 1 if save == 0.0 else 5):
        check(tiny, straight, tmp_path, at, save)
