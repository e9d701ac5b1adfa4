"""What a page gives to the server: a table of paths. Nothing outside it exists for a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sawyer.errors import RunError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path with its method and what answers. `owner`: only with the owner's token, where the server has one."""

    method: Literal["GET", "POST"]
    path: str
    answer: Callable[[Request], Awaitable[Response]]
    owner: bool = False
    body_limit: int | None = None  # bytes, where the server's limit does not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Endpoints, and files by the path under which they are served."""

    endpoints: tuple[Endpoint, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    run: Callable[[], Awaitable[None]] | None = None  # works while the server does, and is cancelled with it
    stop: Callable[[], Awaitable[None]] | None = None  # ends what would wait for ever, such as event streams


def theme_file() -> Path:
    """The colours that all pages share with the report."""
    spec = find_spec("sawyer.report")  # where it lies, without the time that importing it takes
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "theme.css"


def static_table(folder: Path, prefix: str = "/static/") -> dict[str, Path]:
    """The files of a packaged folder by their paths on the server, read once: a client's path is only looked up here.

    Raises RunError for a file of a kind that has no media type.
    """
    table = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix not in MEDIA_TYPES:
            raise RunError(
                f"{path.name} is of a kind that is not served",
                expected=", ".join(MEDIA_TYPES),
                todo="give `web/core/pages.py:MEDIA_TYPES` its type, or take it out of the folder",
            )
        table[prefix + path.name] = path
    return table
