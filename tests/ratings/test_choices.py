"""What a rater can say, by method: from JSON, as JSON, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from raising import raises_with

from sawyer.errors import RatingError
from sawyer.ratings import Choice, Method, check_choice, choice_json, parse_choice


@pytest.mark.parametrize(
    ("raw", "method", "count", "choice"),
    [
        ({"grade": -1}, "pair", 2, Choice(grade=-1)),
        ({"grade": 0}, "pair", 2, Choice(grade=0)),
        ({"grade": 3}, "graded", 2, Choice(grade=3)),
        ({"grade": 0, "both_bad": True}, "graded", 2, Choice(grade=0, both_bad=True)),
        ({"ranks": [1, 3, 2, 2]}, "rank", 4, Choice(ranks=(1, 3, 2, 2))),
        ({"ranks": [4, 2, 2, 1]}, "rank", 4, Choice(ranks=(3, 2, 2, 1))),  # as in sports: the rank after two equals is left out
        ({"ranks": [2, 2]}, "rank", 2, Choice(ranks=(1, 1))),
        ({"scores": [7, None, 0]}, "score", 3, Choice(scores=(7, None, 0))),
        ({"skip": True}, "rank", 8, Choice(skip=True)),
        ({"grade": 1, "skip": False, "both_bad": False}, "pair", 2, Choice(grade=1)),
    ],
)
def test_what_fits_is_read_and_written_again(raw: Any, method: Method, count: int, choice: Choice) -> None:
    assert parse_choice(raw, method, count) == choice
    assert parse_choice(choice_json(choice), method, count) == choice


@pytest.mark.parametrize(
    ("raw", "method", "count"),
    [
        ({}, "pair", 2),
        ({"grade": 2}, "pair", 2),
        ({"grade": -4}, "graded", 2),
        ({"grade": True}, "pair", 2),  # true is no 1
        ({"grade": 1.0}, "pair", 2),
        ({"grade": "1"}, "pair", 2),
        ({"grade": 1, "both_bad": True}, "pair", 2),
        ({"grade": 0, "both_bad": 1}, "pair", 2),
        ({"both_bad": True}, "pair", 2),
        ({"grade": 1}, "rank", 2),
        ({"grade": 1, "ranks": [1, 2]}, "pair", 2),
        ({"grade": 1, "skip": True}, "pair", 2),
        ({"skip": True, "both_bad": True}, "pair", 2),
        ({"ranks": [1, 2]}, "rank", 3),
        ({"ranks": [0, 1]}, "rank", 2),
        ({"ranks": [1, 3]}, "rank", 2),
        ({"ranks": [True, 2]}, "rank", 2),
        ({"ranks": "12"}, "rank", 2),
        ({"ranks": {"0": 1}}, "rank", 2),
        ({"ranks": [1, 2], "both_bad": True}, "rank", 2),
        ({"scores": [11, 0]}, "score", 2),
        ({"scores": [-1, 0]}, "score", 2),
        ({"scores": [1.5, 0]}, "score", 2),
        ({"scores": [None, None]}, "score", 2),
        ({"scores": [1]}, "score", 2),
        ({"scores": [10**40, 1]}, "score", 2),
        ({"grade": 1, "rewrite": "x"}, "pair", 2),
        ({"grade": [[[[1]]]]}, "pair", 2),
        (None, "pair", 2),
        ([1], "pair", 2),
        ("skip", "pair", 2),
    ],
)
def test_what_does_not_fit_is_refused(raw: Any, method: Method, count: int) -> None:
    with raises_with(RatingError, expected=method, todo="judge the item again"):
        parse_choice(raw, method, count)


def test_a_method_that_does_not_exist() -> None:
    with raises_with(RatingError, given="stars", expected="pair, graded, rank, score"):
        check_choice(Choice(grade=1), "stars", 2)  # type: ignore[arg-type]
