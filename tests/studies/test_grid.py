"""Runs in turn: each is told with its place, a stop between two is heard, and what they cost is said before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sawyer.cli.study_command import parse_seeds
from sawyer.config import parse_config
from sawyer.errors import ConfigError, Interrupted, RunError
from sawyer.runs import Layout, Listener, Manifest
from sawyer.studies import grid, study_algorithms, study_losses, study_overoptimisation, study_seeds
from sawyer.studies.grid import Cell, Grid, SharedStart, check_seeds, cost_summary


def grid_of(count: int, **more: Any) -> Grid:
    """Cells that have nothing in common."""
    config = parse_config({"model": "m", "sft": {"data": ["a"]}})
    cells = tuple(Cell(row=str(number), config=config, label=f"run {number}") for number in range(count))
    return Grid(source=SharedStart(config=config), cells=cells, stages=("sft",), what="runs", **more)


def test_each_is_told_and_the_time_left_is_by_those_that_had_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 101.0, 200.0, 320.0])  # run 0 begins and has nothing to do; runs 1 and 2 take 100 s and 120 s
    monkeypatch.setattr(grid, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    told: list[str] = []

    def work(cell: Cell, listeners: Sequence[Listener]) -> int:
        if cell.row != "0":
            listeners[-1]("event", {"kind": "start", "stage": "rl"})
        return 10 * int(cell.row)

    assert grid_of(3, tell=told.append).run(work) == [0, 10, 20]
    assert told == ["run 0 (1 of 3)", "run 1 (2 of 3)", "run 2 (3 of 3, about 2 min left)"]


def test_a_stop_between_two_is_heard() -> None:
    done: list[int] = []

    def work(cell: Cell, listeners: Sequence[Listener]) -> None:
        done.append(int(cell.row))
        if cell.row == "1":
            listeners[-1]("stopping", {"reason": "Ctrl-C"})

    with pytest.raises(Interrupted, match=r"2 of 4 runs are done \(Ctrl-C\)"):
        grid_of(4).run(work)
    assert done == [0, 1]


def layout(root: Path, seconds: float | None) -> Layout:
    found = Layout(root)
    if seconds is not None:
        found.model("rl").mkdir(parents=True)
        Manifest(found.manifest).update("rl", status="done", seconds=seconds)
    return found


def test_what_it_costs_is_by_the_runs_that_are_done_or_what_is_known(tmp_path: Path) -> None:
    runs = [layout(tmp_path / "a", 100.0), layout(tmp_path / "b", 200.0), layout(tmp_path / "c", None)]
    assert (
        cost_summary("3 runs", runs, ["rl"], estimate=1.0)
        == "3 runs, 2 done before; about 2 min each on such a machine, 2 min to go"
    )
    assert cost_summary("2 runs", runs[:2], ["rl"]) == "2 runs: all done before"
    assert cost_summary("1 run", runs[2:], ["rl"], estimate=600.0).endswith("about 10 min each on such a machine, 10 min to go")
    assert cost_summary("1 run", runs[2:], ["rl"]).endswith("how long one takes is said after the first")


def test_seeds_are_numbers_and_ranges() -> None:
    assert parse_seeds("3, 0,10-12") == [3, 0, 10, 11, 12]
    assert parse_seeds("-1") == [-1]  # what it may be is another's business
    for bad in ("a", "1-", "5-3", "0-5000"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(bad)
    for seeds, told in (([-1], "seed -1"), ([1, 1], "named twice"), ([], "no seed is named"), ([2**32], "less than 2")):
        with pytest.raises(ConfigError, match=told):
            check_seeds(seeds)


@pytest.mark.parametrize("study", [study_algorithms, study_losses, study_overoptimisation, study_seeds])
def test_several_processes_are_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, study: Callable[..., Any]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="were started on 2 processes"):
        study("no-such-file.yaml")
