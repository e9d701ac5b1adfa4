"""Sums on a board, whoever is first at each of their steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
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
            wanted = torch.stack([given(process)[call][place].double() for process in range(len(found))]).sum(0)
            if not torch.allclose(tensor.double(), wanted, rtol=0, atol=16 * torch.finfo(tensor.dtype).eps):
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


@pytest.mark.parametrize("missing", ["memory", "room", "sight"])
def test_without_memory_that_all_see_there_is_no_board(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, start: int, size: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(board, "FOLDER", tmp_path if missing != "memory" else tmp_path / "nowhere")
    if missing == "room":
        monkeypatch.setattr(board.os, "posix_fallocate", full)
    blind = [False] if missing == "sight" else []  # what a process on another machine says
    assert opened(0, 2, lambda value: [value, *(blind if isinstance(value, bool) else [value])]) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [None, b"", bytes(100), bytes(board.BYTES)], ids=["none", "empty", "short", "another"])
def test_another_machine_sees_no_board(there: bytes | None, tmp_path: Path) -> None:
    """Where there is no file of that name, or another one; and it makes none."""
    path, said = tmp_path / "sawyer-x", []
    if there is not None:
        path.write_bytes(there)

    def gather(value: object) -> list[object]:
        said.append(value)
        return [(str(path), b"x" * board.KNOWN), value] if len(said) == 1 else [True, value]

    assert opened(1, 2, gather) is None
    assert said == [None, False] and path.exists() == (there is not None)


@pytest.mark.parametrize("gathers", [0, 1])
def test_nothing_is_left_where_another_is_lost(gathers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "FOLDER", tmp_path)
    done: list[object] = []

    def gather(value: object) -> list[object]:
        if len(done) == gathers:
            raise ProcessError("process 1 ended")
        done.append(value)
        return [value, value]

    with pytest.raises(ProcessError):
        opened(0, 2, gather)
    assert list(tmp_path.iterdir()) == []


def test_two_see_one_board_and_its_name_goes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "FOLDER", tmp_path)
    told: list[Any] = []
    others: list[Board | None] = []

    def first(value: Any) -> list[Any]:
        told.append(value)
        if len(told) == 2:  # the second one comes to both at this moment
            others.append(opened(1, 2, lambda mine: [told[0] if mine is None else value, mine]))
        return [value, value]

    mine = opened(0, 2, first)
    assert list(tmp_path.iterdir()) == []
    assert mine is not None and mine.memory.shape[:2] == (3, 2) and mine.memory.shape[2] % 64 == 0
    assert mine.memory.numel() <= board.BYTES
    (other,) = others
    assert other is not None and other.number == 1
    mine.memory[1, 0, 5] = 77
    assert other.memory[1, 0, 5] == 77
