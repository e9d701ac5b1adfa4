"""A stage's full state on disk: written beside the last one, swapped in whole, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from sawyer.runs import is_complete, replace_folder

STATE = "state.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` by `state` (tensors and plain values). A full disk leaves the old one."""
    with replace_folder(folder) as new:
        torch.save(state, new / STATE)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state saved last, on the CPU, or None where no complete checkpoint lies."""
    if not is_complete(folder):
        return None
    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return state


def drop_checkpoint(folder: Path) -> None:
    """Remove the state of a stage that is done: its model is what counts from then on."""
    shutil.rmtree(folder, ignore_errors=True)
