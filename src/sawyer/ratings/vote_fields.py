"""What is taken of a rater's name and of a vote's fields, and how."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import replace

from sawyer.errors import RatingError
from sawyer.ratings.choices import check_choice
from sawyer.ratings.rating_types import Method, Vote

MAX_NAME = 60  # characters of a rater's name
MAX_ID = 100  # characters of a vote's id


def clean_vote(vote: Vote, method: Method, count: int) -> Vote:
    """The vote as it is stored. Raises RatingError for a choice that does not fit, or fields of another type."""
    return replace(
        vote,
        choice=check_choice(vote.choice, method, count),
        seconds=clean_seconds(vote.seconds),
        rewrite=whole_characters(vote.rewrite, "rewrite"),
        note=whole_characters(vote.note, "note"),
    )


def check_vote_id(id: str) -> None:
    """Raises RatingError for an id that a page would not make."""
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID or not id.isascii() or not id.isprintable():
        raise RatingError(
            f"a vote's id is {str(id)[:40]!a}", expected=f"1 to {MAX_ID} printable ASCII characters, such as a UUID"
        )


def clean_seconds(seconds: float) -> float:
    """How long the rater looked; a clock that went backwards counts as 0."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise RatingError(f"the vote took {str(seconds)[:40]} seconds", expected="a finite number")
    return max(0.0, float(seconds))


def whole_characters(text: str, what: str) -> str:
    """The text with a replacement character for each half of a character (a lone surrogate): a page can cut one in two, and
    the vote must not be lost for it."""
    if not isinstance(text, str):
        raise RatingError(f"the {what} is {type(text).__name__}", expected="text")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean_name(name: str) -> tuple[str, str]:
    """A rater's name as it is shown, and what it is compared by."""
    clean = unicodedata.normalize("NFC", " ".join(whole_characters(name, "name").split()))
    visible = "".join(character for character in clean if unicodedata.category(character) not in ("Cf", "Cc"))
    key = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold()).split())
    if not key or len(clean) > MAX_NAME or any(unicodedata.category(character) == "Cc" for character in clean):
        raise RatingError(
            f"a rater's name is {clean[:MAX_NAME]!a}" + (f", {len(clean)} characters" if len(clean) > MAX_NAME else ""),
            expected=f"1 to {MAX_NAME} characters",
            todo="type another name",
        )
    return clean, key
