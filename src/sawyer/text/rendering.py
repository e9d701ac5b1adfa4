"""Which rows a template cannot render, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sawyer.errors import ModelError
from sawyer.records import Labelled, Message, Problem, Prompt, Record
from sawyer.text.encode import Codec
from sawyer.text.template import answered, render


def unrenderable(tokenizer: Codec | Any, records: Iterable[Record]) -> list[Problem]:
    """One problem for each row whose conversation the chat template refuses (a system turn under Gemma, two user turns in a row
    under Mistral), as file:line. `tokenizer` is one with its template, or the codec that has it.

    A template is asked once for each sequence of roles (and which of them say nothing): what they refuse, they refuse by that.
    """
    if isinstance(tokenizer, Codec):
        tokenizer = tokenizer.tokenizer
    why: dict[tuple[tuple[str, bool], ...], str] = {}
    found = []
    for record in records:
        if isinstance(record, Labelled):
            continue
        prompt = record if isinstance(record, Prompt) else record.prompt
        roles = tuple((message.role, not message.content.strip()) for message in prompt.messages)
        if roles not in why:
            why[roles] = _refusal(tokenizer, prompt, answers=not isinstance(record, Prompt))
        if why[roles]:
            found.append(
                Problem(
                    where=str(prompt.where),
                    kind="template",
                    message=why[roles],
                    todo="mend the row, or use another `template:`",
                    fatal=False,
                    bad=True,
                )
            )
    return found


def _refusal(tokenizer: Any, prompt: Prompt, *, answers: bool) -> str:
    """Why a conversation cannot be rendered; empty where it can."""
    try:
        before = render(tokenizer, prompt.messages, answer_next=True)
        if answers:
            answered(tokenizer, before, (*prompt.messages, Message(role="assistant", content="An answer.")))
    except ModelError as error:
        return error.given
    return ""
