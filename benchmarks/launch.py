"""Measurements in fresh processes: nothing an earlier one left is in their memory, and several can be at work at once."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from benchmarks.measure import Measurement, measure
from benchmarks.variant import BatchPart, Variant, batch_part
from sawyer.cli.malloc import keep_freed_memory
from sawyer.config import Config
from sawyer.errors import ProcessError, SawyerError

Outcome = TypeVar("Outcome")

SPAWN = get_context("spawn")
PATIENCE = 600.0  # seconds that one waits for the others before the steps that count


def measure_in_processes(config: Config, stage: str, variant: Variant, *, steps: int) -> Measurement:
    """`measure` in a fresh process, or in as many in step as the variant says; the first one's figures."""
    with _folder() as folder:
        work = partial(measure, config, stage, folder, variant, steps=steps)
        return run_in_step(work, variant.processes or 1)[0]


def measure_independent(config: Config, stage: str, *, parts: int, steps: int) -> list[Measurement]:
    """So many processes that know nothing of each other, each with its part of every batch: started together, and none begins
    the steps that count before all have come so far. Raises ConfigError where the batch cannot be cut."""
    variant = Variant(batch=batch_part(config, stage, parts))
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(_folder()) for _ in range(parts)]
        return run_at_once(
            [
                partial(measure, config, stage, folder, variant, steps=steps, part=BatchPart(number=number, of=parts))
                for number, folder in enumerate(folders)
            ]
        )


def run_in_step(work: Callable[[], Outcome], processes: int) -> list[Outcome]:
    """What each of so many fresh processes finds that know who they are as under torchrun; in their order."""
    port = _free_port()
    return _run_processes([(work, _launcher_variables(number, processes, port)) for number in range(processes)])


def run_at_once(works: Sequence[Callable[..., Outcome]]) -> list[Outcome]:
    """What each work finds, each in a fresh process; `ready`, which it is given, returns once all have called it."""
    barrier = SPAWN.Barrier(len(works), timeout=PATIENCE)
    return _run_processes([(partial(work, ready=barrier.wait), {}) for work in works])


def _run_processes(jobs: Sequence[tuple[Callable[[], Any], Mapping[str, str]]]) -> list[Any]:
    """What they find, in their order. The first that fails or is killed ends the others, which may wait for it; its error is
    raised, or a ProcessError."""
    processes: dict[Connection, Any] = {}  # where each process's outcome is heard
    outcomes: dict[Connection, Any] = {}
    try:
        for work, environment in jobs:
            here, there = SPAWN.Pipe(duplex=False)
            process = SPAWN.Process(target=_work, args=(there, work, environment, len(jobs)), daemon=True)
            process.start()
            there.close()  # so that its end is heard
            processes[here] = process
        while ends := [end for end in processes if end not in outcomes]:
            ready = wait(ends)
            outcomes |= {end: _outcome(end, processes[end]) for end in ends if end in ready}
    except BaseException:
        for process in processes.values():
            process.kill()
        raise
    finally:
        for end, process in processes.items():
            process.join()
            end.close()
    return [outcomes[end] for end in processes]


def _outcome(end: Connection, process: Any) -> Any:
    """What a process found. Raises its error."""
    try:
        outcome, error = end.recv()
    except EOFError:
        process.join()
        raise ProcessError(
            f"a process that measured has ended ({process.exitcode}) and found nothing",
            why="the system ends a process that takes more memory than there is",
            todo="measure a smaller batch, or on fewer processes",
        ) from None
    if error is not None:
        raise error
    return outcome


def _work(there: Connection, work: Callable[[], Any], environment: Mapping[str, str], processes: int) -> None:
    """In the new process: do it with this one's share of the threads, and tell."""
    os.environ.update(environment)
    keep_freed_memory()  # as the command does
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        there.send((work(), None))
    except Exception as error:
        there.send((None, _portable(error)))


def _portable(error: Exception) -> Exception:
    """The error as it can be sent; what is no user's mistake with where it was raised."""
    where = traceback.format_exc()
    with contextlib.suppress(Exception):
        if not isinstance(error, SawyerError):
            error.add_note(where)
        pickle.loads(pickle.dumps(error))
        return error
    return RuntimeError(where)


def _launcher_variables(number: int, processes: int, port: int) -> dict[str, str]:
    if processes == 1:
        return {}
    who = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(processes)}
    return {**who, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """For a run that nobody keeps: made and removed here, so that all its processes see the same, however they end."""
    with TemporaryDirectory(prefix="sawyer-bench-") as folder:
        yield Path(folder)
