"""A stage's full state on disk: written beside the last one, swapped in whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sawyer.runs import check_sealed, damage_error, is_complete, replace_folder
from sawyer.train import distributed

STATE = "state.pt"


def write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Rank 0 lets `write` fill a new folder, seals it with the checksums of its files and renames it to `folder`.

    The other processes wait: until they have come here none may still read the old folder, and after it all see the new one.
    Raises RunError in all processes, the old folder untouched, where the disk refuses.
    """

    def replace() -> None:
        with replace_folder(folder) as new:
            write(new)

    distributed.on_rank_zero(replace)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` by `state` (tensors and plain values). A full disk leaves the old one."""
    write_folder(folder, lambda new: write_state(new, state))


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` into a folder that `write_folder` has opened, beside what else lies there; `load_checkpoint` reads it."""
    torch.save(state, folder / STATE)


def load_checkpoint(folder: Path, stage: Path | None = None) -> dict[str, Any] | None:
    """The state saved last, on the CPU, or None where no complete checkpoint lies. `stage`: its stage's folder, if that is not
    the one above it.

    Every process reads it. Raises RunError for a damaged one.
    """
    if not is_complete(folder):
        return None
    todo = f"restore the file, or delete {stage or folder.parent} to do this stage again"
    # torch.load does not notice a flipped bit in a weight; the checksum does. One process reads the file for it, not each.
    distributed.on_rank_zero(lambda: check_sealed(folder, todo))
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zip and the system each have their own classes
        raise damage_error(folder / STATE, error, todo) from error
    return state
