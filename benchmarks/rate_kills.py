"""kill -9 of `sawyer rate` at many moments under load: is an acknowledged vote ever lost, or any vote there twice?

python -m benchmarks.rate_kills --kills 1000

Several clients vote as the page does: each vote has a UUID and is sent again until it is acknowledged. The server is killed,
most often a few milliseconds after an acknowledgement, sometimes while it starts, and started again. At the end each vote that
was acknowledged must be in the file once, as it was sent, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ITEMS = 400
START_SECONDS = 60.0  # within which a started server answers
START_KILLS = 0.1  # share of the kills that come while the server starts
Kill = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KillReport:
    """What was found after the kills."""

    kills: int
    acknowledged_votes: int
    stored_votes: int
    unanswered_votes: int  # votes that were sent and got no answer, and so were sent again
    lost_votes: tuple[str, ...]  # acknowledged, and not in the file as they were sent
    double_votes: tuple[str, ...]  # in the file more than once
    unknown_votes: tuple[str, ...]  # in the file, and never sent
    refusals: tuple[str, ...]
    seconds: float

    @property
    def words(self) -> str:
        """One line."""
        counts = f"{self.acknowledged_votes:,} votes acknowledged, {self.stored_votes:,} stored"
        wrong = f"lost {len(self.lost_votes)}, double {len(self.double_votes)}, never sent {len(self.unknown_votes)}"
        return (
            f"{self.kills:,} kills in {self.seconds:.0f} s: {counts}, {self.unanswered_votes:,} sent again for want of an "
            f"answer; {wrong}, refused {len(self.refusals)}"
        )


@dataclass(slots=True, eq=False)
class Ledger:
    """What the clients know: the votes that they sent, and which were acknowledged."""

    sent_votes: dict[str, tuple[int, Any]] = field(default_factory=dict)  # id -> (assignment, choice)
    acknowledged_ids: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    unanswered_votes: int = 0
    news: threading.Condition = field(default_factory=threading.Condition)
    stop: bool = False
    failures: list[BaseException] = field(default_factory=list)

    def acknowledge(self, name: str) -> None:
        """A vote was acknowledged."""
        with self.news:
            self.acknowledged_ids.append(name)
            self.news.notify_all()

    def wait_for(self, count: int, seconds: float) -> bool:
        """Whether so many votes are acknowledged within this time."""
        with self.news:
            return self.news.wait_for(lambda: len(self.acknowledged_ids) >= count or bool(self.failures), seconds)


class VotingClient:
    """One rater with a connection of their own, as long as the server lives."""

    def __init__(self, port: int, name: str, ledger: Ledger, seed: int) -> None:
        self.port, self.name, self.ledger, self.random = port, name, ledger, random.Random(f"{seed}/{name}")
        self.connection: http.client.HTTPConnection | None = None
        self.key = ""
        self.mine: list[int] = []

    def run(self) -> None:
        """Vote until told to stop; the vote in hand is finished."""
        try:
            self.key = self.request("POST", "/api/join", {"name": self.name})["key"]
            while not self.ledger.stop:
                items = self.request("GET", "/api/items?count=10")["items"]
                fresh = [item["assignment"] for item in items]
                for assignment in fresh or self.random.choices(self.mine, k=10):  # nothing is left: think again
                    if not self.ledger.stop:
                        self.vote(assignment)
                self.mine += fresh
        except BaseException as error:
            self.ledger.failures.append(error)
            with self.ledger.news:
                self.ledger.news.notify_all()
        finally:
            if self.connection is not None:
                self.connection.close()

    def vote(self, assignment: int) -> None:
        """One vote, sent until it is acknowledged."""
        name, choice = str(uuid.uuid4()), {"grade": self.random.randint(-3, 3)}
        vote = {"id": name, "assignment": assignment, "choice": choice, "seconds": 1.0}
        self.ledger.sent_votes[name] = (assignment, choice)
        answer = self.request("POST", "/api/votes", {"votes": [vote]})
        for refusal in answer["refused"]:
            self.ledger.refusals.append(str(refusal))
        for name in answer["stored"]:
            self.ledger.acknowledge(name)

    def request(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        """The answer; sent again until there is one. Raises RuntimeError for an answer that is no success."""
        body = None if content is None else json.dumps(content)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        headers |= {"Content-Type": "application/json"} if body else {}
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
                self.connection.request(method, path, body, headers)
                response = self.connection.getresponse()
                text = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                if self.connection is not None:
                    self.connection.close()
                self.connection = None
                # A refused connection is a server that does not run yet: nothing was sent.
                self.ledger.unanswered_votes += path == "/api/votes" and not isinstance(error, ConnectionRefusedError)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        if response.status != 200:
            raise RuntimeError(f"{method} {path} was answered with {response.status}: {text[:300]!r}")
        answer: dict[str, Any] = json.loads(text)
        return answer


def run_kills(folder: Path, kills: int, *, clients: int = 4, seed: int = 0, use_forks: bool = False) -> KillReport:
    """Kill and restart the server so often. `use_forks`: each server is a fork of a process that has imported everything, which
    saves the second that importing takes; else it is the command as a user starts it."""
    start_time, chance = time.monotonic(), random.Random(seed)
    answers = folder / "kills.jsonl"
    rows = [{"prompt": f"question {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(ITEMS)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    port = free_port()
    start = forking_starter(answers, port) if use_forks else command_starter(answers, port)
    ledger = Ledger()
    workers = [VotingClient(port, f"client {n}", ledger, seed) for n in range(clients)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    kill = start()
    for thread in threads:
        thread.start()
    try:
        for _ in range(kills):
            if chance.random() < START_KILLS:
                time.sleep(chance.uniform(0, 0.3 if use_forks else 1.5))
            elif not ledger.wait_for(len(ledger.acknowledged_ids) + chance.randint(1, 20), START_SECONDS) or ledger.failures:
                break
            time.sleep(chance.uniform(0, 0.01))
            kill()
            kill = start()
    finally:
        ledger.wait_for(len(ledger.acknowledged_ids) + 1, START_SECONDS)
        ledger.stop = True
        for thread in threads:
            thread.join()
        kill()
    if ledger.failures:
        raise ledger.failures[0]
    return check_votes(folder / "kills.ratings.sqlite", ledger, kills, time.monotonic() - start_time)


def check_votes(path: Path, ledger: Ledger, kills: int, seconds: float) -> KillReport:
    """Compare the file with what the clients know."""
    from sawyer.ratings import RatingStore, choice_json

    with RatingStore.open(path) as store:
        votes = store.stored_votes()
    contents: dict[str, tuple[int, Any]] = {}
    counts = Counter[str]()
    for vote in votes:
        content = vote.assignment.vote
        assert content is not None
        counts[content.id] += 1
        contents[content.id] = (vote.assignment.id, choice_json(content.choice))
    # The store keeps ids unique; two rows of one assignment with the same revision would be a double as well.
    revisions = Counter((vote.assignment.id, vote.revision) for vote in votes)
    return KillReport(
        kills=kills,
        acknowledged_votes=len(ledger.acknowledged_ids),
        stored_votes=len(votes),
        unanswered_votes=ledger.unanswered_votes,
        lost_votes=tuple(name for name in ledger.acknowledged_ids if contents.get(name) != ledger.sent_votes[name]),
        double_votes=tuple(str(name) for name, count in (*counts.items(), *revisions.items()) if count > 1),
        unknown_votes=tuple(name for name in contents if name not in ledger.sent_votes),
        refusals=tuple(ledger.refusals),
        seconds=seconds,
    )


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def command_arguments(answers: Path, port: int) -> list[str]:
    """The command as a user types it, without `sawyer`."""
    return ["rate", str(answers), "--port", str(port), "--overlap", "1"]


def command_starter(answers: Path, port: int) -> Callable[[], Kill]:
    """Start the command in a process of its own."""

    def start() -> Kill:
        command = [sys.executable, "-m", "sawyer", *command_arguments(answers, port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def kill() -> None:
            process.kill()
            process.wait()

        return kill

    return start


def forking_starter(answers: Path, port: int) -> Callable[[], Kill]:
    """Start the same command in a fork of a process that has imported it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.rate_kills_preload"])

    def start() -> Kill:
        process = context.Process(target=serve_command, args=(command_arguments(answers, port),))
        process.start()

        def kill() -> None:
            assert process.pid is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.join()

        return kill

    return start


def serve_command(arguments: list[str]) -> None:
    """The command, in the process that is killed."""
    from sawyer.cli.main import main

    sys.argv = ["sawyer", *arguments]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        main()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="store_true", help="start the command anew each time, imports included: slower")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run_kills(
            Path(folder), options.kills, clients=options.clients, seed=options.seed, use_forks=not options.command
        )
    print(report.words)
    sys.exit(bool(report.lost_votes or report.double_votes or report.unknown_votes or report.refusals))


if __name__ == "__main__":
    main()
