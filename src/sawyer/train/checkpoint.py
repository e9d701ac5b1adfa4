"""A stage's full state on disk: written beside the last one, swapped in whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sawyer import processes
from sawyer.runs import check_sealed, damaged, is_complete, replace_folder

STATE = "state.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` by `state` (tensors and plain values). A full disk leaves the old one."""
    with replace_folder(folder) as new:
        restore_state(new, state)


def restore_state(new: Path, state: dict[str, Any]) -> None:
    """Write `state` into a folder that `replace_folder` has opened, beside what else lies there; `load_checkpoint` reads it."""
    if not processes.looks_on():
        torch.save(state, new / STATE)


def load_checkpoint(folder: Path, stage: Path | None = None) -> dict[str, Any] | None:
    """The state saved last, on the CPU, or None where no complete checkpoint lies. `stage`: its stage's folder, if that is not
    the one above it.

    Raises RunError for a damaged one: a bit that has flipped in a weight is found by its checksum alone.
    """
    if not is_complete(folder):
        return None
    todo = f"restore the file, or delete {stage or folder.parent} to do this stage again"
    processes.first(lambda: check_sealed(folder, todo))
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zip and the system each have their own classes
        raise damaged(folder / STATE, error, todo) from error
    return state
