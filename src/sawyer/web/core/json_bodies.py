"""JSON in and out. What a client sends is refused whole where it is not one sound object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sawyer.errors import SawyerError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class RequestError(Exception):
    """A request that is answered by a status of 4xx or 5xx. `error` says what is wrong, `todo` what to do."""

    def __init__(self, status: int, error: str, todo: str = "") -> None:
        super().__init__(error)
        self.status, self.error, self.todo = status, error, todo


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as JSON. Half a surrogate pair, which UTF-8 does not have, becomes `?`."""
    from starlette.responses import Response

    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def error_response(status: int, error: str, todo: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """What went wrong, in words, and what to do."""
    return json_response({"error": error, "todo": todo}, status, headers)


def refusal_of(error: SawyerError) -> tuple[str, str]:
    """The `error` and `todo` of one of our errors: a browser has no lines to fold, so expectation and reason follow as text."""
    words = [error.given]
    words += [f"expected: {error.expected}"] if error.expected else []
    words += [error.why] if error.why else []
    return "; ".join(words), error.todo


async def read_json(request: Request) -> dict[str, Any]:
    """The body as an object. Raises RequestError: 415 for another content type, 400 for what is no object."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "the body is not application/json", "send it with Content-Type: application/json")
    body = await request.body()
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestError(400, "the JSON is nested too deeply", "send an object as the API describes it") from None
    except ValueError as error:  # also what is not UTF-8, and a number of thousands of digits
        raise RequestError(400, f"the body is not JSON ({error})", "send an object as the API describes it") from None
    if not isinstance(value, dict):
        raise RequestError(400, "the JSON is not an object", "send an object as the API describes it")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
