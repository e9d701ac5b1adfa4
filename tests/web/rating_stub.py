"""A server of the rating page's HTTP interface that forgets everything: it shows what the page sends, and refuses at will."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import sawyer

PACKAGE = Path(sawyer.__file__).parent
STATIC = PACKAGE / "web" / "rate" / "static"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


@dataclass
class RatingStub:
    """Every rater gets the same items, in order. Its lists are read by the tests while the browser works."""

    method: str
    items: list[dict[str, Any]]
    owner: dict[str, Any] = field(default_factory=dict)  # path -> the owner's JSON
    votes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # rater's key, vote; in the order of arrival
    requests: list[str] = field(default_factory=list)
    posts: list[tuple[str, Any]] = field(default_factory=list)  # the owner's
    sent_bytes: dict[str, int] = field(default_factory=dict)  # path of a page's file -> bytes of its body as sent
    failure: tuple[int, dict[str, str]] | None = None  # the answer to votes instead of storing them
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stored(self, key: str | None = None) -> list[dict[str, Any]]:
        """Each vote once, by its id, in the order of arrival."""
        return list({vote["id"]: vote for rater, vote in self.votes if key in (None, rater)}.values())

    def last(self, key: str | None = None) -> dict[int, dict[str, Any]]:
        """assignment -> its last vote."""
        return {vote["assignment"]: vote for vote in self.stored(key)}

    def answer(self, method: str, target: str, key: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        first_votes = self.last(key)
        left = len(self.items) - len(first_votes)
        if parts.path == "/api/join":
            return 200, {"key": body["name"].lower(), "name": body["name"]}
        if parts.path in self.owner:
            if method == "POST":
                self.posts.append((target, body))
            return 200, self.owner[parts.path]
        if not key or key == "wrong":
            return 401, {"error": "no such rater", "todo": "ask for a link"}
        if parts.path == "/api/me":
            return 200, {"name": key, "method": self.method, "done": len(first_votes), "left": left}
        if parts.path == "/api/items":
            open_items = [item for item in self.items if item["assignment"] not in first_votes]
            return 200, {"items": open_items[: int(query["count"])], "done": len(first_votes), "left": left}
        if parts.path == "/api/previous":
            order = list(first_votes)
            before = order.index(int(query["before"])) if "before" in query else len(order)
            if before == 0:
                return 200, {"item": None}
            item = self.items[order[before - 1] - 1]
            vote = first_votes[item["assignment"]]
            return 200, {"item": {**item, "vote": {name: vote[name] for name in ("choice", "rewrite", "note")}}}
        if parts.path == "/api/votes":
            if self.failure:
                return self.failure
            self.votes += [(key, vote) for vote in body["votes"]]
            return 200, {"stored": [vote["id"] for vote in body["votes"]], "refused": []}
        return 404, {"error": "no such page"}

    def serve(self) -> ThreadingHTTPServer:
        """Starts on a free port of loopback; `shutdown` ends it."""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def reply(self, status: int, kind: str, body: bytes, **headers: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Security-Policy", "default-src 'self'")
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                stub.requests.append(f"GET {self.path}")
                path = static_file(urlsplit(self.path).path)
                if path is None:
                    return self.respond(None)
                body = gzip.compress(path.read_bytes(), mtime=0)
                stub.sent_bytes[self.path] = len(body)
                return self.reply(200, TYPES[path.suffix], body, Content_Encoding="gzip")

            def do_POST(self) -> None:
                stub.requests.append(f"POST {self.path}")
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.respond(json.loads(raw) if raw else None)

            def respond(self, body: Any) -> None:
                key = self.headers.get("Authorization", "").removeprefix("Bearer ")
                with stub.lock:
                    status, answer = stub.answer(self.command, self.path, key, body)
                if isinstance(answer, str):  # server-sent events
                    return self.reply(status, "text/event-stream", answer.encode())
                return self.reply(status, "application/json", json.dumps(answer).encode())

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server


def static_file(path: str) -> Path | None:
    if path in ("/", "/owner"):
        return STATIC / {"/": "rate.html", "/owner": "owner.html"}[path]
    if path == "/static/theme.css":
        return PACKAGE / "report" / "theme.css"
    return STATIC / path.removeprefix("/static/") if path.startswith("/static/") else None


def rating_items(method: str, count: int, answers: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "assignment": number,
            "method": method,
            "prompt": [{"role": "user", "content": f"Question {number}: which is the larger of the two numbers?"}],
            "answers": [f"Answer {letter} to question {number}." for letter in "ABCDEFGH"[:answers]],
            "vote": None,
        }
        for number in range(1, count + 1)
    ]
