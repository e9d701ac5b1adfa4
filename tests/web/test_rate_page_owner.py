"""The owner's page in a browser: progress, agreement, conflicts, links, exports, imports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rating_stub import rating_items

pytestmark = pytest.mark.slow  # a browser starts

Open = Callable[..., Any]


def figure(name: str, value: float | None, low: float = 0.0, high: float = 1.0, *, is_share: bool = True) -> dict[str, Any]:
    reason = "" if value is not None else "nothing was judged by two raters"
    return {
        "name": name,
        "value": value,
        "low": None if value is None else low,
        "high": None if value is None else high,
        "prompts": 12,
        "cases": 20,
        "detectable": None,
        "reason": reason,
        "is_share": is_share,
        "words": f"{name}: words",
    }


def profile(name: str, *flags: str) -> dict[str, Any]:
    shares = ("left_share", "longer_share", "tie_share", "too_fast_share", "self_consistency", "agreement")
    fields: dict[str, Any] = {each: figure(each, 0.5) for each in shares}
    fields |= {
        "name": name,
        "kind": "person",
        "items": 30,
        "votes": 31,
        "skips": 2,
        "median_seconds": 4.25,
        "flags": list(flags),
    }
    return fields


def state(judged: int = 40) -> dict[str, Any]:
    return {
        "progress": {
            "items": 120,
            "judged_items": judged,
            "votes": {"Anna": 31, "<b>Ben</b>": 20, "Chloe": 0},
            "open_leases": 4,
        },
        "agreement": {
            "shared_items": 12,
            "same_verdict": figure("same verdict", 0.7, 0.55, 0.82),
            "same_order": figure("same order", None),
            "alphas": [figure("alpha, ordinal", 0.61, -0.2, 0.9, is_share=False)],
            "taus": [],
            "self_consistency": figure("same twice", 0.9, 0.6, 1.0),
            "ceiling_words": "these raters cap any reward model at 81 % (74 to 87)",
            "profiles": [profile("Anna"), profile("<b>Ben</b>", "always the longer answer")],
        },
    }


def conflict(item: str, method: str, choices: list[Any], answers: int = 2) -> dict[str, Any]:
    (shown,) = rating_items(method, 1, answers)
    votes = [{"rater": name, "choice": choice, "note": ""} for name, choice in zip(("Anna", "Ben"), choices, strict=True)]
    return {"item": item, "method": method, "prompt": shown["prompt"], "answers": shown["answers"], "votes": votes}


def owner_of(conflicts: list[dict[str, Any]], events: str | None = None) -> dict[str, Any]:
    return {
        "/api/progress": state(),
        "/api/conflicts": {"conflicts": conflicts},
        "/api/adjudications": {"stored": True},
        "/api/raters": {"name": "Dora", "link": "http://127.0.0.1:1/#key=abc"},
        "/api/export": {"rows": 2},
        "/api/import": {"votes": 7, "items": 1, "raters": ["x", "y"], "left_out": {"no prompt": 3}},
        **({"/api/events": events} if events is not None else {}),
    }


@pytest.fixture
def open_owner(open_desk: Open) -> Open:
    """The owner's page."""

    def open_page(conflicts: list[dict[str, Any]] | None = None, events: str | None = None, **options: Any) -> Any:
        owner = owner_of(conflicts or [], events)
        return open_desk("graded", 3, key="", path="/owner", owner=owner, ready="table", **options)

    return open_page


def test_progress_and_agreement_are_shown(open_owner: Open) -> None:
    desk = open_owner()
    text = desk.page.locator("main").inner_text()
    assert "of 120 items judged" in text
    assert "51\nvotes of 3 raters" in text
    assert "These raters cap any reward model at 81 % (74 to 87)." in text
    assert "always the longer answer" in text
    assert "nothing was judged by two raters" in text
    assert "55 to 82 %" in text
    assert "-0.20 to 0.90" in text
    assert "<b>Ben</b>" in text  # a name is text as well
    assert "no judgement yet" in text


def test_events_change_the_page(open_owner: Open) -> None:
    events = f"id: 7\ndata: {json.dumps(state(119))}\n\n: ping\n\n"
    desk = open_owner(events=events)
    desk.until("document.querySelector('.tile').textContent.startsWith('119')")


@pytest.mark.parametrize(
    ("method", "answers", "choices", "act", "choice"),
    [
        ("pair", 2, [{"grade": 1}, {"grade": -1}], ["1 is better"], {"grade": -1}),
        ("graded", 2, [{"grade": 3}, {"grade": -1}], ["2 is slightly better"], {"grade": 1}),
        ("graded", 2, [{"grade": 3}, {"grade": -1}], ["both are bad"], {"grade": 0, "both_bad": True}),
        ("rank", 3, [{"ranks": [1, 2, 3]}, {"ranks": [3, 2, 1]}], ["1", "3", "3", "Settle"], {"ranks": [1, 2, 2]}),
        ("score", 2, [{"scores": [9, 1]}, {"scores": [1, 9]}], ["4", None, "Settle"], {"scores": [4, None]}),
    ],
)
def test_a_conflict_is_settled(
    open_owner: Open, method: str, answers: int, choices: list[Any], act: list[Any], choice: dict[str, Any]
) -> None:
    desk = open_owner([conflict("abc", method, choices, answers)])
    box = desk.page.locator(".conflict")
    assert "Anna" in box.inner_text()
    for at, value in enumerate(act[:-1]):
        if value is not None:
            box.get_by_role("combobox").nth(at).select_option(value)
    box.get_by_role("button", name=act[-1], exact=True).click()
    desk.until("!document.querySelector('.conflict')")
    assert desk.stub.posts == [("/api/adjudications", {"item": "abc", "choice": choice})]


def test_a_link_is_made_for_a_person(open_owner: Open) -> None:
    desk = open_owner()
    desk.page.get_by_label("Name of the person").fill(" Dora ")
    desk.press("Enter")
    desk.page.get_by_text("http://127.0.0.1:1/#key=abc").wait_for()
    assert desk.stub.posts == [("/api/raters", {"name": "Dora"})]


@pytest.mark.parametrize(("named", "query"), [(False, "what=pairs&raters=0"), (True, "what=pairs&raters=1")])
def test_an_export_is_downloaded(open_owner: Open, named: bool, query: str) -> None:
    desk = open_owner()
    if named:
        desk.page.get_by_label("with the raters' names").check()
    with desk.page.expect_download() as download:
        desk.page.get_by_role("button", name="Preference pairs").click()
    assert json.loads(Path(download.value.path()).read_text()) == {"rows": 2}
    assert f"GET /api/export?{query}" in desk.stub.requests


def test_a_file_is_imported(open_owner: Open, tmp_path: Path) -> None:
    file = tmp_path / "argilla.json"
    file.write_text('[{"é": 1}]', encoding="utf-8")
    desk = open_owner()
    desk.page.get_by_label("Import judgements").set_input_files(file)
    desk.until_told("argilla.json: 7 votes, 2 raters, 1 new item; left out: 3 (no prompt)")
    assert desk.stub.posts == [("/api/import", {"name": "argilla.json", "text": '[{"é": 1}]'})]


def test_an_error_is_said(open_owner: Open) -> None:
    desk = open_owner()
    del desk.stub.owner["/api/raters"]
    desk.page.get_by_label("Name of the person").fill("Dora")
    desk.press("Enter")
    desk.until_told("no such rater. ask for a link")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(open_owner: Open, scheme: str) -> None:
    desk = open_owner(
        [conflict("abc", "graded", [{"grade": 3}, {"grade": -1}])], viewport={"width": 360, "height": 740}, color_scheme=scheme
    )
    assert desk.page.evaluate("document.documentElement.scrollWidth") == 360
    small = desk.page.locator("button, a, select").evaluate_all(
        "nodes => nodes.filter(n => n.checkVisibility() && n.getBoundingClientRect().height < 47.9).map(n => n.outerHTML)"
    )
    assert small == []
    nameless = desk.page.locator("button, a, select, input, progress, [role]").evaluate_all(
        "nodes => nodes.filter(n => !(n.ariaLabel || n.textContent.trim() || n.labels?.length)).map(n => n.outerHTML)"
    )
    assert [html for html in nameless if 'role="status"' not in html] == []
