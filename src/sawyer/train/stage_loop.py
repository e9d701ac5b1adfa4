"""The one loop of every stage: step, record, show, save, stop on request. It knows nothing of what a step does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from sawyer.errors import Interrupted
from sawyer.models import fast_path
from sawyer.runs import Gate, Run, damage_error
from sawyer.train import distributed
from sawyer.train.allocator import peak_memory_mb
from sawyer.train.checkpoint import load_checkpoint, save_checkpoint
from sawyer.train.shared_run import stop_requested


class StageLoop(Protocol):
    """A stage's work in steps. A step's outcome depends on the state and the step's number alone."""

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


def run_steps(run: Run, stage: str, loop: StageLoop, *, save_every_seconds: float, show: str = "loss") -> int:
    """Do all steps of `loop`, from the last checkpoint if there is one; returns the number of steps done.

    The journal is cut back to the checkpoint first, so that an interrupted run leaves the same journal as an uninterrupted one.
    Raises Interrupted, with the state saved, once a stop was requested.
    """
    first, is_done = _resume(run, stage, loop)
    saved_at, saved_step = time.monotonic(), first
    index = first
    while index < loop.steps and not is_done:
        began = time.perf_counter()
        values = loop.step(index)
        if values is None:
            is_done = True
        else:
            run.journal.metrics(stage, index, {**values, **_cost(loop.step_tokens, time.perf_counter() - began)})
            note = f"{show} {values[show]:.4g}" if show in values else ""
            index += 1
            run.journal.progress(stage, index, loop.steps, note)
        # A signal or a clock may be ahead in one process: all save, or all leave, at the same step.
        stop, due = distributed.all_reduce_max(run.stop.is_set(), time.monotonic() - saved_at >= save_every_seconds)
        if stop and stop_requested(run):
            _save(run, stage, loop, index, is_done)
            _interrupt(run, stage, f" at step {index} of {loop.steps}")
        if due:
            _save(run, stage, loop, index, is_done)
            saved_at, saved_step = time.monotonic(), index
    if index != saved_step or is_done:
        # What follows the last step (evaluation, writing the model) can be interrupted too and must not cost the steps.
        _save(run, stage, loop, index, is_done)
    return index


def _cost(tokens: int, seconds: float) -> dict[str, float]:
    """A step's clock and memory: the only figures of its row that config, data and seed do not decide.

    Every step ends with numbers read from the device, so that a card has finished by then.
    """
    memory = peak_memory_mb()
    cost = {"tokens_per_second": tokens / max(seconds, 1e-9), "step_seconds": seconds}
    return cost if memory is None else {**cost, "memory_mb": memory}


def stop_if_requested(run: Run, stage: str, where: str = "during its evaluation") -> None:
    """Outside the loop: raise Interrupted when a stop was requested. The steps are saved."""
    if stop_requested(run):
        _interrupt(run, stage, f", {where}")


def _resume(run: Run, stage: str, loop: StageLoop) -> tuple[int, bool]:
    checkpoint = load_checkpoint(run.layout.checkpoint(stage))
    if checkpoint is None:
        distributed.on_rank_zero(lambda: run.journal.clear(stage))
        return 0, False
    try:
        loop.load(checkpoint["loop"])
        step, is_done = int(checkpoint["step"]), bool(checkpoint["finished"])
        if checkpoint["steps"] != loop.steps:
            raise ValueError(f"the checkpoint has {checkpoint['steps']:,} steps in total, this run has {loop.steps:,}")
        # Every process has loaded its state before rank 0 cuts the rows back, and none goes on where that is refused.
        distributed.on_rank_zero(lambda: run.journal.rewind(stage, checkpoint["journal"]))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        folder = run.layout.checkpoint(stage)
        raise damage_error(folder, error, f"restore the folder, or delete {folder} to do {stage} again") from error
    run.journal.event(stage, "resume", step=step, steps=loop.steps)
    return step, is_done


def _save(run: Run, stage: str, loop: StageLoop, step: int, is_done: bool) -> None:
    state = {
        "loop": loop.state(),
        "step": step,
        "steps": loop.steps,
        "finished": is_done,
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


def record_fast_paths(run: Run, stage: str, models: Mapping[str, nn.Module]) -> None:
    """Write into the journal which fast path each model takes, or why none; `models` by their names in messages."""
    for name, model in models.items():
        path = fast_path(model)
        reason = f" ({path.reason})" if path.reason else ""
        run.journal.event(stage, "fast_path", model=name, path=path.name, message=f"{name}: {path.name}{reason}")


def losses_of(run: Run, stage: str) -> dict[str, float]:
    """`loss_first`, of the first step, and `loss_last`, the mean of the last tenth of the steps: one batch alone is noise."""
    # Rank 0 writes the rows; read by it, they are complete.
    rows = distributed.on_rank_zero(lambda: run.journal.rows(stage))
    losses = [float(row["loss"]) for row in rows if "loss" in row]
    tail = losses[-max(1, len(losses) // 10) :]
    return {"loss_first": losses[0], "loss_last": sum(tail) / len(tail)}


def learned_gate(stage: str, figures: Mapping[str, Any]) -> Gate:
    """Whether training lowered its own loss. With a single update first and last are one number: then it warns."""
    first, last = figures["loss_first"], figures["loss_last"]
    return Gate(
        stage=stage,
        name=f"{stage}_learned",
        verdict="ok" if last < first else "warn" if last == first else "fail",
        value=last,
        threshold=first,
        message=f"training loss {first:.3f} -> {last:.3f}",
        advice=f"raise {stage}.learning_rate or {stage}.epochs",
    )
