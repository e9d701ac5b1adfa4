"""A later collection of answers, `sawyer collect --round N`: whether it can begin, goes on, or is done."""

from __future__ import annotations

from sawyer.config import Config
from sawyer.errors import RunError
from sawyer.pipeline.fingerprint import fingerprint
from sawyer.pipeline.stage_graph import product
from sawyer.runs import Run, collected_files, is_complete
from sawyer.train import distributed

MODELS = ("sft", "reward", "rl")  # who answers, and who says where answers are needed


def begin_collection(config: Config, run: Run, number: int) -> bool:
    """Whether there is something to do; False where the collection is done. One that was interrupted goes on if settings and
    models are the same, and else starts over: nobody has judged its answers.

    Raises RunError where the run has no RL model or reward model yet, or the collection before is not there.
    """
    name, path = run.layout.collection(number), run.layout.answers_of(number)
    state = run.manifest.stage(name)
    if distributed.on_rank_zero(path.exists):
        answers = state.figures.get("answers")
        words = f" ({answers:,} answers)" if isinstance(answers, int) else ""
        if state.status != "done":  # killed between its last two writes
            run.manifest.update(name, status="done", reason="")
        message = f"round {number} is collected already{words}: {path}; `--round {number + 1}` asks for the next"
        run.journal.event(name, "collected", message=message)
        return False
    _check_models(config, run)
    _check_order(run, number)
    if state.status == "pending":
        return True
    parents = distributed.on_rank_zero(lambda: parents_of_collection(config, run))
    is_same = state.fingerprint == collection_print(config) and dict(state.parents) == parents
    has_state = distributed.on_rank_zero(lambda: is_complete(run.layout.checkpoint(name)))
    if state.status == "done" or not is_same or not has_state:
        why = (
            f"{path} is gone"
            if state.status == "done"
            else "nothing was saved"
            if is_same
            else "its settings or models changed"
        )
        run.manifest.forget(name)
        run.journal.event(name, "restarted", message=f"{why}: round {number} is collected from the beginning")
    return True


def collection_print(config: Config) -> str:
    """The settings and prompts that decide a later collection besides its models."""
    return fingerprint(config, "collect")


def parents_of_collection(config: Config, run: Run) -> dict[str, str]:
    """The models that answer and score, by content."""
    return {
        stage: run.manifest.content_hash(stage, product(run.layout, stage), reread=True)
        for stage in MODELS
        if getattr(config, stage) is not None
    }


def _check_models(config: Config, run: Run) -> None:
    missing = [
        stage
        for stage in ("reward", "rl")
        if run.manifest.stage(stage).status != "done" or not product(run.layout, stage).exists()
    ]
    if missing:
        raise RunError(
            f"{run.layout.root} has no finished {' and no finished '.join(missing)} stage",
            expected="a run with a reward model and an RL model",
            why="a later round asks the RL model for answers, where the reward model is least sure",
            todo="run `sawyer run` with the same file first",
        )


def _check_order(run: Run, number: int) -> None:
    there = len(collected_files(run.layout))
    if number > there + 1:
        raise RunError(
            f"the round to collect is {number}, and {there or 'none'} {'is' if there < 2 else 'are'} collected",
            expected=f"--round {there + 1}",
            why="rounds are counted without gaps",
            todo=f"collect round {there + 1} first",
        )
