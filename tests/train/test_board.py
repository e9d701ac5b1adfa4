"""Sums on a board, whoever is first at each of their steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from sawyer import board
from sawyer.board import Board, opened
from sawyer.errors import ProcessError

SIZES = ([(3, 5), (40,), (1,), (2, 2, 2)], [(7,)], [(64,), (64,), (1,)], [(0,), (33,)])  # of the tensors of each call
ROW = 64  # bytes: 16 numbers of fp32


def given(process: int) -> list[list[Tensor]]:
    """What a process has, call by call; among them another dtype."""
    draw = torch.Generator().manual_seed(process)
    calls = [[torch.randn(size, generator=draw) for size in sizes] for sizes in SIZES]
    calls[0].insert(2, torch.randn(9, generator=draw, dtype=torch.float64))
    return calls


def after_all(processes: int, order: Random, places: int = 3) -> list[list[list[Tensor]]]:
    """What each process has once all are through; from one meeting to the next they go in any order, one after another."""
    memory = torch.zeros(places, processes, ROW, dtype=torch.uint8)
    held = [given(process) for process in range(processes)]

    def work(process: int) -> Iterator[None]:
        mine = Board(memory, process)
        for tensors in held[process]:
            yield from mine.add_up(tensors)

    working = [work(process) for process in range(processes)]
    while True:
        order.shuffle(working)
        ended = [next(one, "ended") == "ended" for one in working]
        if any(ended):
            assert all(ended), "all come to as many meetings"
            return held


def are_sums(found: list[list[list[Tensor]]]) -> bool:
    """Whether each process has the sum of all, to the last bit the same as the others have."""
    for call in range(len(SIZES)):
        for place, tensor in enumerate(found[0][call]):
            required_section = torch.stack([given(process)[call][place].double() for process in range(len(found))]).sum(0)
            if not torch.allclose(tensor.double(), required_section, rtol=0, atol=16 * torch.finfo(tensor.dtype).eps):
                return False
            if not all(torch.equal(other[call][place], tensor) for other in found[1:]):
                return False
    return True


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_each_has_the_sum_of_all_to_the_same_bit(processes: int, seed: int) -> None:
    assert are_sums(after_all(processes, Random(seed)))


@pytest.mark.parametrize("mistake", ["two places", "each call begins anew"])
def test_places_taken_too_soon_are_another_sum(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    places = 3
    if mistake == "two places":
        places = 2
        monkeypatch.setattr(board, "PLACES", places)
    else:
        kept = Board.add_up

        def anew(self: Board, tensors: list[Tensor]) -> Iterator[None]:
            self.written = 0
            yield from kept(self, tensors)

        monkeypatch.setattr(Board, "add_up", anew)
    assert are_sums(after_all(1, Random(0), places))  # by itself none is in another's way
    assert not all(are_sums(after_all(2, Random(seed), places)) for seed in range(8))


# Opening one, and the lines.


class Several:
    """As many threads as there would be processes, each of which opens the board and works at it: what each of them finds."""

    def __init__(self, number: int, patience: float = 20.0) -> None:
        self.number, self.patience = number, patience
        self._met = Barrier(number, timeout=20.0)
        self._said: dict[int, object] = {}

    def gather(self, process: int, value: object) -> list[object]:
        self._said[process] = value
        self._met.wait()
        said = [self._said[other] for other in range(self.number)]
        self._met.wait()
        return said

    def each(self, work: Callable[[int, Board | None], Any]) -> list[Any]:
        boards: list[Board | None] = []

        def one(process: int) -> Any:
            mine = opened(process, self.number, partial(self.gather, process), patience=self.patience)
            boards.append(mine)
            return work(process, mine)

        with ThreadPoolExecutor(self.number) as threads:
            found = list(threads.map(one, range(self.number)))
        for mine in boards:
            if mine is not None:
                mine.close()
        return found


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the tests take for the machine's memory: of a short name, as lines must have."""
    with TemporaryDirectory(prefix="b") as made:
        monkeypatch.setattr(board, "FOLDER", Path(made))
        yield Path(made)


@pytest.mark.parametrize("number", [2, 3])
def test_all_see_one_board_and_meet_by_lines_and_its_name_goes_at_once(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "BYTES", 3 * number * (2 * ROW - 1))  # rows of 64 bytes or a multiple, and no more than there is
    held = [given(process) for process in range(number)]

    def work(process: int, mine: Board | None) -> bool:
        assert mine is not None and mine.number == process and len(mine.lines) == number - 1
        assert mine.memory.shape == (3, number, ROW)
        for tensors in held[process]:
            for _ in mine.add_up(tensors):
                mine.meet()
        return list(folder.iterdir()) == []

    # The first process takes the name away once all have called each other.
    assert Several(number).each(work)[0]
    assert are_sums(held)


def test_without_meetings_the_sums_are_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "BYTES", 3 * 2 * ROW)
    held = [given(process) for process in range(2)]
    turns = Barrier(2, timeout=20.0)

    def work(process: int, mine: Board | None) -> None:
        assert mine is not None
        if process:  # only after the first one has gone through all
            turns.wait()
        for tensors in held[process]:
            list(mine.add_up(tensors))
        if not process:
            turns.wait()

    Several(2).each(work)
    assert not are_sums(held)


@pytest.mark.parametrize("how", ["closed", "late"])
def test_who_waits_for_one_that_is_gone_is_told(folder: Path, how: str) -> None:
    def work(process: int, mine: Board | None) -> str:
        assert mine is not None
        if process:
            mine.meet()
            if how == "closed":
                mine.close()
            return "left"
        mine.meet()
        try:
            mine.meet()
        except ConnectionError:
            return "closed"
        except TimeoutError:
            return "late"
        return "met"

    several = Several(2, patience=20.0 if how == "closed" else 0.2)
    assert several.each(work) == [how, "left"]


@pytest.mark.parametrize("missing", ["memory", "room", "sight", "line"])
def test_without_memory_that_all_see_there_is_no_board(missing: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, start: int, size: int) -> None:
        raise OSError("No space left on device")

    if missing == "memory":
        monkeypatch.setattr(board, "FOLDER", folder / "nowhere")
    elif missing == "room":
        monkeypatch.setattr(board.os, "posix_fallocate", full)
    elif missing == "line":
        monkeypatch.setattr(board, "CALLED", 0.1)
    # What a process says that is on another machine, or that cannot call this one.
    blind = iter({"sight": [False], "line": [True, False]}.get(missing, [False]))
    assert opened(0, 2, lambda value: [value, next(blind) if isinstance(value, bool) else None], patience=1.0) is None
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("there", [None, b"", bytes(100), bytes(board.BYTES)], ids=["none", "empty", "short", "another"])
def test_another_machine_sees_no_board(there: bytes | None, tmp_path: Path) -> None:
    """Where there is no folder of that name, or another file in it; and it makes none."""
    path, said = tmp_path / "sawyer-x", []
    if there is not None:
        path.mkdir()
        (path / board.MEMORY).write_bytes(there)

    def gather(value: object) -> list[object]:
        said.append(value)
        return [(str(path), b"x" * board.KNOWN), value] if len(said) == 1 else [True, value]

    assert opened(1, 2, gather, patience=1.0) is None
    assert said == [None, False] and path.exists() == (there is not None)


@pytest.mark.parametrize("gathers", [0, 1, 2])
def test_nothing_is_left_where_another_is_lost(gathers: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "CALLED", 0.1)
    done: list[object] = []

    def gather(value: object) -> list[object]:
        if len(done) == gathers:
            raise ProcessError("process 1 ended")
        done.append(value)
        return [value, value]

    with pytest.raises(ProcessError):
        opened(0, 2, gather, patience=1.0)
    assert list(folder.iterdir()) == []
