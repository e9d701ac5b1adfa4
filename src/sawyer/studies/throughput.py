"""How fast a stage is on this machine: the first steps of a real run, cut off, as its own rows of metrics.jsonl time them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

from sawyer.config import Config, start_of
from sawyer.errors import Interrupted
from sawyer.pipeline import STAGES, fingerprint, run
from sawyer.runs import Layout, Listener, damage_error, open_run, read_rows, replace_folder, write_json
from sawyer.studies.grid import Tell, is_done, stages_in
from sawyer.train import distributed

PACE_UPDATES = 5  # of a trial
STEPS = 3  # of `sawyer bench`, after one that is not counted
WHOLE = ("base", "collect")  # done to their end, shortened: later stages need what they leave


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpeed:
    """Medians over a stage's steps, without the first. None: not measured."""

    stage: str
    steps: int = 0
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    memory_mb: float | None = None  # the largest, of the process or the card
    note: str = ""  # why it was not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of an update and of an evaluation; `of` is how many updates the run that was tried would have had."""

    update: float
    evaluation: float
    of: int

    def updates(self, seconds: float, eval_every: int) -> int:
        """How many updates fit into so many seconds, with an evaluation before the first, after the last and between; at least
        one: seconds >= u update + (2 + u / eval_every) evaluation."""
        return max(1, int((seconds - 2 * self.evaluation) / (self.update + self.evaluation / eval_every)))


class _TrialEnd(Interrupted):
    """The trial has done its steps."""


def first_steps(config: Config, stage: str, steps: int, listeners: Sequence[Listener] = ()) -> tuple[list[dict[str, Any]], int]:
    """The metrics of a stage's first `steps` steps, in the run's folder, and how many steps the whole stage has. The stage is
    cut off there: it evaluates and saves nothing. Raises SawyerError."""
    total = 0

    def stop(kind: str, row: Mapping[str, Any]) -> None:
        nonlocal total
        if kind == "progress" and row["stage"] == stage:
            total = int(row["total"])
            if row["done"] >= min(steps, total):
                raise _TrialEnd("the trial has done its steps")

    try:
        run(config, only=stage, listeners=[*listeners, stop])
    except _TrialEnd:
        pass
    rows = _metrics(config)
    return [row for row in rows if row.get("stage") == stage][:steps], total


def _metrics(config: Config) -> list[dict[str, Any]]:
    """The run's rows of metrics. Rank 0 writes them; read by it, they are complete."""
    return distributed.on_rank_zero(lambda: read_rows(Layout(Path(config.out)).metrics))


def measure_stages(config: Config, *, steps: int = STEPS, listeners: Sequence[Listener] = ()) -> list[StageSpeed]:
    """A few steps of each stage that the config has, on its model and data, in a folder that is removed afterwards.

    Each stage is cut off, and the next one starts from the model as it was before: the work is the same. Raises SawyerError.
    """
    speeds = []
    with _temporary_folder() as folder:
        trial = _shorten(config.model_copy(update={"out": str(folder / "run")}), steps + 1)
        layout = Layout(Path(trial.out))
        for stage in stages_in(trial, STAGES):
            if stage == "reward" and trial.collect is not None and not is_done(layout, "collect"):
                # Its answers wait for people's scores: what the config names beside them is measured alone.
                trial = trial.model_copy(update={"collect": None})
            if stage == "reward" and trial.collect is None and trial.reward is not None and not trial.reward.data:
                speeds.append(StageSpeed(stage=stage, note="it learns from collected answers, which have no scores yet"))
            elif stage in WHOLE:
                run(trial, only=stage, listeners=listeners)
                speeds.append(_speed(stage, _metrics(trial)))
            else:
                rows, _ = first_steps(trial, stage, steps + 1, listeners)
                speeds.append(_speed(stage, rows))
            if stage in ("sft", "reward", "rl"):
                distributed.on_rank_zero(partial(_stand_in, trial, stage))
    return speeds


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """One folder for all processes of a launcher; the first one makes and removes it."""
    with distributed.process_group():
        folder = Path(distributed.on_rank_zero(lambda: mkdtemp(prefix="sawyer-bench-")))
        try:
            yield folder
        finally:
            if distributed.is_rank_zero():
                shutil.rmtree(folder, ignore_errors=True)


def _speed(stage: str, rows: Sequence[Mapping[str, Any]]) -> StageSpeed:
    stage_rows = [row for row in rows if row.get("stage") == stage and "step_seconds" in row]
    later_rows = stage_rows[1:] or stage_rows  # the first step does what is done once
    medians = {name: median(row[name] for row in later_rows) for name in ("tokens_per_second", "step_seconds") if later_rows}
    memory = [row["memory_mb"] for row in stage_rows if row.get("memory_mb") is not None]
    return StageSpeed(stage=stage, steps=len(later_rows), memory_mb=max(memory, default=None), **medians)


def _shorten(config: Config, steps: int) -> Config:
    """The config with a base stage and a collection of about so many steps: later stages need what these leave."""
    from sawyer.stages.collect.collect_stage import ANSWERS_A_STEP

    changes: dict[str, Any] = {}
    if config.base is not None:
        window = config.base.window or config.base.context
        changes["base"] = config.base.model_copy(update={"tokens": steps * config.base.batch_size * window})
    if config.collect is not None:
        prompts = steps * max(1, ANSWERS_A_STEP // config.collect.answers)
        changes["collect"] = config.collect.model_copy(update={"limit": min(prompts, config.collect.limit or prompts)})
    return config.model_copy(update=changes)


def _stand_in(config: Config, stage: str) -> None:
    """What a stage that was cut off would have left: its model as it was before the first step."""
    from sawyer.models import new_reward, open_language_model, open_tokenizer, save_model

    with open_run(Path(config.out)) as trial:
        start = start_of(config, "sft" if stage == "rl" and config.sft is None else stage)
        assert start is not None
        source = start.path(trial.layout.model)
        with replace_folder(trial.layout.model(stage)) as folder:
            if stage == "reward":
                tokenizer, _ = open_tokenizer(source, start.template)
                model = new_reward(source, tokenizer, seed=config.seed, lora=config.lora)
                save_model(folder, model, tokenizer, {"reward_shift": 0.0, "reward_scale": 1.0})
            else:
                policy = open_language_model(source, start.template, lora=config.lora, seed=config.seed)
                save_model(folder, policy.model, policy.tokenizer)
        trial.manifest.update(stage, status="done", fingerprint=fingerprint(config, stage))


def measure_pace(
    name: str, config: Config, root: Path, prepare: Callable[[Config], None], listeners: Sequence[Listener], tell: Tell
) -> Pace:
    """The pace of `config`'s RL, measured in a folder that is removed afterwards; what was measured before is read, so that a
    study that goes on keeps its budget. Raises SawyerError."""
    file = Layout(root).pace
    todo = f"delete {file}, then run the same command again"
    try:
        paces = dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise damage_error(file, error, todo) from error
    if name not in paces:
        tell(f"{name}: a trial of {PACE_UPDATES} updates for its pace")
        trial = config.model_copy(update={"out": str(root / f"trial-{name}")})
        shutil.rmtree(trial.out, ignore_errors=True)
        prepare(trial)
        rows, total = first_steps(trial, "rl", PACE_UPDATES, listeners)
        shutil.rmtree(trial.out, ignore_errors=True)
        # The first update has an evaluation before it; the others may, so that their median counts.
        first, *others = (row["step_seconds"] for row in rows)
        update = median(others) if others else first
        paces[name] = asdict(Pace(update=update, evaluation=max(0.0, first - update), of=total))
        write_json(file, paces)
    try:
        return Pace(**paces[name])
    except (KeyError, TypeError) as error:
        raise damage_error(file, error, todo) from error
