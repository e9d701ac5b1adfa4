"""What a begun stage was begun with, by hash: its settings, its data, its parents. A run goes on with no others."""

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
    section = _spelt(getattr(config, stage).model_dump(mode="json"))
    common = _spelt({name: config.model_dump(mode="json")[name] for name in COMMON})
    if stage in BY_LORA and config.lora is not None:
        common["lora"] = config.lora.model_dump(mode="json")
    files = [path for field in DATA_FIELDS if section.get(field) for path in expand(section[field])]
    files = [str(Path(path)) for path in files]
    files += [str(Path(config.template))] if os.path.isfile(config.template) else []
    files += [str(file) for file in _own_files(section)]
    found = hash_files(files, salt=repr((common, section)))
    if stage == "reward" and config.rl is not None:
        found += f" {config.rl.max_new_tokens}@{config.rl.temperature:g}"
    return found


def _spelt(value: Any, setting: str = "") -> Any:
    """A setting's value, however deep, with paths in one spelling: `data.json` and `./data.json` are one file.

    A model's name is a path where there is such a folder, else a hub id, which has one spelling alone.
    """
    if isinstance(value, Mapping):
        return {name: _spelt(item, setting if setting == "models" else name) for name, item in value.items()}
    if isinstance(value, list):
        return [_spelt(item, setting) for item in value]
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
    """A stage that has begun must be asked for as it was: otherwise the folder would say what was never done."""
    begun = [stage for stage in prints if run.manifest.stage(stage).status != "pending"]
    changed = [stage for stage in begun if not _same(run.manifest.stage(stage).fingerprint, prints[stage])]
    if not changed:
        return
    keys = changed_keys(run.previous_config or {}, config.model_dump(mode="json"))
    lora = ("lora",) if any(stage in BY_LORA for stage in changed) else ()
    relevant = [k for k in keys if k.split(".")[0] in (*COMMON, *lora, *changed) or ("reward" in changed and k in UNIT)]
    own = [str(file) for stage in changed for file in _own_files(getattr(config, stage).model_dump(mode="json"))]
    content = "the content of its data files" + "".join(f" or of {file}" for file in dict.fromkeys(own))
    what = f"these settings: {', '.join(relevant)}" if relevant else content
    if run.previous_config is None:
        what = f"its settings, or its data files ({run.layout.config}, which would tell, cannot be read)"
    raise RunError(
        f"{run.layout.root} holds a run whose {changed[0]} stage was begun with another config; changed: {what}",
        expected="the settings and data it was begun with",
        why="a run that goes on under other settings is neither the old experiment nor the new one",
        todo="use another `out:` for the new settings (on the command line out=FOLDER), restore the old ones, or delete "
        f"{_again(run.layout, changed)} to do that again",
    )


def check_unit(run: Run, prints: Mapping[str, str]) -> None:
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


def check_parents(run: Run, stage: str, parents: Mapping[str, str]) -> None:
    """A stage that has begun must find the models it was begun with; a comparison is cheap and is made again instead."""
    before = run.manifest.stage(stage)
    named = sorted({*parents, *before.parents})
    changed = [name for name in named if _differ(before.parents.get(name), parents.get(name))]
    if before.status == "pending" or not changed:
        return
    words = {"collect": "collected answers"} | {name: name for name in changed if "." in name}
    told = " and ".join(words.get(name, f"{name} model") for name in changed)
    if stage == "compare":
        run.manifest.forget(stage)
        run.journal.event(stage, "restarted", message=f"the {told} changed since: the comparison is made again")
        return
    raise RunError(
        f"{stage} was begun with another {told} than {run.layout.root} has now",
        expected="what it was begun with",
        why="later stages on other models are neither the old run nor a new one",
        todo=f"restore what it was begun with, delete {_again(run.layout, [stage])} to do that again, or use another `out:`",
    )


def _differ(before: str | None, now: str | None) -> bool:
    """Whether a parent is another one. Of a hub id that was not in the cache, before or now, the commit is not known."""
    unknown = (before is None or now is None) and (before or now or "").startswith(PIN)
    return before != now and not unknown


def _again(layout: Layout, stages: Sequence[str]) -> str:
    """What somebody must delete so that these stages, and those that build on them, are done again."""
    found: list[str] = []
    for stage in STAGES:
        if stage in stages or {*PARENTS[stage]} & {*found}:
            found.append(stage)
    paths = [layout.compare if s == "compare" and layout.compare.exists() else layout.folder(s) for s in found]
    return ", ".join(str(path) for path in paths if path.exists())
