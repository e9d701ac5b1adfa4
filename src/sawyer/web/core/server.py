"""Start and stop: a bound port, uvicorn on it, and an end in order."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sawyer.errors import RunError
from sawyer.web.core.server_settings import ServerSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette

PORTS_TRIED = 100  # after a used one, for the next that is free


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that answers. `stop` ends it in order, from any thread."""

    url: str
    port: int
    stop: Callable[[], None]


def serve(app: Starlette, settings: ServerSettings, on_ready: Callable[[RunningServer], None]) -> None:
    """Serve until Ctrl-C, SIGTERM or `stop`. `on_ready` is called once requests are answered, and must return at once.

    Requests at work are finished, event streams end, then it returns. Raises RunError where the port cannot be had.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            port = listener.getsockname()[1]
            on_ready(RunningServer(url=settings.url(port), port=port, stop=self.stop))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Streams never end by themselves: they would hold up the end until the grace is over.
            for stop in app.state.stops:
                await stop()
            await super().shutdown(sockets=sockets)

        def handle_exit(self, sig: int, frame: Any) -> None:
            # uvicorn raises the signal again at its end, which would make an orderly end look like a crash.
            self.force_exit = self.should_exit
            self.stop()

        def stop(self) -> None:
            self.should_exit = True

    listener = bind(settings)
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=75,  # a person thinks longer than the usual 5 seconds about an item
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    with listener:
        Server(config).run(sockets=[listener])


def bind(settings: ServerSettings) -> socket.socket:
    """A socket on exactly this host and port. Raises RunError that names the next free port where this one is used."""
    try:
        return _bound(settings.host, settings.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = _next_free_port(settings)
            raise RunError(
                f"port {settings.port} is in use on {settings.host}",
                why="another program listens there, perhaps an earlier `sawyer`",
                todo=f"use --port {free}, which is free" if free else "end that program, or name another --port",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise RunError(
                f"port {settings.port} needs rights that this user does not have",
                expected="a port from 1024 on",
                todo="name another --port",
            ) from error
        raise RunError(
            f"{settings.host} cannot be listened on: {error.strerror or error}",
            expected="an address of this machine",
            todo="name another --host; 127.0.0.1 is always there",
        ) from error


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a port whose last connections still close counts as free; on Windows it means "share it"
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)  # here, not later: two servers can be bound to a port on which none listens yet
    except OSError:
        listener.close()
        raise
    return listener


def _next_free_port(settings: ServerSettings) -> int | None:
    for port in range(settings.port + 1, min(settings.port + PORTS_TRIED, 65535) + 1):
        try:
            _bound(settings.host, port).close()
        except OSError:
            continue
        return port
    return None
