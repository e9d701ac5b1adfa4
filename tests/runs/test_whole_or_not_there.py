"""Files and folders are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import RunError
from sawyer.runs import disk_errors, is_complete, link, remove_folder, replace_folder, write_json, write_text
from sawyer.runs.atomic_files import NEW, OLD, hash_folder, recover_all


def fill(folder: Path, text: str) -> None:
    """A folder of two files, which belong together."""
    with replace_folder(folder) as new:
        (new / "a.txt").write_text(text)
        (new / "inside").mkdir()
        (new / "inside" / "b.txt").write_text(text)


def content(folder: Path) -> str:
    """What lies there, which must be whole."""
    assert is_complete(folder)
    texts = {(folder / "a.txt").read_text(), (folder / "inside" / "b.txt").read_text()}
    assert len(texts) == 1
    return texts.pop()


class Killed(BaseException):
    """The process is no more."""


# Everything by which our code changes the disk.
HANDS = ((Path, "replace"), (Path, "mkdir"), (Path, "unlink"), (shutil, "rmtree"), (os, "fsync"))


def kill(monkeypatch: pytest.MonkeyPatch, point: str, at: int, *, before: bool) -> Callable[[], bool]:
    """Kill the process at the call number `at` of `point`, before or after it has its effect. Returns whether it happened.

    The kill is an exception here, so `except` and `finally` of ours still run; but the dead change nothing on the disk.
    """
    calls, dead = [0], [False]

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if dead[0]:
                raise Killed
            calls[0] += name == point
            now = name == point and calls[0] == at
            dead[0] = now and before
            done = None if dead[0] else real(*arguments, **named)
            dead[0] = now
            if now:
                raise Killed
            return done

        return called

    for owner, name in HANDS:
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    return lambda: dead[0]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("point", "at"),
    [("replace", 1), ("replace", 2), ("mkdir", 1), ("rmtree", 1), ("unlink", 1), *(("fsync", n) for n in range(1, 7))],
)
def test_killed_while_a_folder_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, at: int, before: bool
) -> None:
    folder = tmp_path / "sft" / "model"
    fill(folder, "old")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        happened = kill(patched, point, at, before=before)
        fill(folder, "new")
    assert happened(), "the point was never reached"
    # From outside, before anybody has cleaned up: whole or not there.
    assert not folder.exists() or content(folder) in ("old", "new")
    recover_all(tmp_path)
    assert content(folder) in ("old", "new")
    assert [p.name for p in folder.parent.iterdir()] == ["model"], "something is left over"
    fill(folder, "newer")
    assert content(folder) == "newer"


def test_killed_before_the_first_folder_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sft" / "model"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill(patched, "replace", 1, before=True)
        fill(folder, "new")
    recover_all(tmp_path)
    assert not is_complete(folder) and list(folder.parent.iterdir()) == []


def test_killed_between_the_two_renames_the_old_folder_comes_back(tmp_path: Path) -> None:
    # What the disk holds at that moment, made by hand.
    folder = tmp_path / "rl" / "best"
    fill(folder, "old")
    folder.replace(folder.with_name(f".best{OLD}"))
    new = folder.with_name(f".best{NEW}")
    new.mkdir()
    (new / "a.txt").write_text("half")
    recover_all(tmp_path)
    assert content(folder) == "old" and not new.exists()


def test_both_there_the_new_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "rl" / "best"
    fill(folder, "old")
    shutil.copytree(folder, folder.with_name(f".best{OLD}"))
    (folder / "a.txt").write_text("new")
    (folder / "inside" / "b.txt").write_text("new")
    recover_all(tmp_path)
    assert content(folder) == "new"
    assert [p.name for p in folder.parent.iterdir()] == ["best"]


def test_a_user_s_own_files_are_left_alone(tmp_path: Path) -> None:
    # A run may live where somebody lives: `out: .`
    for name in (".bashrc.old", ".notes.new", "deep/er/.vimrc.old", "deep/.x.new"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    recover_all(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_fails_inside_leaves_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    folder = tmp_path / "model"
    fill(folder, "old")
    with pytest.raises(type(error)), replace_folder(folder) as new:
        (new / "a.txt").write_text("half")
        raise error
    assert content(folder) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_without_its_marker_is_not_complete(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert not is_complete(folder)
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    assert not is_complete(folder)
    fill(folder, "whole")
    assert is_complete(folder)


def test_a_removal_cut_short_does_not_look_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    fill(folder, "old")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill(patched, "rmtree", 1, before=True)
        remove_folder(folder)
    assert (folder / "a.txt").exists() and not is_complete(folder)
    remove_folder(folder)
    remove_folder(folder)  # twice does no harm
    assert not folder.exists()


# Files.


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made" / "run.json"
    write_text(path, "old é\n")
    assert path.read_bytes() == "old é\n".encode()
    for point, before in (("fsync", True), ("fsync", False), ("replace", True)):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            kill(patched, point, 1, before=before)
            write_text(path, "new" * 100_000)
        assert path.read_text(encoding="utf-8") == "old é\n"
        recover_all(tmp_path)
        assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_half_a_pair_of_surrogates_does_not_stop_a_run(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "\ud83d"})
    assert "ud83d" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_numbers_that_json_does_not_know_are_text(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    write_json(tmp_path / "a.json", {"a": nan, "b": [1.5, inf, (-inf, 2)], 3: {"c": True, "d": None}})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"a": "nan", "b": [1.5, "inf", ["-inf", 2]], "3": {"c": True, "d": None}}


# What the system and other people's writers say when the disk refuses.


def raised_by(kind: str) -> Exception:
    if kind == "torch":
        return RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/3: x")
    if kind == "safetensors":
        return type("SafetensorError", (Exception,), {})(
            'Error while serializing: I/O error: Os { code: 28 } "No space left on device (os error 28)"'
        )
    if kind == "tokenizers":
        return Exception("No space left on device (os error 28)")
    return OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)), "/somewhere/file")


@pytest.mark.parametrize("kind", ["ENOSPC", "EDQUOT", "EFBIG", "torch", "safetensors", "tokenizers"])
def test_a_full_disk_is_told(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "checkpoint"
    fill(folder, "old")
    with pytest.raises(RunError, match="disk is full") as caught, replace_folder(folder) as new:
        (new / "a.txt").write_text("half")
        raise raised_by(kind)
    assert "free some space" in caught.value.todo and "intact" in caught.value.why
    assert content(folder) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("kind", ["EACCES", "EROFS", "EPERM", "EIO"])
def test_a_refusal_is_told(tmp_path: Path, kind: str) -> None:
    with pytest.raises(RunError, match="/somewhere/file cannot be written") as caught, disk_errors(tmp_path):
        raise raised_by(kind)
    assert caught.value.todo


def test_other_failures_pass(tmp_path: Path) -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("x"), KeyError("y")):
        with pytest.raises(type(error)), disk_errors(tmp_path):
            raise error


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "run.json", Path("/dev/null/run.json")):
        with pytest.raises(RunError, match="a file is in the way"):
            write_text(path, "x")
    with pytest.raises(RunError, match="a file is in the way"), replace_folder(tmp_path / "file" / "model"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("links", [True, False])
def test_a_link_shows_what_is_there_or_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError("no right to link")))
    there, here = tmp_path / "a" / "model", tmp_path / "b" / "c" / "model"
    there.mkdir(parents=True)
    (there / "weights").write_text("1")
    (tmp_path / "a" / "file").write_text("2")
    for _ in range(2):  # a second time changes nothing
        link(here, there)
        link(tmp_path / "b" / "file", tmp_path / "a" / "file")
    assert here.is_symlink() == links
    assert hash_folder(here) == hash_folder(there)
    assert (tmp_path / "b" / "file").read_text() == "2"
    tmp_path.joinpath("a").rename(tmp_path / "moved")
    assert here.exists() != links
    link(here, tmp_path / "moved" / "model")
    assert (here / "weights").read_text() == "1"
