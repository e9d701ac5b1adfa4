"""Turns, prompts and answers of a row, in the ways people write conversations down."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sawyer.records.fields import Fields, answer_of, first_field, inside, list_of, text_of, type_in_words
from sawyer.records.problems import Unfit
from sawyer.records.record_types import Message, Prompt, Role, Where

ROLES: Mapping[str, Role] = {
    "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant", "bot": "assistant",
    "model": "assistant", "chatgpt": "assistant", "chatbot": "assistant", "ai": "assistant", "system": "system",
    "developer": "system",
}  # fmt: skip
TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython", "tool_response", "function_response")
CONTENTS = ("content", "value", "text")
WEIGHTS = ("weight", "train")
CALLS = ("tool_calls", "function_call")
INSTRUCTIONS = ("instruction", "prompt", "question", "user_input", "text", "query")
RESPONSES = ("output", "response", "completion", "answer")
CHATS = ("messages", "conversations", "conversation")
SYSTEMS = ("system", "system_prompt", "system_message")
# Text with turns in it: how each begins. Anthropic's, and HelpSteer's from the second turn on.
TRANSCRIPTS = (re.compile(r"(?:^\s*|\n\n)(Human|Assistant):"), re.compile(r"\n?<extra_id_1>(User|Assistant)\n"))


def turns(row: Fields, field: str, *, last_may_be_empty: bool = False) -> tuple[Message, ...]:
    """OpenAI's {role, content}, ShareGPT's {from, value} or Capybara's {input, output} turns: user and assistant alternate.

    An empty system turn is dropped. `last_may_be_empty`: the last turn is a judged answer, which may be empty.
    """
    messages: list[Message] = []
    items = list_of(row, field)
    for i, turn in enumerate(items):
        name = f"{field}[{i}]"
        if not isinstance(turn, Mapping):
            raise Unfit(name, "type", f"turn {i + 1} is {type_in_words(turn)}, not an object", f"mend `{name}`")
        empty = last_may_be_empty and i == len(items) - 1
        fields = row.inside(f"{field}[]", turn)
        if "output" in turn and "role" not in turn and "from" not in turn:
            with inside(name):
                messages.append(Message(role="user", content=text_of(fields, "input")))
                messages.append(Message(role="assistant", content=answer_of(fields, "output", may_be_empty=empty)))
            continue
        message = _turn(fields, name, i, may_be_empty=empty)
        if message.role == "system" and not message.content:
            continue
        if message.role == "system" and messages:
            raise Unfit(name, "order", "a system turn after the first turn", "join it with the first; the row is left out")
        if messages and messages[-1].role == message.role:
            two = f"two turns of the {message.role} follow each other"
            raise Unfit(name, "order", two, "join them; the row is left out")
        messages.append(message)
    contents = [message.content.strip() for message in messages]
    for name in (*INSTRUCTIONS, *RESPONSES):  # as UltraChat's prompt and Magpie's response, which stand in the turns too
        text = row.peek(name)
        if isinstance(text, str) and text.strip() in contents:
            row.repeats(name)
    return tuple(messages)


def _turn(turn: Fields, name: str, i: int, *, may_be_empty: bool) -> Message:
    speaker = turn.get(first_field(turn, ("role", "from")))
    role = role_of(speaker)
    calls = next((call for call in CALLS if turn.peek(call)), None)
    if calls is not None or (isinstance(speaker, str) and speaker.lower() in TOOL_ROLES):
        where, what = (f"{name}.{calls}", "calls a tool") if calls else (name, f"is a tool's ({speaker})")
        raise Unfit(where, "tool", f"turn {i + 1} {what}, which is not trained", "remove the row; it is left out")
    if role is None:
        raise Unfit(name, "type", f"turn {i + 1} is by {reprlib.repr(speaker)}", f"use one of: {', '.join(ROLES)}")
    with inside(name):
        field = first_field(turn, CONTENTS)
        if role == "system" and turn.peek(field) is None:
            return Message(role=role, content="")
        texts = Fields({field: _join_parts(turn, field)}) if isinstance(turn.peek(field), list) else turn
        read = answer_of if role == "assistant" else text_of
        content = read(texts, field, may_be_empty=may_be_empty or role == "system")
        return Message(role=role, content=content, in_loss=_is_trained(turn) if role == "assistant" else True)


def _join_parts(turn: Fields, field: str) -> str:
    """Content in parts: [{type: text, text: ...}]. A part that is no text, an image say, cannot be read."""
    texts = []
    for i, part in enumerate(turn[field]):
        fields = turn.inside(f"{field}[]", part) if isinstance(part, Mapping) else Fields({"text": part})
        kind, text = fields.get("type"), fields.get(first_field(fields, ("text", "content")))
        if not isinstance(text, str):
            message = f"a part of the content is no text ({reprlib.repr(kind) if kind else type_in_words(part)})"
            raise Unfit(f"{field}[{i}]", "type", message, "keep its text alone")
        texts.append(text)
    return "".join(texts)


def _is_trained(turn: Fields) -> bool:
    """OpenAI's `weight`, Axolotl's `train`: a turn with 0 or false is read, not imitated."""
    for name in WEIGHTS:
        weight = turn.get(name)
        if weight is not None and weight not in (0, 1):
            raise Unfit(name, "type", f"`{name}` is {reprlib.repr(weight)}", "give 1 (imitated) or 0 (not)")
        if weight is not None and not weight:
            return False
    return True


def json_list(value: Any) -> list[Any] | None:
    """A list that a table's cell holds as JSON; None where it is none."""
    if not isinstance(value, str) or not value.startswith("["):
        return None
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return items if isinstance(items, list) else None


def role_of(name: Any) -> Role | None:
    """Whose turn it is, by any of the names people use."""
    return ROLES.get(name.lower()) if isinstance(name, str) else None


def parse_turn_cells(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its conversations as lists, where a table's cells hold them as JSON."""
    conversations = {name: items for name, cell in row.items() if (items := json_list(cell)) and all(map(_is_turn, items))}
    return {**row, **conversations} if conversations else row


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and any(n in value for n in ("role", "from")) and any(n in value for n in CONTENTS)


def waits(row: Any) -> bool:
    """Whether the row is a conversation whose last turn is the user's: a prompt, not a demonstration."""
    messages = next((row[name] for name in CHATS if row.get(name) is not None), None) if isinstance(row, Mapping) else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, Mapping) and role_of(last.get("role", last.get("from"))) == "user"


def waiting_prompt(messages: tuple[Message, ...], field: str, where: Where) -> Prompt:
    """A conversation that begins with the user (after any system turn) and waits for an answer."""
    roles = [message.role for message in messages if message.role != "system"]
    if not roles or roles[0] != "user":
        raise Unfit(field, "order", "the conversation does not begin with the user", "remove what comes first; it is left out")
    if roles[-1] != "user":
        raise Unfit(field, "order", "the prompt ends with the assistant's turn", "remove that turn; the row is left out")
    return Prompt(messages=messages, where=where)


def prompt_from_turns(messages: tuple[Message, ...], field: str, where: Where) -> Prompt:
    """The same as a prompt to be answered, where nothing is imitated: weights of its turns do not make it another."""
    if not all(turn.in_loss for turn in messages):
        messages = tuple(replace(turn, in_loss=True) for turn in messages)
    return waiting_prompt(messages, field, where)


def split_last_answer(messages: tuple[Message, ...], field: str) -> tuple[tuple[Message, ...], str]:
    """(what comes before the last answer, that answer)"""
    if not messages or messages[-1].role != "assistant":
        raise Unfit(field, "unanswered", "the last turn is not the assistant's", "add the answer; the row is left out")
    return messages[:-1], messages[-1].content


def prompt_in_row(row: Fields, where: Where) -> Prompt:
    """The row's prompt: one of INSTRUCTIONS, as text or turns, or a conversation that waits. What belongs to it is read too:
    `input` and `context` (each after a blank line), earlier turns in `history`, a system prompt in a column."""
    field = first_field(row, INSTRUCTIONS)
    value = row.peek(field)
    if value is None and (talk := _conversation_field(row)):
        return prompt_from_turns(with_system(row, turns(row, talk)), talk, where)
    if value is None and isinstance(row.peek("input"), Mapping):  # OpenAI's pairs
        with inside("input"):
            return prompt_from_turns(turns(row.inside("input", row["input"]), "messages"), "messages", where)
    if isinstance(value, list):
        return prompt_from_turns(with_system(row, turns(row, field)), field, where)
    if isinstance(value, Mapping) and "full_text" in value:  # WebGPT's question
        with inside(field):
            text = text_of(row.inside(field, row[field]), "full_text")
    elif value is None and isinstance(row.peek("history"), str):  # SHP's post
        field, text = "history", text_of(row, "history")
    else:
        text = text_of(row, field)
    earlier = _transcript_prompt(text, field)
    if earlier:
        return prompt_from_turns(with_system(row, earlier), field, where)
    parts = [text, *_attached_texts(row, ("input",) if field == "instruction" else ()), *_attached_texts(row, ("context",))]
    last = Message(role="user", content="\n\n".join(parts))
    return prompt_from_turns(with_system(row, (*_history(row), last)), field, where)


def _conversation_field(row: Fields) -> str | None:
    """A list of turns that is the prompt: a chat's, or HelpSteer 3's context."""
    return next((name for name in (*CHATS, "context") if isinstance(row.peek(name), list)), None)


def _attached_texts(row: Fields, names: Iterable[str]) -> list[str]:
    """Texts that go with the prompt; `input` must be one, a `context` of another type is left unread."""
    present = [name for name in names if isinstance(row.peek(name), str) or (name == "input" and row.peek(name) is not None)]
    return [text for name in present if (text := text_of(row, name, may_be_empty=True))]


def _history(row: Fields) -> tuple[Message, ...]:
    """Earlier turns: a list of [question, answer], or of turns. Anything else under that name stays unread."""
    items = row.peek("history")
    if not isinstance(items, list) or not items:
        return ()
    if all(isinstance(turn, Mapping) for turn in items):
        earlier = turns(row, "history")
        if earlier and earlier[-1].role != "assistant":
            raise Unfit("history", "order", "it does not end with an answer", "add the answer; the row is left out")
        return earlier
    if not all(isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in items):
        return ()
    messages: list[Message] = []
    for i, (question, answer) in enumerate(row["history"]):
        q, a = f"history[{i}][0]", f"history[{i}][1]"
        pair = Fields({q: question, a: answer})
        messages += [Message(role="user", content=text_of(pair, q)), Message(role="assistant", content=answer_of(pair, a))]
    return tuple(messages)


def with_system(row: Fields, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns after the system prompt of a column. A conversation that has its own keeps it: the column stays unread."""
    name = next((name for name in SYSTEMS if isinstance(row.peek(name), str) and row.peek(name).strip()), None)
    if name is None:
        return messages
    if messages and messages[0].role == "system":
        if messages[0].content == row.peek(name).strip():
            row.repeats(name)
        return messages
    return (Message(role="system", content=text_of(row, name)), *messages)


def response_of(row: Fields, field: str, *, may_be_empty: bool = False) -> str:
    """An answer as text, as the assistant's one turn, or as a list of it."""
    if isinstance(row.peek(field), Mapping):
        return _turn(row.inside(field, row[field]), field, 0, may_be_empty=may_be_empty).content
    if not isinstance(row.peek(field), list):
        return answer_of(row, field, may_be_empty=may_be_empty)
    before, answer = split_last_answer(turns(row, field, last_may_be_empty=may_be_empty), field)
    if before:
        raise Unfit(field, "order", f"`{field}` has {len(before) + 1} turns, not one", "move all but the last into the prompt")
    return answer


def transcript(row: Fields, field: str) -> tuple[Message, ...]:
    """Anthropic's "\\n\\nHuman: ...\\n\\nAssistant: ..." turns; the last answer may be empty, since it was judged."""
    text_of(row, field)
    before, *parts = TRANSCRIPTS[0].split(row[field])
    if before.strip() or not parts:
        expected = 'expected "\\n\\nHuman: ...\\n\\nAssistant: ..." turns, or a prompt in a column of its own'
        raise Unfit(field, "type", "there is no prompt, and it is not a transcript", expected)
    return _transcript_turns(parts, field)


def _transcript_prompt(text: str, field: str) -> tuple[Message, ...]:
    """A prompt that is a transcript up to where the assistant answers: its turns; () for any other text."""
    if text.startswith("Human:") and text.endswith("\n\nAssistant:"):
        return _transcript_turns(TRANSCRIPTS[0].split(text)[1:], field)[:-1]
    first, *parts = TRANSCRIPTS[1].split(text)
    if parts and first.strip():
        return _transcript_turns(["Human", first, *parts], field)[: -1 if parts[-2] == "Assistant" else None]
    return ()


def _transcript_turns(parts: Sequence[str], field: str) -> tuple[Message, ...]:
    """[who, text, who, text ...] -> turns; the one space after the colon is the transcript's, not the answer's."""
    spans = list(zip(parts[::2], parts[1::2], strict=True))
    if any(not text.strip() for _, text in spans[:-1]) or (spans[-1][0] != "Assistant" and not spans[-1][1].strip()):
        raise Unfit(field, "unanswered", "a turn of the transcript is empty", "remove the row; it is left out")
    items = [{"role": "assistant" if who == "Assistant" else "user", "content": text.removeprefix(" ")} for who, text in spans]
    return turns(Fields({field: items}), field, last_may_be_empty=True)
