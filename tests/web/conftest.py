"""A browser for the tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from rating_desk import Desk
from rating_stub import RatingStub, rating_items

CHROMIUM = os.environ.get("SAWYER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright. It ends with each file of tests: Playwright's event loop occupies the
    thread, and tests of other files run loops of their own."""
    api = pytest.importorskip("playwright.sync_api", reason="these tests drive a browser by the Python package playwright")
    if not CHROMIUM:
        pytest.skip("no chromium on the PATH: these tests need a browser")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_desk(browser: Any) -> Iterator[Callable[..., Desk]]:
    """Opens a rating page on a server of its own, or on `stub` that another desk already uses."""
    with ExitStack() as stack:

        def open_one(
            method: str = "pair",
            count: int = 40,
            answers: int = 2,
            *,
            key: str = "anna",
            items: list[dict[str, Any]] | None = None,
            desk: Desk | None = None,
            path: str = "/",
            owner: dict[str, Any] | None = None,
            ready: str = ".bar",
            **context: Any,
        ) -> Desk:
            if desk is None:
                stub = RatingStub(method, rating_items(method, count, answers) if items is None else items, owner=owner or {})
                server = stub.serve()
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
                address = f"http://127.0.0.1:{server.server_port}"
            else:
                stub, address = desk.stub, desk.address
            opened = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
            stack.callback(opened.close)
            opened.set_default_timeout(10_000)
            new = Desk(opened.new_page(), stub, address)
            new.page.goto(f"{address}{path}" + (f"#key={key}" if key else ""))
            new.page.wait_for_selector(ready)
            return new

        yield open_one


@pytest.fixture
def phone(open_desk: Callable[..., Desk]) -> Callable[..., Desk]:
    """A rating page on a phone: 360 px wide, touch."""

    def open_phone(*arguments: Any, **options: Any) -> Desk:
        return open_desk(*arguments, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, **options)

    return open_phone
