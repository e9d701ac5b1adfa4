"""run.json: each stage's state, its parents by content, its figures and why it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from sawyer.runs.atomic_files import check_sealed, damage_error, hash_folder, read_plain_file, stamp_folder, write_json
from sawyer.version import __version__

Status = Literal["pending", "running", "waiting", "done", "failed", "interrupted"]
KINDS: Mapping[str, tuple[type, ...]] = {
    "status": (str,),
    "started": (int, float, NoneType),
    "ended": (int, float, NoneType),
    "seconds": (int, float),
    "peak_mb": (int, float, NoneType),
    "fingerprint": (str,),
    "parents": (dict,),
    "reason": (str,),
    "figures": (dict,),
}
TODO = "restore the file, or move it away: the stages are then done again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """How far a stage is."""

    status: Status = "pending"
    started: float | None = None  # seconds since 1970
    ended: float | None = None
    seconds: float = 0.0  # of work, all sessions together
    peak_mb: float | None = None  # the most MiB, on the card or else in the process; None: the system does not tell
    fingerprint: str = ""  # of the settings and data it was started with
    parents: Mapping[str, str] = field(default_factory=dict)  # stage -> hash of what it left: its model folder, or its file
    reason: str = ""  # why it stopped, where it did before its end
    figures: Mapping[str, Any] = field(default_factory=dict)


class Manifest:
    """The file and its content; every change is on the disk before the call returns.

    `content`: of another process of the same run, which writes the file. This one then changes its copy alone.
    """

    def __init__(self, path: Path, content: dict[str, Any] | None = None) -> None:
        self.path, self.writes = path, content is None
        self.content = content or read_manifest(path) or {"sawyer": __version__, "versions": {}, "stages": {}}
        self._read: set[str] = set()  # whose content was read in this session

    def stage(self, name: str) -> StageState:
        """A stage's state; pending where the file has none."""
        state = self.content.get("stages", {}).get(name, {})
        return StageState(**{item.name: state[item.name] for item in fields(StageState) if item.name in state})

    def update(self, name: str, **changes: Any) -> None:
        """Change parts of a stage's state."""
        self.content.setdefault("stages", {})[name] = asdict(replace(self.stage(name), **changes))
        self._write()

    def _write(self) -> None:
        if self.writes:
            write_json(self.path, self.content)

    def forget(self, *names: str) -> None:
        """Drop the states of stages that start over: all of them at once, whenever the process is killed."""
        stages = self.content.get("stages", {})
        if [name for name in names if stages.pop(name, None) is not None]:
            self._write()

    def content_hash(self, name: str, path: Path, *, reread: bool = False) -> str:
        """`hash_folder(path)`, cached under `name` for as long as sizes and times stay the same.

        `reread`: a stage is about to build on it, and sizes and times do not show flipped bits; it is read at least once a
        session. Raises RunError where it was read, lies in the run and is not what a stage wrote there.
        """
        hashes = self.content.setdefault("contents", {})
        stamp = stamp_folder(path)
        if hashes.get(name, {}).get("stamp") != stamp or (reread and name not in self._read):
            entry = {"stamp": stamp, "hash": self._hash(path)}
            self._read.add(name)
            if hashes.get(name) != entry:
                hashes[name] = entry
                self._write()
        return str(hashes[name]["hash"])

    def _hash(self, path: Path) -> str:
        if not path.is_relative_to(self.path.parent):  # the user's own folder, which they may change
            return hash_folder(path)
        return check_sealed(path, f"restore it, or delete {path} to do that stage again")

    def note_versions(self, versions: Mapping[str, str]) -> None:
        """Record the versions of the libraries that do the work."""
        self.content["versions"] = {**self.content.get("versions", {}), **versions}
        self._write()

    def note_seed(self, seed: int) -> None:
        """Record the seed."""
        if self.content.get("seed") != seed:
            self.content["seed"] = seed
            self._write()

    def first_day(self) -> date:
        """The date for chat templates that print today's: that of the first stage, so that a resumed run writes the same."""
        if "date" not in self.content:
            self.content["date"] = date.today().isoformat()
            self._write()
        return date.fromisoformat(self.content["date"])


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of run.json; empty where there is none. Raises RunError for one that is damaged."""
    if not path.exists():
        return {}
    try:
        content = json.loads(read_plain_file(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damage_error(path, error, TODO) from error
    if not isinstance(content, dict):
        raise damage_error(path, ValueError("it holds no stages"), TODO)
    for name, kind in (("stages", dict), ("contents", dict), ("versions", dict)):
        if not isinstance(content.get(name, {}), kind):
            raise damage_error(path, ValueError(f"`{name}` is no object"), TODO)
    for stage, state in content.get("stages", {}).items():
        _check_state(path, stage, state)
    try:
        date.fromisoformat(content.get("date", "2000-01-01"))
    except (TypeError, ValueError) as error:
        raise damage_error(path, ValueError(f"date is {content['date']!r}"), TODO) from error
    return content


def _check_state(path: Path, stage: str, state: Any) -> None:
    """Raise RunError where a value that the program reads has another type than it wrote."""
    if not isinstance(state, dict):
        raise damage_error(path, ValueError(f"{stage} is no object"), TODO)
    for name, kinds in KINDS.items():
        if name in state and not isinstance(state[name], kinds):
            raise damage_error(path, ValueError(f"{stage}.{name} is {state[name]!r}"), TODO)
    if state.get("status", "pending") not in get_args(Status):
        raise damage_error(path, ValueError(f"{stage}.status is {state['status']!r}"), TODO)
