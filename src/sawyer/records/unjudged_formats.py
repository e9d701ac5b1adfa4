"""Rows without a judgement: demonstrations, prompts, labelled texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sawyer.records.conversation import (
    CHATS,
    RESPONSES,
    prompt_from_turns,
    prompt_in_row,
    response_of,
    split_last_answer,
    turns,
    waiting_prompt,
    with_system,
)
from sawyer.records.fields import Fields, answer_of, first_field, has_any, inside, list_of, text_of, type_in_words
from sawyer.records.problems import Unfit
from sawyer.records.record_types import Demonstration, LabelledText, Record, Where

TEXTS = ("text", "sentence")  # what is classified


def read_demonstration(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """A prompt and a response in two columns; SQuAD's `answers`, of which any is right."""
    prompt = prompt_in_row(row, where)
    if has_any(row, RESPONSES) or not isinstance(row.peek("answers"), Mapping):
        yield Demonstration(prompt=prompt, response=response_of(row, first_field(row, RESPONSES)))
        return
    with inside("answers"):
        texts = list_of(row.inside("answers", row["answers"]), "text")
        yield Demonstration(prompt=prompt, response=answer_of(Fields({"text[0]": texts[0]}), "text[0]"))


def read_chat(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """A conversation up to the last answer that is imitated; later turns teach nothing."""
    field = first_field(row, CHATS)
    messages = turns(row, field)
    if all(message.role != "assistant" for message in messages):
        raise Unfit(field, "missing", "no turn is the assistant's", "add its answer")
    if messages[-1].role != "assistant":
        yield Unfit(field, "unanswered", "the last turn has no answer; that turn is left out", "add its answer, or remove it")
    indices = [i for i, message in enumerate(messages) if message.role == "assistant" and message.in_loss]
    if not indices:
        raise Unfit(field, "unanswered", "no answer has a weight above 0", "give one the weight 1; the row is left out")
    before, response = split_last_answer(messages[: indices[-1] + 1], field)
    yield Demonstration(prompt=waiting_prompt(with_system(row, before), field, where), response=response)


def read_instances(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """self-instruct: one instruction with several {input, output}."""
    text_of(row, "instruction")
    for i, instance in enumerate(list_of(row, "instances")):
        name = f"instances[{i}]"
        if not isinstance(instance, Mapping):
            raise Unfit(name, "type", f"an instance is {type_in_words(instance)}, not an object", f"mend `{name}`")
        fields = row.inside("instances[]", instance)
        with_input = Fields({"instruction": row["instruction"], "input": fields.get("input")})
        with inside(name):
            yield Demonstration(prompt=prompt_in_row(with_input, where), response=answer_of(fields, "output"))


def read_prompt(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """A prompt in a column, or a conversation: without its last answer, if it has one."""
    if not has_any(row, CHATS):
        yield prompt_in_row(row, where)
        return
    field = first_field(row, CHATS)
    messages = turns(row, field)
    if messages and messages[-1].role == "assistant":
        # The answer is no part of the prompt, but a reward function may compare with it: it counts as an unread field.
        row.inside(f"{field}[-1]", {"content": messages[-1].content})
        messages = messages[:-1]
    yield prompt_from_turns(with_system(row, messages), field, where)


def is_labelled(row: Mapping[str, Any]) -> bool:
    """Whether the row holds a text and its label, or its labels."""
    return has_any(row, TEXTS) and has_any(row, ("label", "labels"))


def read_labelled(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """A text with its one `label`, or with the list of those that apply (`labels`)."""
    text = text_of(row, first_field(row, TEXTS))
    many = row.peek("labels") is not None or "label" not in row
    if many and row.peek("label") is not None:
        raise Unfit("labels", "type", "the row has `label` and `labels`", "keep one of the two")
    labels = _labels(row.get("labels")) if many else (_label(row.get("label"), "label"),)
    yield LabelledText(text=text, labels=labels, many=many, where=where)


def _labels(value: Any) -> tuple[str, ...]:
    """A list of labels; a cell of a table holds it as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unfit("labels", "type", "`labels` is not a list in JSON", 'write it as ["one", "other"]') from None
    if value is None:
        raise Unfit("labels", "missing", "there is no `labels`", "give the list of labels; [] where none applies")
    if not isinstance(value, list):
        todo = 'write ["one", "other"], or call a single label `label`'
        raise Unfit("labels", "type", f"`labels` is {type_in_words(value)}, not a list", todo)
    return tuple(dict.fromkeys(_label(item, f"labels[{i}]") for i, item in enumerate(value)))


def _label(value: Any, field: str) -> str:
    """A class by its name. A whole number is a name, and so are true and false; another number is a score, no class."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as tables with a gap write whole numbers
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        raise Unfit(field, "type", f"`{field}` is {value!r}, which is no class", "give a name or a whole number")
    return text_of(Fields({field: value}), field)
