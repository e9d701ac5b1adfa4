"""Which rows a template cannot render, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sawyer.errors import ModelError
from sawyer.records import LabelledText, Message, Problem, Prompt, Record
from sawyer.text.chat_template import render, render_answered
from sawyer.text.encoding import ConversationEncoder, PromptEncoder
from sawyer.text.text_pair import RewardEncoder, TextPairEncoder

ANSWER = "An answer."


def find_unrenderable(reader: RewardEncoder | Any, records: Iterable[Record], *, by: str = "") -> list[Problem]:
    """One problem for each row whose conversation the chat template refuses (a system turn under Gemma, two user turns in a row
    under Mistral), as file:line. `reader` is a tokenizer with its template, or the encoder that has it: a reward model's is
    tried with an answer, and one of text pairs reads any row. `by` is its name, where several read the same rows.

    A template is tried once for each sequence of roles (and which of them say nothing): what they refuse, they refuse by that.
    """
    if isinstance(reader, TextPairEncoder):
        return []
    if isinstance(reader, PromptEncoder) and not isinstance(reader, ConversationEncoder):
        reader = reader.tokenizer
    why: dict[tuple[tuple[str, bool], ...], str] = {}
    problems = []
    for record in records:
        if isinstance(record, LabelledText):
            continue
        prompt = record if isinstance(record, Prompt) else record.prompt
        roles = tuple((message.role, not message.content.strip()) for message in prompt.messages)
        if roles not in why:
            why[roles] = _refusal(reader, prompt, answers=not isinstance(record, Prompt))
        if why[roles]:
            problems.append(
                Problem(
                    where=str(prompt.where),
                    kind=f"template of {by}" if by else "template",
                    message=f"{why[roles]}, by which {by} reads" if by else why[roles],
                    todo="mend the row, or name another model" if by else "mend the row, or use another `template:`",
                    fatal=False,
                    bad=True,
                )
            )
    return problems


def _refusal(reader: Any, prompt: Prompt, *, answers: bool) -> str:
    """Why a conversation cannot be rendered; empty where it can."""
    try:
        if isinstance(reader, ConversationEncoder):
            reader.answer(prompt, ANSWER)
            return ""
        before = render(reader, prompt.messages, answer_next=True)
        if answers:
            render_answered(reader, before, (*prompt.messages, Message(role="assistant", content=ANSWER)))
    except ModelError as error:
        return error.given
    return ""
