"""Rows that a template cannot render are named; an end that was typed at an answer's end is left out."""

from __future__ import annotations

from typing import Any

from sawyer.records import Demonstration, JudgedPrompt, Message, Prompt, prompt_of
from sawyer.records.record_types import Where
from sawyer.text import PromptEncoder, find_unrenderable, set_template

EOS = "<|endoftext|>"
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def row(line: int, *roles: str) -> Prompt:
    messages = tuple(Message(role=role, content=f"text {line}") for role in roles)  # type: ignore[arg-type]
    return Prompt(messages=messages, where=Where(file="a.jsonl", line=line))


def test_rows_that_a_template_refuses_are_named_by_their_lines(bytes_tokenizer: Any) -> None:
    bytes_tokenizer.chat_template = STRICT
    set_template(bytes_tokenizer, "auto")
    records = [
        row(1, "user"),
        Demonstration(prompt=row(2, "system", "user"), response="a"),
        JudgedPrompt.ready_made(row(3, "user", "assistant", "user"), "a", "b"),
        row(4, "user", "user"),
        Demonstration(prompt=row(5, "system", "user"), response="b"),
    ]
    found = find_unrenderable(PromptEncoder(tokenizer=bytes_tokenizer, context=99), records)
    assert [problem.where for problem in found] == ["a.jsonl:2", "a.jsonl:4", "a.jsonl:5"]
    assert all("Roles must alternate" in problem.message and problem.bad and not problem.fatal for problem in found)
    assert found[1].message.startswith("the chat template cannot render 2 turns, user, user")
    set_template(bytes_tokenizer, "question")
    assert find_unrenderable(bytes_tokenizer, records) == []


def test_a_typed_end_is_left_out(bytes_tokenizer: Any) -> None:
    set_template(bytes_tokenizer, "question")
    prompt_encoder = PromptEncoder(tokenizer=bytes_tokenizer, context=99)
    plain = prompt_encoder.answer(prompt_of("Up?"), "Down.")
    for typed in (f"Down.{EOS}", f"Down.{EOS}{EOS}", f"Down.{EOS}\n"):
        assert prompt_encoder.answer(prompt_of("Up?"), typed) == plain
    assert prompt_encoder.answer(prompt_of("Up?"), f"{EOS}Down.") != plain
    earlier = Prompt(
        messages=(*row(1, "user").messages, Message(role="assistant", content=f"a{EOS}"), *row(1, "user").messages)
    )
    assert bytes_tokenizer.decode(prompt_encoder.prompt(earlier)).count(EOS) == 1


def test_what_is_remembered_is_bounded(bytes_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sawyer.text.encoding.CACHED_CHARACTERS", 500)
    set_template(bytes_tokenizer, "question")
    prompt_encoder = PromptEncoder(tokenizer=bytes_tokenizer, context=99)
    for number in range(200):
        prompt_encoder.prompt(prompt_of(f"question {number}"))
        assert sum(len(one.text) for one in prompt_encoder._cache.values()) <= 500
