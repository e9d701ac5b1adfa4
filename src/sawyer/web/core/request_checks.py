"""What every request passes before anything answers it: Host, Origin, size; and what every response carries."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sawyer.web.core.json_bodies import RequestError, error_response
from sawyer.web.core.server_settings import ServerSettings

if TYPE_CHECKING:
    from starlette.requests import Request

Message = Any  # of ASGI: a dict, as uvicorn and starlette pass it
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Any, Receive, Send], Awaitable[None]]

HEADERS = {
    # Nothing from elsewhere, no inline script, no frame of another page around ours.
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
# Bytes of a body that is too long which are read and dropped, so that its sender gets to read why.
DROP_LIMIT = 32_000_000


class RequestChecks:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, body_limits: Mapping[str, int]) -> None:
        self.app = app
        self.hosts = settings.allowed_hosts
        self.body_limit = settings.body_limit
        self.body_limits = body_limits

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def send_checked(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                present = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in present]
                message = message | {"headers": [*message["headers"], *extra]}
            await send(message)

        limit = self.body_limits.get(scope["path"], self.body_limit)
        try:
            check_host(scope["headers"], self.hosts)
            check_origin(scope["headers"])
            check_length(scope["headers"], limit)
            await self.app(scope, _limit_body(receive, limit), send_checked)
        except RequestError as error:
            if has_started:
                raise
            if error.status == 413:
                await _drop_body(receive)
            response = error_response(error.status, error.error, error.todo)
            await response(scope, receive, send_checked)


def check_host(headers: list[tuple[bytes, bytes]], hosts: frozenset[str]) -> None:
    """Raises RequestError 421 where the request names another host than ours, as after DNS rebinding."""
    hosts_sent = _values(headers, b"host")
    host = _host_name(hosts_sent[0]) if len(hosts_sent) == 1 else None
    if host not in hosts:
        raise RequestError(421, "the request is for another host", "open the address that `sawyer` printed")


def check_origin(headers: list[tuple[bytes, bytes]]) -> None:
    """Raises RequestError 403 where another site's page sends the request. A program that is no browser sends no Origin."""
    origins = _values(headers, b"origin")
    ours = f"http://{_values(headers, b'host')[0]}"
    if any(origin.lower() != ours.lower() for origin in origins):
        raise RequestError(403, "the request comes from another site's page", "open the address that `sawyer` printed")


def check_length(headers: list[tuple[bytes, bytes]], limit: int) -> None:
    """Raises RequestError 413 where the body is longer than `limit` by its header. One that lies is cut off when read."""
    for length in _values(headers, b"content-length"):
        if not (length.isascii() and length.isdigit()):
            raise RequestError(400, "Content-Length is not a number", "send the body's length in bytes")
        if len(length) > 12 or int(length) > limit:
            raise _too_long(limit)


def bearer_token(request: Request) -> str | None:
    """What the request carries as `Authorization: Bearer ...`."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


def is_owner(request: Request, settings: ServerSettings) -> bool:
    """Whether the request may do what only the owner may: always on a loopback server without a token."""
    if settings.token is None:
        return True
    token = bearer_token(request) or ""
    return secrets.compare_digest(token.encode("utf-8", "replace"), settings.token.encode())


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


def _host_name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and parts.username is None else None


def _too_long(limit: int) -> RequestError:
    return RequestError(413, f"the body is longer than {limit:,} bytes", "send it in smaller parts")


def _limit_body(receive: Receive, limit: int) -> Receive:
    size = 0

    async def receive_limited() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > limit:
                raise _too_long(limit)
        return message

    return receive_limited


async def _drop_body(receive: Receive) -> None:
    size = 0
    while size <= DROP_LIMIT:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        size += len(message.get("body", b""))
