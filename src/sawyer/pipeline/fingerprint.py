"""The settings, data and parents of a started stage, by hash. A run resumes with the same ones only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.config import Config, user_files
from sawyer.errors import RunError
from sawyer.pipeline.stage_graph import BY_LORA, COMMON, PARENTS, PIN, STAGES, UNIT
from sawyer.records import expand
from sawyer.runs import Layout, Run, changed_keys, hash_files

DATA_FIELDS = ("data", "prompts", "text")
MODEL_FIELDS = ("model", "models", "reward", "template")


def fingerprint(config: Config, stage: str) -> str:
    """A hash of all that decides the stage's outcome besides its parents' models: settings and data files' content."""
    section = _one_spelling(getattr(config, stage).model_dump(mode="json"))
    if stage == "reward":
        section.pop("raters", None)  # what it does is in the rows of the judgements, which begin a new round when they change
    if stage == "collect":
        section.pop("judge", None)  # the answers do not depend on it; its votes count as people's do
    common = _one_spelling({name: config.model_dump(mode="json")[name] for name in COMMON})
    if stage in BY_LORA and config.lora is not None:
        common["lora"] = config.lora.model_dump(mode="json")
    files = [path for field in DATA_FIELDS if section.get(field) for path in expand(section[field])]
    files = [str(Path(path)) for path in files]
    files += [str(Path(config.template))] if os.path.isfile(config.template) else []
    files += [str(file) for file in _own_files(section)]
    result = hash_files(files, salt=repr((common, section)))
    if stage == "reward" and config.rl is not None:
        result += f" {config.rl.max_new_tokens}@{config.rl.temperature:g}"
    return result


def _one_spelling(value: Any, setting: str = "") -> Any:
    """A setting's value, however deep, with paths in one spelling: `data.json` and `./data.json` are one file.

    A model's name is a path where there is such a folder, else a hub id, which has one spelling alone.
    """
    if isinstance(value, Mapping):
        return {name: _one_spelling(item, setting if setting == "models" else name) for name, item in value.items()}
    if isinstance(value, list):
        return [_one_spelling(item, setting) for item in value]
    is_model = setting in MODEL_FIELDS and isinstance(value, str) and os.path.exists(value)
    return str(Path(value)) if is_model or (setting in DATA_FIELDS and isinstance(value, str)) else value


def _own_files(section: Mapping[str, Any]) -> list[Path]:
    """The files of a user's functions that a stage's section names, with the modules beside them that they import."""
    functions = [section.get("loss", ""), *(part["function"] or "" for part in section.get("rewards", ()))]
    return list(dict.fromkeys(file for function in functions for file in user_files(function)))


def _same(before: str, now: str) -> bool:
    """Whether two fingerprints agree; RL's settings in the reward's count only where both have an `rl` section."""
    (content, _, unit), (content_now, _, unit_now) = before.partition(" "), now.partition(" ")
    return content == content_now and (unit == unit_now or not unit or not unit_now)


def check_unchanged(config: Config, run: Run, prints: Mapping[str, str]) -> None:
    """Raise RunError where a started stage has other settings or data now: the folder would describe a run that never was."""
    states = {stage: run.manifest.stage(stage) for stage in prints}
    stages = [s for s in prints if states[s].status != "pending" and not _same(states[s].fingerprint, prints[s])]
    if not stages:
        return
    keys = changed_keys(run.previous_config or {}, config.model_dump(mode="json"))
    lora = ("lora",) if any(stage in BY_LORA for stage in stages) else ()
    relevant = [k for k in keys if k.split(".")[0] in (*COMMON, *lora, *stages) or ("reward" in stages and k in UNIT)]
    code = [str(file) for stage in stages for file in _own_files(getattr(config, stage).model_dump(mode="json"))]
    content = "the content of its data files" + "".join(f" or of {file}" for file in dict.fromkeys(code))
    what = f"these settings: {', '.join(relevant)}" if relevant else content
    if run.previous_config is None:
        what = f"its settings, or its data files ({run.layout.config}, which would show it, cannot be read)"
    raise RunError(
        f"{run.layout.root} holds a run whose {stages[0]} stage was started with another config; changed: {what}",
        expected="the settings and data it was started with",
        why="a run resumed with other settings is neither the old experiment nor the new one",
        todo="use another `out:` for the new settings (on the command line out=FOLDER), restore the old ones, or delete "
        f"{_paths_of(run.layout, stages)} to do that again",
    )


def check_unit(run: Run, prints: Mapping[str, str]) -> None:
    """Warn where `rl` was added after the reward was trained: its zero and unit are not those of RL's answers."""
    reward, rl = run.manifest.stage("reward"), run.manifest.stage("rl")
    rl_is_new = " " in prints.get("reward", "") and " " not in reward.fingerprint
    if rl_is_new and reward.status == "done" and rl.status == "pending":
        run.journal.event(
            "reward",
            "warning",
            message="the reward's zero and unit were set before the config had `rl`: RL's answers may be longer, shorter or "
            f"more varied than those; delete {run.layout.folder('reward')} to set them again",
        )


def check_parents(run: Run, stage: str, parents: Mapping[str, str]) -> None:
    """Raise RunError where a started stage would find other models than it was started with. A comparison is cheap: it is made
    again."""
    before = run.manifest.stage(stage)
    names = [n for n in sorted({*parents, *before.parents}) if _differ(before.parents.get(n), parents.get(n))]
    if before.status == "pending" or not names:
        return
    words = {"collect": "collected answers", "judgements": "set of judgements"} | {name: name for name in names if "." in name}
    changes = " and ".join(words.get(name, f"{name} model") for name in names)
    if stage == "compare":
        run.manifest.forget(stage)
        run.journal.event(stage, "restarted", message=f"the {changes} changed since: the comparison is made again")
        return
    raise RunError(
        f"{stage} was started with another {changes} than {run.layout.root} has now",
        expected="what it was started with",
        why="later stages on other models are neither the old run nor a new one",
        todo=f"restore that, delete {_paths_of(run.layout, [stage])} to do that again, or use another `out:`",
    )


def _differ(before: str | None, now: str | None) -> bool:
    """Whether a parent is another one. Of a hub id that was not in the cache, before or now, the commit is not known."""
    unknown = (before is None or now is None) and (before or now or "").startswith(PIN)
    return before != now and not unknown


def _paths_of(layout: Layout, stages: Sequence[str]) -> str:
    """The paths to delete so that these stages, and those that build on them, are done again."""
    names: list[str] = []
    for stage in STAGES:
        if stage in stages or {*PARENTS[stage]} & {*names}:
            names.append(stage)
    paths = [layout.compare if s == "compare" and layout.compare.exists() else layout.folder(s) for s in names]
    return ", ".join(str(path) for path in paths if path.exists())
