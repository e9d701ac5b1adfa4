"""What happened: a run's folder, its manifest and journal, files that are whole or not there."""

from sawyer.runs.files import (
    MARKER,
    damaged,
    disk_errors,
    hash_files,
    hash_folder,
    is_complete,
    link,
    plain,
    read_rows,
    remove_folder,
    replace_folder,
    write_json,
    write_text,
)
from sawyer.runs.given import ADAPTER, BESIDE, TOLD, base_of, commit_of, is_adapter, is_local, settings_of
from sawyer.runs.journal import Gate, Journal, Listener, last_gates
from sawyer.runs.layout import Layout
from sawyer.runs.manifest import Manifest, StageState, read_manifest
from sawyer.runs.run import Run, Stop, changed_keys, handle_signals, open_run
from sawyer.runs.words import SETTINGS, SHORT, STAGES, clock

__all__ = [
    "ADAPTER",
    "BESIDE",
    "MARKER",
    "SETTINGS",
    "SHORT",
    "STAGES",
    "TOLD",
    "Gate",
    "Journal",
    "Layout",
    "Listener",
    "Manifest",
    "Run",
    "StageState",
    "Stop",
    "base_of",
    "changed_keys",
    "clock",
    "commit_of",
    "damaged",
    "disk_errors",
    "handle_signals",
    "hash_files",
    "hash_folder",
    "is_adapter",
    "is_complete",
    "is_local",
    "last_gates",
    "link",
    "open_run",
    "plain",
    "read_manifest",
    "read_rows",
    "remove_folder",
    "replace_folder",
    "settings_of",
    "write_json",
    "write_text",
]
