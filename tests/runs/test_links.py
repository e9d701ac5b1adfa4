"""A run's folder may come from somebody else: nothing that lies in it leads a writer out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sawyer.errors import RunError
from sawyer.runs import Layout, is_complete, new_file, open_run, remove_folder, replace_folder, write_text
from sawyer.runs.atomic_files import NEW, OLD, hash_folder, recover_all, remove_leftovers

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a right there")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's file, to which links lead."""
    path = tmp_path / "home" / "mine.txt"
    path.parent.mkdir()
    path.write_text("mine\n")
    return path


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """Where the received run lies."""
    root = tmp_path / "received"
    root.mkdir()
    return root


@pytest.mark.parametrize(
    "name", ["report.html", ".report.html.sawyer-new", f".report.html{OLD}", f".report.html.0123456789abcdef{NEW}"]
)
def test_a_file_is_not_written_through_a_link(received: Path, mine: Path, name: str) -> None:
    (received / name).symlink_to(mine)
    write_text(received / "report.html", "the page")
    assert mine.read_text() == "mine\n"
    assert (received / "report.html").read_text() == "the page" and not (received / "report.html").is_symlink()


def test_nobody_can_foresee_what_a_new_file_is_called(received: Path) -> None:
    names = set()
    for _ in range(3):
        with new_file(received / "out.jsonl") as file:
            (name,) = (path.name for path in received.iterdir() if path.name.endswith(NEW))
            names.add(name)
            file.write("row")
    assert len(names) == 3
    assert [path.name for path in received.iterdir()] == ["out.jsonl"]


def test_a_new_file_has_the_rights_that_the_umask_leaves(received: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(received / "run.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((received / "run.json").stat().st_mode) == 0o640


def test_what_a_killed_process_left_is_removed_whatever_it_is_called(received: Path, mine: Path) -> None:
    for folder in (received, received / "rl", received / "reward" / "members"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".a.0123456789abcdef{NEW}").write_text("half")
        (folder / f".b.0123456789abcdef{NEW}").mkdir()
        (folder / f".c.0123456789abcdef{NEW}").symlink_to(mine.parent)
        (folder / f".d{OLD}").symlink_to(mine.parent)
    recover_all(received)
    assert [p for p in received.rglob("*") if p.name.startswith(".")] == [] and mine.read_text() == "mine\n"
    (received / f".out.jsonl.0123456789abcdef{NEW}").write_text("half")
    (received / f".another.jsonl.0123456789abcdef{NEW}").write_text("half")
    remove_leftovers(received / "out.jsonl")
    assert [p.name for p in received.iterdir() if p.name.startswith(".")] == [f".another.jsonl.0123456789abcdef{NEW}"]


def test_what_somebody_is_writing_is_not_taken_for_a_leftover(received: Path) -> None:
    with new_file(received / "out.jsonl") as first:
        first.write("first")
        remove_leftovers(received / "out.jsonl")
        recover_all(received)
        with new_file(received / "out.jsonl") as second:
            second.write("second")
        assert (received / "out.jsonl").read_text() == "second"
    assert (received / "out.jsonl").read_text() == "first"


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "events.jsonl", "samples.jsonl"])
def test_what_is_appended_to_is_no_link(received: Path, mine: Path, name: str) -> None:
    (received / name).symlink_to(mine)
    with pytest.raises(RunError, match="is a link") as caught, open_run(received):
        pass
    assert str(received / name) in caught.value.given and mine.read_text() == "mine\n"
    (received / name).unlink()
    with open_run(received):
        pass


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "events.jsonl", "samples.jsonl", "run.json", "journal.json"])
def test_a_pipe_is_not_waited_for(received: Path, name: str) -> None:
    os.mkfifo(received / name)
    with pytest.raises(RunError, match="no plain file"), open_run(received):
        pass


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock"])
def test_a_file_by_two_names_is_not_overwritten(received: Path, mine: Path, name: str) -> None:
    os.link(mine, received / name)
    with pytest.raises(RunError), open_run(received):
        pass
    assert mine.read_text() == "mine\n"


@pytest.mark.parametrize("name", ["rl", "sft", "reward/members"])
def test_a_stage_s_folder_is_no_link(received: Path, mine: Path, name: str) -> None:
    (received / name).parent.mkdir(exist_ok=True)
    (received / name).symlink_to(mine.parent)
    with pytest.raises(RunError, match="is a link"), open_run(received):
        pass
    assert list(mine.parent.iterdir()) == [mine]


def linked(here: Path, there: Path) -> None:
    here.parent.mkdir(parents=True, exist_ok=True)
    here.symlink_to(there)


@pytest.mark.parametrize("place", [lambda layout: layout.checkpoint("rl"), lambda layout: layout.model("rl")])
def test_a_folder_is_not_filled_or_emptied_through_a_link(
    received: Path, tmp_path: Path, place: Callable[[Layout], Path]
) -> None:
    theirs = tmp_path / "theirs"
    with replace_folder(theirs) as new:
        (new / "a.txt").write_text("theirs")
    before = hash_folder(theirs)
    folder = place(Layout(received))
    linked(folder, theirs)
    for text in ("first", "second", "third"):  # the second time there may be something left of the first
        with replace_folder(folder) as new:
            (new / "a.txt").write_text(text)
        assert (folder / "a.txt").read_text() == text and not folder.is_symlink()
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    remove_folder(folder)
    linked(folder, theirs)
    remove_folder(folder)
    assert not os.path.lexists(folder)
    assert hash_folder(theirs) == before and is_complete(theirs)
