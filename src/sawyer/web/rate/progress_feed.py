"""How far the raters are and how well they agree, for the owner's page: computed when votes have come, sent as events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from sawyer.web.core import EventStream

PAUSE = 1.0  # seconds between two events at least
LOAD = 4  # and so many times as long as the last computation took: the figures of many votes leave time for the votes


class ProgressFeed:
    """The last state and the stream of its changes. `compute` returns the state as JSON values; it is called in a thread.

    One event is the whole state, so a client that comes back needs the newest only.
    """

    def __init__(self, compute: Callable[[], dict[str, Any]], *, pause: float = PAUSE) -> None:
        self.events = EventStream(keep=1)
        self._compute, self._pause = compute, pause
        self._changes = asyncio.Event()
        self._version, self._computed = 0, -1
        self._state: dict[str, Any] = {}
        self._busy = asyncio.Lock()
        self._took = 0.0

    def mark_changed(self) -> None:
        """Votes have come."""
        self._version += 1
        self._changes.set()

    async def state(self) -> dict[str, Any]:
        """The state now."""
        async with self._busy:
            if self._computed != self._version:
                version, start = self._version, time.perf_counter()
                self._state = await asyncio.to_thread(self._compute)
                self._computed, self._took = version, time.perf_counter() - start
                await self.events.publish(json.dumps(self._state, ensure_ascii=False))
            return self._state

    async def run(self) -> None:
        """Send changes while somebody listens; without an end."""
        while True:
            await self._changes.wait()
            self._changes.clear()
            if self.events.listeners:
                await self.state()
            await asyncio.sleep(max(self._pause, LOAD * self._took))
