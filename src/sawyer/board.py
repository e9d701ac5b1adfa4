"""A board in one machine's memory on which its processes add up what each of them has.

Messages between processes are copied into the system and out of it again, and each process sums all of them. On the board
each writes what it has, sums its slice of what all have written, and reads what all have summed, a piece that the processor's
cache holds at a time: a third as long (LAB.md, "What does a meeting at the board cost?" and the entry that it answers).
From piece to piece they wait for each other, by lines of their own: a byte to each of the others and one from each.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path("/dev/shm")  # of Linux: what lies there lies in memory, and one machine's processes alone see it
BYTES = 12 * 2**20  # of the whole board, for any number of processes: within a processor's cache
PLACES = 3  # one is written, one summed, one read
ALIGNED = 64  # bytes; a row begins at a multiple of them, whatever numbers are written there
KNOWN = 16  # bytes by which the first process's file is known
MEMORY = "memory"  # its name; beside it each process listens under its number
CALLED = 60.0  # seconds that one waits for the call of another that sees the board


def opened(number: int, processes: int, gather: Callable[[Any], list[Any]], *, patience: float) -> Board | None:
    """The board of the processes, of which this is the one with this number; `gather` gives everyone's value. `patience`:
    seconds that one waits for another.

    None where not all of them see one: they are on several machines, or there is no such memory, or not enough.
    """
    row = BYTES // (PLACES * processes) // ALIGNED * ALIGNED
    size = PLACES * processes * row
    made = _made(size) if number == 0 else None
    with contextlib.ExitStack() as at_end:
        if made is not None:  # what is open stays until the last of them has ended, however it ends
            at_end.callback(shutil.rmtree, made[0], ignore_errors=True)
        told = gather(made)[0]
        memory = None if told is None else _seen(Path(told[0]) / MEMORY, told[1], size)
        ear = None if memory is None else _listening(Path(told[0]) / str(number))
        if ear is not None:
            at_end.callback(ear.close)
        if not all(gather(ear is not None)) or memory is None or ear is None:
            return None
        lines = _lines(Path(told[0]), number, processes, ear, patience)
        if all(gather(len(lines) == processes - 1)):
            return Board(memory.view(PLACES, processes, row), number, lines)
        _close(lines)
    return None


def _made(size: int) -> tuple[str, bytes] | None:
    """A folder, that nobody else may enter, with a file of so many bytes, all of them there, since what is missing must not be
    found missing as it is written; and what the file begins with, by which others know it."""
    folder = None
    try:
        folder = tempfile.mkdtemp(prefix="sawyer-", dir=FOLDER)
        with (Path(folder) / MEMORY).open("wb") as begun:
            os.posix_fallocate(begun.fileno(), 0, size)
            known = os.urandom(KNOWN)
            begun.write(known)
    except BaseException as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        return None
    return folder, known


def _seen(path: Path, known: bytes, size: int) -> Tensor | None:
    """The memory (size,) uint8 that the first process has made; None where this one, on another machine, sees another file or
    none."""
    try:
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), size)
    except (OSError, ValueError):
        return None
    return torch.frombuffer(memory, dtype=torch.uint8) if memory[:KNOWN] == known else None


def _listening(path: Path) -> socket.socket | None:
    """Where the processes after this one call it."""
    ear = socket.socket(socket.AF_UNIX)
    ear.settimeout(CALLED)
    try:
        ear.bind(str(path))
        ear.listen()
    except OSError:
        ear.close()
        return None
    return ear


def _lines(folder: Path, number: int, processes: int, ear: socket.socket, patience: float) -> list[socket.socket]:
    """One to each of the other processes, all of which listen; none where one of them cannot be had."""
    lines: list[socket.socket] = []
    try:
        for other in range(number):
            lines.append(socket.socket(socket.AF_UNIX))
            lines[-1].connect(str(folder / str(other)))
        lines += [ear.accept()[0] for _ in range(number + 1, processes)]
    except OSError:
        _close(lines)
        return []
    for line in lines:
        line.settimeout(patience)
    return lines


def _close(lines: Iterable[socket.socket]) -> None:
    for line in lines:
        line.close()


class Board:
    """`memory` (PLACES, processes, bytes) uint8, the same for all; `number` is this process's; `lines` go to the others."""

    def __init__(self, memory: Tensor, number: int, lines: Sequence[socket.socket] = ()) -> None:
        self.memory, self.number, self.lines = memory, number, lines
        self.written = 0  # pieces so far: they take the places in turn, also from one call to the next

    def meet(self) -> None:
        """Go on once all have come so far; what was written before, all see after. Raises OSError where another is gone."""
        for line in self.lines:
            line.sendall(b".")
        for line in self.lines:
            if not line.recv(1):
                raise ConnectionResetError("its line is closed")

    def close(self) -> None:
        """Let go of the others: whoever waits for this process hears of it."""
        _close(self.lines)

    def add_up(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """Put in the place of each tensor (contiguous, on the processor) its sum over the processes, in all of them the same to
        the last bit. At each `yield` nobody may go on before all have come so far: they `meet`.

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
