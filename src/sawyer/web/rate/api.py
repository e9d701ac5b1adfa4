"""The HTTP API of rating: raters get items and send votes; the owner sees progress, settles conflicts, exports, imports.

JSON in, JSON out; docs/rating.md lists it. A rater's key goes with each request as `Authorization: Bearer KEY`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sawyer.errors import RatingError
from sawyer.ratings import Rater, StoredVote, Vote, parse_choice
from sawyer.web.core import Endpoint, RequestError, ServerSettings, bearer_token, json_response, read_json
from sawyer.web.core.json_bodies import refusal_of
from sawyer.web.rate.item_json import assignment_id, assignment_json, vote_id, vote_of
from sawyer.web.rate.owner_figures import OwnerFigures, adjudicate, conflicts_json, export_file, import_json
from sawyer.web.rate.progress_feed import ProgressFeed

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from sawyer.ratings.store import RatingStore

T = TypeVar("T")
MAX_ITEMS = 100  # of one request
MAX_VOTES = 200
IMPORT_LIMIT = 64_000_000  # bytes
IMPORT_SUFFIXES = (".json", ".jsonl", ".csv")


class RatingApi:
    """The endpoints over a store. Its work is done in threads, so that a slow disk does not hold up the other requests."""

    def __init__(self, store: RatingStore, settings: ServerSettings, *, clock: Callable[[], float] = time.time) -> None:
        self.store, self.settings, self.clock = store, settings, clock
        self.feed = ProgressFeed(OwnerFigures(store).values)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The table of paths."""
        return (
            Endpoint(method="POST", path="/api/join", answer=self.join, owner=True),
            Endpoint(method="GET", path="/api/me", answer=self.me),
            Endpoint(method="GET", path="/api/items", answer=self.items),
            Endpoint(method="POST", path="/api/votes", answer=self.votes),
            Endpoint(method="GET", path="/api/previous", answer=self.previous),
            Endpoint(method="GET", path="/api/progress", answer=self.progress, owner=True),
            Endpoint(method="GET", path="/api/events", answer=self.events, owner=True),
            Endpoint(method="POST", path="/api/raters", answer=self.raters, owner=True),
            Endpoint(method="GET", path="/api/conflicts", answer=self.conflicts, owner=True),
            Endpoint(method="POST", path="/api/adjudications", answer=self.adjudications, owner=True),
            Endpoint(method="GET", path="/api/export", answer=self.export, owner=True),
            Endpoint(method="POST", path="/api/import", answer=self.import_file, owner=True, body_limit=IMPORT_LIMIT),
        )

    # What raters ask.

    async def me(self, request: Request) -> Response:
        """Who the key belongs to, by which method is judged, and how much is done."""
        rater = await self._rater(request)
        counts = await asyncio.to_thread(self._counts, rater)
        return json_response({"name": rater.name, "method": self.store.settings.method} | counts)

    async def items(self, request: Request) -> Response:
        """The next items of this rater; those on their way to the rater come first."""
        count = _query_number(request, "count", 25)
        if not 1 <= count <= MAX_ITEMS:
            raise RequestError(400, f"`count` is {count}", f"ask for 1 to {MAX_ITEMS} items")
        rater = await self._rater(request)
        assignments = await asyncio.to_thread(self.store.assign, rater, count, self.clock())
        counts = await asyncio.to_thread(self._counts, rater)
        return json_response({"items": [assignment_json(one) for one in assignments]} | counts)

    async def votes(self, request: Request) -> Response:
        """Store votes; answered after they are committed. Each is stored or refused by itself."""
        rater = await self._rater(request)
        raw = (await read_json(request)).get("votes")
        if not isinstance(raw, list) or len(raw) > MAX_VOTES or not all(isinstance(one, dict) for one in raw):
            raise RequestError(400, f"`votes` is no list of at most {MAX_VOTES} votes", 'send {"votes": [{"id": UUID, ...}]}')
        stored_ids, refusals = await asyncio.to_thread(self._store_votes, rater, raw)
        if stored_ids:
            self.feed.mark_changed()
        return json_response({"stored": stored_ids, "refused": refusals})

    async def previous(self, request: Request) -> Response:
        """The item that the rater judged before the assignment `before` (without it: judged last), with its vote."""
        before = _query_number(request, "before", None)
        rater = await self._rater(request)
        vote = await asyncio.to_thread(self.store.previous, rater, before)
        return json_response({"item": None} if vote is None else assignment_json(vote.assignment))

    # What the owner asks.

    async def join(self, request: Request) -> Response:
        """A rater's key by name; a new name is a new rater."""
        body = await read_json(request)
        rater = await self._named_rater(body)
        return json_response({"key": await asyncio.to_thread(self.store.rater_key, rater), "name": rater.name})

    async def raters(self, request: Request) -> Response:
        """A link for a rater: whoever has it judges under this name."""
        rater = await self._named_rater(await read_json(request))
        key = await asyncio.to_thread(self.store.rater_key, rater)
        self.feed.mark_changed()
        return json_response({"name": rater.name, "link": rater_link(self.settings, request.scope["server"][1], key)})

    async def progress(self, _: Request) -> Response:
        """How far the raters are, and how well they agree."""
        return json_response(await self.feed.state())

    async def events(self, request: Request) -> Response:
        """The same as an event whenever it changes."""
        await self.feed.state()
        return self.feed.events.response(request.headers.get("last-event-id", ""))

    async def conflicts(self, _: Request) -> Response:
        """Items on which raters contradict one another."""
        return json_response({"conflicts": await asyncio.to_thread(conflicts_json, self.store)})

    async def adjudications(self, request: Request) -> Response:
        """The owner's own judgement of an item, in the item's order of answers: it replaces the raters' votes."""
        body = await read_json(request)
        name = body.get("item")
        if not isinstance(name, str) or not name.isascii() or len(name) > 100:
            raise RequestError(400, "`item` is no item's id", 'send {"item": "...", "choice": {...}}')
        await asyncio.to_thread(adjudicate, self.store, name, body.get("choice"))
        self.feed.mark_changed()
        return json_response({"stored": True})

    async def export(self, request: Request) -> Response:
        """The judgements as a file to download."""
        from starlette.responses import Response

        what, with_names = request.query_params.get("what", "answers"), request.query_params.get("raters", "0")
        if with_names not in ("0", "1"):
            raise RequestError(400, f"`raters` is {with_names!r}", "0 leaves the raters' names out, 1 writes them")
        file = await asyncio.to_thread(export_file, self.store, what, raters=with_names == "1")
        headers = {"Content-Disposition": f'attachment; filename="{file.name}"', "Cache-Control": "no-store"}
        return Response(file.text.encode("utf-8", "replace"), 200, headers, file.media_type)

    async def import_file(self, request: Request) -> Response:
        """Judgements of another tool: {"name": "x.json", "text": "..."}. Of the name only its ending counts."""
        body = await read_json(request)
        name, text = body.get("name"), body.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise RequestError(400, "`name` or `text` is no text", 'send {"name": "x.json", "text": "..."}')
        summary = await asyncio.to_thread(self._import, name, text)
        self.feed.mark_changed()
        return json_response(summary)

    # Steps that touch the disk: each runs in a thread.

    def _counts(self, rater: Rater) -> dict[str, int]:
        return {"done": self.store.count_done(rater), "left": self.store.count_left(rater, self.clock())}

    def _store_votes(self, rater: Rater, raw: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
        stored_ids: list[str] = []
        refusals: list[dict[str, Any]] = []
        votes: list[Vote] = []
        names: list[str] = []  # the ids as they were sent: a UUID in capitals is acknowledged as it came
        for one in raw:
            try:
                votes.append(self._vote(rater, one))
                names.append(one["id"])
            except RatingError as error:
                refusals.append(_vote_refusal(one.get("id"), error))
        results = self.store.votes(rater, votes, self.clock()) if votes else []
        for name, result in zip(names, results, strict=True):
            if isinstance(result, StoredVote):
                stored_ids.append(name)
            else:
                refusals.append(_vote_refusal(name, result))
        return stored_ids, refusals

    def _vote(self, rater: Rater, raw: Mapping[str, Any]) -> Vote:
        vote_id(raw)
        assignment = self.store.assignment(rater, assignment_id(raw))
        choice = parse_choice(raw.get("choice"), assignment.method, len(assignment.order))
        return vote_of(raw, assignment.id, choice)

    def _import(self, name: str, text: str) -> dict[str, Any]:
        suffix = next((suffix for suffix in IMPORT_SUFFIXES if name.lower().endswith(suffix)), None)
        if suffix is None:
            raise RequestError(400, "the file is of another kind", f"send a file that ends in {', '.join(IMPORT_SUFFIXES)}")
        with tempfile.TemporaryDirectory(prefix="sawyer-import-") as folder:
            path = Path(folder) / f"import{suffix}"
            path.write_bytes(text.encode("utf-8", "replace"))
            return import_json(self.store, path)

    async def _rater(self, request: Request) -> Rater:
        key = bearer_token(request)
        rater = await asyncio.to_thread(self.store.rater_by_key, key) if key else None
        if rater is None:
            raise RequestError(401, "no rater has this key", "open the link that you were given, or enter a name")
        return rater

    async def _named_rater(self, body: Mapping[str, Any]) -> Rater:
        name, kind = body.get("name"), body.get("kind", "person")
        if not isinstance(name, str):
            raise RequestError(400, "`name` is no text", 'send {"name": "Anna"}')
        if kind not in ("person", "simulated"):
            raise RequestError(400, "`kind` is neither person nor simulated", 'leave it out, or send "simulated"')
        return await asyncio.to_thread(self.store.rater, name, kind)


def rater_link(settings: ServerSettings, port: int, key: str) -> str:
    """The address under which a rater judges. The key stands behind `#`: browsers send that part to nobody."""
    return f"{settings.url(port)}/#key={key}"


def owner_link(settings: ServerSettings, port: int) -> str:
    """The owner's address, with the token where there is one."""
    return f"{settings.url(port)}/owner" + (f"#token={settings.token}" if settings.token else "")


def _vote_refusal(name: Any, error: RatingError) -> dict[str, Any]:
    words, todo = refusal_of(error)
    return {"id": name if isinstance(name, str) else None, "error": ". ".join(part for part in (words, todo) if part)}


def _query_number(request: Request, name: str, default: T) -> int | T:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise RequestError(400, f"`{name}` is no number from 0 on", "send digits")
    return int(text)
