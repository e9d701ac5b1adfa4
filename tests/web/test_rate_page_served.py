"""The rating page and the owner's page on the real server over a real store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rating_desk import Desk
from servers import running

from sawyer.ratings import Item, RatingSettings, RatingStore, StoredVote, choice_in_item_order, item_of
from sawyer.records import Answer, Message, Prompt
from sawyer.web.core import ServerSettings
from sawyer.web.rate import rating_page

pytest.importorskip("starlette", reason="the extra `web` is not installed")
pytestmark = pytest.mark.slow  # a browser starts

TOKEN = "the-owner-s-token-of-this-test"


def item(number: int, count: int) -> Item:
    prompt = Prompt(messages=(Message(role="user", content=f"Question {number}: which?"),))
    answers = [Answer(response=f"Answer {at}.", score=4711.0 + at, source="secret-model") for at in range(count)]
    return item_of(prompt, answers)


@dataclass
class Rating:
    """A store, its server and the browsers that open it."""

    store: RatingStore
    browser: Any
    stack: ExitStack
    token: str | None = None
    port: int = 0
    desks: list[Desk] = field(default_factory=list)

    def open(self, path: str, ready: str, **context: Any) -> Desk:
        opened = self.browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
        self.stack.callback(opened.close)
        opened.set_default_timeout(10_000)
        desk = Desk(opened.new_page(), None, f"http://127.0.0.1:{self.port}")
        desk.page.goto(desk.address + path)
        desk.page.wait_for_selector(ready)
        self.desks.append(desk)
        return desk

    def open_rater(self, name: str, **context: Any) -> Desk:
        return self.open(f"/#key={self.store.rater_key(self.store.rater(name))}", ".bar", **context)

    def votes(self, desk: Desk) -> list[StoredVote]:
        """All revisions, in the order in which they were stored."""
        desk.settle()
        return list(self.store.stored_votes())


@pytest.fixture
def serve_rating(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Rating]]:
    with ExitStack() as stack:

        def start(method: Any = "graded", count: int = 30, answers: int = 2, token: str | None = None) -> Rating:
            settings = RatingSettings(method=method, overlap=1.0, repeat_rate=0.0)
            store = stack.enter_context(RatingStore.open(tmp_path / "ratings.sqlite", settings=settings))
            store.add_items(item(number, answers) for number in range(count))
            server_settings = ServerSettings(port=0, **({"token": token} if token else {}))
            server = stack.enter_context(running(rating_page(store, server_settings), server_settings))
            return Rating(store, browser, stack, token, server.port)

        yield start


def shown_texts(desk: Desk) -> list[str]:
    return [text.strip() for text in desk.page.locator(".answer .text").all_text_contents()]


@pytest.mark.parametrize(
    ("method", "answers", "keys", "expected"),
    [
        ("pair", 2, ["f"], {"grade": -1}),
        ("pair", 2, ["x"], {"grade": 0, "both_bad": True}),
        ("graded", 2, ["k"], {"grade": 2}),
        ("graded", 2, ["z"], {"skip": True}),
        ("rank", 4, ["2", "4", "=", "1", "Enter"], {"ranks": (2, 1, 3, 1)}),
        ("score", 3, ["7", "Tab", "t", "Tab", "0", "Enter"], {"scores": (7, 10, 0)}),
    ],
)
def test_a_vote_is_stored_in_the_order_that_was_shown(
    serve_rating: Callable[..., Rating], method: str, answers: int, keys: list[str], expected: dict[str, Any]
) -> None:
    rating = serve_rating(method, 5, answers)
    desk = rating.open_rater("Anna")
    texts = shown_texts(desk)
    desk.press(*keys)
    (stored,) = rating.votes(desk)
    order = stored.assignment.order
    assert [stored.assignment.item.answers[index].response for index in order] == texts
    choice = stored.assignment.vote.choice
    assert {name: getattr(choice, name) for name in expected} == expected
    in_item_order = choice_in_item_order(stored)
    if "ranks" in expected:
        assert in_item_order.ranks == tuple(expected["ranks"][order.index(index)] for index in range(answers))
    if expected.get("grade"):
        assert in_item_order.grade == (expected["grade"] if order == (0, 1) else -expected["grade"])


def test_undo_through_ten_votes_with_a_reload_between(serve_rating: Callable[..., Rating]) -> None:
    rating = serve_rating("graded", 30)
    desk = rating.open_rater("Anna")
    questions = []
    for key in "asdfjklasd":
        questions.append(desk.question)
        desk.press(key)
    assert len(set(questions)) == 10
    front = desk.question
    desk.settle()
    desk.page.reload()
    desk.page.wait_for_selector(".bar")
    assert desk.question == front
    for question in reversed(questions):
        desk.press("u")
        desk.until_question(question)
    desk.press("l")
    assert desk.question == questions[1]
    desk.press("Escape")
    assert desk.question == front
    votes = rating.votes(desk)
    assert [vote.assignment.vote.choice.grade for vote in votes] == [-3, -2, -1, 0, 1, 2, 3, -3, -2, -1, 3]
    assert (votes[-1].revision, votes[-1].assignment.id) == (2, votes[0].assignment.id)


def test_two_raters_see_the_same_items_and_neither_the_other_s_votes(serve_rating: Callable[..., Rating]) -> None:
    rating = serve_rating("pair", 12)
    anna, bob = rating.open_rater("Anna"), rating.open_rater("Bob")
    for _ in range(12):
        anna.press("f")
        bob.press("j")
    for desk in (anna, bob):
        desk.page.get_by_text("All done").wait_for()
        desk.settle()
    assert dict(rating.store.progress().votes) == {"Anna": 12, "Bob": 12}
    assert {vote.assignment.vote.choice.grade for vote in rating.votes(anna) if vote.assignment.rater.name == "Anna"} == {-1}


def test_a_hundred_votes_in_a_row_are_all_stored_once(serve_rating: Callable[..., Rating]) -> None:
    rating = serve_rating("pair", 120)
    desk = rating.open_rater("Anna")
    for number in range(100):
        desk.until("document.querySelector('.bar') && document.querySelector('.progress b').textContent === value", str(number))
        if number == 40:
            desk.page.context.set_offline(True)
        if number == 50:
            desk.until_told("votes wait for the network")
            desk.page.context.set_offline(False)
        desk.press("fj"[number % 2])
    votes = rating.votes(desk)
    assert len(votes) == len({vote.assignment.item.id for vote in votes}) == 100
    assert [vote.assignment.vote.choice.grade for vote in votes] == [-1, 1] * 50
    assert desk.problems == [] or all("ERR_INTERNET_DISCONNECTED" in problem for problem in desk.problems)


def test_neither_page_nor_api_names_the_source(serve_rating: Callable[..., Rating]) -> None:
    rating = serve_rating("pair", 5)
    desk = rating.open_rater("Anna")
    bodies: list[str] = [desk.page.content()]

    def keep(route: Any) -> None:
        response = route.fetch()
        bodies.append(response.text())
        route.fulfill(response=response)

    desk.page.route("**/api/**", keep)
    desk.press("f", "j")
    desk.settle()
    desk.page.reload()
    desk.page.wait_for_selector(".bar")
    desk.press("u")
    desk.settle()
    desk.page.unroute_all(behavior="wait")
    assert len(bodies) > 4
    assert not [word for word in ("secret-model", "4711", "sqlite", "uncertain") if word in "".join(bodies)]
    assert desk.problems == []


def test_with_a_token_people_come_by_link_only(serve_rating: Callable[..., Rating]) -> None:
    rating = serve_rating("pair", 8, token=TOKEN)
    stranger = rating.open("/", "form")
    stranger.page.get_by_label("Your name").fill("Eve")
    stranger.press("Enter")
    stranger.until_told("ask the owner")
    owner = rating.open(f"/owner#token={TOKEN}", "table")
    assert "token" not in owner.page.url
    owner.page.get_by_label("Name of the person").fill("Dora")
    owner.press("Enter")
    link = owner.page.locator(".made").inner_text()
    dora = rating.open(link.removeprefix(owner.address), ".bar")
    dora.press("f")
    assert [vote.assignment.rater.name for vote in rating.votes(dora)] == ["Dora"]
    owner.until("document.querySelector('main').innerText.includes('1\\nvotes of')")  # by the stream of events


def test_the_owner_settles_a_conflict_exports_and_imports(serve_rating: Callable[..., Rating], tmp_path: Path) -> None:
    rating = serve_rating("graded", 1)
    for name in ("Anna", "Bob"):
        desk = rating.open_rater(name)
        first = shown_texts(desk)[0] == "Answer 0."
        desk.press("a" if first == (name == "Anna") else "l")  # Anna is for answer 0, Bob for answer 1
        desk.settle()
    owner = rating.open("/owner", ".conflict")
    owner.page.locator(".conflict").get_by_role("button", name="2 is better", exact=True).click()
    owner.until("!document.querySelector('.conflict')")
    (rated,) = rating.store.rated_items()
    (settled,) = [vote for vote in rated.votes if vote.assignment.pick == "adjudication"]
    assert choice_in_item_order(settled).grade == 2
    with owner.page.expect_download() as download:
        owner.page.get_by_role("button", name="Preference pairs").click()
    (row,) = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    better = rated.item.answers[1].response
    assert (row["chosen"] == better or row["chosen"][-1]["content"] == better, row["margin"]) == (True, 2)
    rows = [{"prompt": "Up or down?", "chosen": "Up.", "rejected": "Down."}]
    file = tmp_path / "feedloop.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    owner.page.get_by_label("Import judgements").set_input_files(file)
    owner.until_told("feedloop.jsonl: 1 vote, 1 rater, 1 new item")
    assert dict(rating.store.progress().votes)["feedloop"] == 1
    assert owner.problems == []


@contextmanager
def running_command(file: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`sawyer rate FILE` in a process of its own, and its port. Killed at the end."""
    command = [sys.executable, "-m", "sawyer", "rate", str(file), "--as", "pair", "--port", str(port)]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        try:
            addresses = (re.search(r"http://127\.0\.0\.1:(\d+)", line) for line in process.stdout)
            yield process, next(int(match[1]) for match in addresses if match)
        finally:
            process.kill()


def test_a_server_killed_in_the_middle_loses_no_vote_of_the_page(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"Question {at}: which?", "answers": [{"text": "One."}, {"text": "Two."}]} for at in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = "ffjfjjfjfj" * 4
    port = 0
    with ExitStack() as stack:
        context = browser.new_context()
        stack.callback(context.close)
        for round_of_votes in range(4):
            with running_command(file, port) as (process, port):
                if round_of_votes == 0:
                    desk = Desk(context.new_page(), None, f"http://127.0.0.1:{port}")
                    desk.page.goto(desk.address)
                    desk.page.get_by_label("Your name").fill("Anna")
                    desk.press("Enter")
                for number in range(10 * round_of_votes, 10 * round_of_votes + 10):
                    place = "document.querySelector('.bar') && document.querySelector('.progress b').textContent === value"
                    desk.until(place, str(number))
                    if number % 10 == 5:
                        desk.press(keys[number])  # on its way while the server dies
                        process.send_signal(signal.SIGKILL)
                        process.wait()
                    else:
                        desk.press(keys[number])
        with running_command(file, port):
            desk.settle()
    with RatingStore.open(tmp_path / "answers.ratings.sqlite") as store:
        votes = list(store.stored_votes())
    assert ["fj"[vote.assignment.vote.choice.grade > 0] for vote in votes] == list(keys)
    assert len({vote.assignment.id for vote in votes}) == 40  # hidden repeats are assignments of their own
    assert {vote.revision for vote in votes} == {1}
