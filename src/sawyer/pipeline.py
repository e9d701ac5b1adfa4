"""The whole way from a base model to the report: which stages are wanted, which are done, what must not have changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sawyer.config import Config
from sawyer.config import demo as demo_config
from sawyer.errors import Interrupted, ModelError, RunError, SawyerError
from sawyer.records import Answer, ScoredAnswers, expand, read
from sawyer.runs import (
    Layout,
    Listener,
    Run,
    changed_keys,
    handle_signals,
    hash_files,
    hash_folder,
    is_complete,
    open_run,
    read_manifest,
    read_rows,
    replace_folder,
    write_json,
)
from sawyer.worlds import VERSION, write

# A stage's door, opened only when the stage runs: a finished run is told so without importing torch.
DOORS: Mapping[str, tuple[str, str]] = {
    "base": ("sawyer.stages.base", "train"),
    "sft": ("sawyer.stages.sft", "train"),
    "collect": ("sawyer.stages.collect", "collect"),
    "reward": ("sawyer.stages.reward", "train"),
    "rl": ("sawyer.stages.rl", "train"),
    "compare": ("sawyer.stages.compare", "compare"),
}
STAGES = tuple(DOORS)
# What each stage builds on, besides its own section and the settings in COMMON.
PARENTS: Mapping[str, tuple[str, ...]] = {
    "base": (),
    "sft": ("base",),
    "collect": ("sft",),
    "reward": ("sft", "collect"),
    "rl": ("sft", "reward"),
    "compare": ("base", "sft", "reward", "rl"),
}
COMMON = ("seed", "model", "template", "precision", "device", "micro_batch_tokens", "world")
DATA_FIELDS = ("data", "prompts", "text")


def run(config: Config, *, only: str | None = None, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Do what `config` asks for, skipping finished stages and continuing a broken one; returns the summary.

    `only` names one stage to do; the stages it builds on must be done. Raises SawyerError, with the run's folder in a state
    from which the same call goes on.
    """
    wanted = [stage for stage in STAGES if getattr(config, stage) is not None]
    if only is not None:
        _check_only(config, only, wanted)
    with open_run(Path(config.out)) as opened, handle_signals(opened.stop):
        opened.journal.listeners.extend(listeners)
        prints = {stage: _fingerprint(config, stage) for stage in wanted}
        _check_unchanged(config, opened, prints)
        opened.adopt(config.model_dump(mode="json"))
        _check_world(config)
        worked = False
        for stage in wanted if only is None else [only]:
            if _finished(opened, stage):
                opened.journal.event(stage, "skip", message="already done")
                continue
            worked = True
            _do(config, opened, stage, prints[stage])
            if opened.manifest.stage(stage).status == "waiting":
                break
        if worked or not opened.layout.report.exists():
            _report(opened)
        return _summarise(opened)


def demo(out: str | Path, seed: int = 0, *, rater: str = "honest", listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """The whole pipeline on the built-in world: writes its files into `out`/data first, then runs the demo's config."""
    config = demo_config(str(out), seed, rater)
    data = Path(out) / "data"
    if not is_complete(data):
        Path(out).mkdir(parents=True, exist_ok=True)
        with replace_folder(data) as folder:
            write(folder, seed=seed, rater=rater)
    return run(config, listeners=listeners)


def _do(config: Config, run: Run, stage: str, fingerprint: str) -> None:
    """One stage: its state in the manifest tells at every moment how far it is."""
    parents = {p: hash_folder(run.layout.model(p)) for p in PARENTS[stage] if is_complete(run.layout.model(p))}
    before = run.manifest.stage(stage)
    if before.status != "pending" and before.parents and before.parents != parents:
        raise RunError(
            f"{stage} was begun on other models than lie in {run.layout.root} now",
            why="a stage continued on another model is neither the old run nor a new one",
            todo=f"delete {run.layout.folder(stage)} and the stages after it, or use another `out:`",
        )
    began = time.time()
    run.manifest.update(
        stage, status="running", started=before.started or began, fingerprint=fingerprint, parents=parents, reason=""
    )
    run.journal.event(stage, "start")
    module, name = DOORS[stage]

    def close(status: str, reason: str, **more: Any) -> None:
        now = time.time()
        run.manifest.update(stage, status=status, reason=reason, ended=now, seconds=before.seconds + now - began, **more)

    try:
        figures = getattr(import_module(module), name)(config, run)
    except Interrupted as stop:
        close("interrupted", stop.given)
        raise
    except KeyboardInterrupt:
        close("interrupted", "interrupted twice: what came since the last save is lost")
        raise
    except Exception as error:
        reason = error.given if isinstance(error, SawyerError) else f"{type(error).__name__}: {error}"
        close("failed", reason)
        raise
    waiting = bool(figures.get("waiting"))
    close("waiting" if waiting else "done", "", figures=figures)
    if waiting:
        run.journal.event(
            stage,
            "waiting",
            message=f"{figures['waiting']:,} answers in {run.layout.answers} wait for a score: put a number in place of each "
            "`null`, then run the same command again",
        )
    else:
        run.journal.event(stage, "done", seconds=round(run.manifest.stage(stage).seconds, 1))
        _drop_state(run, stage)


def _drop_state(run: Run, stage: str) -> None:
    """The optimizer's state of a finished stage is of no further use and several times the model's size."""
    from sawyer.engine import drop_checkpoint

    drop_checkpoint(run.layout.checkpoint(stage))
    if stage == "rl":
        drop_checkpoint(run.layout.folder(stage) / "best")


def _finished(run: Run, stage: str) -> bool:
    """Done, or waiting no longer: somebody has scored collected answers."""
    state = run.manifest.stage(stage)
    if state.status == "waiting":
        records = read([str(run.layout.answers)], want="scored").records
        answers: list[Answer] = [a for r in records if isinstance(r, ScoredAnswers) for a in r.answers]
        scored = sum(answer.score is not None for answer in answers)
        if not scored:
            return False
        run.manifest.update(stage, status="done", reason="")
        run.journal.event(stage, "scored", message=f"{scored:,} of {len(answers):,} collected answers are scored")
        return True
    return state.status == "done"


def _check_only(config: Config, only: str, wanted: Sequence[str]) -> None:
    if only not in wanted:
        raise RunError(
            f"the config has no section `{only}`",
            expected=f"one of: {', '.join(wanted)}",
            todo=f"add `{only}:` to the file, or name another stage",
        )
    layout = Layout(Path(config.out))
    state = read_manifest(layout.manifest).get("stages", {})
    missing = [p for p in PARENTS[only] if p in wanted and state.get(p, {}).get("status") != "done"]
    if missing:
        raise RunError(
            f"{only} builds on {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not done in {layout.root}",
            todo=f"run `sawyer {missing[0]}` with the same file first, or `sawyer run` for all stages",
        )


def _check_unchanged(config: Config, run: Run, prints: Mapping[str, str]) -> None:
    """A stage that has begun must be asked for as it was: otherwise the folder would say what was never done."""
    changed = [
        stage
        for stage, now in prints.items()
        if run.manifest.stage(stage).status != "pending" and run.manifest.stage(stage).fingerprint != now
    ]
    if not changed:
        return
    keys = changed_keys(run.previous_config or {}, config.model_dump(mode="json"))
    relevant = [key for key in keys if key.split(".")[0] in (*COMMON, *changed)]
    what = f"these settings: {', '.join(relevant)}" if relevant else "the content of its data files"
    raise RunError(
        f"{run.layout.root} holds a run whose {changed[0]} stage was begun with another config; changed: {what}",
        expected="the settings and data it was begun with",
        why="a run that goes on under other settings is neither the old experiment nor the new one",
        todo="use another `out:` for the new settings, restore the old ones, or delete the folder",
    )


def _check_world(config: Config) -> None:
    """The packaged base model must come from the world as it is now."""
    if config.world is None or config.model is None:
        return
    note = Path(config.model) / "world.txt"
    if note.exists() and note.read_text().strip() != VERSION:
        raise ModelError(
            f"the base model in {config.model} was trained on world version {note.read_text().strip()}",
            expected=f"version {VERSION}",
            why="it would be asked about facts it was never told",
            todo="train it again: `make world-base`",
        )


def _fingerprint(config: Config, stage: str) -> str:
    """A hash of all that decides the stage's outcome besides its parents' models: settings and data files' content."""
    section = getattr(config, stage).model_dump(mode="json")
    common = {name: config.model_dump(mode="json")[name] for name in COMMON}
    files = [path for field in DATA_FIELDS if section.get(field) for path in expand(section[field])]
    return hash_files(files, salt=repr((common, section)))


def _report(run: Run) -> None:
    began = time.time()
    _summarise(run)
    from sawyer.stages.report import build

    build(run.layout.root)
    run.manifest.update("report", status="done", seconds=time.time() - began, ended=time.time())


def _summarise(run: Run) -> dict[str, Any]:
    """The figures a script wants (docs: README, "What a run leaves"), also written to summary.json."""
    states = {stage: run.manifest.stage(stage) for stage in (*STAGES, "report")}
    figures = {stage: dict(state.figures) for stage, state in states.items() if state.figures}
    seconds = {stage: round(state.seconds, 1) for stage, state in states.items() if state.seconds}
    summary: dict[str, Any] = {
        "out": str(run.layout.root),
        "seconds": seconds | {"total": round(sum(state.seconds for state in states.values()), 1)},
    }
    for stage in ("base", "sft", "collect", "reward", "rl"):
        if stage in figures:
            summary[stage] = figures[stage]
    compared = figures.get("compare", {})
    for measure in ("gold", "reward_mean"):
        table = compared.get("gold" if measure == "gold" else "reward")
        if table:
            summary[measure] = {model: dict(settings) for model, settings in table.items()}
            best = summary[measure].get("sft", {}).pop("best_of_8", None)
            if best is not None:
                summary[measure]["best_of_8"] = best
    rates = {name: value for name, value in compared.items() if name.startswith("win_rate")}
    if rates:
        summary["compare"] = rates
    events = read_rows(run.layout.events)
    summary["gates"] = {row["name"]: row["verdict"] for row in events if row["kind"] == "gate"}
    waiting = [stage for stage, state in states.items() if state.status == "waiting"]
    if waiting:
        summary["waiting"] = str(run.layout.answers)
    write_json(run.layout.summary, summary)
    return summary
