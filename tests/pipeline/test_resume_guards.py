"""A run that guards put back and stop in the end: cut off anywhere and gone on with, it is the same to the last digit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cuts import Cut, Kept

from sawyer.runs import Layout, Listener, read_rows

pytestmark = pytest.mark.slow

# The policy's KL rises at once at this rate, so that the guard acts again and again, each time after a streak of two.
TRIPS = {
    "rl.guards": {"kl_budget": {"threshold": 0.02, "patience": 2}},
    "rl.max_rollbacks": 2,
    "rl.episodes": 96,
    "rl.kl.target": 6.0,
    "rl.kl.horizon": 200.0,
}


def acts(out: Path) -> list[tuple[Any, ...]]:
    """What guards did, each once: what was done again after a cut is told again."""
    rows = [row for row in read_rows(Layout(out).events) if row["kind"] in ("guard", "rollback")]
    return list(dict.fromkeys((row["kind"], row["step"], row.get("action"), row["message"]) for row in rows))


def done(tiny: Any, out: Path, save: float, listeners: Sequence[Listener] = ()) -> bool:
    """Run the stage; whether it came to its end."""
    try:
        tiny.run(out, {**TRIPS, "save_every_seconds": save}, only="rl", listeners=listeners)
    except SystemExit:
        return False
    return True


class Straight(NamedTuple):
    """The run that is never cut off, and what lay on the disk at each of its words."""

    out: Path
    kept: Kept


@pytest.fixture(scope="module")
def straight(tiny: Any, tmp_path_factory: pytest.TempPathFactory, shrinking: Any) -> Straight:
    root = tmp_path_factory.mktemp("guards")
    with pytest.MonkeyPatch.context() as patch:
        shrinking(patch)
        out = tiny.prefix("rl", root / "run")
        kept = Kept("rl", out, root / "lost")
        assert done(tiny, out, 0.0, [kept])
        return Straight(out, kept)


def check(tiny: Any, straight: Straight, out: Path, where: str) -> None:
    """It is as if it had never been cut off."""
    found, expected = tiny.result(out), tiny.result(straight.out)
    for name in ("metrics", "samples", "products", "figures"):
        assert getattr(found, name) == getattr(expected, name), (name, where)
    assert acts(out) == acts(straight.out), where


def test_the_straight_run_is_put_back_twice_and_stopped(straight: Straight) -> None:
    told = acts(straight.out)
    assert [(kind, action) for kind, _, action, _ in told] == [
        ("guard", "rollback"),
        ("rollback", None),
        ("guard", "rollback"),
        ("rollback", None),
        ("guard", "stop"),
    ]
    steps = [step for kind, step, _, _ in told if kind == "guard"]
    assert steps[0] < steps[1] < steps[2] < 11


def cut_off(tiny: Any, straight: Straight, tmp_path: Path, at: int, save: float) -> None:
    out = tiny.prefix("rl", tmp_path / f"{at}")
    assert not done(tiny, out, save, [Cut("rl", at, "kill")])
    assert done(tiny, out, save)
    check(tiny, straight, out, f"killed at {at}")


@pytest.mark.parametrize("part", [0.3, 0.55, 0.8])
def test_cut_off_between_rollbacks(tiny: Any, straight: Straight, tmp_path: Path, part: float) -> None:
    cut_off(tiny, straight, tmp_path, int(part * straight.kept.said), 0.0)


def test_cut_off_where_nothing_is_saved(tiny: Any, straight: Straight, tmp_path: Path) -> None:
    counter = Cut("rl", -1, "never")
    assert done(tiny, tiny.prefix("rl", tmp_path / "whole"), 3600.0, [counter])
    for at in range(3, counter.words, 5):
        cut_off(tiny, straight, tmp_path, at, 3600.0)


def test_lost_at_every_word(tiny: Any, straight: Straight) -> None:
    assert len(straight.kept.words) > 30
    for at in straight.kept.words:
        assert done(tiny, straight.kept.at(at), 0.0)
        check(tiny, straight, straight.kept.at(at), f"lost at {at}")
