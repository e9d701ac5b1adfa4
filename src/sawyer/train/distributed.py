"""Several processes on one run: who this one is, its share of the rows, what is added up, who writes and who waits.

A launcher (`torchrun`, `accelerate launch`) starts one command several times and sets RANK and WORLD_SIZE. Inside
`process_group` all processes run the same code with the same seeds. Each reads its share of the rows (`shard`, `map_sharded`),
gradients and counts are summed (`all_reduce_`, `all_reduce_sum`), and rank 0 alone writes files (`on_rank_zero`). These calls
are collective: every process must reach the same ones in the same order, or the others wait. Outside a process group, and
without a launcher, a process is alone and each call returns at once. Nothing here imports torch before there are several.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

from sawyer.errors import Interrupted, ProcessError

Item = TypeVar("Item")
Value = TypeVar("Value")
Rows = TypeVar("Rows")  # a list with an item a row, or a tensor (rows, ...)

TIMEOUT = timedelta(minutes=30)  # of tensor exchanges: all processes do like shares of a step, so none is that late
# Of object exchanges: rank 0 may call a reward service or read large files while the others wait. A process that dies is still
# noticed at once, because its connections close.
NO_TIMEOUT = timedelta(days=3650)
REASON = "sawyer/ended/{}"  # the store's key under which a process leaves why it ended
LARGE = (
    2**18
)  # numbers; a tensor from here on is reduced in place, smaller ones are copied into one message to save round trips


class _State:
    """What this process is part of."""

    groups = 0  # open `process_group`s, one inside the other
    local = 0  # open `local_only`s
    has_connections = False  # torch's process group exists
    left = False  # this process has failed and meets the others no more
    objects: Any = None  # a gloo group without a timeout, for `all_gather`


_state = _State()


def world_size() -> int:
    """How many processes the launcher started; 1 without one."""
    return (_number_in("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def rank() -> int:
    """This process's number among all, from 0."""
    return (_number_in("RANK") or 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Its number among those of this machine, from 0: the index of its card."""
    number = _number_in("LOCAL_RANK")
    return (rank() if number is None else number) if world_size() > 1 else 0


def is_rank_zero() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def count() -> int:
    """How many processes share the work right now: 1 outside a process group and inside `local_only`."""
    return world_size() if _state.groups and not _state.local and not _state.left else 1


def _number_in(name: str) -> int | None:
    """The number in an environment variable; None where it is none, which `process_group` refuses."""
    text = os.environ.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else None


def _check_environment() -> None:
    """Raise ProcessError where RANK, WORLD_SIZE and LOCAL_RANK are set, and not to numbers that fit each other."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = {name: os.environ[name] for name in names if name in os.environ}
    if "RANK" not in values or "WORLD_SIZE" not in values:
        return
    number, size = _number_in("RANK"), _number_in("WORLD_SIZE")
    if number is None or size is None or number >= size or ("LOCAL_RANK" in values and _number_in("LOCAL_RANK") is None):
        raise ProcessError(
            f"the environment says {', '.join(f'{name}={value[:40]!r}' for name, value in values.items())}",
            expected="RANK, a number from 0 to below WORLD_SIZE, as torchrun or accelerate launch set them",
            why="processes that take themselves for the same one would overwrite each other's work",
            todo="unset them for one process alone, or start by `torchrun --nproc-per-node N -m sawyer ...`",
        )


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Within it the launcher's processes share the work. A process that leaves by an error tells the others why.

    Raises ProcessError where the others do not come.
    """
    _check_environment()
    if world_size() > 1 and not _state.has_connections:
        _connect()
    _state.groups += 1
    try:
        yield
    except BaseException as error:
        # Not for Interrupted: a stop is agreed on, so all processes leave at the same step and nobody waits.
        if _state.groups == 1 and not isinstance(error, Interrupted):
            leave_group(error)
        raise
    finally:
        _state.groups -= 1
        _state.left = _state.left and _state.groups > 0


def leave_group(error: BaseException) -> None:
    """This process has failed, perhaps it alone: until the end of `process_group` it meets the others no more. They hear why
    at the call in which they wait for it."""
    if _state.has_connections and world_size() > 1:
        with contextlib.suppress(Exception):
            _store().set(REASON.format(rank()), _first_line(error))
        _disconnect()
        _state.left = True


@contextlib.contextmanager
def local_only() -> Iterator[None]:
    """Within it this process works alone: no call here meets the others."""
    _state.local += 1
    try:
        yield
    finally:
        _state.local -= 1


def shard_indices(sizes: Sequence[float]) -> list[int]:
    """The indices, ascending, of this process's share of items of these sizes: largest first, each to the least loaded rank.

    No communication: every process computes the same assignment from the same sizes.
    """
    processes = count()
    if processes == 1:
        return list(range(len(sizes)))
    loads = [(0.0, 0, number) for number in range(processes)]  # (size, items, rank)
    mine: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size, items, number = least = min(loads)
        loads[loads.index(least)] = (size + sizes[index], items + 1, number)
        if number == rank():
            mine.append(index)
    return sorted(mine)


def shard(items: Sequence[Item], size: Callable[[Item], float]) -> list[Item]:
    """This process's share of the items."""
    return [items[index] for index in shard_indices([size(item) for item in items])]


def map_sharded(sizes: Sequence[float], work: Callable[[list[int]], Rows]) -> Rows:
    """`work(all indices)`, of rows of these sizes, done in shares; every process gets all of it, in the rows' order.

    `work(indices)` returns a list with an item for each of them, or a tensor (n, ...) on the CPU. An error in one share is
    raised in all processes: the others would wait for its rows for ever.
    """
    mine = shard_indices(sizes)
    if count() == 1 or not sizes:
        return work(mine)
    shares = [share for share in all_agree(lambda: (mine, _sendable(work(mine))) if mine else None) if share is not None]
    first: Any = shares[0][1]
    # A tensor is filled in place: N rows sent as N tensors would each carry the whole share's storage.
    values: Any = [None] * len(sizes) if isinstance(first, list) else first.new_zeros(len(sizes), *first.shape[1:])
    for indices, rows in shares:
        for index, row in zip(indices, rows, strict=True):
            values[index] = row
    return cast(Rows, values)


def _sendable(rows: Any) -> Any:
    return rows.contiguous() if hasattr(rows, "contiguous") else list(rows)


def on_rank_zero(work: Callable[[], Value]) -> Value:
    """Rank 0 does `work` once all processes have come this far; then all have its result, or raise its error.

    The wait before it lets the others finish reading what `work` replaces, the wait after it lets them see what it wrote.
    """
    if count() == 1:
        # A process that has left the group writes nothing, unless it is rank 0, which records why the run ended.
        return work() if is_rank_zero() or not _state.left else cast(Value, None)
    all_gather(None)
    result: Value = all_agree(work if is_rank_zero() else None)[0]
    return result


def all_agree(work: Callable[[], Any] | None) -> list[Any]:
    """Each process's result by rank, None where it has no `work`. The error of one is raised in all."""
    result, error = None, None
    try:
        with local_only():
            result = work() if work is not None else None
    except Exception as failure:
        error = failure
    outcomes = all_gather((result, _picklable(error)))
    if error is not None:
        raise error
    for _, other in outcomes:
        if other is not None:
            raise other
    return [value for value, _ in outcomes]


def all_gather(value: Value) -> list[Value]:
    """Every process's value, by rank. It waits without a timeout."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * count()
    with _name_the_lost():
        dist.all_gather_object(values, value, group=_state.objects)
    return values


def all_reduce_sum(*values: float) -> list[float]:
    """The sum of each value over the processes."""
    return _reduce_numbers(values, "SUM")


def all_reduce_max(*values: float) -> list[float]:
    """The largest of each value over the processes."""
    return _reduce_numbers(values, "MAX")


def all_reduce_(*tensors: Any) -> None:
    """Replace each tensor, which is contiguous, by its sum over the processes."""
    if count() == 1:
        return
    import torch

    small: dict[tuple[Any, Any], list[Any]] = {}
    for tensor in tensors:
        if tensor.numel() >= LARGE:
            _all_reduce(tensor, "SUM")
        else:
            small.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for group in small.values():
        flat = torch.cat([tensor.flatten() for tensor in group])
        _all_reduce(flat, "SUM")
        for tensor, values in zip(group, torch.split_with_sizes(flat, [tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(values.view_as(tensor))


def _reduce_numbers(values: Sequence[float], operation: str) -> list[float]:
    if count() == 1:
        return list(values)
    import torch

    # fp64 on the CPU: sums of counts and losses stay exact enough to be compared between runs.
    tensor = torch.tensor(values, dtype=torch.float64)
    _all_reduce(tensor, operation)
    return [float(value) for value in tensor]


def _all_reduce(tensor: Any, operation: str) -> None:
    import torch.distributed as dist

    with _name_the_lost():
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, operation))


def _connect() -> None:
    import torch
    import torch.distributed as dist

    # This module takes the default group of the moment as a default of its functions. Imported later (a model's code does), it
    # would keep ours alive beyond `_disconnect`, with threads that abort the process as the interpreter ends.
    import torch.distributed.nn

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        _state.objects = dist.new_group(backend="gloo", timeout=NO_TIMEOUT)
    except Exception as error:  # a wrong address, a port in use, others that never came: each has its own class
        raise ProcessError(
            f"process {rank()} of {world_size()} does not find the others ({_first_line(error)})",
            expected="RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun or accelerate launch set them",
            todo="start it by `torchrun --nproc-per-node N -m sawyer ...`; for one process alone unset RANK and WORLD_SIZE",
        ) from error
    _state.has_connections = True
    with contextlib.suppress(Exception):  # of an earlier run in this process
        _store().delete_key(REASON.format(rank()))
    atexit.register(_disconnect)


def _disconnect() -> None:
    """Close the connections: whoever waits for this process notices at once."""
    if not _state.has_connections:
        return
    import torch.distributed as dist

    _state.has_connections, _state.objects = False, None
    with contextlib.suppress(Exception):
        dist.destroy_process_group()


@contextlib.contextmanager
def _name_the_lost() -> Iterator[None]:
    """Where an exchange fails, raise a ProcessError with the reasons that the others have left in the store."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reasons: dict[int, str] = {}
        for other in range(world_size()):
            with contextlib.suppress(Exception):
                if other != rank() and _store().check([REASON.format(other)]):
                    reasons[other] = _store().get(REASON.format(other)).decode()
        ended = "; ".join(f"process {other} ended: {reason}" for other, reason in reasons.items())
        raise ProcessError(
            ended or f"process {rank()} of {world_size()} has lost another one ({_first_line(error)})",
            expected="all processes at work until the end",
            why="one that is gone has done a share that the others wait for; what was saved is intact",
            todo="mend that, then run the same command again, with as many processes or others",
            silent=not ended,
        ) from error


def _store() -> Any:
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def _picklable(error: Exception | None) -> Exception | None:
    """The error, or one with its text where it cannot be sent."""
    if error is None:
        return None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
