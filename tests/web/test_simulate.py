"""Simulated people against a small stub of the HTTP interface: what they enter, how often, and what ends them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sawyer.errors import RatingError
from sawyer.ratings import Item, Method
from sawyer.records import Answer, prompt_of
from sawyer.web.rate.simulate import (
    SimulatedPeople,
    SimulatedPerson,
    Simulation,
    SimulationSettings,
    check_world,
    choice_of,
    raters_in_turn,
)

PROMPT = 'What is the opposite of "up"?'
RIGHT, WRONG, LONG = 'The opposite of "up" is "down".', 'The opposite of "up" is "sad".', "I am sure of it. " * 9


@pytest.mark.parametrize(
    ("method", "scores", "choice"),
    [
        ("graded", (8.0, 8.5), {"grade": 0}),
        ("graded", (8.0, 9.0), {"grade": 1}),
        ("graded", (8.0, 6.0), {"grade": -1}),
        ("graded", (3.0, 5.5), {"grade": 2}),
        ("graded", (7.5, 3.0), {"grade": -2}),
        ("graded", (2.0, 7.0), {"grade": 3}),
        ("graded", (10.0, 1.0), {"grade": -3}),
        ("graded", (2.5, 2.0), {"grade": 0, "both_bad": True}),
        ("graded", (2.5, 3.0), {"grade": 0}),
        ("pair", (2.0, 7.0), {"grade": 1}),
        ("pair", (8.0, 7.0), {"grade": -1}),
        ("pair", (1.0, 1.0), {"grade": 0, "both_bad": True}),
        ("rank", (9.0, 2.0, 5.0, 5.0), {"ranks": [1, 3, 2, 2]}),
        ("score", (8.5, 1.0, 4.0), {"scores": [9, 1, 4]}),
    ],
)
def test_scores_as_a_person_enters_them(method: Method, scores: tuple[float, ...], choice: dict[str, Any]) -> None:
    assert choice_of(method, scores) == choice


def test_people_take_their_styles_in_turn() -> None:
    assert raters_in_turn(3, ["honest", "lazy"]) == [("honest 1", "honest"), ("lazy 1", "lazy"), ("honest 2", "honest")]
    for people, styles, words in ((1, ["kind"], "'kind'"), (0, ["honest"], "0 people"), (1, [], "no kind")):
        with pytest.raises(RatingError, match=words):
            raters_in_turn(people, styles)


def test_only_the_built_in_world_s_prompts_can_be_judged() -> None:
    def item(prompt: str) -> Item:
        return Item(id=prompt, prompt=prompt_of(prompt), answers=(Answer(response="A", score=None),))

    check_world([item(PROMPT)])
    with pytest.raises(RatingError, match="cannot judge answers to 'Who wrote Emma\\?'") as raised:
        check_world([item(PROMPT), item("Who wrote Emma?")])
    assert "--simulate" in str(raised.value.todo)


def judged(style: str, answers: list[str], method: Method = "graded", name: str = "somebody", seed: int = 0) -> Any:
    person = SimulatedPerson("http://127.0.0.1:1", name, style, seed=seed)
    return person.judge(
        {"assignment": 7, "method": method, "prompt": [{"role": "user", "content": PROMPT}], "answers": answers}
    )


def test_each_style_judges_by_the_text_alone() -> None:
    assert judged("honest", [RIGHT, WRONG])["choice"] == {"grade": -3}
    assert judged("honest", [WRONG, RIGHT])["choice"] == {"grade": 3}  # the position plays no part
    assert judged("lazy", [WRONG, RIGHT])["choice"] == {"grade": 0}
    assert judged("length_lover", [RIGHT, LONG])["choice"] == {"grade": 3}
    assert judged("honest", [WRONG, RIGHT, LONG], "rank")["choice"]["ranks"][1] == 1
    vote = judged("honest", [RIGHT, WRONG])
    words = len(f"{PROMPT} {RIGHT} {WRONG}".split())
    assert vote["assignment"] == 7 and vote["seconds"] == 1 + words / 4
    assert judged("lazy", [RIGHT, WRONG])["seconds"] < 1


def test_a_second_look_at_the_same_answers_is_a_new_judgement_and_a_second_run_gives_the_same() -> None:
    def looks() -> list[int]:
        person = SimulatedPerson("http://127.0.0.1:1", "somebody", "flipper")
        item = {"assignment": 1, "method": "score", "prompt": [{"role": "user", "content": PROMPT}], "answers": [RIGHT]}
        return [person.judge(item)["choice"]["scores"][0] for _ in range(40)]

    assert looks() == looks()
    assert 5 <= sum(score < 5 for score in looks()) <= 27  # 16 of 40 expected: turned round from 10 to 1


def simulate(address: str, people: int, *, token: str = "", **settings: Any) -> Simulation:
    return SimulatedPeople(SimulationSettings(people=people, **settings), token=token).vote(address)


class Stub(ThreadingHTTPServer):
    """Ten items; each goes to one person."""

    def __init__(self, prompt: str = PROMPT, error: int = 0, refuse: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.prompt, self.error, self.refuse = prompt, error, refuse
        self.lock, self.keys, self.kinds = threading.Lock(), dict[str, str](), list[str]()
        self.free, self.leases, self.votes = list(range(10)), dict[int, str](), list[dict[str, Any]]()
        self.owners = list[str | None]()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class StubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, values: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        stub, key = self.server, str(self.headers["Authorization"]).removeprefix("Bearer ")
        with stub.lock:
            mine = [number for number, owner in stub.leases.items() if owner == key][:3]
            while len(mine) < 3 and stub.free:
                mine.append(stub.free.pop(0))
                stub.leases[mine[-1]] = key
        prompt = [{"role": "user", "content": stub.prompt}]
        shown = [{"assignment": n, "method": "pair", "prompt": prompt, "answers": [RIGHT, WRONG], "vote": None} for n in mine]
        self.answer({"items": shown, "done": 0, "left": len(stub.free)})

    def do_POST(self) -> None:
        stub = self.server
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/join":
            stub.owners.append(self.headers["Authorization"])
            stub.kinds.append(content["kind"])
            key = stub.keys[content["name"]] = f"key of {content['name']}"
            return self.answer({"key": key, "name": content["name"]})
        if stub.error:
            return self.answer({"error": "the disk is full", "todo": "free some space"}, stub.error)
        key = str(self.headers["Authorization"]).removeprefix("Bearer ")
        (vote,) = content["votes"]
        with stub.lock:
            if stub.refuse or stub.leases.pop(vote["assignment"], None) != key:
                return self.answer({"stored": [], "refused": [{"id": vote["id"], "error": "not yours"}]})
            stub.votes.append(vote | {"key": key})
        return self.answer({"stored": [vote["id"]], "refused": []})


@pytest.fixture
def serve() -> Iterator[Any]:
    stubs: list[Stub] = []

    def start(**settings: Any) -> Stub:
        stubs.append(Stub(**settings))
        threading.Thread(target=stubs[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.shutdown()
        stub.server_close()


def test_everything_is_judged_once_by_people_with_keys_of_their_own(serve: Any) -> None:
    stub = serve()
    simulation = simulate(stub.address, 3, styles=("honest", "lazy"), token="owner")
    assert stub.kinds == ["simulated"] * 3 and stub.owners == ["Bearer owner"] * 3
    assert sorted(vote["assignment"] for vote in stub.votes) == list(range(10))
    assert len({vote["id"] for vote in stub.votes}) == 10
    assert simulation.votes == {name: sum(vote["key"] == key for vote in stub.votes) for name, key in stub.keys.items()}
    for vote in stub.votes:
        assert vote["choice"] == ({"grade": 0} if "lazy" in vote["key"] else {"grade": -1})
    assert "3 simulated people gave 10 votes" in simulation.words


def test_a_number_of_votes_ends_it(serve: Any) -> None:
    stub = serve()
    assert sum(simulate(stub.address, 3, votes=4).votes.values()) == len(stub.votes) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"error": 507}, "507: the disk is full"),
        ({"refuse": True}, "refused a vote of honest .: not yours"),
        ({"prompt": "Who wrote Emma?"}, "cannot judge answers to 'Who wrote Emma"),
    ],
)
def test_what_goes_wrong_ends_everybody_and_is_said(serve: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RatingError, match=words):
        simulate(serve(**settings).address, 2)


def test_a_server_that_is_not_there_is_said() -> None:
    stub = Stub()
    stub.server_close()
    with pytest.raises(RatingError, match="does not answer"):
        simulate(stub.address, 1)


def test_in_the_background_the_end_is_told_whatever_happened(serve: Any) -> None:
    for settings in ({}, {"error": 507}):
        ended = threading.Event()
        people = SimulatedPeople(SimulationSettings(people=2))
        people.start(serve(**settings).address, ended.set)
        assert ended.wait(30)
        assert people.thread is not None
        people.thread.join()
        if settings:
            with pytest.raises(RatingError, match="the disk is full"):
                people.finish()
        else:
            assert sum(people.finish().votes.values()) == 10
