"""Model folders in Hugging Face's format: what we write loads in plain transformers, and what it loads we read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sawyer import processes
from sawyer.models.load import OURS, quiet


def save_model(folder: Path, model: Any, tokenizer: Any, extra: Mapping[str, Any] | None = None) -> None:
    """Write weights, config and tokenizer (with its chat template) into an existing folder; `extra` goes into config.json."""
    vars(model.config).pop(OURS, None)  # what the model that this one grew from was told
    if extra:
        setattr(model.config, OURS, dict(extra))
    if processes.looks_on():  # another process writes the same
        return
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_extra(folder: str | Path) -> dict[str, Any]:
    """What `save_model` was told besides the model; empty for a folder written elsewhere."""
    found: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get(OURS) or {}
    return found
