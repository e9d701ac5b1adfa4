"""From a base model to the report: which stages the config has, which are done, and each one's state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from sawyer.config import Config, demo_config
from sawyer.errors import DataError, Interrupted, SawyerError, TrainingError
from sawyer.pipeline.fingerprint import check_parents, check_unchanged, check_unit, fingerprint
from sawyer.pipeline.judge_calls import judge_earlier_answers, take_judge_votes
from sawyer.pipeline.later_collections import begin_collection, collection_print, parents_of_collection
from sawyer.pipeline.preflight import allow_remote_code, check_only, log_foreign_code, raise_first_problem
from sawyer.pipeline.stage_graph import DOORS, STAGES, parents_of, pins_of, product
from sawyer.pipeline.summary import report, summarise
from sawyer.pipeline.training_rounds import apply_votes, clear_earlier_round, plan_votes
from sawyer.pipeline.votes import count_judgements, log_unjudged
from sawyer.records import Answer, JudgedPrompt, read
from sawyer.runs import (
    Layout,
    Listener,
    Run,
    handle_signals,
    is_complete,
    library_versions,
    remove_folder,
    replace_folder,
)
from sawyer.train import distributed
from sawyer.train.shared_run import open_shared_run, stop_requested
from sawyer.worlds import write_world

OUT_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory")  # as CUDA, Windows and Linux say it through torch


def run(config: Config, *, only: str | None = None, collection: int = 1, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Do the stages of `config`, skipping finished ones and resuming an interrupted one; returns the summary.

    Where the judgements have changed since a reward model was trained, that round is kept in `rounds/` and the next one is
    done. `only` names one stage to do; the stages it builds on must be done. With `only="collect"`, `collection` 2 or more asks
    the RL model for the next answers to judge. Raises SawyerError, with the run's folder in a state from which the same call
    goes on.
    """
    with allow_remote_code(config):
        return _run(config, only, listeners, collection=collection)


def demo(
    out: str | Path, seed: int = 0, *, rater: str = "honest", only: str | None = None, listeners: Sequence[Listener] = ()
) -> dict[str, Any]:
    """The whole pipeline on the built-in world: writes its files into `out`/data first, then runs the demo's config.

    `only` names one stage to do, as in `run`.
    """
    data = Path(out) / "data"

    def prepare(run: Run) -> None:
        has_started = any(run.manifest.stage(stage).status != "pending" for stage in STAGES)
        if not is_complete(data) or not has_started:  # files of another seed or rater may lie there
            with replace_folder(data) as folder:
                write_world(folder, seed=seed, rater=rater)

    return _run(demo_config(str(out), seed, rater), only, listeners, prepare)


def _run(
    config: Config,
    only: str | None,
    listeners: Sequence[Listener],
    prepare: Callable[[Run], None] | None = None,
    *,
    collection: int = 1,
) -> dict[str, Any]:
    stages = [stage for stage in STAGES if getattr(config, stage) is not None]
    if only is not None:
        check_only(config, only, stages)
    with open_shared_run(Path(config.out)) as run, handle_signals(run.stop):
        run.journal.listeners.extend(listeners)
        for stage in STAGES:
            _restart_if_gone(run, stage)
        clear_earlier_round(run)
        if prepare is not None:
            distributed.on_rank_zero(partial(prepare, run))
        judge_earlier_answers(config, run, only)
        votes = plan_votes(config, run, only)
        resumable = [stage for stage in stages if run.manifest.stage(stage).status != "pending"]
        todo = stages if only is None else [only]
        before = {stage: fingerprint(config, stage) for stage in resumable if stage not in votes.stages}
        check_unchanged(config, run, before)
        check_unit(run, before)
        apply_votes(config, run, votes)
        run.adopt(config.model_dump(mode="json"))
        if collection > 1:
            return _collect_again(config, run, collection)
        log_foreign_code(config, run, todo)
        files = raise_first_problem(config, only)
        prints = {stage: before.get(stage) or fingerprint(config, stage) for stage in todo}
        for stage in todo:
            if stop_requested(run):
                raise Interrupted(
                    f"the run was interrupted before {stage} ({run.stop.reason}); everything so far is saved",
                    todo="run the same command again to go on",
                )
            # Rank 0 hashes the folders and notes the hashes; all must come to the same parents.
            parents = distributed.on_rank_zero(partial(parents_of, config, run, stage))
            check_parents(run, stage, parents)
            if _is_finished(run, stage):
                run.journal.event(stage, "skip", message="already done")
                _drop_state(run, stage)  # a kill right after the stage's end leaves it
                continue
            if run.manifest.stage(stage).status != "waiting":
                _do(config, run, stage, prints[stage], parents)
                files.clear()
                take_judge_votes(config, run, stage, only)
                if stage == "classify" and "rl" in todo:  # its labels are known only now, and rl.rewards may name one
                    raise_first_problem(config, "rl")
            if run.manifest.stage(stage).status == "waiting":
                _log_waiting(run, stage)
                break
        log_unjudged(run)
        if run.manifest.stage("report").status != "done" or not run.layout.report.exists():
            report(run)
        return summarise(run)


def _collect_again(config: Config, run: Run, number: int) -> dict[str, Any]:
    """A later collection of answers, by the models of the finished run."""
    name = run.layout.collection(number)
    if begin_collection(config, run, number):
        parents = distributed.on_rank_zero(partial(parents_of_collection, config, run))
        module, _ = DOORS["collect"]
        _do(config, run, name, collection_print(config), parents, work=(module, "collect_round", (number,)))
        distributed.on_rank_zero(lambda: remove_folder(run.layout.folder(name)))
        report(run)
    log_unjudged(run)
    return summarise(run)


def _do(
    config: Config,
    run: Run,
    stage: str,
    fingerprint: str,
    parents: Mapping[str, str],
    work: tuple[str, str, tuple[Any, ...]] | None = None,
) -> None:
    """One stage. Its state in the manifest is written before each change, so that a kill at any moment leaves it right.

    `work`: module, function and further arguments, if they are not those of the stage's door.
    """
    before = run.manifest.stage(stage)
    if before.status == "pending":
        _clear(run, stage)
    began = time.monotonic()
    _outdate_report(run)
    run.manifest.update(
        stage, status="running", started=before.started or time.time(), fingerprint=fingerprint, parents=parents, reason=""
    )
    run.journal.event(stage, "start")
    if changes := run.note_versions(distributed.on_rank_zero(library_versions)):
        run.journal.event(
            stage,
            "warning",
            message=f"since the last work on this run these have changed: {changes}; results from here on may differ from "
            "those of the old versions",
        )
    module, name, arguments = work or (*DOORS[stage], ())
    from sawyer.text import fix_date
    from sawyer.train import peak_memory_mb, reset_peak_memory

    reset_peak_memory()

    def close(status: str, reason: str, **more: Any) -> None:
        peak = peak_memory_mb()
        most = peak if before.peak_mb is None or peak is None else max(before.peak_mb, peak)
        took = {"seconds": before.seconds + time.monotonic() - began, "peak_mb": most}
        pins = pins_of(config, stage) if stage in STAGES else {}
        begun_with = {**parents, **pins}  # what the hub gave is known only now
        run.journal.sync()
        run.manifest.update(stage, status=status, reason=reason, ended=time.time(), parents=begun_with, **took, **more)

    try:
        with fix_date(distributed.on_rank_zero(run.manifest.first_day)):
            figures = getattr(import_module(module), name)(config, run, *arguments)
    except Interrupted as stop:
        close("interrupted", stop.given)
        raise
    except KeyboardInterrupt as error:
        # A second Ctrl-C reaches this process alone: the others must not wait for it.
        distributed.leave_group(error)
        close("interrupted", "interrupted twice: what came since the last save is lost")
        raise
    except Exception as error:
        failure = _with_stage_name(stage, error)
        distributed.leave_group(failure)
        close("failed", failure.given if isinstance(failure, SawyerError) else f"{type(failure).__name__}: {failure}")
        if stage == "reward" and isinstance(failure, DataError) and run.layout.trust.exists():
            report(run)  # why these judgements are refused is on the page
        if failure is error:
            raise
        raise failure from error
    is_waiting = stage in STAGES and bool(figures.get("waiting"))  # nothing builds on a later collection as such
    close("waiting" if is_waiting else "done", "", figures=figures)
    if not is_waiting:
        run.journal.event(stage, "done", seconds=round(run.manifest.stage(stage).seconds, 1))
    _drop_state(run, stage)


def _outdate_report(run: Run) -> None:
    """The existing page no longer shows the run; noted before anything changes, so that it does not survive a kill."""
    if run.manifest.stage("report").status == "done":
        run.manifest.update("report", status="pending")


def _with_stage_name(stage: str, error: Exception) -> Exception:
    """The same error, with the stage's name where it has none, and with what to do where memory ran out."""
    if isinstance(error, TrainingError) and not error.given.startswith(stage):
        return TrainingError(f"{stage}: {error.given}", expected=error.expected, why=error.why, todo=error.todo)
    if isinstance(error, RuntimeError | MemoryError) and any(words in str(error).lower() for words in OUT_OF_MEMORY):
        return TrainingError(
            f"{stage}: memory ran out ({str(error).strip().splitlines()[0]})",
            why="what was saved is intact",
            todo="lower micro_batch_tokens, which changes the memory a step takes and no result, or free memory or name a "
            "smaller model; then run the same command again",
        )
    return error


def _clear(run: Run, stage: str) -> None:
    """A stage starts over: nothing of an earlier attempt may be taken for its own."""
    distributed.on_rank_zero(lambda: run.journal.clear(stage))
    _drop_state(run, stage)
    backup = distributed.on_rank_zero(lambda: _back_up_answers(run.layout)) if stage == "collect" else None
    if backup is not None:
        run.journal.event(
            stage,
            "warning",
            message=f"answers are collected again; the earlier ones, with their scores, are kept in {backup}",
        )


def _back_up_answers(layout: Layout) -> Path | None:
    """Move collected answers aside and return where they are: they may hold people's judgements, which cannot be made again."""
    if not layout.answers.exists():
        return None
    backup = next(path for path in map(layout.answers_before, count(1)) if not path.exists())
    layout.answers.replace(backup)
    return backup


def _drop_state(run: Run, stage: str) -> None:
    """Remove a finished stage's checkpoints: they are several times the model's size, and nothing reads them any more."""
    layout = run.layout

    def remove() -> None:
        for folder in (layout.checkpoint(stage), *layout.bests(stage), layout.members(stage), layout.encoded_rows(stage)):
            remove_folder(folder)

    distributed.on_rank_zero(remove)


def _restart_if_gone(run: Run, stage: str) -> None:
    """A stage whose result was deleted, or that saved nothing, starts over, under other settings if need be."""
    status = run.manifest.stage(stage).status
    result = product(run.layout, stage)
    if status == "pending":
        return
    if status in ("done", "waiting"):
        if result.exists():
            return
        message = f"{result} is gone: {stage} is done again"
    else:
        if is_complete(run.layout.checkpoint(stage)):
            return
        message = f"nothing was saved when {stage} ended early: it starts over"
    run.manifest.forget(stage)
    distributed.on_rank_zero(lambda: run.journal.clear(stage))
    run.journal.event(stage, "restarted", message=message)


def _is_finished(run: Run, stage: str) -> bool:
    """Done, or no longer waiting: collected answers have been scored or voted on since."""
    state = run.manifest.stage(stage)
    if state.status == "waiting":
        answers = _read_answers(run)
        num_scored = sum(answer.score is not None for answer in answers)
        if not num_scored and not distributed.on_rank_zero(lambda: count_judgements(run.layout)):
            return False
        _outdate_report(run)
        run.manifest.update(stage, status="done", reason="")
        if num_scored:
            run.journal.event(stage, "scored", message=f"{num_scored:,} of {len(answers):,} collected answers are scored")
        return True
    return state.status == "done"


def _log_waiting(run: Run, stage: str) -> None:
    num_unscored = sum(answer.score is None for answer in _read_answers(run))
    run.journal.event(
        stage,
        "waiting",
        message=f"{num_unscored:,} answers wait for people: `sawyer rate {run.layout.root}` asks them in a browser; or put a "
        f"number in place of each `null` in {run.layout.answers}. Then run the same command again",
    )


def _read_answers(run: Run) -> list[Answer]:
    # A row that a person mistyped holds a judgement: it is an error, not a row to leave out.
    records = read([str(run.layout.answers)], want="scored", max_bad_rows=None).records
    return [answer for record in records if isinstance(record, JudgedPrompt) for answer in record.answers]
