"""A run by its folder, `sawyer run runs/mine`: the config that lies in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any

from sawyer.config import Config, load_config
from sawyer.errors import RunError
from sawyer.runs import Layout

FILES = ("data", "prompts", "text")  # settings that name files; relative ones are taken from the folder the command runs in


def run_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a run's file, or of a run's folder, which is then its `out` wherever it lies.

    Raises ConfigError as `load_config`, RunError for a folder without a run and for one whose data lies relative to another
    folder than the command's.
    """
    if not os.path.isdir(path):
        return load_config(path, overrides)
    layout = Layout(Path(path))
    if not layout.config.is_file():
        raise RunError(
            f"there is no run in {path}",
            expected="a run's file, or a folder that `sawyer run` or `sawyer demo` wrote",
            todo="check the path; `sawyer runs` lists the runs",
        )
    config = load_config(layout.config, overrides)
    _check_working_folder(config, layout.root)
    has_out = any(override.partition("=")[0].strip() == "out" for override in overrides)
    # A spelling that leads here stays: by it a command elsewhere says where the relative paths lead.
    is_here = Path(config.out).resolve() == layout.root.resolve()
    return config if has_out or is_here else config.model_copy(update={"out": str(layout.root)})


def _check_working_folder(config: Config, folder: Path) -> None:
    """Raise RunError where files that the run names lie in the folder that it was begun in, and not here."""
    begun_in = _begun_in(Path(config.out), folder)
    if begun_in is None or begun_in == Path.cwd():
        return
    missing = [file for file in _named_files(config.model_dump(mode="json")) if not os.path.isabs(file)]
    missing = [file for file in missing if not os.path.exists(file) and (begun_in / file).exists()]
    if missing:
        raise RunError(
            f"{folder} names {missing[0]}, which is not in the folder that this command runs in",
            expected=f"the command in {begun_in}, where the run was begun",
            why="a run's file may name others by relative paths",
            todo=f"cd {begun_in} and run `sawyer run {config.out}`",
        )


def _begun_in(out: Path, folder: Path) -> Path | None:
    """Where `out` of a config leads to `folder`; None where it is absolute, or the folder was renamed."""
    here = folder.resolve()
    parts = Path(os.path.normpath(out)).parts
    if out.is_absolute() or here.parts[-len(parts) :] != parts:
        return None
    return Path(*here.parts[: -len(parts)])


def _named_files(value: Any, setting: str = "") -> Iterator[str]:
    """The files that a config names, however deep, and its models where they are folders."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _named_files(item, setting if setting == "models" else name)
    elif isinstance(value, list):
        for item in value:
            yield from _named_files(item, setting)
    elif isinstance(value, str) and setting in (*FILES, "model", "models", "template") and not has_magic(value):
        yield value
