"""Nothing acknowledged is lost: kill -9, a full disk, many threads, several programs at once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from raising import raises_with
from stores import NOW, cast, judge_all, make_items, open_store

from sawyer.errors import RunError
from sawyer.ratings import Choice, RatingSettings, RatingStore, Vote, rating_database

# What a rater does: it says which vote it sends, and then that the vote was acknowledged. `late` is a wrong variant, which
# acknowledges eight votes before it writes them.
WRITER = """
import os, sys
from pathlib import Path
from sawyer.ratings import Choice, RatingStore, Vote

path, name, most, variant = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
waiting = []
with RatingStore.open(path) as store:
    rater = store.rater(name)
    for i in range(most):
        for assignment in store.assign(rater, 1, 1.8e9):
            id = f"{os.getpid()}.{assignment.id}.{i}"
            os.write(1, f"send {id} {assignment.id}\\n".encode())
            vote = Vote(id=id, assignment=assignment.id, choice=Choice(grade=i % 7 - 3), seconds=1.0)
            if variant == "late":
                waiting.append(vote)
            else:
                store.vote(rater, vote, 1.8e9)
            os.write(1, f"stored {id} {assignment.id}\\n".encode())
            if len(waiting) == 8:
                store.votes(rater, waiting, 1.8e9)
                waiting.clear()
"""


@contextlib.contextmanager
def writer(path: Path, name: str, most: int = 10_000, variant: str = "right") -> Iterator[subprocess.Popen[str]]:
    """A program that votes, and is killed at the block's end."""
    command = [sys.executable, "-c", WRITER, str(path), name, str(most), variant]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def kill_at(process: subprocess.Popen[str], lines: int) -> list[list[str]]:
    """The program's lines, which was killed at some moment after so many of them."""
    assert process.stdout is not None
    output = [process.stdout.readline() for _ in range(lines)]
    os.kill(process.pid, signal.SIGKILL)
    output += process.stdout.readlines()
    return [line.split() for line in output if line.endswith("\n")]


def lost_votes(path: Path, name: str, lines: list[list[str]]) -> set[str]:
    """Which votes were acknowledged and are not stored. Then whatever was sent is sent again, and all is there once."""
    sent = {id: int(assignment) for word, id, assignment in lines if word == "send"}
    acknowledged = {id for word, id, _ in lines if word == "stored"}
    with RatingStore.open(path) as store:
        assert store._database.value("PRAGMA integrity_check") == "ok"
        assert store._database.value("SELECT count(*) FROM pragma_foreign_key_check") == 0
        lost = acknowledged - {vote.assignment.vote.id for vote in store.stored_votes() if vote.assignment.vote}
        rater = store.rater(name)
        votes = [Vote(id=id, assignment=number, choice=Choice(grade=1), seconds=1.0) for id, number in sent.items()]
        store.votes(rater, votes, NOW)
        ids = Counter(vote.assignment.vote.id for vote in store.stored_votes() if vote.assignment.vote)
        assert set(ids.values()) <= {1} and ids.keys() >= sent.keys()
        per_assignment = Counter(vote.assignment.id for vote in store.stored_votes())
        assert all(vote.revision == per_assignment[vote.assignment.id] for vote in store.history(rater))
    return lost


def file_of_items(folder: Path, count: int = 5000) -> Path:
    path = folder / "votes.sqlite"
    with RatingStore.open(path, settings=RatingSettings(method="graded", overlap=0.0, repeat_rate=0.1)) as store:
        store.add_items(make_items(count))
    return path


def test_a_killed_writer_loses_nothing(tmp_path: Path) -> None:
    path, rng = file_of_items(tmp_path), random.Random(0)
    for _ in range(2):
        with writer(path, "anna") as process:
            assert lost_votes(path, "anna", kill_at(process, rng.randint(1, 60))) == set()


@pytest.mark.slow
def test_a_writer_that_is_killed_at_many_moments_loses_nothing(tmp_path: Path) -> None:
    path, rng = file_of_items(tmp_path, 20_000), random.Random(1)
    for _ in range(40):
        with writer(path, "anna") as process:
            assert lost_votes(path, "anna", kill_at(process, rng.randint(1, 80))) == set()


@pytest.mark.slow
def test_a_writer_that_acknowledges_too_early_is_caught(tmp_path: Path) -> None:
    path, lost = file_of_items(tmp_path), set[str]()
    for lines in (4, 7, 11, 15, 23):
        with writer(path, "anna", variant="late") as process:
            lost |= lost_votes(path, "anna", kill_at(process, lines))
    assert lost


def test_the_disk_is_waited_for(tmp_path: Path) -> None:
    """kill -9 leaves the system's memory alone; what a power cut would take is a matter of these two settings."""
    with RatingStore.open(tmp_path / "votes.sqlite", settings=RatingSettings(method="pair")) as store:
        assert store._database.value("PRAGMA journal_mode") == "wal"
        assert store._database.value("PRAGMA synchronous") == 2  # FULL: each commit is synced; 1 (NORMAL) would lose the last


# A full disk


def test_a_full_disk_refuses_and_keeps_what_is_stored(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(300), overlap=0.0, repeat_rate=0.0) as store:
        anna = store.rater("anna")
        store._database.value(f"PRAGMA max_page_count={store._database.value('PRAGMA page_count') + 8}")
        stored = []
        with raises_with(RunError, given="disk is full", why="all earlier votes are", todo="free some space"):
            for assignment in judge_steps(store):
                vote = Vote(
                    id=f"v{assignment.id}", assignment=assignment.id, choice=Choice(grade=1), seconds=1, note="x" * 3000
                )
                store.vote(anna, vote, NOW)
                stored.append(vote.id)
        assert len(stored) > 2
        with RatingStore.open(store.path) as again:
            assert [vote.assignment.vote.id for vote in again.stored_votes() if vote.assignment.vote] == stored
            assert again.progress(NOW) == store.progress(NOW)
        store._database.value("PRAGMA max_page_count=1000000")  # space was made
        assert [vote.assignment.vote.id for vote in store.stored_votes() if vote.assignment.vote] == stored
        judge_all(store, anna, 20)
        assert len(store.history(anna)) == len(stored) + 20


def judge_steps(store: RatingStore) -> Iterator[object]:
    anna = store.rater("anna")
    while handed := store.assign(anna, 1, NOW):
        yield handed[0]


LIMITED = """
import os, resource, sys
from pathlib import Path
from sawyer.errors import RunError
from sawyer.ratings import Choice, RatingStore, Vote

with RatingStore.open(Path(sys.argv[1])) as store:
    rater = store.rater("anna")
    handed = store.assign(rater, 200, 1.8e9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        for i, assignment in enumerate(handed):
            note = "x" * 5000
            store.vote(rater, Vote(id=f"v{i}", assignment=assignment.id, choice=Choice(grade=1), seconds=1.0, note=note), 1.8e9)
            os.write(1, f"v{i}\\n".encode())
    except RunError as error:
        os.write(2, str(error).encode())
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    path = file_of_items(tmp_path, 200)
    result = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    acknowledged = result.stdout.split()
    assert "full" in result.stderr and "Traceback" not in result.stderr and 0 < len(acknowledged) < 200
    with RatingStore.open(path) as store:
        ids = [vote.assignment.vote.id for vote in store.stored_votes() if vote.assignment.vote]
        assert ids[: len(acknowledged)] == acknowledged and len(ids) <= len(acknowledged) + 1


# Many at once


def test_fifty_threads(tmp_path: Path) -> None:
    people, each, errors = 50, 12, list[BaseException]()
    with open_store(tmp_path, make_items(2000), repeat_rate=0.0, overlap=0.2) as store:
        start = threading.Barrier(people)

        def rate(number: int) -> None:
            try:
                rater = store.rater(f"rater {number}")
                start.wait()
                for i in range(each):
                    for assignment in store.assign(rater, 5, NOW)[:1]:
                        cast(store, rater, assignment, f"{number}.{i}")
                        cast(store, rater, assignment, f"{number}.{i}")
                    store.progress(NOW)
                    store.done_and_left(rater, NOW)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=rate, args=(number,)) for number in range(people)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert Counter(store.progress(NOW).votes.values()) == {each: people}
        assert len(store.stored_votes()) == people * each
        sharing = Counter(len(item.votes) for item in store.rated_items())
        assert set(sharing) <= {1, 2}


def test_two_programs_write_and_a_third_reads(tmp_path: Path) -> None:
    path = file_of_items(tmp_path, 400)
    with writer(path, "anna", 60) as one, writer(path, "bob", 60) as two, RatingStore.open(path) as store:
        carol = store.rater("carol")
        while one.poll() is None or two.poll() is None:
            handed = judge_all(store, carol, 1)
            with RatingStore.open(path) as reader:
                assert len(reader.history(carol)) >= len(handed)
                reader.rated_items()
                reader.digest()
        assert (one.returncode, two.returncode) == (0, 0)
        votes = store.progress(NOW).votes
        assert votes["anna"] == votes["bob"] == 60
        assert set(
            Counter(vote.assignment.item.id for vote in store.stored_votes() if vote.assignment.pick != "repeat").values()
        ) == {1}


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    path, start, errors = tmp_path / "votes.sqlite", threading.Barrier(12), list[BaseException]()

    def create(number: int) -> None:
        try:
            start.wait()
            with RatingStore.open(path, settings=RatingSettings(method="pair")) as store:
                store.add_items(make_items(3))
                store.rater(f"rater {number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with RatingStore.open(path) as store:
        assert store.progress(NOW).items == 3 and len(store.raters()) == 12


def test_a_program_that_holds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rating_database, "BUSY_SECONDS", 0.01)
    with open_store(tmp_path, make_items(2)) as store:
        anna = store.rater("anna")
        (handed,) = store.assign(anna, 1, NOW)
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store.history(anna) == [] and store.assign(anna, 1, NOW) == [handed]  # reading goes on
        with RatingStore.open(store.path) as reader:
            assert reader.progress(NOW).open_leases == 1
        with raises_with(RunError, given="another program", todo="database browser"):
            cast(store, anna, handed, "v")
        other.execute("ROLLBACK")
        other.close()
        cast(store, anna, handed, "v")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(2000)) as store:
        path = store.path
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 20)
    with raises_with(RunError, given="damaged", todo="copy"), RatingStore.open(path) as store:
        store.rated_items()
        store.progress(NOW)
        store.add_items(make_items(3000))
