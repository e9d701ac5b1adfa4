"""A browser for the tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="these tests drive a browser by the Python package playwright")
    if not CHROMIUM:
        pytest.skip("no chromium on the PATH: these tests need a browser")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Desk:
    """One rater's page and the server behind it."""

    def __init__(self, page: Any, stub: RatingStub, address: str) -> None:
        self.page, self.stub, self.address = page, stub, address
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def tap(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).tap()

    @property
    def question(self) -> int:
        """The number of the item that is shown."""
        return int(self.page.locator(".prompt").inner_text().split("Question ")[1].split(":")[0])

    def settle(self) -> None:
        """Wait until every vote is acknowledged."""
        self.until("document.querySelector('.saved').textContent === 'all saved'")

    def until(self, condition: str, value: Any = None) -> None:
        """Wait for a condition of JavaScript on `value`. (Playwright's own wait evaluates a string, which the page's policy
        forbids.)"""
        self.page.evaluate(
            """value => new Promise((resolve, reject) => {
              const end = performance.now() + 10_000
              const look = () => {
                if (CONDITION) return resolve()
                performance.now() > end ? reject(new Error('it never came')) : setTimeout(look, 10)
              }
              look()
            })""".replace("CONDITION", condition),
            value,
        )

    def until_told(self, words: str) -> None:
        """Wait for a message."""
        self.until("document.querySelector('.pill').textContent.includes(value)", words)

    def until_question(self, number: int) -> None:
        """Wait for an item."""
        self.until("document.querySelector('.prompt')?.textContent.includes(`Question ${value}:`)", number)

    def choices(self, key: str = "anna") -> list[Any]:
        """The last choice of each item, in the items' order."""
        self.settle()
        return [vote["choice"] for _, vote in sorted(self.stub.last(key).items())]


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
