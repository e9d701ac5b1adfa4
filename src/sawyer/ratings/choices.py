"""A rater's choice: what fits each method, from JSON and as JSON."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sawyer.errors import RatingError
from sawyer.ratings.rating_types import METHODS, Choice, Method

GRADES = {"pair": 1, "graded": 3}  # the strongest preference of each
BEST_SCORE = 10
MAX_ANSWERS = 8  # that one rater can compare at once
FORMS = {
    "pair": '{"grade": -1}, 0 or 1 (above 0: the second answer is better); {"grade": 0, "both_bad": true}; {"skip": true}',
    "graded": '{"grade": -3} to 3 (above 0: the second answer is better); {"grade": 0, "both_bad": true}; {"skip": true}',
    "rank": '{"ranks": [1, 3, 2]}, a rank for each answer, 1 is best, equals share one; {"skip": true}',
    "score": '{"scores": [7, null, 3]}, 0 to 10 or null for each answer, one of them a number; {"skip": true}',
}


def fits_method(method: Method, count: int) -> bool:
    """Whether an item of so many answers can be judged by a method."""
    return count == 2 if method in GRADES else 2 <= count <= MAX_ANSWERS


def parse_choice(raw: Any, method: Method, count: int) -> Choice:
    """A choice as the page sends it, for an item of `count` answers. Raises RatingError where it does not fit the method."""
    if not isinstance(raw, Mapping):
        raise _unfit(f"a choice is {reprlib.repr(raw)}", method)
    unknown = [name for name in raw if name not in ("grade", "both_bad", "ranks", "scores", "skip")]
    if unknown:
        raise _unfit(f"a choice has the field {reprlib.repr(unknown[0])}", method)
    for name in ("both_bad", "skip"):
        if not isinstance(raw.get(name, False), bool):
            raise _unfit(f"`{name}` is {reprlib.repr(raw[name])}", method)
    for name in ("ranks", "scores"):
        value = raw.get(name)
        if value is not None and (not isinstance(value, Sequence) or isinstance(value, str | bytes)):
            raise _unfit(f"`{name}` is {reprlib.repr(value)}", method)
    choice = Choice(
        grade=raw.get("grade"),
        both_bad=raw.get("both_bad", False),
        ranks=tuple(raw.get("ranks") or ()),
        scores=tuple(raw.get("scores") or ()),
        skip=raw.get("skip", False),
    )
    return check_choice(choice, method, count)


def check_choice(choice: Choice, method: Method, count: int) -> Choice:
    """The choice, its ranks without gaps: (1, 2, 2, 4) becomes (1, 2, 2, 3). Raises RatingError where it does not fit."""
    if method not in METHODS:
        raise RatingError(f"the method is {reprlib.repr(method)}", expected=f"one of {', '.join(METHODS)}")
    judgements = [choice.grade is not None, bool(choice.ranks), bool(choice.scores), choice.skip is True]
    if sum(judgements) != 1:
        raise _unfit("a choice says nothing" if not any(judgements) else "a choice says more than one thing", method)
    if choice.skip is True:
        if choice.both_bad:
            raise _unfit("a skipped item is called `both_bad`", method)
        return Choice(skip=True)
    if method in GRADES:
        return _check_grade(choice, method)
    if choice.both_bad:
        raise _unfit(f"`both_bad` does not go with {method}", method)
    return _check_ranks(choice, count) if method == "rank" else _check_scores(choice, count)


def _check_grade(choice: Choice, method: Method) -> Choice:
    strongest = GRADES[method]
    if choice.grade is None or not _is_whole(choice.grade) or not -strongest <= choice.grade <= strongest:
        raise _unfit(f"the grade is {reprlib.repr(choice.grade)}", method)
    if choice.both_bad and choice.grade != 0:
        raise _unfit(f"both answers are called bad, and the grade is {choice.grade}", method)
    return choice


def _check_ranks(choice: Choice, count: int) -> Choice:
    if len(choice.ranks) != count or not all(_is_whole(rank) and 1 <= rank <= count for rank in choice.ranks):
        raise _unfit(f"the ranks of {count} answers are {reprlib.repr(list(choice.ranks))}", "rank")
    dense = {rank: position for position, rank in enumerate(sorted(set(choice.ranks)), 1)}
    return replace(choice, ranks=tuple(dense[rank] for rank in choice.ranks))


def _check_scores(choice: Choice, count: int) -> Choice:
    fit = all(score is None or (_is_whole(score) and 0 <= score <= BEST_SCORE) for score in choice.scores)
    if len(choice.scores) != count or not fit or all(score is None for score in choice.scores):
        raise _unfit(f"the scores of {count} answers are {reprlib.repr(list(choice.scores))}", "score")
    return choice


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unfit(message: str, method: Method) -> RatingError:
    return RatingError(
        message, expected=f"by {method}: {FORMS.get(method, '')}", todo="reload the page, and judge the item again"
    )


def choice_json(choice: Choice) -> dict[str, Any]:
    """The choice in the page's form: `parse_choice(choice_json(choice), ...)` is the choice again."""
    if choice.skip:
        return {"skip": True}
    if choice.grade is not None:
        return {"grade": choice.grade} | ({"both_bad": True} if choice.both_bad else {})
    return {"ranks": list(choice.ranks)} if choice.ranks else {"scores": list(choice.scores)}
