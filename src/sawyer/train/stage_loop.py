"""The one loop of every stage: step, record, show, save, stop when asked. It knows nothing of what a step does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from sawyer.errors import Interrupted
from sawyer.runs import Run, damage_error
from sawyer.train import distributed
from sawyer.train.allocator import peak_memory_mb
from sawyer.train.checkpoint import load_checkpoint, save_checkpoint
from sawyer.train.shared_run import stop_requested


class StageLoop(Protocol):
    """A stage's work, cut into steps whose outcome depends on the state and the step's number alone."""

    steps: int

    @property
    def step_tokens(self) -> int:
        """Tokens in the rows of the last step, evaluations included: prompts count, padding does not, each token once."""
        ...

    def step(self, index: int) -> Mapping[str, float] | None:
        """Do step `index`; the metrics go to the journal. None ends the work early."""
        ...

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load` restores the work."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        ...


def run_steps(run: Run, stage: str, work: StageLoop, *, save_every_seconds: float, show: str = "loss") -> int:
    """Do all steps of `work`, from the last checkpoint if there is one; returns the number of steps done.

    The journal is cut back to the checkpoint first, so a run that was interrupted leaves the same journal as one that
    was not. Raises Interrupted, with the state saved, once the run was asked to stop.
    """
    first, finished = _resume(run, stage, work)
    saved_at, saved_step = time.monotonic(), first
    index = first
    while index < work.steps and not finished:
        began = time.perf_counter()
        values = work.step(index)
        if values is None:
            finished = True
        else:
            run.journal.metrics(stage, index, {**values, **_cost(work.step_tokens, time.perf_counter() - began)})
            note = f"{show} {values[show]:.4g}" if show in values else ""
            index += 1
            run.journal.progress(stage, index, work.steps, note)
        # A signal or a clock may be ahead in one process: all save, or all leave, at the same step.
        stop, due = distributed.all_reduce_max(run.stop.is_set(), time.monotonic() - saved_at >= save_every_seconds)
        if stop and stop_requested(run):
            _save(run, stage, work, index, finished)
            _interrupt(run, stage, f" at step {index} of {work.steps}")
        if due:
            _save(run, stage, work, index, finished)
            saved_at, saved_step = time.monotonic(), index
    if index != saved_step or finished:
        # What follows the last step (evaluation, writing the model) can be interrupted too and must not cost the steps.
        _save(run, stage, work, index, finished)
    return index


def _cost(tokens: int, seconds: float) -> dict[str, float]:
    """A step's clock and memory: the only figures of its row that config, data and seed do not decide.

    Every step ends with numbers read from the device, so that a card has finished by then.
    """
    memory = peak_memory_mb()
    cost = {"tokens_per_second": tokens / max(seconds, 1e-9), "step_seconds": seconds}
    return cost if memory is None else {**cost, "memory_mb": memory}


def stop_if_asked(run: Run, stage: str, where: str = "during its evaluation") -> None:
    """Between the pieces of what is no step: raise Interrupted when the run was asked to stop (the steps are saved)."""
    if stop_requested(run):
        _interrupt(run, stage, f", {where}")


def _resume(run: Run, stage: str, work: StageLoop) -> tuple[int, bool]:
    saved = load_checkpoint(run.layout.checkpoint(stage))
    if saved is None:
        distributed.on_rank_zero(lambda: run.journal.clear(stage))
        return 0, False
    try:
        work.load(saved["work"])
        step, finished = int(saved["step"]), bool(saved["finished"])
        if saved["steps"] != work.steps:
            raise ValueError(f"it is of work in {saved['steps']:,} steps, which is now cut into {work.steps:,}")
        # Every process has loaded its state before rank 0 cuts the rows back, and none goes on where that is refused.
        distributed.on_rank_zero(lambda: run.journal.rewind(stage, saved["journal"]))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        folder = run.layout.checkpoint(stage)
        raise damage_error(folder, error, f"restore the folder, or delete {folder} to do {stage} again") from error
    run.journal.event(stage, "resume", step=step, steps=work.steps)
    return step, finished


def _save(run: Run, stage: str, work: StageLoop, step: int, finished: bool) -> None:
    state = {
        "work": work.state(),
        "step": step,
        "steps": work.steps,
        "finished": finished,
        "journal": run.journal.position(stage),
    }
    # In this order: rows, then the checkpoint that counts them, its marker last. A kill in between leaves rows too many, which
    # the next resume cuts back; it never leaves a checkpoint that counts rows which are not there.
    distributed.on_rank_zero(run.journal.sync)
    save_checkpoint(run.layout.checkpoint(stage), state)
    run.journal.event(stage, "save", step=step)


def _interrupt(run: Run, stage: str, where: str) -> None:
    run.journal.event(stage, "interrupted", reason=str(run.stop.reason))
    raise Interrupted(
        f"{stage} was interrupted{where} ({run.stop.reason}); everything so far is saved",
        todo="run the same command again to go on",
    )
