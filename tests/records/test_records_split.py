"""Splits by the prompt's hash, pairs of scored answers, and rows that are written to be read again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from sawyer.records import (
    Answer,
    Demonstration,
    JudgedPrompt,
    Message,
    Prompt,
    bucket,
    json_lines,
    prompt_of,
    read,
    scored_row,
    split,
)
from sawyer.records.record_types import Where

Put = Callable[[str, Any], str]


def test_the_bucket_is_the_hash_of_the_turns() -> None:
    r"""The hashes are coreutils': printf 'user\x1fUp?' | sha256sum -> 9cb985d94981456a..."""
    assert bucket(prompt_of("Up?")) == 0x9CB985D94981456A / 2**64
    talk = Prompt(messages=(Message(role="system", content="Be brief."), Message(role="user", content="Où?")))
    assert bucket(talk) == 0xBEC2423F808D6F9C / 2**64
    assert bucket(prompt_of("Up?", where=Where(file="a", line=9))) == bucket(prompt_of("Up?"))
    assert 0 <= bucket(prompt_of("\ud800")) < 1  # from Python any text may come


def test_who_is_held_out() -> None:
    """First bytes of the hashes of q0 to q9, by sha256sum: ef fd 82 36 92 36 76 5a 2a 0c; 30% of 256 is 4c.cc."""
    train, held_out = split([prompt_of(f"q{i}") for i in range(10)], 0.3)
    assert [p.text for p in held_out] == ["q3", "q5", "q8", "q9"]
    assert [p.text for p in train] == ["q0", "q1", "q2", "q4", "q6", "q7"]
    assert split([prompt_of("x")], 0.0)[1] == () and split([prompt_of("x")], 1.0)[0] == ()


def test_no_prompt_straddles() -> None:
    """Four records of each prompt, of every kind and in any order, are on one side, whatever else there is."""
    prompts = [prompt_of(f"question {i}") for i in range(50)]
    records: list[Any] = [*prompts]
    for p in prompts:
        answers = (Answer(response="a", score=1.0), Answer(response="b", score=0.0))
        records += [Demonstration(prompt=p, response="a"), JudgedPrompt(prompt=p, answers=answers)]
        records += [JudgedPrompt.ready_made(p, "a", "b")]
    random.Random(0).shuffle(records)
    train, held_out = split(records, 0.4)

    def texts(side: tuple[Any, ...]) -> list[str]:
        return [(r if isinstance(r, Prompt) else r.prompt).text for r in side]

    assert not set(texts(train)) & set(texts(held_out))
    assert all(texts(held_out).count(text) == 4 for text in texts(held_out))
    assert len(train) + len(held_out) == 200 and held_out
    # A file that grows or is cut keeps its split, and a larger share only adds.
    assert [r for r in split(records[:77], 0.4)[1]] == [r for r in held_out if r in records[:77]]
    assert set(texts(held_out)) < set(texts(split(records, 0.6)[1]))


def test_the_share_is_about_right() -> None:
    held_out = split([prompt_of(str(i)) for i in range(2000)], 0.1)[1]
    assert 150 < len(held_out) < 250  # 200, and three and a half deviations of 13.4 beyond


def scored(*scores: float | None) -> JudgedPrompt:
    return JudgedPrompt(prompt=prompt_of("x"), answers=tuple(Answer(response=str(i), score=s) for i, s in enumerate(scores)))


@pytest.mark.parametrize(
    ("scores", "expected", "ties"),
    [
        ((6, 2, 2), [(0, 1, 4), (0, 2, 4)], 1),
        ((1, 3), [(1, 0, 2)], 0),
        ((1, 2.5, 2), [(1, 0, 1.5), (2, 0, 1), (1, 2, 0.5)], 0),
        ((5, 5, 5), [], 3),
        ((5,), [], 0),
        ((), [], 0),
        # Unscored answers are not counted: 0 and 1 are the scored ones.
        ((None, 1, None, 4), [(1, 0, 3)], 0),
        ((None, None), [], 0),
    ],
)
def test_pairs(scores: tuple[float | None, ...], expected: list[tuple[int, int, float]], ties: int) -> None:
    found = scored(*scores).pairs()
    assert (list(found.preferences), found.ties, found.same_text) == (expected, ties, 0)


TALK = (
    Message(role="system", content="Brief."),
    Message(role="user", content="Où?"),
    Message(role="assistant", content="Ici"),
    Message(role="user", content="Line\u2028end?"),
)


def test_rows_are_written_in_the_public_shape() -> None:
    record = JudgedPrompt(prompt=prompt_of("Où?"), answers=(Answer(response="Ici", score=2.0, source="m"),))
    assert json_lines([scored_row(record)]) == (
        '{"user_input": "Où?", "responses_and_scores": [{"response": "Ici", "score": 2.0, "source": "m"}]}\n'
    )
    turns = scored_row(JudgedPrompt(prompt=Prompt(messages=TALK), answers=()))["prompt"]
    assert turns[2] == {"role": "assistant", "content": "Ici"} and len(turns) == 4


def test_what_is_written_is_read_again(put: Put) -> None:
    answers = (
        Answer(response="Ici\n\nlà", score=None),
        Answer(response="", score=0.1, source="m"),
        Answer(response="\0", score=3.0),
    )
    records = [JudgedPrompt(prompt=p, answers=answers) for p in (prompt_of("Où?"), Prompt(messages=TALK))]
    name = put("answers.jsonl", json_lines(scored_row(record) for record in records))
    found = read(name, want="scored").records
    assert [(r.prompt.messages, r.answers) for r in found] == [(r.prompt.messages, r.answers) for r in records]
    assert len(name) and len(json.loads(json_lines([{"a": 1}]))) == 1
