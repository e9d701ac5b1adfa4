"""Hashes change with content and names, and with nothing else; a stamp changes whenever the content may have."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sawyer.runs import MARKER, Manifest, hash_files
from sawyer.runs.atomic_files import hash_folder, stamp_folder


def model(folder: Path) -> Path:
    (folder / "inside").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "inside" / "weights").write_bytes(b"\0\1")
    return folder


def test_a_folder_s_hash_is_that_of_its_content_wherever_it_lies(tmp_path: Path) -> None:
    first = model(tmp_path / "a")
    before = hash_folder(first)
    shutil.copytree(first, tmp_path / "b")
    os.utime(tmp_path / "b" / "config.json", (1, 1))
    (tmp_path / "b" / MARKER).write_text("all")
    (tmp_path / "b" / ".git").mkdir()
    (tmp_path / "b" / ".git" / "index").write_text("x")
    (tmp_path / "b" / "empty").mkdir()
    assert hash_folder(tmp_path / "b") == before
    assert len(before) == 32


def test_a_folder_s_hash_changes_with_content_and_names(tmp_path: Path) -> None:
    found = set()
    for number, change in enumerate(
        (
            lambda f: None,
            lambda f: (f / "config.json").write_text("{ }"),
            lambda f: (f / "config.json").rename(f / "config2.json"),
            lambda f: (f / "inside" / "weights").rename(f / "weights"),
            lambda f: (f / "more").write_text(""),
            lambda f: (f / "config.json").unlink(),
            lambda f: (f / "inside" / "weights").write_bytes(b"\1\0"),
        )
    ):
        folder = model(tmp_path / str(number))
        change(folder)  # type: ignore[no-untyped-call]
        found.add(hash_folder(folder))
    assert len(found) == 7


def test_a_single_file_has_a_hash_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    (tmp_path / "c").write_text("y")
    assert hash_folder(tmp_path / "a") == hash_folder(tmp_path / "b") != hash_folder(tmp_path / "c")


def test_hash_of_files_knows_content_name_order_and_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("1")
    Path("b").write_text("2")
    known = hash_files(["a", "b"], salt="s")
    assert hash_files(["a", "b"], salt="s") == known
    assert len({known, hash_files(["b", "a"], salt="s"), hash_files(["a", "b"], salt="t"), hash_files(["a"], salt="s")}) == 4
    Path("b").write_text("3")
    changed = hash_files(["a", "b"], salt="s")
    Path("b").unlink()
    assert len({known, changed, hash_files(["a", "b"], salt="s")}) == 3, "a file that is not there counts as such"
    Path("b").write_text("2")
    assert hash_files(["a", "b"], salt="s") == known
    # The border between a name and what follows cannot be moved.
    assert hash_files(["xy"]) != hash_files(["x", "y"]) and hash_files([], salt="a") != hash_files(["a"])


def test_the_remembered_hash_is_never_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "sft")
    read = []
    real = hash_folder

    def counting(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr("sawyer.runs.manifest.check_sealed", lambda path, todo: counting(path))
    manifest = Manifest(tmp_path / "run.json")
    assert manifest.content_hash("sft", folder) == real(folder)
    assert Manifest(tmp_path / "run.json").content_hash("sft", folder) == real(folder)
    assert len(read) == 1, "what was not touched is read once"
    # The same size at another time, another size at the same time, another name: all are seen.
    stamps = {stamp_folder(folder)}
    (folder / "config.json").write_text("[]")
    os.utime(folder / "config.json", (5, 5))
    assert manifest.content_hash("sft", folder) == real(folder)
    stamps.add(stamp_folder(folder))
    (folder / "config.json").write_text("[ ]")
    os.utime(folder / "config.json", (5, 5))
    assert manifest.content_hash("sft", folder) == real(folder)
    stamps.add(stamp_folder(folder))
    (folder / "config.json").rename(folder / "other.json")
    assert manifest.content_hash("sft", folder) == real(folder)
    stamps.add(stamp_folder(folder))
    assert len(stamps) == 4
