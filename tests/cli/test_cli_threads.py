"""How long waiting threads look, by what else runs on the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sawyer.cli import threads


class LoadNetwork:
    """What the system tells each time it is asked: `running` threads."""

    def __init__(self, *running: int) -> None:
        self.running = list(running)

    def read_text(self) -> str:
        return f"0.52 1.80 1.33 {self.running.pop(0)}/214 9307\n"


def told(monkeypatch: pytest.MonkeyPatch, load: object) -> str | None:
    monkeypatch.setattr(threads, "LOAD", load)
    monkeypatch.setattr(threads.time, "sleep", lambda seconds: None)
    threads.set_waiting()
    return os.environ.get("GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing, as it was afterwards."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("running", "known"),
    [
        ((1, 1, 1), threads.ALONE),
        ((3, 1, 2), threads.ALONE),  # something that ended within a moment
        ((2, 2, 2), threads.BESIDE_OTHERS),
        ((2, 9, 3), threads.BESIDE_OTHERS),
    ],
)
def test_by_whether_anything_else_runs(monkeypatch: pytest.MonkeyPatch, running: tuple[int, ...], known: str) -> None:
    assert told(monkeypatch, LoadNetwork(*running)) == known


def test_where_the_system_does_not_tell_something_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert told(monkeypatch, tmp_path / "none") == threads.BESIDE_OTHERS
    monkeypatch.delenv("GOMP_SPINCOUNT")
    (tmp_path / "other").write_text("0.5 0.5 0.5\n")
    assert told(monkeypatch, tmp_path / "other") == threads.BESIDE_OTHERS


@pytest.mark.parametrize(("name", "left"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", None)])
def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch, name: str, left: str | None) -> None:
    monkeypatch.setenv(name, "7")
    assert told(monkeypatch, LoadNetwork(1, 1, 1)) == left
