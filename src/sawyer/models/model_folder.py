"""Model folders in Hugging Face's format: what we write loads in plain transformers, and what it loads we read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sawyer.models.adapters import write_adapter
from sawyer.models.classifier import load_classifier
from sawyer.models.load import OURS, load_policy, load_reader, load_reward
from sawyer.models.network_parts import network_of
from sawyer.models.pretrained import quiet
from sawyer.models.scoring import member_folder
from sawyer.runs import BESIDE, FACTS_FILE, facts_of, is_adapter, json_safe, settings_of


def save_model(folder: Path, model: Any, tokenizer: Any, extra: Mapping[str, Any] | None = None) -> None:
    """Write weights, config and tokenizer (with its chat template) into an existing folder; `extra` goes into config.json.

    Of a network with adapters only these are written, and its heads: PEFT loads the folder, and so does all that reads a model
    here.
    """
    adapter = getattr(model, "attached_adapter", None)
    if adapter is None:
        vars(model.config).pop(OURS, None)  # the facts of the model that this one was trained from
        if extra:
            setattr(model.config, OURS, dict(extra))
    if adapter is None:
        with quiet():
            model.save_pretrained(folder)
    else:
        beside = write_adapter(folder, network_of(model), adapter)
        _write(folder / FACTS_FILE, {**_head(model), OURS: {**(extra or {}), **beside}})
        if (generation := getattr(network_of(model), "generation_config", None)) is not None:
            generation.save_pretrained(folder)  # the ends, of which the model below may know fewer
    tokenizer.save_pretrained(folder)


def _head(model: Any) -> dict[str, Any]:
    """What config.json would say of the network's kind and its head."""
    network = network_of(model)
    kind = {"architectures": [type(network).__name__]}
    if not model.attached_adapter.heads:
        return kind
    names = ("id2label", "label2id", "problem_type")
    return kind | {name: getattr(network.config, name) for name in names if getattr(network.config, name)}


def copy_model(source: Path, folder: Path, extra: Mapping[str, Any], *, besides: tuple[str, ...] = ()) -> None:
    """Copy a saved model into an existing folder, `extra` in place of its own facts, without the files in `besides`.

    Nothing is loaded: a model is written as often as it is kept, and memory holds it once.
    """
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name not in besides:
            shutil.copyfile(path, folder / path.name)
    path_of_facts = folder / (FACTS_FILE if is_adapter(folder) else "config.json")
    settings = json.loads(path_of_facts.read_text(encoding="utf-8"))
    beside = {BESIDE: settings[OURS][BESIDE]} if BESIDE in (settings.get(OURS) or {}) else {}
    settings[OURS] = {**extra, **beside}
    _write(path_of_facts, settings)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Into a folder that is put in its place whole, by one process."""
    path.write_text(json.dumps(json_safe(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_extra(folder: str | Path) -> dict[str, Any]:
    """The `extra` of `save_model`; empty for a folder that another program wrote."""
    facts = facts_of(settings_of(folder), folder)
    return {name: value for name, value in facts.items() if name != BESIDE}


def save_merged(folder: Path, new: Path) -> None:
    """Write the model that the adapters in `folder` make of theirs into the existing folder `new`, with tokenizer and facts; of
    an ensemble every member. Raises ModelError where the model they belong to is gone."""
    tokenizer, extra = load_reader(folder), read_extra(folder)
    kinds = [str(kind) for kind in settings_of(folder).get("architectures") or ()]
    scores = any(kind.endswith("ForSequenceClassification") for kind in kinds)
    classes = scores and "reward_scale" not in extra and len(settings_of(folder).get("id2label", ())) > 1
    load = load_classifier if classes else load_reward if scores else load_policy
    save_model(new, load(folder, tokenizer), tokenizer, extra)
    number = 1
    while is_adapter(member_folder(folder, number)):
        member_folder(new, number).mkdir()
        save_merged(member_folder(folder, number), member_folder(new, number))
        number += 1
