"""Keeping a round of training as a run's folder of its own, before its stages are done again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sawyer.runs.atomic_files import is_complete, read_plain_file, replace_folder, write_json
from sawyer.runs.layout import Layout
from sawyer.runs.manifest import read_manifest


def keep_round(layout: Layout, number: int, models: Iterable[str], config: Mapping[str, Any]) -> None:
    """Write the run as it is into `rounds/NUMBER`, which is then a run's folder of its own; the run itself stays untouched.

    The folders of the stages in `models` are there by hard links, which take no room; where the system makes none, they are
    copied. Journal, figures and pages are copies, since the run goes on writing its own. `config`: the run's settings. Raises
    RunError when the disk refuses; a kill leaves the whole round or none of it.
    """
    target = layout.round(number)
    copies = [layout.metrics, layout.events, layout.samples, layout.journal, layout.manifest]
    copies += [layout.compare, layout.summary, layout.report, layout.judgements, layout.agreement, *collected_files(layout)]
    with replace_folder(target) as folder:
        for path in copies:
            if path.exists():
                copy = folder / path.relative_to(layout.root)
                copy.parent.mkdir(exist_ok=True)
                copy.write_bytes(read_plain_file(path))
        for stage in models:
            if layout.folder(stage).is_dir():
                shutil.copytree(layout.folder(stage), folder / stage, copy_function=_hard_link, dirs_exist_ok=True)
        new = Layout(folder)
        # Its page and its commands name the folder in which it lies.
        new.config.write_text(yaml.safe_dump({**config, "out": str(target)}, sort_keys=False, allow_unicode=True), "utf-8")
        if new.summary.exists():
            _rename_out(new.summary, target)


def count_kept(layout: Layout, stage: str) -> int:
    """How many rounds are kept, without the one that holds the run's own `stage` as it is now: that one was kept by a process
    that was killed before it went on, and is kept again."""
    number, start = layout.count_rounds(), _start_of(layout, stage)
    is_same = number > 0 and start is not None and _start_of(Layout(layout.round(number)), stage) == start
    return number - 1 if is_same else number


def round_before(layout: Layout) -> tuple[str, Path] | None:
    """(its name in a comparison, its folder) of the last earlier round's RL model; None where there is none. A round that was
    refused before RL has none, and the one before it counts."""
    for earlier in reversed(layout.earlier_rounds()):
        if is_complete(earlier.model("rl")):
            return f"rl_round_{earlier.root.name}", earlier.model("rl")
    return None


def collected_files(layout: Layout) -> list[Path]:
    """The collected answers, round by round."""
    files = list[Path]()
    while (path := layout.answers_of(len(files) + 1)).exists():
        files.append(path)
    return files


def _start_of(layout: Layout, stage: str) -> Any:
    return read_manifest(layout.manifest).get("stages", {}).get(stage, {}).get("started")


def _hard_link(source: str, target: str) -> None:
    """The same file under a second name. Files of a run are replaced, never written into, so that neither name sees a change
    of the other's."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _rename_out(summary: Path, folder: Path) -> None:
    content = json.loads(read_plain_file(summary))
    write_json(summary, {**content, "out": str(folder)})
