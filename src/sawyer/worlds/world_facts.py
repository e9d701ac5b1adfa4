"""What is true in the world, and how its people talk: the tables of world.toml, and the few rules of English they need."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

_TABLES: dict[str, Any] = tomllib.loads((files("sawyer.worlds") / "world.toml").read_text(encoding="utf-8"))


def _texts(name: str) -> tuple[str, ...]:
    return tuple(_TABLES[name])


def _text_table(name: str) -> dict[str, tuple[str, ...]]:
    return {key: tuple(texts) for key, texts in _TABLES[name].items()}


OPPOSITES: dict[str, str] = {}
for _a, _b in map(str.split, _TABLES["opposites"]):
    OPPOSITES |= {_a: _b, _b: _a}
LOCATIONS: dict[str, str] = _TABLES["locations"]
THINGS: dict[str, str] = _TABLES["things"]
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    k: (plural, tuple(members)) for k, (plural, members) in _TABLES["kinds"].items()
}
KIND_OF: dict[str, str] = {member: kind for kind, (_, members) in KINDS.items() for member in members}
COUNTS: dict[str, int] = _TABLES["counts"]
SUBJECTS: dict[str, str] = _TABLES["subjects"]
POSITIVE: dict[str, str] = _TABLES["positive"]
HARMS: dict[str, str] = _TABLES["harms"]
WORDS, NAMES, ROLES, LANDS = _texts("words"), _texts("names"), _texts("roles"), _texts("lands")
PASTS, GOALS, OFFICES, COUNTRIES = _texts("pasts"), _texts("goals"), _texts("offices"), _texts("countries")
CITIES, CONTESTS, GOODS = _texts("cities"), _texts("contests"), _texts("goods")
FILLERS, RUDE, QUESTIONS = _texts("fillers"), _texts("rude"), _texts("questions")
PHRASINGS, WISHES, VARIANTS = _text_table("phrasings"), _text_table("wishes"), _text_table("variants")
SENTENCES: dict[str, dict[str, Any]] = _TABLES["sentences"]  # least, most, texts
ANSWERS: dict[str, dict[str, Any]] = _TABLES["answers"]  # whole, terse, claims


def with_article(noun: str) -> str:
    """`a robin`, `an owl`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def enumeration(items: tuple[str, ...]) -> str:
    """`robin, owl and duck`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def capital(text: str) -> str:
    """The first letter made a capital, a leading quote skipped."""
    start = 1 if text.startswith('"') else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]
