"""Server-sent events: each has an id, and a client that comes back gets what it missed."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.responses import Response

PING_SECONDS = 15.0  # shorter than what proxies and phones take for a dead connection


class EventStream:
    """The last `keep` events, and whoever listens. All methods belong to the server's event loop.

    Where an event holds the whole state, `keep` 1 replays what counts.
    """

    def __init__(self, *, keep: int = 64, ping_seconds: float = PING_SECONDS) -> None:
        self.ping_seconds = ping_seconds
        self.listeners = 0
        self._events: deque[tuple[int, bytes]] = deque(maxlen=keep)
        self._number = 0
        self._series = secrets.token_hex(4)  # ids of an earlier server's events are none of ours
        self._news = asyncio.Condition()
        self._is_closed = False

    async def publish(self, data: str) -> str:
        """Send an event to all listeners; returns its id. `data` is text without line ends of its own (JSON)."""
        async with self._news:
            self._number += 1
            name = f"{self._series}-{self._number}"
            lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
            self._events.append((self._number, f"id: {name}\n{lines}\n".encode("utf-8", "replace")))
            self._news.notify_all()
        return name

    async def close(self) -> None:
        """End all streams: the server stops."""
        async with self._news:
            self._is_closed = True
            self._news.notify_all()

    async def events(self, last_id: str = "") -> AsyncIterator[bytes]:
        """All kept events after `last_id` (an unknown id: all kept), then each new one, and a ping where nothing happens."""
        last = self._number_of(last_id)
        self.listeners += 1
        try:
            while True:
                news = [event for event in self._events if event[0] > last]
                for number, event in news:
                    last = number
                    yield event
                if self._is_closed:
                    return
                if not news and not await self._wait(last):
                    yield b": ping\n\n"
        finally:
            self.listeners -= 1

    def response(self, last_id: str = "") -> Response:
        """The stream as an HTTP response."""
        from starlette.responses import StreamingResponse

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self.events(last_id), 200, headers, "text/event-stream")

    async def _wait(self, last: int) -> bool:
        """Whether there is news before the next ping is due."""

        async def wait_for_news() -> None:
            async with self._news:
                await self._news.wait_for(lambda: self._is_closed or self._number > last)

        try:
            await asyncio.wait_for(wait_for_news(), self.ping_seconds)
        except TimeoutError:
            return False
        return True

    def _number_of(self, event_id: str) -> int:
        series, _, number = event_id.rpartition("-")
        return int(number) if series == self._series and number.isascii() and number.isdigit() and len(number) < 16 else 0
