"""Votes are never lost: the server killed at any moment, a disk that is full."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.rate_kills import Ledger, check_votes, command_arguments, free_port, run_kills
from servers import Client, running

from sawyer.ratings import RatingSettings, RatingStore, item_of
from sawyer.records import Answer, Message, Prompt
from sawyer.web.core import ServerSettings
from sawyer.web.rate import rating_page

pytest.importorskip("starlette", reason="the extra `web` is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "use_forks"), [(6, False), (30, True)])
def test_no_kill_loses_a_vote(tmp_path: Path, kills: int, use_forks: bool) -> None:
    """Killed as a user starts it, and more often in forks of a process that has imported everything."""
    report = run_kills(tmp_path, kills, use_forks=use_forks)
    assert report.kills == kills and report.acknowledged_votes >= kills
    assert (report.lost_votes, report.double_votes, report.unknown_votes, report.refusals) == ((), (), (), ())


def test_the_check_of_the_kills_finds_what_is_wrong(store: RatingStore) -> None:
    """The same check on a file from which a vote is taken, in which one is changed, and one is added."""
    settings, ledger = ServerSettings(port=0), Ledger()
    with running(rating_page(store, settings), settings) as server:
        client = joined(Client(server.port))
        for item in client("GET", "/api/items?count=4").json["items"]:
            vote = vote_on(item["assignment"])
            ledger.sent_votes[vote["id"]] = (vote["assignment"], vote["choice"])
            assert client("POST", "/api/votes", {"votes": [vote]}).json["stored"] == [vote["id"]]
            ledger.acknowledge(vote["id"])
    first, second, third, fourth = ledger.acknowledged_ids
    assert check_votes(store.path, ledger, 0, 0.0).lost_votes == ()
    ledger.sent_votes[first] = (1, {"grade": -3})  # as if the file had another choice
    with sqlite3.connect(store.path) as connection:
        unset = "UPDATE assignments SET first_vote = NULL, last_vote = NULL WHERE number = ?"
        connection.execute(unset, (ledger.sent_votes[second][0],))
        connection.execute("DELETE FROM votes WHERE id = ?", (second,))
        connection.execute("UPDATE votes SET id = 'stranger' WHERE id = ?", (third,))
    connection.close()
    report = check_votes(store.path, ledger, 0, 0.0)
    assert (
        set(report.lost_votes) == {first, second, third}
        and report.unknown_votes == ("stranger",)
        and fourth not in report.lost_votes
    )


# A full disk.


def joined(client: Client) -> Client:
    return Client(client.port, client("POST", "/api/join", {"name": "Anna"}).json["key"])


def vote_on(assignment: int, note: str = "") -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "assignment": assignment, "choice": {"grade": 2}, "seconds": 3.2, "note": note}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RatingStore]:
    with RatingStore.open(tmp_path / "full.ratings.sqlite", settings=RatingSettings(method="graded")) as opened:
        prompts = [Prompt(messages=(Message(role="user", content=f"question {n}?"),)) for n in range(20)]
        answers = [Answer(response="yes", score=None), Answer(response="no", score=None)]
        opened.add_items(item_of(prompt, answers) for prompt in prompts)
        yield opened


def test_a_full_disk_is_said_and_nothing_is_acknowledged(store: RatingStore, caplog: pytest.LogCaptureFixture) -> None:
    settings = ServerSettings(port=0)
    with running(rating_page(store, settings), settings) as server:
        client = joined(Client(server.port))
        items = client("GET", "/api/items").json["items"]
        first, second = vote_on(items[0]["assignment"]), vote_on(items[1]["assignment"], note="x" * 100_000)
        assert client("POST", "/api/votes", {"votes": [first]}).json["stored"] == [first["id"]]
        limit_pages(store, 1)
        reply = client("POST", "/api/votes", {"votes": [second]})
        assert reply.status == 507 and "stored" not in reply.json
        assert "full" in reply.json["error"] and reply.json["todo"] and b"sqlite" not in reply.body
        assert f"the disk is full: {store.path}" in caplog.text  # the owner's terminal names the file
        assert [vote.assignment.id for vote in store.stored_votes()] == [first["assignment"]]
        assert client("GET", "/api/previous").json["assignment"] == first["assignment"]  # what is there can be read
        limit_pages(store, 1 << 30)
        assert client("POST", "/api/votes", {"votes": [second]}).json["stored"] == [second["id"]]
        assert len(store.stored_votes()) == 2


def limit_pages(store: RatingStore, pages: int) -> None:
    """SQLite's own limit of the file's size, which it reports as it reports a full disk. It is never below what there is."""
    store._database.value(f"PRAGMA max_page_count={pages}")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of Unix")
def test_a_disk_that_the_system_says_is_full(tmp_path: Path) -> None:
    """The system refuses to write on: whatever was acknowledged until then is in the file, whatever was not is sent again."""
    import resource

    answers = tmp_path / "kills.jsonl"
    rows = [{"prompt": f"question {n}?", "chosen": "yes", "rejected": "no"} for n in range(50)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    port, acknowledged, statuses = free_port(), [], []
    command = [sys.executable, "-m", "sawyer", *command_arguments(answers, port)]
    limit = "import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))\n"
    limit += f"sys.argv = {['sawyer', *command[3:]]!r}; runpy.run_module('sawyer', run_name='__main__')"
    limited = [sys.executable, "-c", limit]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    pending = None
    for arguments in (limited, command):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None and "Rate at" in process.stdout.readline()
                client = joined(Client(port))
                items = client("GET", "/api/items?count=50").json["items"]
                votes = [pending] if pending else [vote_on(item["assignment"], "x" * 30_000) for item in items]
                for vote in votes:
                    reply = client("POST", "/api/votes", {"votes": [vote]})
                    statuses.append(reply.status)
                    if reply.status != 200:
                        pending = vote
                        break
                    acknowledged += reply.json["stored"]
            finally:
                process.kill()
    assert statuses[-2:] == [507, 200] and set(statuses[:-2]) == {200} and len(acknowledged) >= 3
    with RatingStore.open(tmp_path / "kills.ratings.sqlite") as reopened:
        stored = [vote.assignment.vote.id for vote in reopened.stored_votes() if vote.assignment.vote]
    assert stored == acknowledged
