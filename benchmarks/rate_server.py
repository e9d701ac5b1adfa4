"""How fast `sawyer rate` is: a vote, fifty raters at once, the first item of a large run, the page's weight.

python -m benchmarks.rate_server

Aims on two cores: a vote under 5 ms (median), 50 raters at 20 votes a second with nothing lost, the first item within a second
of the command on 10,000 answers, the page under 60 kB as it is sent.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.rate_kills import free_port

ANSWERS = 10_000
ANSWERS_A_PROMPT = 4


class TimedClient:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.key = ""

    def join(self, name: str) -> None:
        """Get a key of their own."""
        self.key = self.request("POST", "/api/join", {"name": name})["key"]

    def request(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        """The answer. Raises RuntimeError for one that is no success."""
        body = None if content is None else json.dumps(content)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        headers |= {"Content-Type": "application/json"} if body else {}
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path} was answered with {response.status}: {text[:200]!r}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def vote(self, assignment: int) -> float:
        """Vote; the seconds until it was acknowledged."""
        vote = {"id": str(uuid.uuid4()), "assignment": assignment, "choice": {"grade": 1}, "seconds": 3.0}
        start = time.perf_counter()
        answer = self.request("POST", "/api/votes", {"votes": [vote]})
        seconds = time.perf_counter() - start
        if answer["stored"] != [vote["id"]]:
            raise RuntimeError(f"not stored: {answer}")
        return seconds

    def assignments(self, count: int) -> list[int]:
        """Items to judge."""
        return [item["assignment"] for item in self.request("GET", f"/api/items?count={count}")["items"]]


class RateCommand:
    """`sawyer rate` in a process of its own, timed from its start."""

    def __init__(self, target: Path, *arguments: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "sawyer", "rate", str(target), "--port", str(self.port), *arguments]
        self.start_time = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if "Rate at" not in self.process.stdout.readline():
            raise RuntimeError("the server did not start")

    def close(self) -> None:
        """Stop it in order."""
        self.process.terminate()
        self.process.communicate(timeout=60)


def write_run(folder: Path) -> Path:
    """A run's folder with 10,000 collected answers of some 60 words."""
    from sawyer.runs import Layout

    layout = Layout(folder / "run")
    layout.answers.parent.mkdir(parents=True)
    with layout.answers.open("w", encoding="utf-8") as file:
        for prompt in range(ANSWERS // ANSWERS_A_PROMPT):
            answers = [
                {"response": f"answer {prompt}-{n} " + "words and more " * 20, "score": None, "source": "sft"}
                for n in range(ANSWERS_A_PROMPT)
            ]
            file.write(json.dumps({"user_input": f"question {prompt}?", "responses_and_scores": answers}) + "\n")
    return layout.root


def first_item_seconds(run: Path) -> float:
    """From the command to the first item in a client's hands, its joining included."""
    command = RateCommand(run)
    try:
        client = TimedClient(command.port)
        client.join("Anna")
        assert client.assignments(25)
        return time.perf_counter() - command.start_time
    finally:
        command.close()


def page_bytes(port: int) -> dict[str, int]:
    """path -> bytes as sent (gzip) of the rater's page and all that it loads."""
    sizes: dict[str, int] = {}
    queue = ["/"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while queue:
        path = queue.pop()
        if path in sizes:
            continue
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        response = connection.getresponse()
        sizes[path] = len(response.read())
        connection.request("GET", path)
        text = connection.getresponse().read().decode("utf-8")
        links = re.findall(r"""(?:src|href)=["']([^"'#]+)["']""", text) if text.lstrip().startswith("<!") else []
        links += re.findall(r"""from\s*["'](\.?/[^"']+)["']""", text) + re.findall(r"""import\s*["'](\.?/[^"']+)["']""", text)
        queue += ["/static/" + link.rsplit("/", 1)[-1] for link in links if link.endswith((".js", ".css", ".svg"))]
    return sizes


def in_milliseconds(seconds: Sequence[float]) -> str:
    """Median, 95th percentile, greatest."""
    most = quantiles(seconds, n=20)[-1]
    return f"median {median(seconds) * 1e3:.1f} ms, 95 % {most * 1e3:.1f} ms, longest {max(seconds) * 1e3:.1f} ms"


def rate_together(port: int, raters: int, votes_a_second: float, seconds: float) -> tuple[list[float], int]:
    """(seconds of each vote, votes sent) of raters who vote at once; a rate of 0: each as fast as they can."""
    times: list[float] = []
    failures: list[BaseException] = []
    gap = raters / votes_a_second if votes_a_second else 0.0
    start = time.perf_counter() + 0.5

    def work(number: int) -> None:
        try:
            client = TimedClient(port)
            client.join(f"rater {number}")
            due = start + gap * number / raters
            queue: list[int] = []
            while due < start + seconds and time.perf_counter() < start + seconds:
                queue = queue or client.assignments(25)
                time.sleep(max(0.0, due - time.perf_counter()))
                times.append(client.vote(queue.pop(0)))
                due = max(due + gap, time.perf_counter()) if not gap else due + gap
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(raters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return times, len(times)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=500, help="of the one client")
    parser.add_argument("--seconds", type=float, default=20, help="that the fifty vote")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder))
        first, again = first_item_seconds(run), min(first_item_seconds(run) for _ in range(3))
        starts = f"{first:.2f} s at the first start, {again:.2f} s later (best of three)"
        print(f"first item of {ANSWERS:,} answers: {starts}", flush=True)
        command = RateCommand(run, "--overlap", "1")
        try:
            client = TimedClient(command.port)
            client.join("alone")
            times: list[float] = []
            while len(times) < options.votes:
                times += [client.vote(assignment) for assignment in client.assignments(25)]
            print(f"a vote, one client, {len(times)} votes: {in_milliseconds(times)}", flush=True)
            for rate in (20.0, 0.0):
                before = sum(client.request("GET", "/api/progress")["progress"]["votes"].values())
                times, count = rate_together(command.port, 50, rate, options.seconds)
                after = sum(client.request("GET", "/api/progress")["progress"]["votes"].values())
                speed = f"{rate:.0f} votes a second" if rate else f"as fast as they can, {count / options.seconds:.0f} a second"
                print(
                    f"50 raters, {speed}: {count} votes, {count - (after - before)} lost; {in_milliseconds(times)}", flush=True
                )
            sizes = page_bytes(command.port)
            print(f"page: {sum(sizes.values()):,} bytes in {len(sizes)} files: {sizes}")
        finally:
            command.close()


if __name__ == "__main__":
    main()
