"""How far the raters are and how well they agree, for the owner's page: computed when votes have come, sent as events."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from sawyer.errors import SawyerError
from sawyer.web.core import EventStream

LOGGER = logging.getLogger("sawyer.web")
PAUSE = 1.0  # seconds between two computations at least
LOAD = 4  # and so many times as long as the last one took: the figures of many votes leave time for the votes
POLL = 10.0  # seconds after which is looked for votes that another program stored


class ProgressFeed:
    """The last state and the stream of its changes. `compute` returns the state as JSON values; it is called in a thread.

    One event is the whole state, so a client that comes back needs the newest only.
    """

    def __init__(self, compute: Callable[[], dict[str, Any]]) -> None:
        self.events = EventStream(keep=1)
        self._compute = compute
        self._changes = asyncio.Event()
        self._last_text = ""
        self._busy = asyncio.Lock()
        self._took = 0.0

    def mark_changed(self) -> None:
        """Votes have come."""
        self._changes.set()

    async def state(self) -> dict[str, Any]:
        """The state now; an event where it is not the one that was sent last."""
        async with self._busy:
            start = time.perf_counter()
            state = await asyncio.to_thread(self._compute)
            self._took = time.perf_counter() - start
            text = json.dumps(state, ensure_ascii=False, allow_nan=False)
            if text != self._last_text:
                self._last_text = text
                await self.events.publish(text)
            return state

    async def run(self) -> None:
        """Send changes while somebody listens; without an end."""
        while True:
            try:
                await asyncio.wait_for(self._changes.wait(), POLL)
            except TimeoutError:
                pass
            self._changes.clear()
            if self.events.listeners:
                try:
                    await self.state()
                except SawyerError as error:  # a moment's trouble with the disk: the next change tries again
                    LOGGER.error("%s", error)
                await asyncio.sleep(max(PAUSE, LOAD * self._took))
