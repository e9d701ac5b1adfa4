"""The web core: who may ask what, by status; what is sent with every response; events; starting and stopping."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from raising import raises_with
from servers import Client, running

from sawyer.errors import RatingError, RunError
from sawyer.web.core import (
    Endpoint,
    EventStream,
    Page,
    ServerSettings,
    json_response,
    new_token,
    read_json,
    serve,
    static_table,
)
from sawyer.web.core import server as server_module
from sawyer.web.core.application import status_of
from sawyer.web.core.server_settings import is_loopback

pytest.importorskip("starlette", reason="the extra `web` is not installed")

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

TOKEN = "owner-token-of-the-test"


class Recorder:
    """A page that records what reached it."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.bodies: list[Any] = []
        self.stream = EventStream()
        self.page = Page(
            endpoints=(
                Endpoint(method="GET", path="/api/open", answer=self.open),
                Endpoint(method="POST", path="/api/echo", answer=self.echo),
                Endpoint(method="POST", path="/api/large", answer=self.echo, body_limit=20_000_000),
                Endpoint(method="POST", path="/api/owner", answer=self.echo, owner=True),
                Endpoint(method="GET", path="/api/events", answer=self.events),
                Endpoint(method="GET", path="/api/broken", answer=self.broken),
            ),
            files=files,
            stop=self.stream.close,
        )

    async def open(self, _: Request) -> Response:
        self.bodies.append("open")
        return json_response({"ok": True, "half": "\ud83d"})

    async def echo(self, request: Request) -> Response:
        value = await read_json(request)
        self.bodies.append(value)
        return json_response({"fields": len(value)})

    async def events(self, request: Request) -> Response:
        return self.stream.response(request.headers.get("last-event-id", ""))

    async def broken(self, _: Request) -> Response:
        raise ZeroDivisionError("a bug")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("static")
    (folder / "page.html").write_text("<!doctype html>" + "<p>grüße</p>" * 50, encoding="utf-8")
    (folder / "page.js").write_text("1", encoding="utf-8")
    (folder / ".hidden.js").write_text("secret", encoding="utf-8")
    (folder.parent / "secret.txt").write_text("secret", encoding="utf-8")
    return {**static_table(folder), "/": folder / "page.html"}


@pytest.fixture(scope="module")
def served(files: dict[str, Path]) -> Iterator[tuple[Client, Recorder]]:
    recorder = Recorder(files)
    with running(recorder.page, ServerSettings(port=0, token=TOKEN)) as server:
        yield Client(server.port), recorder


@pytest.fixture
def client(served: tuple[Client, Recorder]) -> Iterator[Client]:
    """The client; what is sent must not have reached the page unless the test takes it out of `recorder.bodies`."""
    yield served[0]
    assert served[1].bodies == []


@pytest.fixture
def recorder(served: tuple[Client, Recorder]) -> Recorder:
    return served[1]


def test_files_come_from_the_table_only(client: Client) -> None:
    page = client("GET", "/")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8" and "grüße" in page.body.decode()
    assert client("GET", "/static/page.js").headers["content-type"] == "text/javascript; charset=utf-8"
    again = client("GET", "/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    packed = client("GET", "/", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(packed.body) == page.body
    assert client("HEAD", "/").status == 200 and client("HEAD", "/").body == b""


@pytest.mark.parametrize(
    "path",
    ["/static/../secret.txt", "/static/%2e%2e/secret.txt", "/static/..%2fsecret.txt",
     "/static/.hidden.js", "/static//page.js", "/static/",
     "/static/page.js/", "/etc/passwd", "//etc/passwd", "/static/page.js%00", "/STATIC/page.js", "/static\\page.js"],
)  # fmt: skip
def test_what_is_not_in_the_table_is_not_there(client: Client, path: str) -> None:
    reply = client("GET", path)
    assert reply.status == 404 and b"secret" not in reply.body


def test_every_response_carries_the_rules(client: Client, recorder: Recorder) -> None:
    replies = [client("GET", "/"), client("GET", "/nowhere"), client("GET", "/", headers={"Host": "evil.example"})]
    replies.append(client("GET", "/api/open"))
    assert recorder.bodies.pop() == "open"
    for reply in replies:
        assert reply.headers["content-security-policy"].startswith("default-src 'self';")
        assert reply.headers["x-content-type-options"] == "nosniff" and reply.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in reply.headers and "server" not in reply.headers
    assert replies[-1].headers["cache-control"] == "no-store" and replies[-1].json == {"ok": True, "half": "?"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.1:x", "user@127.0.0.1:{port}", "", None,
             "127.0.0.1/evil", "localhost.", "2130706433"]
)  # fmt: skip
def test_a_foreign_host_is_refused(client: Client, host: str | None) -> None:
    reply = client("POST", "/api/echo", {"a": 1}, {"Host": host and host.format(port=client.port)})
    assert reply.status == (400 if host is None else 421)  # without a Host header it is no HTTP/1.1: h11 refuses it


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "127.0.0.1:1"])
def test_our_own_names_are_taken(client: Client, recorder: Recorder, host: str) -> None:
    # Another port is a tunnel's (`ssh -L 1:localhost:8321`): a foreign site cannot have one of these names.
    assert client("POST", "/api/echo", {"a": 1}, {"Host": host.format(port=client.port)}).status == 200
    assert recorder.bodies.pop() == {"a": 1}


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:{other}", "http://localhost:{port}", ""],
)
def test_a_foreign_origin_is_refused(client: Client, origin: str) -> None:
    given = origin.format(port=client.port, other=client.port + 1)
    assert client("POST", "/api/echo", {"a": 1}, {"Origin": given}).status == 403
    assert client("GET", "/api/open", headers={"Origin": given}).status == 403


def test_our_own_origin_is_taken(client: Client, recorder: Recorder) -> None:
    assert client("POST", "/api/echo", {"a": 1}, {"Origin": f"http://127.0.0.1:{client.port}"}).status == 200
    assert recorder.bodies.pop() == {"a": 1}


def test_the_owner_s_paths_need_the_token(client: Client, recorder: Recorder) -> None:
    missing = client("POST", "/api/owner", {"a": 1})
    assert missing.status == 401 and missing.headers["www-authenticate"] == "Bearer" and missing.json["todo"]
    for wrong in ("x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü"):
        authorization = f"Bearer {wrong}".encode("latin-1").decode("latin-1")
        assert client("POST", "/api/owner", {"a": 1}, {"Authorization": authorization}).status == 403
    assert client("POST", "/api/owner", {"a": 1}, {"Authorization": f"Basic {TOKEN}"}).status == 401
    assert client("POST", f"/api/owner?token={TOKEN}", {"a": 1}).status == 401  # an address ends up in histories
    assert client("POST", "/api/owner", {"a": 1}, key=TOKEN).status == 200
    assert recorder.bodies.pop() == {"a": 1}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "GET", "HEAD", "TRACE"])
def test_another_method_is_405(client: Client, method: str) -> None:
    reply = client(method, "/api/echo")
    assert reply.status == 405 and reply.headers["allow"] == "POST"
    # What a GET of the API does is not done for a HEAD.
    assert client("HEAD", "/api/open").status == 405 and client("POST", "/", {}).status == 405


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"", "not JSON"), (b"{", "not JSON"), (b"[1]", "not an object"), (b'"x"', "not an object"), (b"null", "not an object"),
     (b'{"a": NaN}', "NaN"), (b'{"a": Infinity}', "Infinity"), (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
     (b'{"a": "\xff"}', "not JSON"),
     (b"[" * 400_000, "nested"), (b'{"a":' * 150_000, "nested")],
)  # fmt: skip
def test_a_body_that_is_no_object_is_400(client: Client, body: bytes, words: str) -> None:
    reply = client("POST", "/api/echo", body)
    assert reply.status == 400 and words in reply.json["error"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None, "application/json5"]
)
def test_another_content_type_is_415(client: Client, kind: str | None) -> None:
    # These are the types that a foreign page may send without asking first.
    assert client("POST", "/api/echo", b'{"a": 1}', {"Content-Type": kind}).status == 415


def test_ten_megabytes_are_413(client: Client, recorder: Recorder) -> None:
    body = b'{"a": "' + b"x" * 10_000_000 + b'"}'
    reply = client("POST", "/api/echo", body)
    assert reply.status == 413 and "1,000,000" in reply.json["error"]
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)  # without a length: counted as it comes
    headers = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    assert client("POST", "/api/echo", chunks, headers).status == 413
    assert client("POST", "/api/echo", b"{}", {"Content-Length": "9" * 30}).status in (400, 413)
    assert client("POST", "/api/echo", b"{}", {"Content-Length": "-2"}).status == 400
    assert client("POST", "/api/large", body).status == 200
    assert len(recorder.bodies.pop()["a"]) == 10_000_000


def test_a_bug_shows_no_traceback(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    reply = client("GET", "/api/broken")
    assert reply.status == 500 and b"a bug" not in reply.body and "ZeroDivisionError" in caplog.text


def test_statuses_of_our_errors() -> None:
    assert status_of(RatingError("of another rater")) == 422
    assert status_of(RunError("the disk is full")) == 507
    assert status_of(RunError("the file is locked by another program")) == 503


# Events.


async def take(events: AsyncIterator[bytes], count: int) -> list[str]:
    return [(await anext(events)).decode() for _ in range(count)]


def test_events_have_ids_and_what_was_missed_comes_again() -> None:
    async def work() -> None:
        stream = EventStream(keep=3, ping_seconds=30)
        names = [await stream.publish(f'{{"n":{n}}}') for n in range(1, 5)]
        first = await take(stream.events(), 3)  # of four the last three are kept
        assert first == [f'id: {name}\ndata: {{"n":{n}}}\n\n' for n, name in enumerate(names, 1)][1:]
        assert await take(stream.events(names[2]), 1) == first[2:]
        assert await take(stream.events("another-server-3"), 3) == first  # ids of another server's life: all there is
        assert await take(stream.events("99999999999999999999999"), 3) == first
        waiting = asyncio.ensure_future(anext(stream.events(names[3])))
        await asyncio.sleep(0)
        assert not waiting.done()
        await stream.publish("two\nlines")
        assert (await waiting).decode().endswith("data: two\ndata: lines\n\n")

    asyncio.run(work())


def test_a_silent_stream_pings_and_a_closed_one_ends() -> None:
    async def work() -> None:
        stream = EventStream(ping_seconds=0.001)
        events = stream.events()
        assert await take(events, 2) == [": ping\n\n"] * 2
        assert stream.listeners == 1
        await stream.publish("last")
        await stream.close()
        assert ["last" in part.decode() async for part in events if not part.startswith(b":")] == [True]
        assert stream.listeners == 0

    asyncio.run(work())


def test_a_stream_ends_with_the_server(files: dict[str, Path]) -> None:
    recorder = Recorder(files)
    with running(recorder.page) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            head = connection.recv(4096)
            assert b"200 OK" in head and b"text/event-stream" in head
            server.stop()
            rest = b""
            while part := connection.recv(4096):
                rest += part
    assert rest.endswith(b"0\r\n\r\n")  # the last chunk: ended, not cut off


# Starting and stopping.


def test_only_loopback_is_listened_on(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    bound: list[Any] = []
    bind = server_module.bind

    def recording_bind(settings: ServerSettings) -> socket.socket:
        listener = bind(settings)
        bound.append(listener.getsockname())
        return listener

    monkeypatch.setattr(server_module, "bind", recording_bind)
    with running(Recorder(files).page) as server:
        assert bound == [("127.0.0.1", server.port)] and server.url == f"http://127.0.0.1:{server.port}"
        for address in {"127.0.0.2", *other_addresses()}:
            with socket.socket() as probe, pytest.raises(OSError):
                probe.settimeout(2)
                probe.connect((address, server.port))


def other_addresses() -> list[str]:
    """This machine's addresses beyond loopback; none in a sandbox."""
    try:
        names = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    except OSError:
        return []
    return [name for name in names if not is_loopback(name)]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_beyond_loopback_a_token_is_needed(host: str) -> None:
    with raises_with(RunError, given="without a token", todo="token"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, token=new_token()).token


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("LocalHost", True), ("0.0.0.0", False),
                           ("::", False),
                           ("10.0.0.1", False), ("localhost.evil.example", False), ("", False)]
)  # fmt: skip
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("token", ["", "short", "a b\ncdefgh", "ümläuteß"])
def test_a_token_that_could_not_be_sent_or_is_guessed_is_refused(token: str) -> None:
    with raises_with(RunError, given="token"):
        ServerSettings(token=token)


def test_the_names_of_a_server_beyond_loopback() -> None:
    assert ServerSettings(host="10.1.2.3", token=TOKEN).allowed_hosts == {"10.1.2.3"}
    everywhere = ServerSettings(host="0.0.0.0", token=TOKEN).allowed_hosts
    assert {"localhost", socket.gethostname().lower()} <= everywhere and "evil.example" not in everywhere


def test_a_used_port_names_the_next_free_one(files: dict[str, Path]) -> None:
    with running(Recorder(files).page) as server:
        settings = ServerSettings(port=server.port)
        with pytest.raises(RunError) as caught:
            serve(None, settings, lambda _: None)  # type: ignore[arg-type]
        assert f"port {server.port} is in use" in caught.value.given
        port = int(caught.value.todo.split("--port ")[1].split(",")[0])
        assert port > server.port
        server_module.bind(ServerSettings(port=port)).close()


def test_an_address_of_another_machine_is_explained() -> None:
    with raises_with(RunError, given="192.0.2.1 cannot be listened on", todo="--host"):
        server_module.bind(ServerSettings(host="192.0.2.1", port=0, token=TOKEN))


SERVER = """
import sys
from sawyer.web.core import ServerSettings, create_app, serve
from sawyer.web.core.pages import Page
settings = ServerSettings(port=0)
serve(create_app([Page()], settings), settings, lambda server: print(server.port, flush=True))
print("after", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_in_order(number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        port = int(process.stdout.readline())
        assert Client(port)("GET", "/").status == 404
        process.send_signal(number)
        assert process.stdout.read() == "after\n" and process.stderr.read() == "" and process.wait(30) == 0


def test_files_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "program.exe").write_bytes(b"MZ")
    with raises_with(RunError, given="program.exe"):
        static_table(tmp_path)
