"""Several processes at work on one run: which one this is, its share of the work, and what they tell each other.

A launcher (`torchrun`, `accelerate launch`) starts one command several times and says to each in RANK and WORLD_SIZE who it is.
While a run is open (`joined`) they go in step: all run the same code with the same seeds, each does its share of what takes
time and then has the whole of what was found, and the first of them alone writes. So each of them must come by the same calls
in the same order. Without a launcher, and while no run is open, a process is alone, and nothing here costs anything.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sawyer.errors import Interrupted, ProcessError

if TYPE_CHECKING:
    from sawyer.board import Board

Thing = TypeVar("Thing")
Found = TypeVar("Found")

PATIENCE = timedelta(minutes=30)  # without a word from another process where all do a like share: within a step of training
# Where one does what may take any time while others wait (a reward function asks a service, a file is read): one that ends is
# heard of at once all the same, since its connections close.
NO_LIMIT = timedelta(days=3650)
WORDS = "sawyer/ended/{}"  # where a process leaves why it ended
# Numbers from which on tensors are added up on a board, or, where there is none, a tensor where it lies; fewer go together, in
# a copy, since each message takes its time.
MANY = 2**18


class _State:
    """What this process is part of."""

    joined = 0  # runs that are open, one inside the other
    apart = 0  # > 0: at something that the others are not at, or not in step
    looking_on = False  # while the first one writes a folder
    met = False  # the processes have found each other
    left = False  # this one has failed, and goes no longer in step
    patient: Any = None  # a group of all of them, whose exchanges wait without a limit
    board: Board | None = None  # what large tensors are added up on
    board_sought = False


_state = _State()


def launched() -> int:
    """How many processes the launcher started; 1 without one."""
    return (_number_in("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def number() -> int:
    """Which of them this one is, from 0."""
    return (_number_in("RANK") or 0) if launched() > 1 else 0


def number_here() -> int:
    """Which of those on this machine this one is, from 0: the number of its card."""
    here = _number_in("LOCAL_RANK")
    return (number() if here is None else here) if launched() > 1 else 0


def _number_in(name: str) -> int | None:
    """What the launcher says under this name; None where it says no number, which `joined` refuses."""
    said = os.environ.get(name, "")
    return int(said) if re.fullmatch("[0-9]{1,6}", said) else None


def _check_launched() -> None:
    """Raise ProcessError where the environment says who this process is, and not in numbers that fit."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    said = {name: os.environ[name] for name in names if name in os.environ}
    if "RANK" not in said or "WORLD_SIZE" not in said:
        return
    rank, size = _number_in("RANK"), _number_in("WORLD_SIZE")
    if rank is None or size is None or rank >= size or ("LOCAL_RANK" in said and _number_in("LOCAL_RANK") is None):
        raise ProcessError(
            f"the environment says {', '.join(f'{name}={value[:40]!r}' for name, value in said.items())}",
            expected="RANK, a number from 0 to below WORLD_SIZE, as torchrun or accelerate launch set them",
            why="processes that take themselves for the same one would overwrite each other's work",
            todo="unset them for one process alone, or start by `torchrun --nproc-per-node N -m sawyer ...`",
        )


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return number() == 0


def count() -> int:
    """How many processes share the work that is done now: 1 where this one works by itself."""
    return launched() if _state.joined and not _state.apart and not _state.left else 1


def looks_on() -> bool:
    """Whether the first process writes a folder and this one, which does the same beside it, need not."""
    return _state.looking_on


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within it the processes of a launcher go in step. One that leaves it by an error lets the others know.

    Raises ProcessError where the others do not come.
    """
    _check_launched()
    if launched() > 1 and not _state.met:
        _meet()
    _state.joined += 1
    try:
        yield
    except BaseException as error:
        if _state.joined == 1 and not isinstance(error, Interrupted):  # for a stop all leave together
            leave(error)
        raise
    finally:
        _state.joined -= 1
        _state.left = _state.left and _state.joined > 0


def leave(error: BaseException) -> None:
    """This process has failed, perhaps it alone: from here to the end of `joined` it goes no longer in step, and writes nothing
    unless it is the first. The others hear why from where they wait for it."""
    if _state.met and launched() > 1:
        with contextlib.suppress(Exception):
            _store().set(WORDS.format(number()), _line(error))
        _part()
        _state.left = True


@contextlib.contextmanager
def apart(*, looking_on: bool = False) -> Iterator[None]:
    """Within it this process works by itself: what it calls is not shared."""
    before = _state.looking_on
    _state.apart += 1
    _state.looking_on = looking_on or before
    try:
        yield
    finally:
        _state.apart -= 1
        _state.looking_on = before


def deal(sizes: Sequence[float]) -> list[int]:
    """The places, in order, of what this process does of things of these sizes: the largest first, each to whoever has least.

    Every process deals alike, so that each thing is done once.
    """
    hands = count()
    if hands == 1:
        return list(range(len(sizes)))
    held = [(0.0, 0, hand) for hand in range(hands)]  # (size, things, whose)
    mine: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size, things, hand = least = min(held)
        held[held.index(least)] = (size + sizes[place], things + 1, hand)
        if hand == number():
            mine.append(place)
    return sorted(mine)


def dealt(things: Sequence[Thing], size: Callable[[Thing], float]) -> list[Thing]:
    """This process's share of the things."""
    return [things[place] for place in deal([size(thing) for thing in things])]


def shared(sizes: Sequence[float], work: Callable[[list[int]], Sequence[Found]]) -> list[Found]:
    """What `work(places)` finds for things of these sizes, one each, in their order: each process works on its share, and all
    have all of it. An error in one share is raised in all processes."""
    mine = deal(sizes)
    if count() == 1:
        return list(work(mine))
    found: list[Any] = [None] * len(sizes)
    for places, values in agreed(lambda: (mine, list(work(mine)))):
        for place, value in zip(places, values, strict=True):
            found[place] = value
    return found


def shared_rows(sizes: Sequence[float], work: Callable[[list[int]], Any]) -> Any:
    """The same where what is found is a row of numbers each: `work` returns a tensor (n, ...) on the CPU, and this (N, ...)."""
    mine = deal(sizes)
    if count() == 1:
        return work(mine)
    parts = [part for part in agreed(lambda: (mine, work(mine).contiguous()) if mine else None) if part is not None]
    found = parts[0][1].new_zeros(len(sizes), *parts[0][1].shape[1:])
    for places, values in parts:
        found[places] = values
    return found


def first(work: Callable[[], Found]) -> Found:
    """The first process does it, once all have come so far; then all have what it found, or raise its error.

    What it changes on the disk no process sees too early or too late.
    """
    if count() == 1:
        return work() if is_first() or not _state.left else cast(Found, None)
    gather(None)
    found: Found = agreed(work if is_first() else None)[0]
    return found


def agreed(work: Callable[[], Any] | None) -> list[Any]:
    """What each process's work found, in their order, None without work; the first error of them is raised in all."""
    found, error = None, None
    try:
        with apart():
            found = work() if work is not None else None
    except Exception as raised:
        error = raised
    outcomes = gather((found, _portable(error)))
    if error is not None:
        raise error
    for _, other in outcomes:
        if other is not None:
            raise other
    return [found for found, _ in outcomes]


def gather(value: Found) -> list[Found]:
    """Every process's value, in their order."""
    if count() == 1:
        return [value]
    import torch.distributed as others

    found: list[Any] = [None] * count()
    with _in_touch():
        others.all_gather_object(found, value, group=_state.patient)
    return found


def summed(*values: float) -> list[float]:
    """The sum of each value over the processes."""
    return _reduced(values, "SUM")


def greatest(*values: float) -> list[float]:
    """The largest of each value over the processes."""
    return _reduced(values, "MAX")


def add_up(*tensors: Any) -> None:
    """Put in the place of each tensor, which is contiguous, its sum over the processes."""
    if count() == 1:
        return
    board = _board() if sum(t.numel() for t in tensors) >= MANY and all(t.device.type == "cpu" for t in tensors) else None
    if board is None:
        _add_up_by_messages(tensors)
        return
    for _ in board.add_up(tensors):
        with _in_touch():
            board.meet()


def _add_up_by_messages(tensors: Sequence[Any]) -> None:
    import torch

    together: dict[tuple[Any, Any], list[Any]] = {}
    for tensor in tensors:
        if tensor.numel() >= MANY:
            _all_reduce(tensor)
        else:
            together.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for some in together.values():
        flat = torch.cat([tensor.flatten() for tensor in some])
        _all_reduce(flat)
        for tensor, found in zip(some, torch.split_with_sizes(flat, [tensor.numel() for tensor in some]), strict=True):
            tensor.copy_(found.view_as(tensor))


def _all_reduce(tensor: Any, how: str = "SUM") -> None:
    import torch.distributed as others

    with _in_touch():
        others.all_reduce(tensor, op=getattr(others.ReduceOp, how))


def _board() -> Board | None:
    """The board of these processes, which all seek at the same time; None where they have none."""
    if not _state.board_sought:
        from sawyer import board

        patience = PATIENCE.total_seconds()
        _state.board, _state.board_sought = board.opened(number(), count(), gather, patience=patience), True
    return _state.board


def _reduced(values: Sequence[float], how: str) -> list[float]:
    if count() == 1:
        return list(values)
    import torch

    found = torch.tensor(values, dtype=torch.float64)
    _all_reduce(found, how)
    told: list[float] = found.tolist()
    return told


def _meet() -> None:
    import torch
    import torch.distributed as others

    # This module takes the group of its day as a default of its functions: imported later (a model's code does), it would hold
    # ours beyond `_part`, with threads that abort the process as the interpreter ends.
    import torch.distributed.nn

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and others.is_nccl_available() else "gloo"
    try:
        others.init_process_group(backend, timeout=PATIENCE)
        _state.patient = others.new_group(backend="gloo", timeout=NO_LIMIT)
    except Exception as error:  # a wrong address, a port in use, others that never came: each has its own class
        raise ProcessError(
            f"process {number()} of {launched()} does not find the others ({_line(error)})",
            expected="RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun or accelerate launch set them",
            todo="start it by `torchrun --nproc-per-node N -m sawyer ...`; for one process alone unset RANK and WORLD_SIZE",
        ) from error
    _state.met = True
    with contextlib.suppress(Exception):  # of an earlier run in this process
        _store().delete_key(WORDS.format(number()))
    atexit.register(_part)


def _part() -> None:
    """Let go of the others; whoever waits for this process hears of it."""
    if not _state.met:
        return
    import torch.distributed as others

    _state.met, _state.patient = False, None
    if _state.board is not None:
        _state.board.close()
    _state.board, _state.board_sought = None, False
    with contextlib.suppress(Exception):
        others.destroy_process_group()


@contextlib.contextmanager
def _in_touch() -> Iterator[None]:
    """Say who was lost where an exchange fails."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise _lost(error) from error


def _lost(error: Exception) -> ProcessError:
    words: dict[int, str] = {}
    for other in range(launched()):
        with contextlib.suppress(Exception):
            if other != number() and _store().check([WORDS.format(other)]):
                words[other] = _store().get(WORDS.format(other)).decode()
    ended = "; ".join(f"process {other} ended: {why}" for other, why in words.items())
    return ProcessError(
        ended or f"process {number()} of {launched()} has lost another one ({_line(error)})",
        expected="all processes at work until the end",
        why="one that is gone has done a share that the others wait for; what was saved is intact",
        todo="mend that, then run the same command again, with as many processes or others",
        silent=not ended,
    )


def _store() -> Any:
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def _portable(error: Exception | None) -> Exception | None:
    """The error as it can be sent: itself, or its words."""
    if error is None:
        return None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _line(error: BaseException) -> str:
    words = str(error).strip().splitlines()
    return words[0] if words else type(error).__name__
