"""An open run for all processes of a launcher: rank 0 holds its folder and writes, the others follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sawyer.runs import Run, follow_run, open_run
from sawyer.train import distributed


@contextmanager
def open_shared_run(root: Path) -> Iterator[Run]:
    """Join the process group and open the run's folder. Rank 0 takes the lock, mends what a kill has left, and alone writes.

    The others wait until that is done, then get the content of its manifest: all must decide alike which stages are done.
    """
    with distributed.process_group(), ExitStack() as stack:
        runs: list[Run] = []  # of rank 0

        def take() -> tuple[dict[str, Any], dict[str, Any] | None]:
            runs.append(stack.enter_context(open_run(root)))
            return runs[0].manifest.content, runs[0].previous_config

        content, previous_config = distributed.on_rank_zero(take)
        yield runs[0] if runs else follow_run(root, content, previous_config)


def stop_requested(run: Run) -> bool:
    """Whether any process was asked to stop. All learn the reason at the same call, so that they leave at the same step."""
    run.stop.reason = next(filter(None, distributed.all_gather(run.stop.reason)), "")
    return run.stop.is_set()
