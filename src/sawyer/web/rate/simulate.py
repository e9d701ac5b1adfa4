"""Simulated people: raters of the built-in world who join, read and vote over HTTP, as the page does."""

from __future__ import annotations

import http.client
import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sawyer.errors import RatingError, WorldError
from sawyer.ratings import Item, Method
from sawyer.worlds import RATERS, find_task, rate

ITEMS_A_REQUEST = 10
WAIT_SECONDS = 30.0  # for an answer of the server
# A person calls answers that differ by half a point equal; from there on the difference in points decides the grade's size.
SLIGHTLY, BETTER, MUCH = 1.0, 2.5, 5.0
BOTH_BAD = 2.5  # points; equal answers up to here are both bad
WORDS_A_SECOND = 4.0  # of reading, about 240 a minute
LAZY_SECONDS = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """Who votes, and how often."""

    people: int
    styles: tuple[str, ...] = ("honest",)  # in turn: of the world's raters
    votes: int | None = None  # of all people together; None: until nothing is left
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What the simulated people did."""

    votes: Mapping[str, int]  # by the person's name

    @property
    def words(self) -> str:
        """One sentence."""
        each = ", ".join(f"{name}: {count:,}" for name, count in self.votes.items())
        return f"{len(self.votes)} simulated people gave {sum(self.votes.values()):,} votes ({each})"


def raters_in_turn(people: int, styles: Sequence[str]) -> list[tuple[str, str]]:
    """(name, style) of each person; the styles come in turn: 3 people of honest, lazy are honest 1, lazy 1, honest 2.

    Raises RatingError for a style that the built-in world does not have.
    """
    unknown_styles = [style for style in styles if style not in RATERS]
    if unknown_styles or not styles or people < 1:
        request = f"{unknown_styles[0]!r}" if unknown_styles else f"{people} people of {', '.join(styles) or 'no kind'}"
        raise RatingError(
            f"simulated people: {request}",
            expected=f"one person or more, each one of: {', '.join(RATERS)}",
            todo="for example --simulate 3 --simulate-raters honest,honest,lazy",
        )
    counts, people_in_order = Counter[str](), list[tuple[str, str]]()
    for number in range(people):
        style = styles[number % len(styles)]
        counts[style] += 1
        people_in_order.append((f"{style} {counts[style]}", style))
    return people_in_order


def check_world(items: Iterable[Item]) -> None:
    """Raise RatingError where a prompt is not the built-in world's: simulated people know no other truth."""
    for item in items:
        _check_prompt(item.prompt.text)


def _check_prompt(text: str) -> None:
    try:
        find_task(text)
    except WorldError as error:
        raise RatingError(
            f"simulated people cannot judge answers to {text[:80]!r}",
            expected="prompts of the built-in world, such as those of `sawyer demo` or `sawyer world`",
            why="they know the truth of these prompts only",
            todo="leave out --simulate, and rate in the browser",
        ) from error


def choice_of(method: Method, scores: Sequence[float]) -> dict[str, Any]:
    """What a person with these scores of the shown answers, 1 to 10 in halves, enters: a CHOICE of the HTTP API.

    graded: a difference up to 0.5 is a tie, up to 2 a grade of 1, up to 4.5 of 2, from 5 of 3. pair: the same without size. A
    tie of two answers at 2.5 or below is "both bad". rank: equal scores share a rank. score: rounded, halves up.
    """
    if method == "score":
        return {"scores": [int(score + 0.5) for score in scores]}
    if method == "rank":
        levels = sorted(set(scores), reverse=True)
        return {"ranks": [levels.index(score) + 1 for score in scores]}
    difference = scores[1] - scores[0]
    size = sum(abs(difference) >= edge for edge in (SLIGHTLY, BETTER, MUCH))
    if size == 0:
        return {"grade": 0, "both_bad": True} if max(scores) <= BOTH_BAD else {"grade": 0}
    return {"grade": (size if method == "graded" else 1) * (1 if difference > 0 else -1)}


class SimulatedPerson:
    """One rater with a connection of their own."""

    def __init__(self, address: str, name: str, style: str, *, token: str = "", seed: int = 0) -> None:
        self.name, self.style, self.seed, self.token = name, style, seed, token
        self.sights = Counter[tuple[str, str]]()  # how often a (prompt, response) was seen: a repeat is judged afresh
        url = urlsplit(address)
        self.connection = http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port, timeout=WAIT_SECONDS)

    def join(self) -> None:
        """Get a key of their own, for everything else."""
        self.token = str(self.request("POST", "/api/join", {"name": self.name, "kind": "simulated"})["key"])

    def items(self) -> list[dict[str, Any]]:
        """The next items to judge; none: nothing is left for this person."""
        items: list[dict[str, Any]] = self.request("GET", f"/api/items?count={ITEMS_A_REQUEST}")["items"]
        return [item for item in items if item.get("vote") is None]

    def judge(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The vote on an item, by its text alone, as the page would send it."""
        prompt, responses = item["prompt"][-1]["content"], item["answers"]
        _check_prompt(prompt)
        scores = [self._score(prompt, response) for response in responses]
        words = len(" ".join([prompt, *responses]).split())
        return {
            "id": str(uuid.uuid4()),
            "assignment": item["assignment"],
            "choice": choice_of(item["method"], scores),
            "seconds": LAZY_SECONDS if self.style == "lazy" else 1.0 + words / WORDS_A_SECOND,
            "rewrite": "",
            "note": "",
        }

    def _score(self, prompt: str, response: str) -> float:
        """Depends on seed, person and answer, and on how often it was seen; not on who else votes meanwhile."""
        sight = self.sights[prompt, response]
        self.sights[prompt, response] += 1
        return rate(self.style, prompt, response, random.Random(f"{self.seed}/{self.name}/{prompt}/{response}/{sight}"))

    def send(self, vote: Mapping[str, Any]) -> None:
        """Send one vote; returns once the server has stored it."""
        refusals = self.request("POST", "/api/votes", {"votes": [vote]}).get("refused", [])
        if refusals:
            raise RatingError(f"the server refused a vote of {self.name}: {refusals[0].get('error')}")

    def request(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer. Raises RatingError for one that is no success, in the server's words."""
        body = None if content is None else json.dumps(content)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            self.connection.request(method, path, body=body, headers=headers)
            response = self.connection.getresponse()
            text = response.read().decode("utf-8")
        except (OSError, http.client.HTTPException) as error:
            raise RatingError(f"the rating server does not answer: {type(error).__name__}: {error}") from error
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if response.status != 200 or not isinstance(values, dict):
            words = values.get("error") if isinstance(values, dict) else text[:200]
            todo = str(values.get("todo", "")) if isinstance(values, dict) else ""
            raise RatingError(f"the rating server answered {path.split('?')[0]} with {response.status}: {words}", todo=todo)
        return values

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class _Budget:
    """Votes that are left to all people together."""

    def __init__(self, votes: int | None) -> None:
        self.left, self.lock = votes, threading.Lock()

    def take(self) -> bool:
        """Whether one more vote may be given; it counts from now on."""
        with self.lock:
            if self.left is None:
                return True
            self.left -= 1
            return self.left >= 0

    def close(self) -> None:
        """No more votes."""
        with self.lock:
            self.left = 0


class SimulatedPeople:
    """`people` simulated people, a thread each, who vote until nothing is left for them or all votes are given.

    `token` is the owner's, where the server asks for one. Raises RatingError for a style that there is not.
    """

    def __init__(self, settings: SimulationSettings, *, token: str = "") -> None:
        self.settings, self.token = settings, token
        self.names_and_styles = raters_in_turn(settings.people, settings.styles)
        self.budget, self.failures = _Budget(settings.votes), list[RatingError]()
        self.counts = Counter[str]({name: 0 for name, _ in self.names_and_styles})
        self.thread: threading.Thread | None = None

    def vote(self, address: str) -> Simulation:
        """Vote at the server, such as http://127.0.0.1:8321. Raises RatingError once all have stopped after a first failure."""
        everyone = [
            SimulatedPerson(address, name, style, token=self.token, seed=self.settings.seed)
            for name, style in self.names_and_styles
        ]
        for person in everyone:  # one after another: the order of names, and so of pseudonyms, is the same each time
            person.join()
        threads = [threading.Thread(target=self._rate_items, args=(person,), daemon=True) for person in everyone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]
        return Simulation(votes=dict(self.counts))

    def start(self, address: str, done: Callable[[], None]) -> None:
        """Vote in the background and call `done` at the end, whatever happened."""

        def work() -> None:
            try:
                self.vote(address)
            except RatingError as error:
                self.failures.append(error)
            finally:
                done()

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def finish(self) -> Simulation:
        """What was done since `start`, once the server has ended. Raises the RatingError that ended it; where the server went
        first, at its user's wish, there is none."""
        is_at_work = self.thread is not None and self.thread.is_alive()
        self.budget.close()
        if self.thread is not None:
            self.thread.join()
        if self.failures and not is_at_work:
            raise self.failures[0]
        return Simulation(votes=dict(self.counts))

    def _rate_items(self, person: SimulatedPerson) -> None:
        try:
            while not self.failures and (items := person.items()):
                for item in items:
                    if self.failures or not self.budget.take():
                        return
                    person.send(person.judge(item))
                    self.counts[person.name] += 1  # each thread counts under its own name
        except RatingError as error:
            self.failures.append(error)
        finally:
            person.close()
