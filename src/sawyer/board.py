"""A board in one machine's memory on which its processes add up what each of them has.

Messages between processes are copied into the system and out of it again, and each process sums all of them. On the board
each writes what it has, sums its slice of what all have written, and reads what all have summed, a piece that the processor's
cache holds at a time: half as long (LAB.md, "Should processes of one machine add up gradients in memory that they share?").
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path("/dev/shm")  # of Linux: what lies there lies in memory, and one machine's processes alone see it
BYTES = 24 * 2**20  # of the whole board, for any number of processes: within a processor's cache
PLACES = 3  # one is written, one summed, one read
ALIGNED = 64  # bytes; a row begins at a multiple of them, whatever numbers are written there
KNOWN = 16  # bytes by which the first process's file is known


def opened(number: int, processes: int, gather: Callable[[Any], list[Any]]) -> Board | None:
    """The board of the processes, of which this is the one with this number; `gather` gives everyone's value.

    None where not all of them see one: they are on several machines, or there is no such memory, or not enough.
    """
    row = BYTES // (PLACES * processes) // ALIGNED * ALIGNED
    size = PLACES * processes * row
    made = _made(size) if number == 0 else None
    try:
        told = gather(made)[0]
        memory = None if told is None else _seen(told[0], told[1], size)
        all_see_it = all(gather(memory is not None))
    finally:
        if made is not None:  # the memory stays until the last of them has ended, however it ends
            with contextlib.suppress(OSError):
                os.unlink(made[0])
    return Board(memory.view(PLACES, processes, row), number) if memory is not None and all_see_it else None


def _made(size: int) -> tuple[str, bytes] | None:
    """A file of so many bytes, all of them there, since what is missing must not be found missing as it is written; and what it
    begins with, by which others know it."""
    path = None
    try:
        file, path = tempfile.mkstemp(prefix="sawyer-", dir=FOLDER)
        with open(file, "wb") as begun:
            os.posix_fallocate(file, 0, size)
            known = os.urandom(KNOWN)
            begun.write(known)
    except BaseException as error:
        if path is not None:
            os.unlink(path)
        if not isinstance(error, OSError):
            raise
        return None
    return path, known


def _seen(path: str, known: bytes, size: int) -> Tensor | None:
    """The memory (size,) uint8 that the first process has made; None where this one, on another machine, sees another file or
    none."""
    try:
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), size)
    except (OSError, ValueError):
        return None
    return torch.frombuffer(memory, dtype=torch.uint8) if memory[:KNOWN] == known else None


class Board:
    """`memory` (PLACES, processes, bytes) uint8, the same for all; `number` is this process's."""

    def __init__(self, memory: Tensor, number: int) -> None:
        self.memory, self.number = memory, number
        self.written = 0  # pieces so far: they take the places in turn, also from one call to the next

    def add_up(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """Put in the place of each tensor (contiguous, on the processor) its sum over the processes, in all of them the same to
        the last bit. At each `yield` nobody may go on before all have come so far.

        As piece n is written, n - 1 is summed and n - 2 read, each in a place of its own: so one meeting a piece is enough. Who
        has read the last one may write the next call's first at once, since others may only be reading in the place before.
        """
        pieces = list(_pieces(tensors, self.memory.shape[2]))
        first = self.written
        self.written += len(pieces)
        for step in range(len(pieces) + 2):
            if step >= 2:
                self._read(pieces[step - 2], first + step - 2)
            if 1 <= step <= len(pieces):
                self._sum(pieces[step - 1], first + step - 1)
            if step < len(pieces):
                self._write(pieces[step], first + step)
            if step <= len(pieces):
                yield

    def _write(self, piece: list[Tensor], place: int) -> None:
        torch.cat(piece, out=self._row(place, self.number, piece))

    def _sum(self, piece: list[Tensor], place: int) -> None:
        """This process's slice of it, into the first one's row."""
        processes = self.memory.shape[1]
        first, *others = (self._row(place, row, piece).tensor_split(processes)[self.number] for row in range(processes))
        for other in others:
            first += other

    def _read(self, piece: list[Tensor], place: int) -> None:
        summed = torch.split_with_sizes(self._row(place, 0, piece), [len(part) for part in piece])
        for part, found in zip(piece, summed, strict=True):
            part.copy_(found)

    def _row(self, place: int, row: int, piece: list[Tensor]) -> Tensor:
        """(numbers of the piece,) of the board."""
        size = sum(len(part) for part in piece) * piece[0].element_size()
        return self.memory[place % PLACES, row, :size].view(piece[0].dtype)


def _pieces(tensors: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """All numbers of the tensors in their order, as views (n,) of them, in pieces of one dtype that each fill so many bytes."""
    piece: list[Tensor] = []
    room = 0  # numbers that the piece still takes
    for tensor in tensors:
        rest = tensor.detach().view(-1)
        if piece and piece[0].dtype != rest.dtype:
            yield piece
            piece, room = [], 0
        while len(rest):
            if not room:
                if piece:
                    yield piece
                piece, room = [], size // rest.element_size()
            piece.append(rest[:room])
            room -= len(piece[-1])
            rest = rest[len(piece[-1]) :]
    if piece:
        yield piece
