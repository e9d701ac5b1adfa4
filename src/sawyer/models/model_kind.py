"""What a model's config.json says before its weights are loaded: what it can be asked to do, and how much it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.errors import ModelError
from sawyer.models.load import context_in
from sawyer.models.pretrained import Kind, check_family, check_folder, explain_load_errors, quiet, remote_code_kwargs
from sawyer.runs import base_of, is_adapter, on_disk


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model that can do what is asked of it, as far as its config tells."""

    context: int  # the most tokens it reads
    is_encoder: bool  # reads a prompt and an answer as a pair of texts, without a template


def model_facts(source: str | Path, kind: Kind) -> ModelFacts:
    """What a folder or hub id (or the model that its adapters belong to) is; its weights are looked for, not loaded.

    Raises ModelError where it cannot be opened as that kind: training would come to the same end, after all stages before it.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    base = on_disk(base_of(source)) if is_adapter(source) else source
    for folder in dict.fromkeys((source, base)):
        check_folder(folder, weights=True)
    check_family(base, kind)
    with explain_load_errors(base, "language model" if kind == "causal" else "classifier"), quiet():
        config: Any = AutoConfig.from_pretrained(base, **remote_code_kwargs(base))
    check_family(base, kind)  # of a hub id that was not in the cache before
    is_encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if kind == "causal" and is_encoder:
        raise ModelError(
            f"{source} is an encoder (of the family {config.model_type!r}), which reads and does not write",
            expected="a decoder such as GPT-2, Llama or Qwen",
            why="answers are asked of it",
            todo="name a decoder; an encoder can only be a reward model or a classifier",
        )
    return ModelFacts(context=context_in(config), is_encoder=is_encoder)
