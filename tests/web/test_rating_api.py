"""The HTTP API of rating over a real store: who gets and stores what, blind, with nothing of another rater's."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Client, running

from sawyer.ratings import Item, RatingSettings, RatingStore, item_of
from sawyer.records import Answer, Message, Prompt
from sawyer.web.core import ServerSettings
from sawyer.web.rate import rating_page

pytest.importorskip("starlette", reason="the extra `web` is not installed")

TOKEN = "owner-token-of-the-test"
# What a rater must not see: the writers' names, their scores, the file's.
SECRETS = ("gpt-secret", "rl-secret", "4711", "secret-file", "sqlite", "uncertain", '"source"', '"score"')


def item(number: int, count: int = 2) -> Item:
    texts = [f"answer {number}-{n} <script>alert(1)</script>" for n in range(count)]
    answers = [
        Answer(response=text, score=4711.0 + n, source=("gpt-secret", "rl-secret")[n % 2]) for n, text in enumerate(texts)
    ]
    prompt = Prompt(messages=(Message(role="system", content="Be kind."), Message(role="user", content=f"question {number}?")))
    return item_of(prompt, answers, uncertainty=float(number))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RatingStore]:
    with RatingStore.open(
        tmp_path / "secret-file.ratings.sqlite", settings=RatingSettings(method="graded", overlap=1.0)
    ) as opened:
        opened.add_items(item(n) for n in range(6))
        yield opened


@pytest.fixture
def client(store: RatingStore) -> Iterator[Client]:
    settings = ServerSettings(port=0)
    with running(rating_page(store, settings), settings) as server:
        yield Client(server.port)


@pytest.fixture
def guarded(store: RatingStore) -> Iterator[Client]:
    """With a token, as beyond loopback."""
    settings = ServerSettings(port=0, token=TOKEN)
    with running(rating_page(store, settings), settings) as server:
        yield Client(server.port)


def join(client: Client, name: str = "Anna") -> Client:
    return Client(client.port, client("POST", "/api/join", {"name": name}).json["key"])


def vote_on(assignment: int, **choice: Any) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "assignment": assignment, "choice": choice or {"grade": 2}, "seconds": 3.2}


def rows(store: RatingStore) -> dict[str, list[tuple[Any, ...]]]:
    """All that the file holds: what a refused request must leave as it was."""
    with sqlite3.connect(store.path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        tables = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    connection.close()
    return tables


def test_a_rater_s_way(client: Client, store: RatingStore) -> None:
    anna = join(client, "  Anna ")
    assert anna("GET", "/api/me").json == {"name": "Anna", "method": "graded", "done": 0, "left": 6}
    given = anna("GET", "/api/items?count=2").json
    assert [given["done"], given["left"], len(given["items"])] == [0, 6, 2]
    first, second = given["items"]
    assert set(first) == {"assignment", "method", "prompt", "answers", "vote"} and first["vote"] is None
    assert [turn["role"] for turn in first["prompt"]] == ["system", "user"]
    assert anna("GET", "/api/items?count=2").json["items"] == given["items"]  # a page loaded again gets the same ones
    votes = [
        vote_on(first["assignment"]) | {"rewrite": "a better one", "note": "n\ud83d"},
        vote_on(second["assignment"], skip=True),
    ]
    assert anna("POST", "/api/votes", {"votes": votes}).json == {"stored": [vote["id"] for vote in votes], "refused": []}
    assert anna("POST", "/api/votes", {"votes": votes}).json == {"stored": [vote["id"] for vote in votes], "refused": []}
    assert len(store.stored_votes()) == 2  # sent twice, stored once
    assert anna("GET", "/api/me").json | {"left": 0} == {"name": "Anna", "method": "graded", "done": 2, "left": 0}
    back = anna("GET", "/api/previous").json
    assert back["assignment"] == second["assignment"] and back["vote"]["choice"] == {"skip": True}
    again = anna("GET", f"/api/previous?before={second['assignment']}").json
    assert again == first | {"vote": {"choice": {"grade": 2}, "rewrite": "a better one", "note": "n\ufffd"}}
    assert anna("GET", f"/api/previous?before={first['assignment']}").json == {"item": None}
    change = vote_on(first["assignment"], grade=-1)
    change["id"] = change["id"].upper()
    assert anna("POST", "/api/votes", {"votes": [change]}).json["stored"] == [change["id"]]
    assert [vote.revision for vote in store.stored_votes()] == [1, 1, 2]


def test_the_shown_order_is_the_stored_one(client: Client, store: RatingStore) -> None:
    anna = join(client)
    items = anna("GET", "/api/items").json["items"]
    anna("POST", "/api/votes", {"votes": [vote_on(one["assignment"]) for one in items]})
    for vote, shown in zip(store.stored_votes(), items, strict=True):
        answers = vote.assignment.item.answers
        assert [answers[index].response for index in vote.assignment.order] == shown["answers"]


@pytest.mark.parametrize(
    ("method", "choice"),
    [("pair", {"grade": 0, "both_bad": True}), ("rank", {"ranks": [1, 2, 2]}), ("score", {"scores": [7, None, 0]})],
)
def test_each_way_of_judging(client: Client, store: RatingStore, tmp_path: Path, method: Any, choice: dict[str, Any]) -> None:
    settings = ServerSettings(port=0)
    count = 2 if method == "pair" else 3
    with RatingStore.open(tmp_path / f"{method}.sqlite", settings=RatingSettings(method=method)) as other:
        other.add_items([item(1, count)])
        with running(rating_page(other, settings), settings) as server:
            anna = join(Client(server.port))
            (shown,) = anna("GET", "/api/items").json["items"]
            assert shown["method"] == method and len(shown["answers"]) == count
            bad = anna(
                "POST",
                "/api/votes",
                {"votes": [vote_on(shown["assignment"], grade=3), vote_on(shown["assignment"], ranks=[1])]},
            )
            assert bad.json["stored"] == [] and len(bad.json["refused"]) == 2 and method in bad.json["refused"][0]["error"]
            assert anna("POST", "/api/votes", {"votes": [vote_on(shown["assignment"], **choice)]}).json["refused"] == []
            assert anna("GET", "/api/previous").json["vote"]["choice"] == choice


def test_raters_see_nothing_but_texts(client: Client, store: RatingStore) -> None:
    anna, ben = join(client), join(client, "Benjamin")
    replies = [anna("GET", "/api/items"), anna("GET", "/api/me")]
    items = replies[0].json["items"]
    replies.append(anna("POST", "/api/votes", {"votes": [vote_on(items[0]["assignment"]), vote_on(999)]}))
    replies += [
        anna("GET", "/api/previous"),
        anna("GET", "/api/previous?before=999"),
        ben("GET", "/api/items"),
        anna("GET", "/nowhere"),
    ]
    replies += [anna("GET", path) for path in ("/", "/owner") if anna("GET", path).status == 200]
    replies += [
        anna("POST", "/api/votes", {"votes": 1}),
        anna("GET", "/api/items?count=-1"),
        Client(client.port)("GET", "/api/me"),
    ]
    for reply in replies:
        text = reply.body.decode() + json.dumps(dict(reply.headers))
        assert [secret for secret in SECRETS if secret in text] == []
        assert "Benjamin" not in text


RATER_PATHS = [("GET", "/api/me"), ("GET", "/api/items"), ("GET", "/api/previous"), ("POST", "/api/votes")]


def test_without_a_key_nothing_is_shown(guarded: Client, store: RatingStore) -> None:
    before = rows(store)
    for method, path in RATER_PATHS:
        for key in ("", "x", "0" * 32, TOKEN):
            assert guarded(method, path, {"votes": [vote_on(1)]} if method == "POST" else None, key=key).status == 401
    assert rows(store) == before


OWNER_PATHS = [
    ("POST", "/api/join", {"name": "Eve"}), ("POST", "/api/raters", {"name": "Eve"}), ("GET", "/api/progress", None),
    ("GET", "/api/events", None), ("GET", "/api/conflicts", None), ("GET", "/api/export", None),
    ("POST", "/api/adjudications", {"item": "x", "choice": {"grade": 1}}), ("GET", "/api/export?what=csv&raters=1", None),
    ("POST", "/api/import", {"name": "x.json", "text": "[]"}),
]  # fmt: skip


def test_the_owner_s_paths_are_the_owner_s(guarded: Client, store: RatingStore) -> None:
    key = store.rater_key(store.rater("Anna"))
    before = rows(store)
    for method, path, body in OWNER_PATHS:
        assert guarded(method, path, body).status == 401
        assert guarded(method, path, body, key=key).status == 403  # a rater is no owner
        assert guarded(method, path, body, key="wrong-token-of-the-test").status == 403
    assert rows(store) == before


def test_the_owner_makes_links(guarded: Client, store: RatingStore) -> None:
    made = guarded("POST", "/api/raters", {"name": "Anna"}, key=TOKEN).json
    address, _, key = made["link"].partition("#key=")
    assert made["name"] == "Anna" and address == f"http://127.0.0.1:{guarded.port}/"
    assert guarded("GET", "/api/me", key=key).json["name"] == "Anna"
    assert guarded("POST", "/api/raters", {"name": " anna"}, key=TOKEN).json["link"] == made["link"]  # the same person
    for name in ("", "  ", "x" * 61, "a\x00b"):
        assert guarded("POST", "/api/raters", {"name": name}, key=TOKEN).status == 422
    for body in ({}, {"name": 3}, {"name": "x", "kind": "model"}):
        assert guarded("POST", "/api/raters", body, key=TOKEN).status == 400


def test_a_vote_for_what_was_not_shown_is_refused(client: Client, store: RatingStore) -> None:
    anna, ben = join(client), join(client, "Ben")
    mine = anna("GET", "/api/items?count=1").json["items"][0]["assignment"]
    before = rows(store)
    for number in (mine, 999, -1, 0, 2**63, 10**30, True, "1", None, 1.5, [mine]):
        reply = ben("POST", "/api/votes", {"votes": [vote_on(1) | {"assignment": number}]})
        assert reply.status == 200 and reply.json["stored"] == [] and len(reply.json["refused"]) == 1
    assert ben("GET", f"/api/previous?before={mine}").status == 422
    assert rows(store) == before
    assert anna("POST", "/api/votes", {"votes": [vote_on(mine)]}).json["refused"] == []


def test_one_bad_vote_does_not_hold_up_the_others(client: Client, store: RatingStore) -> None:
    anna = join(client)
    shown = [one["assignment"] for one in anna("GET", "/api/items?count=6").json["items"]]
    good = [vote_on(shown[0]), vote_on(shown[1]) | {"seconds": 10**400}]  # a page left open for ever: at most a week
    bad: list[dict[str, Any]] = [
        vote_on(shown[2]) | {"id": "no-uuid"}, vote_on(shown[2]) | {"id": None}, vote_on(shown[2]) | {"seconds": -1},
        vote_on(shown[2]) | {"seconds": "3"}, vote_on(shown[2]) | {"note": 3}, vote_on(shown[2], grade=4),
        vote_on(shown[2]) | {"choice": None}, vote_on(shown[2]) | {"note": "x" * 200_001}, {},
        vote_on(shown[3]) | {"id": good[0]["id"]},
    ]  # fmt: skip
    reply = anna("POST", "/api/votes", {"votes": [good[0], *bad, good[1]]}).json
    assert reply["stored"] == [vote["id"] for vote in good] and len(reply["refused"]) == len(bad)
    assert all(refusal["error"] for refusal in reply["refused"]) and len(store.stored_votes()) == 2


def test_what_is_no_request_is_400(client: Client, store: RatingStore) -> None:
    anna = join(client)
    before = rows(store)
    bodies: list[Any] = [{}, {"votes": None}, {"votes": {}}, {"votes": [1]}, {"votes": [{}] * 201}, {"vote": []}]
    for body in bodies:
        assert anna("POST", "/api/votes", body).status == 400
    for count in ("-1", "0", "101", "x", "1e9", "", "%C2%B2", "9" * 40):
        assert anna("GET", f"/api/items?count={count}").status == 400
        assert anna("GET", f"/api/previous?before={count}").status in (400, 422)
    assert rows(store) == before


def test_two_raters_conflict_and_the_owner_settles(client: Client, store: RatingStore) -> None:
    anna, ben = join(client), join(client, "Ben")
    for rater, best in ((anna, 0), (ben, 1)):
        votes = []
        for shown in rater("GET", "/api/items").json["items"]:
            ordered = sorted(shown["answers"])
            votes.append(vote_on(shown["assignment"], grade=-2 if shown["answers"][0] == ordered[best] else 2))
        assert rater("POST", "/api/votes", {"votes": votes}).json["refused"] == []
    conflicts = client("GET", "/api/conflicts").json["conflicts"]
    assert len(conflicts) == 6 and {vote["rater"] for vote in conflicts[0]["votes"]} == {"Anna", "Ben"}
    signs = {(vote["choice"]["grade"] < 0) for vote in conflicts[0]["votes"]}
    assert signs == {True, False}  # in the item's order they are opposite
    settle = {"item": conflicts[0]["item"], "choice": {"grade": 1}}
    assert client("POST", "/api/adjudications", settle).status == 200
    assert len(client("GET", "/api/conflicts").json["conflicts"]) == 5
    before = rows(store)
    for bad in ({"item": "x", "choice": {"grade": 1}}, {"item": conflicts[1]["item"], "choice": {"ranks": [1]}}):
        assert client("POST", "/api/adjudications", bad).status == 422
    for bad in ({"item": 3}, {"choice": {"grade": 1}}, {"item": "x" * 101}):
        assert client("POST", "/api/adjudications", bad).status == 400
    assert rows(store) == before


def test_progress_comes_as_an_event_when_votes_do(client: Client) -> None:
    anna = join(client)
    progress = client("GET", "/api/progress").json
    assert progress["progress"] == {"items": 6, "judged_items": 0, "votes": {"Anna": 0}, "open_leases": 0, "method": "graded"}
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream = connection.makefile("rb")
        name, state = read_event(stream)
        assert state == progress
        shown = anna("GET", "/api/items?count=1").json["items"][0]
        anna("POST", "/api/votes", {"votes": [vote_on(shown["assignment"])]})
        later, state = read_event(stream)
        assert state["progress"]["votes"] == {"Anna": 1} and state["progress"]["judged_items"] == 1
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: %s\r\n\r\n" % name.encode())
        assert read_event(connection.makefile("rb")) == (later, state)  # what was missed


def read_event(stream: Any) -> tuple[str, Any]:
    name = ""
    for line in stream:
        if line.startswith(b"id: "):
            name = line[4:].strip().decode()
        if line.startswith(b"data: "):
            return name, json.loads(line[6:])
    raise AssertionError("the stream ended")


# Files in and out, for the owner alone.


def test_the_owner_exports(client: Client) -> None:
    anna = join(client, "Anna-Maria")
    items = anna("GET", "/api/items").json["items"]
    votes = [vote_on(one["assignment"]) | {"rewrite": "a better answer"} for one in items]
    assert anna("POST", "/api/votes", {"votes": votes}).json["refused"] == []
    rows_of = {"answers": 6, "pairs": 6, "csv": 7, "demonstrations": 6}
    for what, count in rows_of.items():
        reply = client("GET", f"/api/export?what={what}")
        text = reply.body.decode()
        lines = list(csv.reader(io.StringIO(text))) if what == "csv" else text.splitlines()
        assert reply.status == 200 and len(lines) == count, what
        assert re.fullmatch(r'attachment; filename="[a-z-]+\.(jsonl|csv)"', reply.headers["content-disposition"])
        assert b"Anna-Maria" not in reply.body
    for what in ("answers", "pairs", "csv"):
        assert b"Anna-Maria" in client("GET", f"/api/export?what={what}&raters=1").body
    for query, status in (("what=../x", 422), ("what=", 422), ("raters=2", 400), ("raters=", 400)):
        assert client("GET", f"/api/export?{query}").status == status


def test_the_owner_imports(client: Client, store: RatingStore) -> None:
    empty: dict[str, Any] = {"metadata": {}, "suggestions": {}, "vectors": {}}
    fields = {"instruction": "Up?", "generation-0": "zero", "generation-1": "one"}
    answers = {"preference": [{"value": "generation-1", "user_id": "u-1"}]}
    text = json.dumps([{"id": "1", "fields": fields, "responses": answers, "_server_id": "5f1c"} | empty])
    before = rows(store)
    for name, content, status in (
        ("x.exe", text, 400),
        ("x.json", "{", 400),
        ("x.json", '[{"a": 1}]', 422),
        ("x.json", "", 422),
    ):
        assert client("POST", "/api/import", {"name": name, "text": content}).status == status, (name, content)
    for body in ({"name": "x.json"}, {"name": 1, "text": ""}, {"text": text}):
        assert client("POST", "/api/import", body).status == 400
    assert rows(store) == before
    reply = client("POST", "/api/import", {"name": "/etc/../x.json", "text": text})  # of the name only the ending counts
    assert reply.status == 200 and (reply.json["votes"], reply.json["items"]) == (1, 1) and reply.json["words"]
    padded = text + " " * 2_000_000  # longer than other requests may be
    assert client("POST", "/api/import", {"name": "x.json", "text": padded}).status == 200
    assert len(store.stored_votes()) == 1
