"""An open run: its folder is locked, its journal and manifest are ready, and it can be stopped."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from types import FrameType
from typing import IO, Any

import yaml

from sawyer.errors import RunError
from sawyer.runs.atomic_files import disk_errors, lock, open_run_file, read_plain_file, recover_all, refuse_link, write_text
from sawyer.runs.journal import Journal
from sawyer.runs.labels import STAGES
from sawyer.runs.layout import Layout
from sawyer.runs.manifest import Manifest
from sawyer.version import __version__

OWNER = "process "  # how the lock file begins: which process holds it
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "peft")


class Stop:
    """A request to stop, looked at between steps. `announce` is called at once, so that the user sees that it was received."""

    def __init__(self, announce: Callable[[str], None] | None = None) -> None:
        self.reason, self.announce = "", announce

    def set(self, reason: str) -> None:
        """Request a stop."""
        self.reason = reason
        if self.announce is not None:
            # In a signal's handler the output may be in the middle of a line: then nothing can be printed.
            with contextlib.suppress(RuntimeError, OSError):
                self.announce(reason)

    def is_set(self) -> bool:
        """Whether this process was asked to stop."""
        return bool(self.reason)


@dataclass(slots=True)
class Run:
    """What a stage gets: paths, journal, manifest, and whether to stop."""

    layout: Layout
    journal: Journal
    manifest: Manifest
    stop: Stop
    previous_config: dict[str, Any] | None  # as the folder had it before; None for a new run

    def adopt(self, config: Mapping[str, Any]) -> None:
        """Write the config in use, with every default filled in."""
        if not self.journal.writes:
            return
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        if not self.layout.config.exists() or self.layout.config.read_bytes() != text.encode():
            write_text(self.layout.config, text)
        self.manifest.note_seed(int(config.get("seed", 0)))

    def note_versions(self, now: Mapping[str, str]) -> str:
        """Note the versions that do the work from now on; returns which have changed since the last work, in words."""
        before = self.manifest.content.get("versions", {})
        if before != now:
            self.manifest.note_versions(now)
        return ", ".join(f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name])


@contextlib.contextmanager
def open_run(root: Path) -> Iterator[Run]:
    """Open a run's folder for this process, making it if need be. `follow_run` is for other processes of the same launcher.

    Raises RunError when it cannot be made or written, is at work elsewhere, holds files that are not a run's, or has a link in
    the place of one of its own.
    """
    layout = Layout(root)
    with contextlib.ExitStack() as stack:
        with disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(os.fdopen(open_run_file(layout.lock), "rb+", buffering=0))
            _take_lock(file, root)
            for stage in STAGES:
                refuse_link(layout.folder(stage))
                refuse_link(layout.members(stage))
                refuse_link(layout.encoded_rows(stage))
            for folder in (layout.round(1).parent, *layout.rounds_of_collection()):
                refuse_link(folder)
            recover_all(root)
        manifest = Manifest(layout.manifest)
        journal = Journal(layout)
        run = Run(layout, journal, manifest, Stop(journal.announce_stop), _previous_config(layout.config))
        if not layout.manifest.exists():
            run.note_versions(library_versions())
        for path in journal.missing:
            message = f"{path} is gone: its rows, gates included, are in no figure or page"
            journal.event("run", "warning", message=message, gone=path.name)
        yield run


def follow_run(root: Path, content: dict[str, Any], previous_config: dict[str, Any] | None) -> Run:
    """The same run for a process that writes nothing of it; `content` is the manifest's, as the process that holds the folder
    has read it."""
    layout = Layout(root)
    journal = Journal(layout, writes=False)
    return Run(layout, journal, Manifest(layout.manifest, content), Stop(journal.announce_stop), previous_config)


@contextlib.contextmanager
def handle_signals(stop: Stop) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal request a stop; a second signal ends the work where it is.

    Only the main thread receives signals. A hang-up that is ignored (`nohup`) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings that differ."""
    names: list[str] = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            names.append(f"{prefix}{key}")
    return names


def _take_lock(file: IO[bytes], root: Path) -> None:
    """Take the lock or say who has it; the system releases it however the process ends."""
    file.seek(0)
    owner = file.read(100).decode("utf-8", "replace").strip()
    if owner and not owner.startswith(OWNER):
        raise RunError(
            f"{root / '.lock'} is not the lock of a run",
            expected="a file that names the process on the run",
            why="its content would be lost",
            todo="look what the file is; if nothing needs it, delete it",
        )
    try:
        lock(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):  # not held: this file system cannot lock
            raise
        raise RunError(
            f"{root} is at work in another process{f' ({owner})' if owner else ''}",
            expected="one process on a run's folder at a time",
            why="two would overwrite each other's steps",
            todo="wait for it, stop it, or use another `out:`",
        ) from error
    file.truncate(0)
    file.write(f"{OWNER}{os.getpid()}".encode())


def _previous_config(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = yaml.safe_load(read_plain_file(path).decode("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # it is written again; a stage's settings are recognised by its fingerprint
    return content if isinstance(content, dict) else None


def library_versions() -> dict[str, str]:
    """Of Python, of this package and of the libraries that decide a result."""
    versions = {"python": python_version(), "sawyer": __version__}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
