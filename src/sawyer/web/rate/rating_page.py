"""The pages of `sawyer rate`: the rater's at `/`, the owner's at `/owner`, their files and their API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sawyer.web.core import Page, ServerSettings, static_table, theme_file
from sawyer.web.rate.api import RatingApi

if TYPE_CHECKING:
    from sawyer.ratings.store import RatingStore

STATIC = Path(__file__).parent / "static"
PAGES = {"/": "/static/rate.html", "/owner": "/static/owner.html"}


def rating_page(store: RatingStore, settings: ServerSettings) -> Page:
    """The page over an open store, for `create_app`."""
    api = RatingApi(store, settings)
    files = static_table(STATIC)
    files |= {"/static/theme.css": theme_file()}
    files |= {url: files[name] for url, name in PAGES.items()}
    return Page(endpoints=api.endpoints(), files=files, run=api.feed.run, stop=api.feed.events.close)
