"""From a judge's reply to its verdict: the JSON that was asked for, or what is wrong with the reply."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sawyer.judges.judge_prompts import HIGHEST_SCORE, LOWEST_SCORE, STRONGEST, QuestionKind

Problem = Literal["", "unreadable", "out_of_range", "refusal", "rejected"]
MAX_REPLY = 100_000  # characters that are searched for JSON; a verdict has a hundred
MAX_OBJECTS = 200  # braces that are tried as its beginning
REFUSAL = re.compile(
    r"^\W*(i'?m sorry|i am sorry|sorry|i can'?t|i cannot|i can not|i won'?t|i will not|i'?m unable|i am unable|"
    r"i'?m not able|i am not able|as an ai)\b",
    re.IGNORECASE,
)
THOUGHTS = re.compile(r"<think(ing)?>.*?</think(ing)?>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """A score, or a grade of two answers in the order shown (above 0: the second is better); None with a problem."""

    value: int | None
    problem: Problem = ""


def parse_reply(kind: QuestionKind, text: str, refusal: str = "") -> ParsedReply:
    """The verdict in a reply. `refusal` is what the endpoint says of its own refusal.

    The whole text as JSON; else the first JSON object in it that has a verdict, unless another one says something else: a reply
    may quote a verdict that stands in the answer. A name twice in an object is ambiguous as well.
    """
    if refusal:
        return ParsedReply(value=None, problem="refusal")
    text = THOUGHTS.sub("", text[:MAX_REPLY]).strip()
    field = "score" if kind == "score" else "better"
    objects = [one for one in _objects(text) if field in one]
    if not objects:
        return ParsedReply(value=None, problem="refusal" if REFUSAL.match(text.replace("\u2019", "'")) else "unreadable")
    verdicts = [PARSERS[kind](one) for one in objects]
    return verdicts[0] if all(one == verdicts[0] for one in verdicts) else ParsedReply(value=None, problem="unreadable")


def _objects(text: str) -> list[Mapping[str, Any]]:
    """The text as one JSON object, else every JSON object in it that lies in no other."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique_names)
    try:
        whole = decoder.decode(text)
        return [whole] if isinstance(whole, Mapping) else []
    except (ValueError, RecursionError):
        pass
    objects: list[Mapping[str, Any]] = []
    start, tries = text.find("{"), 0
    while start >= 0 and tries < MAX_OBJECTS:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = None, start + 1
        objects += [value] if isinstance(value, Mapping) else []
        start = text.find("{", end)
    return objects


def _unique_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands twice")
    return values


def _parse_score(values: Mapping[str, Any]) -> ParsedReply:
    score = _whole_number(values["score"])
    if score is None:
        return ParsedReply(value=None, problem="unreadable")
    if not LOWEST_SCORE <= score <= HIGHEST_SCORE:
        return ParsedReply(value=None, problem="out_of_range")
    return ParsedReply(value=score)


def _parse_pair(values: Mapping[str, Any]) -> ParsedReply:
    better = str(values["better"]).strip().upper()
    if better == "TIE":
        return ParsedReply(value=0)
    strength = _whole_number(values.get("strength", 1))
    if better not in ("A", "B") or strength is None:
        return ParsedReply(value=None, problem="unreadable")
    if not 1 <= strength <= STRONGEST:
        return ParsedReply(value=None, problem="out_of_range")
    return ParsedReply(value=strength if better == "B" else -strength)


def _whole_number(value: Any) -> int | None:
    """7, 7.0 and "7" are 7. Anything else is no number: half a point would have to be rounded, which nobody asked for."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,6}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value and abs(value) < 1e6 and int(value) == value else None


PARSERS: Mapping[QuestionKind, Callable[[Mapping[str, Any]], ParsedReply]] = {"score": _parse_score, "pair": _parse_pair}
