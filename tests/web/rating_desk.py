"""A page of rating in a browser, and what tests do with it."""

from __future__ import annotations

from typing import Any


class Desk:
    """One rater's page and the server behind it: `stub` is its RatingStub, None where the server is the real one."""

    def __init__(self, page: Any, stub: Any, address: str) -> None:
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
