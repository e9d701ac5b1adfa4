"""What the rating page shows and how it can be read: texts that attack it, long texts, scripts, phones, dark mode, focus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rating_stub import rating_items

pytestmark = pytest.mark.slow  # a browser starts

Open = Callable[..., Any]
CAP = 20_000  # characters drawn before "show all"


def item_of(*answers: str, method: str = "pair", prompt: str = "Question 1: which?") -> list[dict[str, Any]]:
    (item, other) = rating_items(method, 2, len(answers))
    return [{**item, "answers": list(answers), "prompt": [{"role": "user", "content": prompt}]}, other]


# Texts.


def test_markup_in_an_answer_is_text(open_desk: Open) -> None:
    attack = (
        "<script>window.attacked = 1</script> <img src=x onerror='window.attacked = 2'>\n\n"
        "[link](javascript:window.attacked=3) ![image](https://example.org/x.png)\n\n"
        "```html\n<script>window.attacked = 4</script>\n```"
    )
    desk = open_desk(items=item_of(attack, "plain", prompt=f"Question 1: {attack}"))
    shown = desk.page.locator(".answer").first.inner_text()
    assert "<script>window.attacked = 1</script> <img src=x" in shown
    assert "javascript:window.attacked=3" in shown
    assert desk.page.evaluate("window.attacked") is None
    assert desk.page.locator(".item img, .item script, .item a").count() == 0
    desk.press("v", "m")
    assert desk.page.locator(".item img, .item script, .item a").count() == 0
    assert desk.problems == []


def test_markdown_is_drawn(open_desk: Open) -> None:
    text = (
        "# Title\n\nA **bold** and *italic* word, `code *as is*`, 2 * 3 * 4, snake_case_name, \\*stars\\*.\n\n"
        "1. one\n2. two\n   - inner `x`\n\n> quoted\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n"
        "```py\nx = '<b>'\n```\n\n---\nend **open"
    )
    desk = open_desk(items=item_of(text, "other"))
    answer = desk.page.locator(".answer").first
    tags = answer.evaluate(
        "node => [...node.querySelectorAll('.text *')].map(e => [e.localName, e.childElementCount ? '' : e.textContent])"
    )
    pairs = [tuple(pair) for pair in tags]
    for expected in [
        ("p", "Title"),
        ("strong", "bold"),
        ("em", "italic"),
        ("code", "code *as is*"),
        ("li", "one"),
        ("code", "x"),
        ("td", "1"),
        ("strong", "2"),
        ("code", "x = '<b>'"),
        ("p", "end **open"),
    ]:
        assert expected in pairs
    assert "2 * 3 * 4, snake_case_name, *stars*." in answer.inner_text()
    assert answer.get_by_role("heading", name="Title").count() == 1
    desk.press("m")
    assert answer.locator(".plain").text_content() == text  # the plain text, to the character
    assert answer.locator(".plain").evaluate("node => getComputedStyle(node).fontFamily").startswith("ui-monospace")


def test_the_words_that_differ_are_marked(open_desk: Open) -> None:
    desk = open_desk(items=item_of("The capital of France is Paris, I think.", "The capital of Spain is Madrid, I think."))
    desk.press("v")
    marked = [desk.page.locator(".answer").nth(at).locator("mark").all_text_contents() for at in (0, 1)]
    assert marked == [["France", "Paris"], ["Spain", "Madrid"]]
    assert desk.page.locator(".answer").first.locator(".plain").text_content() == "The capital of France is Paris, I think."
    desk.press("v")
    assert desk.page.locator("mark").count() == 0


def test_chinese_differs_by_character(open_desk: Open) -> None:
    desk = open_desk(items=item_of("北京是中国的首都", "南京是中国的旧都"))
    desk.press("v")
    assert desk.page.locator(".answer").first.locator("mark").all_text_contents() == ["北", "首"]


@pytest.mark.parametrize("text", ["a" * 1_000_000, "word " * 200_000, "**`_[" * 200_000, "- x\n" * 250_000, "> " * 500_000])
def test_a_million_characters_do_not_stop_the_page(open_desk: Open, text: str) -> None:
    desk = open_desk(items=item_of(text, text[::-1]))
    nodes = desk.page.evaluate("document.querySelectorAll('.answers *').length")
    assert nodes < 25_000
    assert desk.page.locator(".answers").evaluate("node => node.textContent.length") < 2 * CAP + 200
    desk.press("v", "m")
    desk.page.get_by_role("button", name="Show all 1,000,000 characters").first.click()
    plain = desk.page.locator(".answer").first.locator(".plain").all_text_contents()
    assert "".join(plain) == text
    desk.press("f")
    assert desk.question == 2
    assert desk.choices() == [{"grade": -1}]


def test_right_to_left_text_runs_from_the_right(open_desk: Open) -> None:
    desk = open_desk(
        items=item_of("عاصمة فرنسا هي باريس.\n\nThe capital is Paris.", "בירת צרפת היא פריז", prompt="Question 1: מהי?")
    )
    directions = desk.page.locator(".answer p").evaluate_all("nodes => nodes.map(node => getComputedStyle(node).direction)")
    assert directions == ["rtl", "ltr", "rtl"]


def test_an_empty_answer_says_so(open_desk: Open) -> None:
    desk = open_desk(items=item_of("", "x"))
    assert "(empty answer)" in desk.page.locator(".answer").first.inner_text()


def test_neither_source_nor_score_is_on_the_page(open_desk: Open) -> None:
    """What the API does not name cannot be on the page; what a server sent too much is not shown either."""
    items = [{**item, "model": "sft-7b", "scores": [0.25, 0.75], "pick": "uncertain"} for item in rating_items("pair", 3)]
    desk = open_desk(items=items)
    html = desk.page.content()
    assert not [word for word in ("sft", "0.25", "0.75", "uncertain", "reward", ".jsonl") if word in html]


# The layout.


def overflow(desk: Any) -> int:
    return desk.page.evaluate("document.documentElement.scrollWidth - innerWidth")


LONG_WORD = "x" * 400


@pytest.mark.parametrize(("method", "answers"), [("pair", 2), ("graded", 2), ("rank", 8), ("rank", 3), ("score", 8)])
def test_a_phone_shows_all_at_360_pixels(phone: Open, method: str, answers: int) -> None:
    texts = [f"{LONG_WORD}\n\n```\n{LONG_WORD}\n```\n\n| a | b |\n|---|---|\n| {LONG_WORD} | 2 |"] * answers
    texts = [f"{text} {at}" for at, text in enumerate(texts)]
    desk = phone(method, items=item_of(*texts, method=method))
    for keys in ("", "r", "Escape", "v", "m"):
        desk.press(*[keys] * bool(keys))
        assert overflow(desk) == 0
    desk.press("Escape")
    small = desk.page.evaluate(
        """() => [...document.querySelectorAll('button, textarea, [role=slider]')]
          .filter(node => node.checkVisibility())
          .map(node => [node.textContent, node.getBoundingClientRect()])
          .filter(([, box]) => box.width < 47.9 || box.height < 47.9)
          .map(([text, box]) => [text, box.width, box.height])"""
    )
    assert small == []
    bar = desk.page.locator(".bar").bounding_box()
    assert bar["y"] + bar["height"] <= 740.5
    assert desk.page.locator(".answer").first.bounding_box()["height"] > 150


def test_the_help_and_an_earlier_vote_fit_on_a_phone(phone: Open) -> None:
    desk = phone("graded", 5)
    desk.tap("2 is better")
    desk.tap("Back")
    assert overflow(desk) == 0
    desk.page.get_by_role("button", name="Keys and help (?)").tap()
    box = desk.page.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


@pytest.mark.parametrize("count", range(2, 9))
def test_answers_lie_in_equal_columns(open_desk: Open, count: int) -> None:
    desk = open_desk("rank", 3, count)
    widths = desk.page.locator(".answer").evaluate_all("nodes => nodes.map(node => node.getBoundingClientRect().width)")
    assert len(widths) == count
    assert max(widths) - min(widths) < 1
    assert min(widths) > 250
    assert overflow(desk) == 0


def test_nothing_jumps_between_items(open_desk: Open) -> None:
    items = rating_items("pair", 3)
    items[1]["answers"] = ["Long. " * 2000, "# Heading\n\nshort"]
    items[2]["prompt"][0]["content"] = "Question 3: " + "a long question " * 300
    desk = open_desk(items=items)
    places = []
    for _ in items:
        places.append([desk.page.locator(name).bounding_box() for name in ("header", ".prompt", ".answers", ".bar")])
        desk.press("f")
    assert places[0] == places[1] == places[2]


def test_a_new_item_begins_at_its_top(open_desk: Open) -> None:
    items = rating_items("pair", 3)
    for item in items:
        item["answers"] = ["Line.\n\n" * 200, "Other.\n\n" * 200]
    desk = open_desk(items=items)
    desk.press("End")
    desk.until("document.querySelector('.answers').scrollTop > 1000")
    desk.press("f")
    assert desk.page.locator(".answers").evaluate("node => node.scrollTop") == 0


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2: linear red, green and blue, weighted."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(open_desk: Open, scheme: str) -> None:
    desk = open_desk("graded", 5, color_scheme=scheme)
    desk.press("f", "u")
    background = desk.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.1) == (scheme == "dark")
    ratios = desk.page.evaluate(
        """() => [...document.querySelectorAll('.item *, header *')]
          .filter(node => node.checkVisibility())
          .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()))
          .map(node => {
            let behind = node
            while (behind && /, 0\\)$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement
            return [node.textContent, getComputedStyle(node).color, getComputedStyle(behind ?? document.body).backgroundColor]
          })"""
    )
    assert len(ratios) > 15
    for text, front, back in ratios:
        light, dark = sorted((luminance(front), luminance(back)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.2, (text, front, back)


# Access.


@pytest.mark.parametrize("method", ["pair", "graded", "rank", "score"])
def test_every_control_has_a_name_and_shows_its_focus(open_desk: Open, method: str) -> None:
    desk = open_desk(method, 3, 2 if method in ("pair", "graded") else 3)
    desk.press("r", "Escape")
    nameless = desk.page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select, [role], [tabindex], progress')]
          .filter(node => node.checkVisibility() && !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
          .map(node => node.outerHTML)"""
    )
    assert nameless == []
    twice = desk.page.evaluate(
        "(ids => ids.filter((id, at) => ids.indexOf(id) !== at))([...document.querySelectorAll('[id]')].map(node => node.id))"
    )
    assert twice == []
    reached = set()
    for _ in range(40):
        desk.press("Tab")
        name, style, width = desk.page.evaluate(
            """() => { const node = document.activeElement, style = getComputedStyle(node)
              const name = node === document.body ? '' : node.ariaLabel || node.textContent || node.id
              return [name, style.outlineStyle, style.outlineWidth] }"""
        )
        if name:
            reached.add(name)
            assert (style, width) == ("solid", "3px"), name
    assert {"Conversation", "Keys and help (?)"} <= reached
    assert any(name.startswith("Skip") for name in reached)
    assert desk.stub.votes == []  # Tab judges nothing


def test_progress_is_announced(open_desk: Open) -> None:
    desk = open_desk("graded", 5)
    live = desk.page.locator("[aria-live=polite]")
    desk.press("k")
    assert "2 is better. " in live.text_content()
    assert "Next item" in live.text_content()
    desk.press("u")
    assert "Earlier vote: 2 is better" in live.text_content()


@pytest.mark.parametrize(("motion", "behaviour"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_motion_is_left_out_where_it_is_unwanted(phone: Open, motion: str, behaviour: str) -> None:
    desk = phone("pair", 3, reduced_motion=motion)
    assert desk.page.locator(".answers").evaluate("node => getComputedStyle(node).scrollBehavior") == behaviour


def test_the_page_is_small(open_desk: Open) -> None:
    """All files of the rating page together, as sent."""
    desk = open_desk("pair", 3)
    desk.settle()
    assert {"/static/rate.js", "/static/rate.css", "/static/theme.css", "/static/preact-htm.js"} <= set(desk.stub.sent_bytes)
    assert sum(desk.stub.sent_bytes.values()) < 60_000
