"""The whole way from a base model to the report: which stages are wanted, which are done, what must not have changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from sawyer.config import Config, own_file, own_function, own_names
from sawyer.config import demo as demo_config
from sawyer.errors import Interrupted, ModelError, RunError, SawyerError, TrainingError
from sawyer.records import Answer, ScoredAnswers, expand, read
from sawyer.runs import (
    Layout,
    Listener,
    Run,
    changed_keys,
    handle_signals,
    hash_files,
    is_complete,
    last_gates,
    open_run,
    read_manifest,
    read_rows,
    remove_folder,
    replace_folder,
    write_json,
)
from sawyer.worlds import VERSION, write

# A stage's door, opened only when the stage runs: a finished run is told so without importing torch.
DOORS: Mapping[str, tuple[str, str]] = {
    "base": ("sawyer.stages.base", "train"),
    "classify": ("sawyer.stages.classify", "train"),
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
    "classify": ("base",),
    "sft": ("base",),
    "collect": ("sft",),
    "reward": ("sft", "collect"),
    "rl": ("sft", "reward"),
    "compare": ("base", "sft", "reward", "rl"),
}
# Settings that decide every stage's outcome. `micro_batch_tokens` is none: it may be lowered when memory runs out.
COMMON = ("seed", "model", "template", "precision", "device", "world")
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory")  # as CUDA, Windows and Linux say it through torch
# The reward's zero and unit come from answers sampled as RL samples: these settings of `rl` decide the reward stage's outcome.
UNIT = ("rl.max_new_tokens", "rl.temperature")
DATA_FIELDS = ("data", "prompts", "text")


def run(config: Config, *, only: str | None = None, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Do what `config` asks for, skipping finished stages and continuing a broken one; returns the summary.

    `only` names one stage to do; the stages it builds on must be done. Raises SawyerError, with the run's folder in a state
    from which the same call goes on.
    """
    return _run(config, only, listeners)


def demo(out: str | Path, seed: int = 0, *, rater: str = "honest", listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """The whole pipeline on the built-in world: writes its files into `out`/data first, then runs the demo's config."""
    data = Path(out) / "data"

    def prepare(run: Run) -> None:
        begun = any(run.manifest.stage(stage).status != "pending" for stage in STAGES)
        if not is_complete(data) or not begun:  # files of another seed or rater may lie there
            with replace_folder(data) as folder:
                write(folder, seed=seed, rater=rater)

    return _run(demo_config(str(out), seed, rater), None, listeners, prepare)


def _run(
    config: Config, only: str | None, listeners: Sequence[Listener], prepare: Callable[[Run], None] | None = None
) -> dict[str, Any]:
    wanted = [stage for stage in STAGES if getattr(config, stage) is not None]
    if only is not None:
        _check_only(config, only, wanted)
    with open_run(Path(config.out)) as opened, handle_signals(opened.stop):
        opened.journal.listeners.extend(listeners)
        for stage in STAGES:
            _forget_what_is_gone(opened, stage)
        if prepare is not None:
            prepare(opened)
        begun = [stage for stage in wanted if opened.manifest.stage(stage).status != "pending"]
        todo = wanted if only is None else [only]
        prints = {stage: fingerprint(config, stage) for stage in wanted if stage in (*todo, *begun)}
        _check_unchanged(config, opened, prints)
        _check_unit(opened, prints)
        opened.adopt(config.model_dump(mode="json"))
        _check_world(config)
        _check_loss(config, opened, todo)
        _check_rewards(config, opened, todo)
        worked = False
        for stage in todo:
            if opened.stop.is_set():
                raise Interrupted(
                    f"the run was interrupted before {stage} ({opened.stop.reason}); everything so far is saved",
                    todo="run the same command again to go on",
                )
            parents = _parents(config, opened, stage)
            _check_parents(opened, stage, parents)
            if _finished(opened, stage):
                opened.journal.event(stage, "skip", message="already done")
                _drop_state(opened, stage)  # a kill right after the stage's end leaves it
                continue
            if opened.manifest.stage(stage).status != "waiting":
                worked = True
                _do(config, opened, stage, prints[stage], parents)
            if opened.manifest.stage(stage).status == "waiting":
                _tell_waiting(opened, stage)
                break
        if worked or not opened.layout.report.exists():
            _report(opened)
        return _summarise(opened)


def _do(config: Config, run: Run, stage: str, fingerprint: str, parents: Mapping[str, str]) -> None:
    """One stage: its state in the manifest tells at every moment how far it is."""
    before = run.manifest.stage(stage)
    if before.status == "pending":
        _clear(run, stage)
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
        told = _named(stage, error)
        close("failed", told.given if isinstance(told, SawyerError) else f"{type(told).__name__}: {told}")
        if told is error:
            raise
        raise told from error
    waiting = bool(figures.get("waiting"))
    close("waiting" if waiting else "done", "", figures=figures)
    if not waiting:
        run.journal.event(stage, "done", seconds=round(run.manifest.stage(stage).seconds, 1))
    _drop_state(run, stage)


def _named(stage: str, error: Exception) -> Exception:
    """The failure in words: with the stage's name where it does not say which one it was, and what to do without memory."""
    if isinstance(error, TrainingError) and not error.given.startswith(stage):
        return TrainingError(f"{stage}: {error.given}", expected=error.expected, why=error.why, todo=error.todo)
    if isinstance(error, RuntimeError | MemoryError) and any(words in str(error).lower() for words in NO_MEMORY):
        return TrainingError(
            f"{stage}: memory ran out ({str(error).strip().splitlines()[0]})",
            why="what was saved is intact",
            todo="lower micro_batch_tokens, which changes the memory a step takes and no result, or free memory or name a "
            "smaller model; then run the same command again",
        )
    return error


def _clear(run: Run, stage: str) -> None:
    """A stage begins anew: nothing of an earlier attempt may be taken for its own."""
    run.journal.clear(stage)
    _drop_state(run, stage)
    if stage == "collect" and run.layout.answers.exists():
        # Somebody's judgements may be in it, and they cannot be made again.
        kept = next(path for path in map(run.layout.answers_before, count(1)) if not path.exists())
        run.layout.answers.replace(kept)
        run.journal.event(
            stage,
            "warning",
            message=f"answers are collected anew; those that were there, with their scores, are kept in {kept}",
        )


def _drop_state(run: Run, stage: str) -> None:
    """The optimizer's state of a finished stage is of no further use and several times the model's size."""
    remove_folder(run.layout.checkpoint(stage))
    remove_folder(run.layout.best(stage))


def product(layout: Layout, stage: str) -> Path:
    """What a finished stage leaves, and later stages build on: written whole or not there."""
    return {"collect": layout.answers, "compare": layout.compare}.get(stage, layout.model(stage))


def _forget_what_is_gone(run: Run, stage: str) -> None:
    """A stage whose result somebody deleted, or of which nothing was saved, begins anew, under other settings if need be."""
    status = run.manifest.stage(stage).status
    left = product(run.layout, stage)
    if status == "pending":
        return
    if status in ("done", "waiting"):
        if left.exists():
            return
        message = f"{left} is gone: {stage} is done again"
    else:
        if is_complete(run.layout.checkpoint(stage)):
            return
        message = f"nothing was saved when {stage} ended early: it begins anew"
    run.manifest.forget(stage)
    run.journal.clear(stage)
    run.journal.event(stage, "anew", message=message)


def _parents(config: Config, run: Run, stage: str) -> dict[str, str]:
    """What the stage builds on, by a hash of its content: models, collected answers, the base model's folder."""
    found, given = {}, _given_models(config, stage)
    for parent in PARENTS[stage]:
        path = product(run.layout, parent)
        if stage == "classify" and given:  # it starts from a model of its own
            continue
        if parent == "base" and config.model is not None:
            path = Path(config.model)
            if not path.is_dir():  # a hub id
                continue
        if (parent == "base" or getattr(config, parent) is not None) and path.exists():
            found[parent] = run.manifest.content_hash(parent, path)
    for name, source in given.items():
        if Path(source).is_dir():
            found[name] = run.manifest.content_hash(name, Path(source))
    return found


def _given_models(config: Config, stage: str) -> dict[str, str]:
    """Folders or hub ids that a stage's own section names, by the setting that names them."""
    if stage == "classify" and config.classify is not None and config.classify.model is not None:
        return {"classify.model": config.classify.model}
    if stage == "reward" and config.reward is not None and config.reward.model is not None:
        return {"reward.model": config.reward.model}
    if stage == "rl" and config.rl is not None:
        parts = (part for part in config.rl.rewards if part.model is not None and not part.is_stage)
        return {f"rl.rewards.{part.name}": str(part.model) for part in parts}
    return {}


def _check_parents(run: Run, stage: str, parents: Mapping[str, str]) -> None:
    """A stage that has begun must find the models it was begun with; a comparison is cheap and is made again instead."""
    before = run.manifest.stage(stage)
    if before.status == "pending" or before.parents == parents:
        return
    changed = sorted(name for name in {*parents, *before.parents} if parents.get(name) != before.parents.get(name))
    words = {"collect": "collected answers"} | {name: name for name in changed if "." in name}
    told = " and ".join(words.get(name, f"{name} model") for name in changed)
    if stage == "compare":
        run.manifest.forget(stage)
        run.journal.event(stage, "anew", message=f"the {told} changed since: the comparison is made again")
        return
    raise RunError(
        f"{stage} was begun with another {told} than {run.layout.root} has now",
        expected="what it was begun with",
        why="later stages on other models are neither the old run nor a new one",
        todo=f"restore what it was begun with, delete {_again(run.layout, [stage])} to do that again, or use another `out:`",
    )


def _finished(run: Run, stage: str) -> bool:
    """Done, or waiting no longer: somebody has scored collected answers."""
    state = run.manifest.stage(stage)
    if state.status == "waiting":
        answers = _collected(run)
        scored = sum(answer.score is not None for answer in answers)
        if not scored:
            return False
        run.manifest.update(stage, status="done", reason="")
        run.journal.event(stage, "scored", message=f"{scored:,} of {len(answers):,} collected answers are scored")
        return True
    return state.status == "done"


def _tell_waiting(run: Run, stage: str) -> None:
    waiting = sum(answer.score is None for answer in _collected(run))
    run.journal.event(
        stage,
        "waiting",
        message=f"{waiting:,} answers in {run.layout.answers} wait for a score: put a number in place of each "
        "`null`, then run the same command again",
    )


def _collected(run: Run) -> list[Answer]:
    records = read([str(run.layout.answers)], want="scored").records
    return [answer for record in records if isinstance(record, ScoredAnswers) for answer in record.answers]


def _check_only(config: Config, only: str, wanted: Sequence[str]) -> None:
    if only not in wanted:
        raise RunError(
            f"the config has no section `{only}`",
            expected=f"one of: {', '.join(wanted)}",
            todo=f"add `{only}:` to the file, or name another stage",
        )
    layout = Layout(Path(config.out))
    state = read_manifest(layout.manifest).get("stages", {})
    missing = [
        p
        for p in PARENTS[only]
        if p in wanted and not (state.get(p, {}).get("status") in ("done", "waiting") and product(layout, p).exists())
    ]
    if missing:
        raise RunError(
            f"{only} builds on {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not done in {layout.root}",
            todo=f"run `sawyer {missing[0]}` with the same file first, or `sawyer run` for all stages",
        )


def _check_unchanged(config: Config, run: Run, prints: Mapping[str, str]) -> None:
    """A stage that has begun must be asked for as it was: otherwise the folder would say what was never done."""
    begun = [stage for stage in prints if run.manifest.stage(stage).status != "pending"]
    changed = [stage for stage in begun if not _same(run.manifest.stage(stage).fingerprint, prints[stage])]
    if not changed:
        return
    keys = changed_keys(run.previous_config or {}, config.model_dump(mode="json"))
    relevant = [k for k in keys if k.split(".")[0] in (*COMMON, *changed) or ("reward" in changed and k in UNIT)]
    own = [str(file) for stage in changed for file in _own_files(getattr(config, stage).model_dump(mode="json"))]
    content = "the content of its data files" + "".join(f" or of {file}" for file in dict.fromkeys(own))
    what = f"these settings: {', '.join(relevant)}" if relevant else content
    if run.previous_config is None:
        what = f"its settings, or its data files ({run.layout.config}, which would tell, cannot be read)"
    raise RunError(
        f"{run.layout.root} holds a run whose {changed[0]} stage was begun with another config; changed: {what}",
        expected="the settings and data it was begun with",
        why="a run that goes on under other settings is neither the old experiment nor the new one",
        todo="use another `out:` for the new settings, restore the old ones, or delete "
        f"{_again(run.layout, changed)} to do that again",
    )


def _again(layout: Layout, stages: Sequence[str]) -> str:
    """What somebody must delete so that these stages, and those that build on them, are done again."""
    found: list[str] = []
    for stage in STAGES:
        if stage in stages or {*PARENTS[stage]} & {*found}:
            found.append(stage)
    paths = [layout.compare if s == "compare" and layout.compare.exists() else layout.folder(s) for s in found]
    return ", ".join(str(path) for path in paths if path.exists())


def _check_unit(run: Run, prints: Mapping[str, str]) -> None:
    """Where `rl` was added after the reward was trained, its zero and unit are not those of RL's answers: that is said."""
    reward, rl = run.manifest.stage("reward"), run.manifest.stage("rl")
    added = " " in prints.get("reward", "") and " " not in reward.fingerprint
    if added and reward.status == "done" and rl.status == "pending":
        run.journal.event(
            "reward",
            "warning",
            message="the reward's zero and unit were set before the config had `rl`: RL's answers may be longer, shorter or "
            f"wilder than those; delete {run.layout.folder('reward')} to set them anew",
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


def _check_loss(config: Config, run: Run, todo: Sequence[str]) -> None:
    """A user's own loss is tried before the stages that come before it: hours of training may lie between."""
    if config.reward is None or own_names(config.reward.loss) is None:
        return
    if "reward" in todo and run.manifest.stage("reward").status != "done":
        from sawyer.stages.reward.loss import checked_loss

        checked_loss(config.reward.loss)


def _check_rewards(config: Config, run: Run, todo: Sequence[str]) -> None:
    """A user's own rewards and models are looked for before the stages that come before those that need them."""
    for stage in ("classify", "reward", "rl"):
        if stage not in todo or getattr(config, stage) is None or run.manifest.stage(stage).status == "done":
            continue
        for setting, given in _given_models(config, stage).items():
            local = Path(given).is_absolute() or given.startswith(".") or len(Path(given).parts) > 2
            there = Path(given).is_dir()
            if (there and not (Path(given) / "config.json").is_file()) or (local and not there):  # else it may be a hub id
                raise ModelError(
                    f"{setting}: {given} has no config.json" if there else f"{setting}: there is no model folder {given}",
                    expected="a folder in Hugging Face's format, or a hub id",
                    todo="check the path; it is taken from the folder the command runs in",
                )
        for part in config.rl.rewards if stage == "rl" and config.rl is not None else ():
            if part.function is not None:
                own_function(part.function, f"rl.rewards, {part.name}")


def fingerprint(config: Config, stage: str) -> str:
    """A hash of all that decides the stage's outcome besides its parents' models: settings and data files' content."""
    section = getattr(config, stage).model_dump(mode="json")
    common = {name: config.model_dump(mode="json")[name] for name in COMMON}
    files = [path for field in DATA_FIELDS if section.get(field) for path in expand(section[field])]
    files += [config.template] if Path(config.template).is_file() else []
    files += [str(file) for file in _own_files(section)]
    found = hash_files(files, salt=repr((common, section)))
    if stage == "reward" and config.rl is not None:
        found += f" {config.rl.max_new_tokens}@{config.rl.temperature:g}"
    return found


def _own_files(section: Mapping[str, Any]) -> list[Path]:
    """The files of a user's functions that a stage's section names."""
    functions = [section.get("loss", ""), *(part["function"] or "" for part in section.get("rewards", ()))]
    return [file for file in map(own_file, functions) if file is not None]


def _same(before: str, now: str) -> bool:
    """Whether two fingerprints agree; RL's settings in the reward's count only where both have an `rl` section."""
    (content, _, unit), (content_now, _, unit_now) = before.partition(" "), now.partition(" ")
    return content == content_now and (unit == unit_now or not unit or not unit_now)


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
    for stage in ("base", "classify", "sft", "collect", "reward", "rl"):
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
    rates = {name: value for name, value in compared.items() if name.startswith(("win_rate", "greedy_change"))}
    if rates:
        summary["compare"] = rates
    events = read_rows(run.layout.events)
    summary["gates"] = {row["name"]: row["verdict"] for row in last_gates(events)}
    waiting = [stage for stage, state in states.items() if state.status == "waiting"]
    if waiting:
        summary["waiting"] = str(run.layout.answers)
    write_json(run.layout.summary, summary)
    return summary
