"""A judge over a stub, in a test's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from judge_stub import Behaviour, Stub, serving

from sawyer.judges import KEY_ENV, Judge, JudgeSettings


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of the developer's own goes anywhere, and no proxy of theirs is asked."""
    for name in (KEY_ENV, "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stub() -> Iterator[Callable[[Behaviour], Stub]]:
    """Start a server."""
    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(serving(behaviour))


@pytest.fixture
def waits() -> list[float]:
    """The seconds that were waited between tries, without waiting."""
    return []


@pytest.fixture
def judge(tmp_path: Path, waits: list[float]) -> Iterator[Callable[..., Judge]]:
    """Open a judge of a stub: `judge(stub, retries=1)`; `options` are the class's own."""
    with ExitStack() as stack:

        def open_judge(server: Stub | str, *, options: dict[str, Any] | None = None, **settings: Any) -> Judge:
            url = server if isinstance(server, str) else server.url
            values = {"url": url, "model": "stub", "concurrency": 1, "timeout": 5.0, **settings}
            defaults: dict[str, Any] = {"sleep": waits.append, "jitter": lambda: 1.0}
            return stack.enter_context(
                Judge.open(JudgeSettings(**values), cache=tmp_path / "cache.sqlite", **{**defaults, **(options or {})})
            )

        yield open_judge
