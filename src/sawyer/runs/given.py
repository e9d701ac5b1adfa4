"""What is on this disk of a model that somebody named: its folder, or what the hub's cache has of it. Nothing is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# What ends so is a file's name; `owner/name` of the hub may have dots in it, but never these.
FILES = (".bin", ".ckpt", ".gguf", ".json", ".pt", ".pth", ".safetensors", ".yaml", ".yml")


def is_local(source: str | Path) -> bool:
    """Whether a model's name means a folder here and never a hub id: then it need not be asked for where there is none.

    A hub id is `name` or `owner/name`. One whose owner is a folder here is taken for a path: `runs/mien`, misspelt, is not
    asked of the hub, which would take a minute to say that it does not know it.
    """
    path = Path(source)
    if isinstance(source, Path) or path.is_absolute() or source.startswith((".", "~")) or path.exists():
        return True
    return len(path.parts) != len(source.split("/")) or len(path.parts) > 2 or _half_there(path) or path.suffix in FILES


def _half_there(path: Path) -> bool:
    return len(path.parts) == 2 and Path(path.parts[0]).is_dir()


def commit_of(source: str) -> str | None:
    """The commit of a hub id that the cache has as its newest, which is what loads; None for what was never loaded.

    The hub's own layout (`models--owner--name/refs/main`) is read, so that nothing heavy is imported for it.
    """
    try:
        return (_cached(source) / "refs" / "main").read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def settings_of(source: str | Path) -> dict[str, Any]:
    """The config.json of a model's folder, or of a hub id that is in the cache; empty where there is none that can be read."""
    commit = None if Path(source).is_dir() else commit_of(str(source))
    folder = Path(source) if commit is None else _cached(str(source)) / "snapshots" / commit
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _cached(source: str) -> Path:
    """Where the hub's cache keeps a model (the variables are those that huggingface_hub reads)."""
    said = os.environ
    home = Path(said.get("HF_HOME") or Path(said.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    hub = said.get("HF_HUB_CACHE") or said.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    return Path(hub).expanduser() / "--".join(["models", *source.split("/")])
