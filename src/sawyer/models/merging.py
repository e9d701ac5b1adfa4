"""A folder of adapters as a whole model, written out: what transformers, llama.cpp's converters and the like load alone."""

from __future__ import annotations

from pathlib import Path

from sawyer.models.classifier import load_classifier
from sawyer.models.load import load_policy, load_reader, load_reward
from sawyer.models.model_folder import read_extra, save_model
from sawyer.models.scoring import member_folder
from sawyer.runs import is_adapter, settings_of


def save_merged(folder: Path, new: Path) -> None:
    """Write the model that the adapters in `folder` make of theirs into the existing folder `new`, with tokenizer and facts; of
    an ensemble every member. Raises ModelError where the model they belong to is gone."""
    tokenizer, extra = load_reader(folder), read_extra(folder)
    kinds = [str(kind) for kind in settings_of(folder).get("architectures") or ()]
    judges = any(kind.endswith("ForSequenceClassification") for kind in kinds)
    classes = judges and "reward_scale" not in extra and len(settings_of(folder).get("id2label", ())) > 1
    load = load_classifier if classes else load_reward if judges else load_policy
    save_model(new, load(folder, tokenizer), tokenizer, extra)
    number = 1
    while is_adapter(member_folder(folder, number)):
        member_folder(new, number).mkdir()
        save_merged(member_folder(folder, number), member_folder(new, number))
        number += 1
