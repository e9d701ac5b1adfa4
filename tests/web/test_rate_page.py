"""The rating page in a browser: the four ways by key and by touch, undo, reload, several raters, the network's absence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # a browser starts

Open = Callable[..., Any]


# The four ways, by key.


@pytest.mark.parametrize(
    ("key", "choice"),
    [
        ("f", {"grade": -1}),
        ("1", {"grade": -1}),
        ("F", {"grade": -1}),
        ("j", {"grade": 1}),
        ("2", {"grade": 1}),
        (" ", {"grade": 0}),
        ("x", {"grade": 0, "both_bad": True}),
        ("s", {"skip": True}),
        ("z", {"skip": True}),
    ],
)
def test_one_key_judges_a_pair(open_desk: Open, key: str, choice: Any) -> None:
    desk = open_desk("pair", 3)
    desk.press(key)
    assert desk.question == 2
    assert desk.choices() == [choice]


def test_seven_keys_grade_a_pair(open_desk: Open) -> None:
    desk = open_desk("graded", 20)
    desk.press(*"asdfjkl", *"1234567", "x", "Space", "z")
    grades = [{"grade": grade} for grade in (-3, -2, -1, 0, 1, 2, 3)]
    assert desk.choices() == [*grades, *grades, {"grade": 0, "both_bad": True}, {"grade": 0}, {"skip": True}]
    assert desk.problems == []


@pytest.mark.parametrize(
    ("keys", "ranks"),
    [
        ("231", [3, 1, 2]),
        ("23", [3, 1, 2]),  # a single answer left is the last
        ("2=31", [3, 1, 2]),  # nothing to tie yet
        ("23=1", [2, 1, 1]),
        ("231=", [2, 1, 2]),
        ("23=1=", [1, 1, 1]),
        ("2231", [2, 3, 1]),  # a digit again takes it back: 3, then 1, and 2 is left
        ("231uu1", [2, 1, 3]),  # what is typed is taken back first
        ("2831", [3, 1, 2]),  # there is no eighth answer
    ],
)
def test_digits_rank_answers_best_first(open_desk: Open, keys: str, ranks: list[int]) -> None:
    desk = open_desk("rank", 3, 3)
    desk.press(*keys, "Enter")
    assert desk.choices() == [{"ranks": ranks}]


def test_an_incomplete_rank_is_not_sent(open_desk: Open) -> None:
    desk = open_desk("rank", 3, 4)
    desk.press("2", "1", "Enter")
    assert "2 answers have no rank yet" in desk.page.locator(".pill").inner_text()
    assert (desk.question, desk.stub.votes) == (1, [])
    desk.press("4", "Enter")
    assert desk.choices() == [{"ranks": [2, 1, 4, 3]}]


@pytest.mark.parametrize(
    ("keys", "scores"),
    [
        (["7", "Tab", "0", "Tab", "9"], [7, 0, 9]),
        (["t", "Tab", "1", "0", "Tab", "1", "Tab"], [10, 10, 1]),
        (["5", "Tab", "6", "Shift+Tab", "8", "Tab", "Tab", "2"], [8, 6, 2]),
        (["3", "ArrowUp", "Tab", "ArrowDown", "ArrowDown", "Tab", "ArrowUp"], [4, 9, 0]),
    ],
)
def test_tab_and_digit_score_answers(open_desk: Open, keys: list[str], scores: list[int]) -> None:
    desk = open_desk("score", 3, 3)
    desk.press(*keys, "Enter")
    assert desk.question == 2
    assert desk.choices() == [{"scores": scores}]


def test_an_answer_is_left_without_a_score_only_by_a_second_enter(open_desk: Open) -> None:
    desk = open_desk("score", 3, 3)
    desk.press("Enter")
    assert "at least one score" in desk.page.locator(".pill").inner_text()
    desk.press("7", "Tab", "Tab", "2", "Enter")
    assert "1 answer has no score" in desk.page.locator(".pill").inner_text()
    assert desk.stub.votes == []
    desk.press("Enter")
    assert desk.choices() == [{"scores": [7, None, 2]}]


def test_letters_work_on_a_keyboard_of_another_script(open_desk: Open) -> None:
    desk = open_desk("graded", 4)
    for key, code in (("в", "KeyD"), ("д", "KeyL")):  # a Russian keyboard
        event = "new KeyboardEvent('keydown', {...init, bubbles: true})"
        desk.page.evaluate(f"init => document.body.dispatchEvent({event})", {"key": key, "code": code})
    assert desk.choices() == [{"grade": -1}, {"grade": 3}]


def test_a_key_that_is_held_judges_once(open_desk: Open) -> None:
    desk = open_desk("pair", 9)
    for _ in range(5):
        desk.page.keyboard.down("f")
    desk.page.keyboard.up("f")
    assert (desk.question, len(desk.choices())) == (2, 1)


@pytest.mark.parametrize("key", ["Control+f", "Alt+f", "Meta+j"])
def test_keys_with_a_modifier_are_the_browsers(open_desk: Open, key: str) -> None:
    desk = open_desk("pair", 3)
    desk.press(key)
    desk.press("j")
    assert desk.choices() == [{"grade": 1}]


# By touch.


def test_a_pair_by_touch(phone: Open) -> None:
    desk = phone("pair", 9)
    for name in ("1 is better", "The same", "2 is better", "Both bad", "Skip"):
        desk.tap(name)
    assert desk.choices() == [{"grade": -1}, {"grade": 0}, {"grade": 1}, {"grade": 0, "both_bad": True}, {"skip": True}]
    desk.tap("Back")
    assert desk.question == 5


def test_a_graded_pair_by_touch(phone: Open) -> None:
    desk = phone("graded", 9)
    for name in ("1 is much better", "1 is better", "1 is slightly better", "The same"):
        desk.tap(name)
    for name in ("2 is slightly better", "2 is better", "2 is much better"):
        desk.tap(name)
    assert desk.choices() == [{"grade": grade} for grade in (-3, -2, -1, 0, 1, 2, 3)]


def swipe(desk: Any) -> None:
    """A finger from right to left over the answers."""
    box = desk.page.locator(".answers").bounding_box()
    client = desk.page.context.new_cdp_session(desk.page)
    for kind, x in [("Start", 300), *(("Move", x) for x in range(290, 20, -30)), ("End", None)]:
        points = [] if x is None else [{"x": x, "y": box["y"] + box["height"] / 2}]
        client.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})


def shown_card(desk: Any, number: int) -> None:
    """Wait until this answer fills the screen's width."""
    desk.until("Math.abs(document.querySelectorAll('.answer')[value - 1].getBoundingClientRect().left) < 2", number)


def test_a_rank_by_swipe_and_touch(phone: Open) -> None:
    desk = phone("rank", 3, 3)
    shown_card(desk, 1)
    swipe(desk)
    shown_card(desk, 2)
    assert desk.page.locator(".cards [aria-current=true]").inner_text() == "Answer 2"
    desk.tap("Answer 2 is next in rank")
    swipe(desk)
    shown_card(desk, 3)
    desk.tap("Answer 3 is next in rank")
    desk.tap("The last two are equal")
    desk.tap("Answer 1")
    shown_card(desk, 1)
    desk.tap("Answer 1 is next in rank")
    assert desk.page.locator(".order").inner_text() == "2 = 3 > 1"
    desk.tap("Done")
    assert desk.choices() == [{"ranks": [2, 1, 1]}]
    shown_card(desk, 1)  # the next item begins at its first answer


def test_a_score_by_touch(phone: Open) -> None:
    desk = phone("score", 3, 2)
    desk.tap("Answer 1: 10")
    desk.tap("Answer 2")
    shown_card(desk, 2)
    desk.tap("Answer 2: 3")
    desk.tap("Done")
    assert desk.choices() == [{"scores": [10, 3]}]


def test_no_space_after_a_click_repeats_the_click(open_desk: Open) -> None:
    desk = open_desk("pair", 9)
    desk.page.get_by_role("button", name="1 is better").click()
    desk.press("Space")
    desk.page.get_by_role("button", name="Plain text, monospace (m)").click()
    desk.press("Space")
    assert desk.choices() == [{"grade": -1}, {"grade": 0}, {"grade": 0}]


def test_a_button_that_has_the_focus_takes_space_and_enter(open_desk: Open) -> None:
    desk = open_desk("pair", 9)
    skip = desk.page.get_by_role("button", name="Skip")
    skip.focus()
    desk.press("Space")
    assert desk.choices() == [{"skip": True}]


# Undo.


def test_undo_walks_back_through_ten_votes(open_desk: Open) -> None:
    desk = open_desk("pair", 20)
    desk.press(*"fjfjfjfjfj")
    assert desk.question == 11
    for expected in range(10, 0, -1):
        desk.press("u" if expected % 2 else "Backspace")
        assert desk.question == expected
    assert "1 is better" in desk.page.locator(".earlier").inner_text()
    desk.press("j")
    assert desk.question == 2
    desk.press("Enter", "x")  # the second is kept, the third changes
    assert desk.question == 4
    desk.press("Escape")
    assert desk.question == 11
    before = [{"grade": -1}, {"grade": 1}] * 5
    assert desk.choices() == [{"grade": 1}, before[1], {"grade": 0, "both_bad": True}, *before[3:]]
    assert len(desk.stub.stored()) == 12  # ten votes and two revisions


def test_undo_goes_back_beyond_a_reload(open_desk: Open) -> None:
    desk = open_desk("graded", 20)
    desk.press(*"asd")
    desk.settle()
    desk.page.reload()
    desk.page.wait_for_selector(".bar")
    assert desk.question == 4
    desk.press("l")
    for expected in (4, 3, 2, 1):
        desk.press("u")
        desk.until_question(expected)
    desk.press("u")
    desk.until_told("first vote")
    assert desk.page.locator("[aria-pressed=true]").get_attribute("aria-label") == "1 is much better"
    desk.press("k")
    assert desk.choices() == [{"grade": 2}, {"grade": -2}, {"grade": -1}, {"grade": 3}]


@pytest.mark.parametrize(
    ("method", "keys", "choice"),
    [
        ("rank", ["3", "1", "=", "2", "Enter"], {"ranks": [1, 2, 1]}),
        ("score", ["4", "Tab", "5", "Tab", "6", "Enter"], {"scores": [4, 5, 6]}),
    ],
)
def test_an_earlier_vote_is_shown_as_it_was_and_kept_by_enter(
    open_desk: Open, method: str, keys: list[str], choice: Any
) -> None:
    desk = open_desk(method, 5, 3)
    desk.press(*keys, "u", "Enter")
    assert desk.question == 2
    assert desk.choices() == [choice]
    assert len(desk.stub.stored()) == 1  # nothing changed: no revision


# Reload, raters, network.


def test_reload_in_the_middle_goes_on_at_the_same_item(open_desk: Open) -> None:
    desk = open_desk("pair", 20)
    desk.press(*"fjf", "r")
    desk.page.keyboard.type("Both are wrong")
    desk.settle()
    desk.page.reload()
    desk.page.wait_for_selector(".bar")
    assert desk.question == 4
    assert desk.page.get_by_role("textbox", name="A better answer").input_value() == "Both are wrong"
    assert desk.page.locator(".progress").inner_text().startswith("3 done")
    assert "key" not in desk.page.url


def test_two_raters_at_once(open_desk: Open) -> None:
    anna = open_desk("pair", 9)
    bob = open_desk("pair", 9, key="bob", desk=anna)
    for _ in range(3):
        anna.press("f")
        bob.press("j")
    assert anna.choices("anna") == [{"grade": -1}] * 3
    assert bob.choices("bob") == [{"grade": 1}] * 3


def test_a_name_is_asked_once(open_desk: Open) -> None:
    desk = open_desk("pair", 5, key="", ready="form")
    desk.page.get_by_label("Your name").fill("  Anna ")
    desk.press("Enter")
    desk.page.wait_for_selector(".bar")
    desk.press("f")
    desk.settle()
    desk.page.reload()
    desk.page.wait_for_selector(".bar")
    assert (desk.question, desk.choices()) == (2, [{"grade": -1}])


def test_a_key_that_nobody_has_asks_for_the_name(open_desk: Open) -> None:
    desk = open_desk("pair", 5, key="wrong", ready="form")
    assert desk.page.get_by_label("Your name").is_visible()


def test_votes_wait_for_the_network_and_are_sent_once(open_desk: Open) -> None:
    desk = open_desk("pair", 20)
    desk.page.context.set_offline(True)
    desk.press(*"fjf")
    desk.until_told("3 votes wait for the network")
    assert (desk.question, desk.stub.votes) == (4, [])
    desk.page.context.set_offline(False)
    assert desk.choices() == [{"grade": -1}, {"grade": 1}, {"grade": -1}]
    assert len(desk.stub.votes) == 3  # none arrives twice
    assert desk.page.evaluate("Object.keys(localStorage).filter(name => name.startsWith('sawyer-vote')).length") == 0


def test_votes_that_wait_outlive_the_page(open_desk: Open) -> None:
    desk = open_desk("pair", 20)
    desk.stub.failure = (507, {"error": "the disk is full"})
    desk.press(*"fj")
    desk.until_told("2 votes wait")
    desk.page.reload()
    desk.page.wait_for_selector(".bar")
    desk.until_told("2 votes wait")
    desk.until_question(3)  # their items do not come again
    desk.stub.failure = None
    assert desk.choices() == [{"grade": -1}, {"grade": 1}]
    assert len(desk.stub.votes) == 2


def test_an_answer_that_was_lost_sends_the_same_vote_again(open_desk: Open) -> None:
    """The vote is stored, the acknowledgement is lost: the same UUID comes again."""
    desk = open_desk("pair", 20)
    lost: list[str] = []

    def lose_once(route: Any) -> None:
        response = route.fetch()
        if lost:
            return route.fulfill(response=response)
        lost.append(response.text())
        return route.abort()

    desk.page.route("**/api/votes", lose_once)
    desk.press("f")
    desk.until_told("1 vote waits")
    desk.settle()
    assert len(desk.stub.votes) == 2
    assert len({vote["id"] for _, vote in desk.stub.votes}) == 1


def test_a_full_disk_is_said_and_the_vote_waits(open_desk: Open) -> None:
    desk = open_desk("pair", 20)
    desk.stub.failure = (507, {"error": "the disk is full", "todo": "free some space"})
    desk.press("f")
    desk.until_told("1 vote waits: the disk is full. free some space")
    assert desk.page.locator(".saved").inner_text() == "not saved"
    desk.stub.failure = None
    assert desk.choices() == [{"grade": -1}]


def test_a_refused_vote_is_said_and_not_sent_again(open_desk: Open) -> None:
    desk = open_desk("pair", 20)

    def refuse(route: Any) -> None:
        ids = [vote["id"] for vote in route.request.post_data_json["votes"]]
        route.fulfill(
            json={"stored": [], "refused": [{"id": each, "error": "this item was never shown to you"} for each in ids]}
        )

    desk.page.route("**/api/votes", refuse)
    desk.press("f")
    desk.until_told("never shown to you")
    desk.settle()
    assert desk.question == 2


def test_nothing_is_requested_between_a_key_and_the_next_item(open_desk: Open) -> None:
    desk = open_desk("pair", 60)
    # The next item stands on the page when the key's event ends; only then does the first request leave.
    desk.page.evaluate(
        """() => {
          Object.assign(window, {requests: 0, open: 0})
          const send = window.fetch
          window.fetch = (...all) => { requests += 1; open += 1; return send(...all).finally(() => (open -= 1)) }
        }"""
    )
    for number in range(2, 40):
        desk.until("window.open === 0")  # as fast as a person is
        shown = desk.page.evaluate(
            """async () => {
              requests = 0
              const before = document.querySelector('.prompt').textContent
              document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'f', bubbles: true}))
              while (document.querySelector('.prompt').textContent === before) await Promise.resolve()
              return [document.querySelector('.prompt').textContent, requests]
            }"""
        )
        assert shown == [f"Question {number}: which is the larger of the two numbers?", 0]
        desk.settle()
    assert len(desk.choices()) == 38


def test_25_items_are_on_the_page_before_the_first_key(open_desk: Open) -> None:
    desk = open_desk("pair", 60)
    assert [path for path in desk.stub.requests if "items" in path] == ["GET /api/items?count=25"]
    desk.page.route("**/api/items**", lambda route: None)  # never answered
    desk.press(*"f" * 24)
    assert desk.question == 25


def test_the_last_item_ends_in_thanks_and_undo_still_works(open_desk: Open) -> None:
    desk = open_desk("pair", 2)
    desk.press("f", "j")
    desk.page.get_by_text("All done").wait_for()
    assert desk.choices() == [{"grade": -1}, {"grade": 1}]
    desk.press("u")
    assert desk.question == 2
    desk.press("f")
    desk.page.get_by_text("All done").wait_for()
    assert desk.choices() == [{"grade": -1}, {"grade": -1}]


# Texts of one's own.


def test_keys_are_dead_in_fields_and_a_rewrite_goes_with_the_vote(open_desk: Open) -> None:
    desk = open_desk("graded", 5)
    desk.press("r")
    desk.page.keyboard.type("a sad flask? u")
    desk.press("Backspace", "Backspace", "Escape", "n")
    desk.page.keyboard.type("fjx")
    assert (desk.question, desk.stub.votes) == (1, [])
    desk.press("Escape", "l")
    desk.settle()
    (vote,) = desk.stub.stored()
    assert (vote["rewrite"], vote["note"], vote["choice"]) == ("a sad flask?", "fjx", {"grade": 3})
    assert 0 <= vote["seconds"] < time.monotonic()
    desk.press("u")
    assert desk.page.get_by_role("textbox", name="A better answer").input_value() == "a sad flask?"
    desk.press("u", "?")
    desk.page.get_by_role("dialog").get_by_text("answer 1 is much better").wait_for()
    desk.press("a", "Escape")
    assert len(desk.stub.stored()) == 1
