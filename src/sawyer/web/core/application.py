"""The application: a table of paths behind the checks. What the table does not have is 404, another method 405."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.errors import RatingError, RunError, SawyerError
from sawyer.web.core.json_bodies import RequestError, error_response, refusal_of
from sawyer.web.core.pages import MEDIA_TYPES, Endpoint, Page
from sawyer.web.core.request_checks import RequestChecks, bearer_token, is_owner
from sawyer.web.core.server_settings import ServerSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOGGER = logging.getLogger("sawyer.web")
STORAGE_WORDS = (
    "the server cannot store anything now: its disk is full, or its file cannot be written",
    "what was acknowledged is stored; ask the owner to look at the server's terminal, the rest is sent again",
)
TEXT_SUFFIXES = (".html", ".css", ".js", ".svg", ".txt", ".md")


def create_app(pages: Sequence[Page], settings: ServerSettings) -> Starlette:
    """The application of these pages. Files are read now: what changes on the disk later is served after the next start."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware

    limits = {end.path: end.body_limit for page in pages for end in page.endpoints if end.body_limit is not None}
    routes = [_route(endpoint, settings) for page in pages for endpoint in page.endpoints]
    routes += [_file_route(url, path) for page in pages for url, path in page.files.items()]

    async def answer_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: "there is nothing at this path", 405: "this path has another method"}.get(error.status_code, error.detail)
        return error_response(error.status_code, words, "", error.headers)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_run_page(page.run)) for page in pages if page.run is not None]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: answer_http_error},
        middleware=[Middleware(RequestChecks, settings=settings, body_limits=limits)],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a path is in the table or it is not
    app.state.stops = [page.stop for page in pages if page.stop is not None]
    return app


def status_of(error: SawyerError) -> int:
    """The status that says who can mend it: 422 the client, 503 a moment's wait, 507 whoever frees the disk."""
    if isinstance(error, RunError):
        words = f"{error.given} {error.__cause__ or ''}".lower()
        return 503 if "locked" in words or "busy" in words else 507
    return 422 if isinstance(error, RatingError) else 400


async def _run_page(run: Callable[[], Awaitable[None]]) -> None:
    try:
        await run()
    except Exception:
        LOGGER.exception("what a page does in the background failed")


def _route(endpoint: Endpoint, settings: ServerSettings) -> Any:
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        from starlette.requests import ClientDisconnect

        try:
            if endpoint.owner and not is_owner(request, settings):
                status = 401 if bearer_token(request) is None else 403
                raise RequestError(status, "only the owner may do this", "open the owner's address that `sawyer` printed")
            return await endpoint.answer(request)
        except RequestError as error:
            if error.status == 413:
                raise  # the checks around drop the rest of the body
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            return error_response(error.status, error.error, error.todo, headers)
        except SawyerError as error:
            if isinstance(error, RunError) and not endpoint.owner:
                # It names files, which are the owner's; a rater could tell by them what is judged.
                LOGGER.error("%s", error)
                return error_response(status_of(error), *STORAGE_WORDS)
            return error_response(status_of(error), *refusal_of(error))
        except ClientDisconnect:
            return error_response(400, "the client is gone")
        except Exception:
            LOGGER.exception("%s %s failed", endpoint.method, endpoint.path)
            return error_response(500, "unexpected error (please report it)", "the terminal of the server has the details")

    route = Route(endpoint.path, answer, methods=[endpoint.method])
    assert route.methods is not None
    route.methods.discard("HEAD")  # starlette adds it to GET, but what an API's GET does is not done for a HEAD
    return route


def _file_route(url: str, path: Path) -> Any:
    from starlette.responses import Response
    from starlette.routing import Route

    body = path.read_bytes()
    gzip_body = gzip.compress(body, 9, mtime=0) if path.suffix in TEXT_SUFFIXES else body
    tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    # `no-cache` asks whether the file has changed, and the tag answers without sending it again.
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}

    async def answer(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", "") and len(gzip_body) < len(body):
            return Response(gzip_body, 200, {**headers, "Content-Encoding": "gzip"}, MEDIA_TYPES[path.suffix])
        return Response(body, 200, headers, MEDIA_TYPES[path.suffix])

    return Route(url, answer, methods=["GET"])
