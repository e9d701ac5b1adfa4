"""Fixtures of the report's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_run import make_run

from sawyer.report import overoptimisation_page, page, svg_plots, trust_section


@pytest.fixture
def whole_run(tmp_path: Path) -> Path:
    """A finished run."""
    return make_run(tmp_path / "mine")


@pytest.fixture(scope="session", autouse=True)
def drawn_once() -> Iterator[None]:
    """Nearly all of a page's time goes into its plots, and these tests' runs have the same ones: a plot that was drawn is not
    drawn again. `drawn_anew` asks for the real thing."""
    known: dict[tuple[Any, ...], str] = {}

    def draw(panel: svg_plots.Panel, ident: str, size: tuple[float, float] = (svg_plots.WIDTH, svg_plots.HEIGHT)) -> str:
        key = (repr(panel), ident, size)
        if key not in known:
            known[key] = svg_plots.draw(panel, ident, size)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        for room in (overoptimisation_page, page, trust_section):
            patch.setattr(room, "draw", draw)
        yield


@pytest.fixture
def drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plot is drawn, as in the program."""
    for room in (overoptimisation_page, page, trust_section):
        monkeypatch.setattr(room, "draw", svg_plots.draw)
