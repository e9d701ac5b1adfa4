"""A server in a thread on a free port of 127.0.0.1, and requests to it that no library tidies up."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sawyer.web.core import RunningServer, ServerSettings, create_app, serve
from sawyer.web.core.pages import Page


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """One request a connection; `headers` replace the usual ones, None leaves one out."""

    port: int
    key: str = ""

    def __call__(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str | None] | None = None, key: str | None = None
    ) -> Reply:
        sent: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if data is not None:
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        key = self.key if key is None else key
        sent |= {"Authorization": f"Bearer {key}"} if key else {}
        sent |= dict(headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders()
            if data is not None:
                connection.send(data)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()


@contextmanager
def running(page: Page, settings: ServerSettings | None = None) -> Iterator[RunningServer]:
    """The page served by uvicorn in a thread, on a free port, until the block ends."""
    settings = settings or ServerSettings(port=0)
    ready = threading.Event()
    servers: list[RunningServer] = []
    errors: list[BaseException] = []

    def on_ready(server: RunningServer) -> None:
        servers.append(server)
        ready.set()

    def work() -> None:
        try:
            serve(create_app([page], settings), settings, on_ready)
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(30)
    if errors:
        thread.join()
        raise errors[0]
    try:
        yield servers[0]
    finally:
        servers[0].stop()
        thread.join(30)
        assert not thread.is_alive(), "the server does not stop"
        if errors:
            raise errors[0]
