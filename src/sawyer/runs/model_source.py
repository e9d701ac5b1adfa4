"""A model by its folder or hub id: its files on this disk, and the facts in them. Nothing is loaded."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sawyer.errors import ModelError
from sawyer.runs.labels import STAGES
from sawyer.runs.layout import Layout

ADAPTER = "adapter_config.json"
# Our facts about adapters. Not in a config.json: with one, transformers takes the folder for a whole model.
FACTS_FILE = "sawyer.json"
BESIDE = "base_beside"  # among our facts: the relative path from a folder of adapters to their model, where both lie in one run
# What ends so is a file's name; `owner/name` of the hub may have dots in it, but never these.
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Endings of a language model's class: it loads as a reward model as well, with an untrained head.
LANGUAGE_MODELS = ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration")
CLASSIFIER = "ForSequenceClassification"
FILES = (".bin", ".ckpt", ".gguf", ".json", ".pt", ".pth", ".safetensors", ".yaml", ".yml")


def is_local(source: str | Path) -> bool:
    """Whether a model's name means a folder here and never a hub id; the hub is then not queried where the folder is missing.

    A hub id is `name` or `owner/name`. One whose owner is a folder here counts as a path: the hub would take a minute to
    answer that it has no `runs/mien`. `os.path` returns False for a name too long for a file; `Path.exists` raises OSError.
    """
    path = Path(source)
    if isinstance(source, Path) or path.is_absolute() or source.startswith((".", "~")) or os.path.exists(path):
        return True
    return len(path.parts) != len(source.split("/")) or len(path.parts) > 2 or _half_there(path) or path.suffix in FILES


def model_in_run(folder: str | Path) -> str:
    """What to name in place of a run's folder, where a model's is wanted; empty where the folder is no run's."""
    layout = Layout(Path(folder))
    if not (os.path.isfile(layout.config) or os.path.isfile(layout.manifest)):  # no error where the name is too long for a file
        return ""
    models = [layout.model(stage) for stage in reversed(tuple(STAGES))]
    there = [str(one) for one in models if any((one / name).is_file() for name in ("config.json", ADAPTER))]
    return f"name a model in it: {', '.join(there)}" if there else "it has no model yet: finish its run first"


def _half_there(path: Path) -> bool:
    return len(path.parts) == 2 and os.path.isdir(path.parts[0])


def commit_of(source: str) -> str | None:
    """The commit of a hub id that the cache has as its newest, which is what loads; None for what was never loaded.

    The hub's own layout (`models--owner--name/refs/main`) is read, so that nothing heavy is imported for it.
    """
    try:
        return (_cache_folder(source) / "refs" / "main").read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def on_disk(source: str | Path) -> str | Path:
    """The folder in which the cache keeps a hub id's files; whatever is a folder itself, or is not in the cache, as it is."""
    commit = None if os.path.isdir(source) else commit_of(str(source))
    return source if commit is None else _cache_folder(str(source)) / "snapshots" / commit


def settings_of(source: str | Path) -> dict[str, Any]:
    """The config.json of a model's folder, or of a hub id that is in the cache; empty where there is none that can be read.

    For a folder of adapters: their base model's, overridden by the facts that were saved beside the adapters.
    """
    if is_adapter(source):
        facts = _read_json(Path(source) / FACTS_FILE)
        if not facts and _read_json(Path(source) / ADAPTER).get("task_type") == "SEQ_CLS":
            return {}  # another program's: how many labels its head has is known to its weights alone
        try:
            return {**settings_of(base_of(source)), **facts}
        except ModelError:
            return facts
    return _read_json(Path(on_disk(source)) / "config.json")


def language_model(settings: Mapping[str, Any]) -> str | None:
    """The class of a language model, as its config.json names it; None for a model that judges, and where none is named."""
    kinds = [str(kind) for kind in settings.get("architectures") or ()]
    is_classifier = any(kind.endswith(CLASSIFIER) for kind in kinds)
    return kinds[0] if not is_classifier and any(kind.endswith(LANGUAGE_MODELS) for kind in kinds) else None


def facts_of(settings: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The entries that SAWYER adds to a model's config.json: `{"reward_shift": 0.5, "reward_scale": 2.0}`; empty for a model
    from elsewhere. Raises ModelError for invalid ones: scores would be computed from them."""
    facts = settings.get("sawyer")
    if facts is None:
        return {}
    odd = "" if isinstance(facts, dict) else "is no table"
    if not odd:
        ensemble = facts.get("ensemble")
        entries = {
            **facts,
            **{f"ensemble.{name}": value for name, value in (ensemble if isinstance(ensemble, dict) else {}).items()},
        }
        wrong = (name for name, fits in FACTS.items() if entries.get(name) is not None and not fits(entries[name]))
        odd = next((f".{name} is {str(entries[name])[:60]!r}" for name in wrong), "")
    if odd:
        raise ModelError(
            f"{source}: in its config.json `sawyer`{odd if odd.startswith('.') else f' {odd}'}",
            expected="what this program wrote beside the weights",
            why="rewards are computed with it",
            todo="copy the folder again, or delete the entry `sawyer` to take the model's scores as they are",
        )
    return dict(facts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_MEMBERS


MOST_MEMBERS = 1000  # of an ensemble
FACTS: Mapping[str, Callable[[Any], bool]] = {
    "reward_shift": _is_number,
    "reward_scale": lambda value: _is_number(value) and value > 0,
    "loss": lambda value: isinstance(value, str),
    "ensemble": lambda value: isinstance(value, dict),
    "ensemble.heads": _is_count,
    "ensemble.members": _is_count,
    "ensemble.by": lambda value: value in ("seeds", "heads"),
    "ensemble.reward": lambda value: value in ("mean", "min", "mean_minus_variance"),
    "ensemble.penalty": _is_number,
    "ensemble.own_disagreement": _is_number,
    "ensemble.units": lambda value: (
        isinstance(value, list | tuple)
        and all(isinstance(one, list | tuple) and len(one) == 2 and all(map(_is_number, one)) for one in value)
    ),
}


def is_adapter(source: str | Path) -> bool:
    """Whether a folder holds adapters (LoRA, as PEFT writes them) instead of a whole model."""
    return os.path.isfile(Path(source) / ADAPTER)


def base_of(folder: str | Path) -> str:
    """The whole model, a folder or hub id, to which a folder's adapters belong. Raises ModelError where it is gone.

    A hub id must be in the cache already: whoever wrote the folder must not choose what is fetched from the network.
    """
    base = str(_read_json(Path(folder) / ADAPTER).get("base_model_name_or_path") or "")
    remote = bool(base) and not is_local(base) and HUB_ID.fullmatch(base) is not None
    if base and not is_adapter(base) and (commit_of(base) is not None if remote else os.path.isdir(base)):
        return base
    ours = _read_json(Path(folder) / FACTS_FILE).get("sawyer")
    relative = ours.get(BESIDE) if isinstance(ours, dict) else None
    if isinstance(relative, str) and os.path.isdir(Path(folder) / relative):
        return os.path.normpath(Path(folder).resolve() / relative)
    if remote:
        raise ModelError(
            f"{folder} holds adapters for the hub's {base}, which is not on this disk",
            expected="that model in the hub's cache",
            why="a folder never touches the network: who wrote it must not choose what is fetched",
            todo=f"if you trust that model, fetch it with `hf download {base}` and run the same command again",
        )
    raise ModelError(
        f"{folder} holds adapters for {base[:200] or 'a model that it does not name'}, which is not there",
        expected="the model that they were trained on: adapters are differences from its weights",
        todo="put it back, or write its new place into base_model_name_or_path of adapter_config.json",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _cache_folder(source: str) -> Path:
    """Where the hub's cache keeps a model (the variables are those that huggingface_hub reads)."""
    variables = os.environ
    home = Path(variables.get("HF_HOME") or Path(variables.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    hub = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    return Path(hub).expanduser() / "--".join(["models", *source.split("/")])
