"""What a rater's page sees of an assignment: the conversation, the answers in the order shown, the rater's own vote. Nothing
else: no model, reward, score, file or other rater."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from typing import Any

from sawyer.errors import RatingError
from sawyer.ratings import Assignment, Choice, Vote, choice_json

MAX_TEXT = 200_000  # characters of a rewrite or a note
MAX_SECONDS = 7 * 86400.0
HALF_CHARACTERS = re.compile("[\ud800-\udfff]")


def assignment_json(assignment: Assignment) -> dict[str, Any]:
    """An assignment for its rater."""
    item, vote = assignment.item, assignment.vote
    return {
        "assignment": assignment.id,
        "method": assignment.method,
        "prompt": [{"role": message.role, "content": message.content} for message in item.prompt.messages],
        "answers": [item.answers[index].response for index in assignment.order],
        "vote": None if vote is None else {"choice": choice_json(vote.choice), "rewrite": vote.rewrite, "note": vote.note},
    }


def vote_id(raw: Any) -> str:
    """The vote's UUID. Raises RatingError where it has none: sent again, such a vote would count twice."""
    value = raw.get("id") if isinstance(raw, Mapping) else None
    try:
        if isinstance(value, str) and len(value) <= 45:
            return str(uuid.UUID(value))
    except ValueError:
        pass
    raise RatingError("the vote's id is no UUID", expected='{"id": UUID, "assignment": 12, "choice": {...}, "seconds": 3.2}')


def assignment_id(raw: Mapping[str, Any]) -> int:
    """The assignment's number. Raises RatingError for what cannot be one."""
    value = raw.get("assignment")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise RatingError("the vote's assignment is no number that was handed out", todo="load the page again")
    return value


def vote_of(raw: Mapping[str, Any], assignment: int, choice: Choice) -> Vote:
    """A vote as the page sends it. Raises RatingError for what cannot be one."""
    seconds = raw.get("seconds", 0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise RatingError("the vote's `seconds` is no time", expected="seconds from the item's first sight to the choice")
    return Vote(
        id=vote_id(raw),
        assignment=assignment,
        choice=choice,
        seconds=float(min(seconds, MAX_SECONDS)),
        rewrite=_text(raw, "rewrite"),
        note=_text(raw, "note"),
    )


def _text(raw: Mapping[str, Any], field: str) -> str:
    value = raw.get(field, "")
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise RatingError(f"the vote's `{field}` is no text of at most {MAX_TEXT:,} characters", todo="shorten it")
    # Half an emoji, as a cut-off text can have it, is no character that UTF-8 and SQLite know.
    return HALF_CHARACTERS.sub("\ufffd", value)
