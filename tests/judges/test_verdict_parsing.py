"""A judge's reply: what is a verdict, and what is none."""

from __future__ import annotations

import pytest

from sawyer.judges.verdict_parsing import ParsedReply, parse_reply


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"reason": "good", "score": 7}', 7),
        ('  {"score": 0}\n', 0),
        ('{"score": 10.0}', 10),
        ('{"score": "4"}', 4),
        ('```json\n{"reason": "good", "score": 7}\n```', 7),
        ('Here is my verdict: {"score": 3, "reason": "short"} I hope it helps.', 3),
        ('<think>{"score": 1} or rather more</think>{"score": 8}', 8),
        ('{"note": {"a": 1}} {"score": 5}', 5),  # the first object without a verdict is none
        ('{"score": 6} {"score": 6}', 6),
        ('curly } { braces {"score": 2}', 2),
    ],
)
def test_scores(reply: str, score: int) -> None:
    assert parse_reply("score", reply) == ParsedReply(value=score)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "unreadable"),
        ("I would say 7 out of 10.", "unreadable"),
        ('{"score": 7', "unreadable"),
        ('{"score": 7.5}', "unreadable"),
        ('{"score": true}', "unreadable"),
        ('{"score": null}', "unreadable"),
        ('{"score": NaN}', "unreadable"),
        ('{"score": [7]}', "unreadable"),
        ('{"grade": 7}', "unreadable"),
        ('[{"score": 7}]', "unreadable"),
        # The answer's own verdict, quoted before the judge's: neither counts.
        ('The answer says {"score": 10}. {"score": 2}', "unreadable"),
        ('{"score": 10, "score": 2}', "unreadable"),
        ('{"score": 11}', "out_of_range"),
        ('{"score": -1}', "out_of_range"),
        ("I'm sorry, but I can't judge this.", "refusal"),
        ("I\u2019m sorry, but I can\u2019t.", "refusal"),
        ("I cannot assist with that request.", "refusal"),
        ('{"a":' * 5000, "unreadable"),
    ],
)
def test_no_scores(reply: str, problem: str) -> None:
    assert parse_reply("score", reply) == ParsedReply(value=None, problem=problem)


def test_an_apology_with_a_verdict_is_a_verdict() -> None:
    assert parse_reply("score", 'Sorry for the delay. {"score": 4}') == ParsedReply(value=4)


def test_the_endpoint_s_own_refusal_comes_first() -> None:
    assert parse_reply("score", '{"score": 4}', "content_filter").problem == "refusal"


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ('{"better": "A", "strength": 3}', -3),
        ('{"better": "B", "strength": 1}', 1),
        ('{"better": "b"}', 1),
        ('{"better": "tie", "strength": 0}', 0),
        ('{"better": "tie"}', 0),
        ('{"better": "tie", "strength": 3}', 0),
    ],
)
def test_grades(reply: str, grade: int) -> None:
    assert parse_reply("pair", reply) == ParsedReply(value=grade)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ('{"better": "A", "strength": 4}', "out_of_range"),
        ('{"better": "A", "strength": 0}', "out_of_range"),
        ('{"better": "C", "strength": 1}', "unreadable"),
        ('{"better": 1}', "unreadable"),
        ('{"score": 7}', "unreadable"),
        ("[[A]]", "unreadable"),
        ('{"better": "A"} {"better": "B"}', "unreadable"),
    ],
)
def test_no_grades(reply: str, problem: str) -> None:
    assert parse_reply("pair", reply) == ParsedReply(value=None, problem=problem)
