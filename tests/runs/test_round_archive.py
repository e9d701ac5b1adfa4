"""A round that is kept: whole or not there, without a second copy of a model, and a run's folder of its own."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sawyer.errors import RunError
from sawyer.runs import Layout, Manifest, base_of, count_kept, is_complete, keep_round, open_run, replace_folder, round_before

MODELS = ("base", "sft", "reward", "rl")


def write_model(folder: Path, **files: str) -> None:
    with replace_folder(folder) as new:
        (new / "config.json").write_text("{}")
        (new / "model.safetensors").write_text(str(folder.parent.name))
        for name, text in files.items():
            (new / name.replace("__", ".")).write_text(text)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A finished run: models, journal, figures."""
    layout = Layout(tmp_path / "mine")
    with open_run(layout.root) as run:
        for stage in MODELS:
            run.manifest.update(stage, status="done", started=1.0 + len(stage), figures={"n": 1})
            write_model(layout.model(stage))
        run.adopt({"out": str(layout.root), "seed": 3})
        run.journal.event("rl", "done")
        run.journal.metrics("rl", 1, {"loss": 2.0})
        run.journal.sync()
    layout.summary.write_text(json.dumps({"out": str(layout.root), "gates": {}}))
    layout.report.write_text("page")
    layout.compare.write_text("{}\n")
    return layout


def keep(layout: Layout, number: int = 1) -> Layout:
    keep_round(layout, number, MODELS, yaml.safe_load(layout.config.read_text()))
    return Layout(layout.round(number))


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_it_is_a_run_of_its_own_and_the_run_is_as_before(layout: Layout) -> None:
    before = files_of(layout.root)
    kept = keep(layout)
    after = files_of(layout.root)
    assert {name: text for name, text in after.items() if not name.startswith("rounds/")} == before
    for stage in MODELS:
        assert is_complete(kept.model(stage))
        ours, theirs = (one.model(stage) / "model.safetensors" for one in (layout, kept))
        assert ours.stat().st_ino == theirs.stat().st_ino, "a hard link takes no room"
    assert yaml.safe_load(kept.config.read_text()) == {"out": str(kept.root), "seed": 3}
    assert json.loads(kept.summary.read_text())["out"] == str(kept.root)
    with open_run(kept.root) as run:  # its journal has its checksums
        assert run.manifest.stage("rl").status == "done" and run.journal.missing == []
    assert [one.root for one in layout.earlier_rounds()] == [kept.root]
    assert round_before(layout) == ("rl_round_1", kept.model("rl"))


def test_neither_sees_what_becomes_of_the_other(layout: Layout) -> None:
    kept = keep(layout)
    with open_run(layout.root) as run:
        run.journal.metrics("rl", 2, {"loss": 1.0})
        write_model(layout.model("rl"), note__txt="of the second round")
        run.manifest.forget("reward", "rl")
    assert kept.metrics.read_text().count("\n") == 1 and not (kept.model("rl") / "note.txt").exists()
    assert Manifest(kept.manifest).stage("rl").status == "done" and Manifest(layout.manifest).stage("rl").status == "pending"
    shutil.rmtree(layout.folder("sft"))
    assert (kept.model("sft") / "model.safetensors").read_text() == "sft"


def test_where_no_hard_links_can_be_made_files_are_copied(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", refuse)
    kept = keep(layout)
    assert (kept.model("rl") / "model.safetensors").read_text() == "rl" and is_complete(kept.model("rl"))


def test_a_full_disk_leaves_no_half_round(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files_of(layout.root)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", full)
        with pytest.raises(RunError, match="the disk is full"):
            keep(layout)
    assert files_of(layout.root) == before and layout.earlier_rounds() == []
    keep(layout)


def test_adapters_find_the_model_that_was_kept_with_them(layout: Layout) -> None:
    beside = json.dumps({"sawyer": {"base_beside": "../../base/model"}})
    gone = json.dumps({"base_model_name_or_path": "/somewhere/else"})
    write_model(layout.model("rl"), adapter_config__json=gone, sawyer__json=beside)
    kept = keep(layout)
    assert Path(base_of(kept.model("rl"))) == kept.model("base").resolve()
    # Moved away from its run it still does.
    moved = kept.root.rename(layout.root.with_name("moved"))
    assert Path(base_of(Layout(moved).model("rl"))) == Layout(moved).model("base").resolve()


def test_a_stage_that_was_lent_by_a_link_is_kept_with_its_files(layout: Layout, tmp_path: Path) -> None:
    lent = tmp_path / "lent"
    layout.model("sft").rename(lent)
    layout.model("sft").symlink_to(lent)
    kept = keep(layout)
    assert not kept.model("sft").is_symlink() and (kept.model("sft") / "model.safetensors").read_text() == "sft"


def test_rounds_are_counted_by_what_is_there(layout: Layout) -> None:
    assert (layout.count_rounds(), count_kept(layout, "reward")) == (0, 0) and round_before(layout) is None
    keep(layout)
    # Killed before it went on: the run's own reward stage is the one that was kept.
    assert (layout.count_rounds(), count_kept(layout, "reward")) == (1, 0)
    Manifest(layout.manifest).update("reward", started=99.0)
    assert count_kept(layout, "reward") == 1
    keep(layout, 2)
    shutil.rmtree(layout.round(1))
    assert layout.count_rounds() == 2 and [one.root.name for one in layout.earlier_rounds()] == ["2"]
    # A round that was refused before RL has no RL model: the one before it counts.
    keep(layout, 3)
    shutil.rmtree(Layout(layout.round(3)).folder("rl"))
    assert round_before(layout) == ("rl_round_2", Layout(layout.round(2)).model("rl"))


def test_a_link_in_the_place_of_the_rounds_is_refused(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    layout.round(1).parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link"), open_run(layout.root):
        pass
