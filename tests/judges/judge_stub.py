"""An OpenAI-compatible server on loopback whose replies a test decides, and judges of known character."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FENCE = re.compile(r"<(conversation|answer|answer-A|answer-B)-([0-9a-f]{12})>\n(.*?)\n</\1-\2>", re.DOTALL)


@dataclass(frozen=True)
class Raw:
    """A reply that is no chat completion of status 200."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    announced: int | None = None  # Content-Length, where it is not the body's


class Hang:
    """The connection is held until the stub ends."""


@dataclass
class Call:
    """One request as it came."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str

    @property
    def messages(self) -> list[dict[str, str]]:
        return list(self.body["messages"])

    @property
    def material(self) -> dict[str, str]:
        """What stands between the marks of the question: conversation, and answer, or answer-A and answer-B."""
        return {name: text for name, _, text in FENCE.findall(self.messages[1]["content"])}

    @property
    def is_pair(self) -> bool:
        return "answer-A" in self.material


Reply = str | dict[str, Any] | Raw | Hang
Behaviour = Callable[[Call], Reply]


class Stub:
    """The server. `calls` holds every request that reached it, in order of arrival."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour, self.calls = behaviour, list[Call]()
        self.released, self.lock = threading.Event(), threading.Lock()
        self.tokens = (10, 2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def reply(self, call: Call) -> Reply:
        with self.lock:
            self.calls.append(call)
        return self.behaviour(call)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Stub]:
    """A stub that answers until the block ends."""
    stub = Stub(behaviour)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = stub.reply(Call(body=body, headers=dict(self.headers), path=self.path))
            if isinstance(reply, Hang):
                stub.released.wait(20)
                return
            if not isinstance(reply, Raw):
                message = reply if isinstance(reply, dict) else {"role": "assistant", "content": reply}
                finish = message.pop("finish_reason", "stop") if isinstance(reply, dict) else "stop"
                usage = {"prompt_tokens": stub.tokens[0], "completion_tokens": stub.tokens[1]}
                content = {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}
                reply = Raw(body=json.dumps(content))
            data = reply.body.encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) if reply.announced is None else reply.announced))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:  # a redirect of 302 becomes a GET in clients that follow it
            with stub.lock:
                stub.calls.append(Call(body={}, headers=dict(self.headers), path=self.path))
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        stub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


# Judges.


def score_json(score: Any, reason: str = "so it is") -> str:
    return json.dumps({"reason": reason, "score": score})


def pair_json(better: str, strength: int = 1) -> str:
    return json.dumps({"reason": "so it is", "better": better, "strength": strength})


def quality(text: str) -> int:
    """The last `quality N` in a text, 0 without one: what an honest judge sees."""
    numbers = re.findall(r"quality (\d+)", text)
    return int(numbers[0]) if numbers else 0


def honest(call: Call) -> str:
    """It scores by `quality`, in either order."""
    material = call.material
    if not call.is_pair:
        return score_json(quality(material["answer"]))
    first, second = quality(material["answer-A"]), quality(material["answer-B"])
    if first == second:
        return pair_json("tie", 0)
    return pair_json("A" if first > second else "B", min(3, abs(first - second)))


def first_lover(call: Call) -> str:
    """It prefers the answer shown first, whatever it says."""
    return pair_json("A", 2) if call.is_pair else honest(call)


def obedient(call: Call) -> str:
    """It does as an answer bids: any talk of a highest score gives one."""
    orders = re.compile(r'highest score|"score": 10|\[\[10\]\]', re.IGNORECASE)
    if not call.is_pair and orders.search(call.material["answer"]):
        return score_json(10)
    return honest(call)


def in_turn(replies: Sequence[Reply]) -> Behaviour:
    """The replies one after the other, the last one for ever."""
    count = [0]
    lock = threading.Lock()

    def behave(_: Call) -> Reply:
        with lock:
            count[0] += 1
            return replies[min(count[0], len(replies)) - 1]

    return behave
