"""What happened: a run's folder, its manifest and journal, files that are whole or not there."""

from sawyer.runs.atomic_files import (
    MARKER,
    check_sealed,
    damage_error,
    disk_errors,
    hash_files,
    is_complete,
    json_safe,
    link,
    new_file,
    read_rows,
    remove_folder,
    remove_leftovers,
    replace_folder,
    write_json,
    write_text,
)
from sawyer.runs.journal import Gate, Listener, check_journal, last_gates
from sawyer.runs.labels import SETTINGS, SHORT, STAGES, clock
from sawyer.runs.layout import Layout
from sawyer.runs.manifest import Manifest, read_manifest
from sawyer.runs.model_source import (
    ADAPTER,
    BESIDE,
    FACTS_FILE,
    base_of,
    commit_of,
    facts_of,
    is_adapter,
    is_local,
    language_model,
    model_in_run,
    on_disk,
    settings_of,
)
from sawyer.runs.round_archive import collected_files, count_kept, keep_round, round_before
from sawyer.runs.run_folder import Run, Stop, changed_keys, follow_run, handle_signals, library_versions, open_run
