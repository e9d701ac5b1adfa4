"""A raw row -> a record, by the shapes people publish. Which one a row has is told by its fields' names."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from sawyer.records.types import Answer, Demonstration, Labelled, Message, Pair, Prompt, Record, Role, ScoredAnswers, Where

Want = Literal["prompts", "demonstrations", "scored", "pairs", "comparisons", "answers", "labels", "text"]


class Unfit(Exception):
    """What is wrong with a row: `field` is where, `kind` and `message` say how, `todo` what helps.

    Raised, the row cannot become a record; yielded beside a record, the record is kept and the user told.
    """

    def __init__(self, field: str, kind: str, message: str, todo: str = "") -> None:
        super().__init__(message)
        self.field, self.kind, self.message = field, kind, message
        self.todo = todo or f"mend `{field}`, or name its column in `columns:`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One shape: `fits` looks at an object's keys, `read` makes its records (and tells what is odd about them)."""

    name: str
    gives: Literal["prompts", "demonstrations", "scored", "pairs", "labels"]
    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Where], Iterable[Record | Unfit]]


ROLES: Mapping[str, Role] = {
    "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
    "bot": "assistant", "model": "assistant", "chatgpt": "assistant", "system": "system",
}  # fmt: skip
INSTRUCTIONS = ("instruction", "prompt", "question", "user_input", "text", "query")
RESPONSES = ("output", "response", "completion", "answer")
CHATS = ("messages", "conversations")
TEXTS = ("text", "sentence")  # what is classified
# What is wrong with one row alone, as in every large file: it is left out and counted. All else refuses the file.
LEFT_OUT = ("tied", "order", "pair", "unanswered", "unranked")


@contextmanager
def _inside(name: str) -> Iterator[None]:
    """What is found inside `name` is told by its whole path: `messages[1].content`."""
    try:
        yield
    except Unfit as unfit:
        path = f"{name}.{unfit.field}"
        todo = f"mend `{path}`" if "columns:" in unfit.todo else unfit.todo  # those name columns, not what is in them
        raise Unfit(path, unfit.kind, unfit.message, todo) from None


def _field(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Which of the names the row uses: the first that has a value, else the first that is there."""
    there = [name for name in names if name in row]
    return next((name for name in there if row[name] is not None), there[0] if there else names[0])


def _is(value: Any) -> str:
    names = {"NoneType": "nothing", "dict": "an object", "list": "a list", "int": "a number", "float": "a number"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")


def text_of(row: Mapping[str, Any], field: str, *, may_be_empty: bool = False) -> str:
    """A field that must be text, without outer white space."""
    value = row.get(field)
    if value is None:
        raise Unfit(field, "missing", f"there is no `{field}`")
    if not isinstance(value, str):
        raise Unfit(field, "type", f"`{field}` is {_is(value)}, not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit(field, "encoding", f"`{field}` holds half of a character (a lone surrogate)", "write it anew") from None
    value = value.strip()
    if not value and not may_be_empty:
        raise Unfit(field, "empty", f"`{field}` is empty")
    return value


def list_of(row: Mapping[str, Any], field: str) -> list[Any]:
    """A field that must be a list with something in it."""
    value = row.get(field)
    if value is None:
        raise Unfit(field, "missing", f"there is no `{field}`")
    if not isinstance(value, list):
        raise Unfit(field, "type", f"`{field}` is {_is(value)}, not a list")
    if not value:
        raise Unfit(field, "empty", f"`{field}` is empty")
    return value


def number_of(row: Mapping[str, Any], field: str) -> float | None:
    """A score: a finite number, or None where nobody has given one."""
    value = row.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Unfit(field, "score", f"`{field}` is {reprlib.repr(value)}, not a finite number", f"make `{field}` a number")
    return number


def single(text: str, where: Where) -> Prompt:
    """A prompt of one turn."""
    return Prompt(messages=(Message(role="user", content=text),), where=where)


def instruction(row: Mapping[str, Any], where: Where) -> Prompt:
    """instruction and input (blank line between them), or whichever of the prompt's names there is."""
    field = _field(row, INSTRUCTIONS)
    if isinstance(row.get(field), list):
        return waiting(turns(row, field), field, where)
    text = text_of(row, field)
    extra = ""
    if field == "instruction" and row.get("input") is not None:
        extra = text_of(row, "input", may_be_empty=True)
    return single(f"{text}\n\n{extra}" if extra else text, where)


def turns(row: Mapping[str, Any], field: str) -> tuple[Message, ...]:
    """OpenAI's {role, content} or ShareGPT's {from, value} turns; after an opening system turn the two take turns."""
    messages: list[Message] = []
    for place, turn in enumerate(list_of(row, field)):
        name = f"{field}[{place}]"
        if not isinstance(turn, Mapping):
            raise Unfit(name, "type", f"turn {place + 1} is {_is(turn)}, not an object", f"mend `{name}`")
        role = _role(turn)
        if role is None:
            said = reprlib.repr(turn.get("role", turn.get("from")))
            raise Unfit(name, "type", f"turn {place + 1} is by {said}", f"use one of: {', '.join(ROLES)}")
        with _inside(name):
            content = text_of(turn, _field(turn, ("content", "value", "text")))
        if role == "system" and messages:
            raise Unfit(name, "order", "a system turn after the first turn", "join it with the first; the row is left out")
        if messages and messages[-1].role == role:
            raise Unfit(name, "order", f"two turns of the {role} follow each other", "join them; the row is left out")
        messages.append(Message(role=role, content=content))
    return tuple(messages)


def _role(turn: Mapping[str, Any]) -> Role | None:
    said = turn.get("role", turn.get("from"))
    return ROLES.get(said.lower()) if isinstance(said, str) else None


def waits(row: Any) -> bool:
    """Whether the row is a conversation whose last turn is the user's: a prompt, not a demonstration."""
    said = row.get(_field(row, CHATS)) if isinstance(row, Mapping) else None
    return isinstance(said, list) and bool(said) and isinstance(said[-1], Mapping) and _role(said[-1]) == "user"


def waiting(messages: tuple[Message, ...], field: str, where: Where) -> Prompt:
    """A conversation that begins with the user (after any system turn) and waits for an answer."""
    said = [message.role for message in messages if message.role != "system"]
    if not said or said[0] != "user":
        raise Unfit(field, "order", "the conversation does not begin with the user", "remove what comes first; it is left out")
    if said[-1] != "user":
        raise Unfit(field, "order", "the prompt ends with the assistant's turn", "remove that turn; the row is left out")
    return Prompt(messages=messages, where=where)


def _answered(messages: tuple[Message, ...], field: str) -> tuple[tuple[Message, ...], str]:
    """(what comes before the last answer, that answer)"""
    if messages[-1].role != "assistant":
        raise Unfit(field, "unanswered", "the last turn is not the assistant's", "add the answer; the row is left out")
    return messages[:-1], messages[-1].content


def _response(row: Mapping[str, Any], field: str) -> str:
    """An answer as text, or as a list of the assistant's one turn."""
    if not isinstance(row.get(field), list):
        return text_of(row, field)
    before, answer = _answered(turns(row, field), field)
    if before:
        raise Unfit(field, "order", f"`{field}` has {len(before) + 1} turns, not one", "move all but the last into the prompt")
    return answer


def _demonstration(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    yield Demonstration(prompt=instruction(row, where), response=_response(row, _field(row, RESPONSES)))


def _chat(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    field = _field(row, CHATS)
    messages = turns(row, field)
    if all(message.role != "assistant" for message in messages):
        raise Unfit(field, "missing", "no turn is the assistant's", "add its answer")
    if messages[-1].role != "assistant":
        yield Unfit(field, "unanswered", "the last turn has no answer; that turn is left out", "add its answer, or remove it")
        messages = messages[:-1]
    before, response = _answered(messages, field)
    yield Demonstration(prompt=waiting(before, field, where), response=response)


def _instances(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    """self-instruct: one instruction with several {input, output}."""
    text_of(row, "instruction")
    for place, instance in enumerate(list_of(row, "instances")):
        name = f"instances[{place}]"
        if not isinstance(instance, Mapping):
            raise Unfit(name, "type", f"an instance is {_is(instance)}, not an object", f"mend `{name}`")
        joined = {"instruction": row["instruction"], "input": instance.get("input")}
        with _inside(name):
            yield Demonstration(prompt=instruction(joined, where), response=text_of(instance, "output"))


def _scored(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    """GPT-4-LLM: responses_and_scores, each {response, score, source}."""
    prompt = instruction(row, where)
    answers = []
    for place, item in enumerate(list_of(row, "responses_and_scores")):
        name = f"responses_and_scores[{place}]"
        if not isinstance(item, Mapping):
            raise Unfit(name, "type", f"an answer is {_is(item)}, not an object", f"mend `{name}`")
        with _inside(name):
            response = text_of(item, "response", may_be_empty=True)
            source = text_of(item, "source", may_be_empty=True) if isinstance(item.get("source"), str) else ""
            try:
                score = number_of(item, "score")
            except Unfit as unfit:  # as "N/A" among a hundred thousand: the answer waits for a score, the others teach
                yield Unfit(f"{name}.score", "score", f"{unfit.message}; the answer has no score", unfit.todo)
                score = None
            answers.append(Answer(response=response, score=score, source=source))
        if not response:  # somebody gave it, and it was judged
            yield Unfit(f"{name}.response", "empty", "the answer is empty; it is kept as one", "remove it if it is a mistake")
    yield ScoredAnswers(prompt=prompt, answers=tuple(answers))


def _pair(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    margin = _margin(row)
    if isinstance(row.get("chosen"), list):
        yield _sides(turns(row, "chosen"), turns(row, "rejected"), row, where, margin)
    else:
        better, worse = text_of(row, "chosen"), text_of(row, "rejected")
        yield _checked(Pair(prompt=instruction(row, where), chosen=better, rejected=worse, margin=margin))


def _transcripts(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    """Anthropic HH: two transcripts of "\\n\\nHuman: ...\\n\\nAssistant: ..." turns that differ in their last answer."""
    yield _sides(_transcript(row, "chosen"), _transcript(row, "rejected"), {}, where, _margin(row))


def _margin(row: Mapping[str, Any]) -> float | None:
    margin = number_of(row, "margin")
    if margin is not None and margin <= 0:
        raise Unfit("margin", "score", f"`margin` is {margin:g}", "a margin is how much better the chosen answer is: above 0")
    return margin


def _transcript(row: Mapping[str, Any], field: str) -> tuple[Message, ...]:
    text_of(row, field)
    before, *parts = re.split(r"(?:^\s*|\n\n)(Human|Assistant):", row[field])
    if before.strip() or not parts:
        told = 'expected "\\n\\nHuman: ...\\n\\nAssistant: ..." turns, or a prompt in a column of its own'
        raise Unfit(field, "type", "there is no prompt, and it is not a transcript", told)
    found = [{"role": role, "content": text} for role, text in zip(parts[::2], parts[1::2], strict=True)]
    if any(not turn["content"].strip() for turn in found):
        raise Unfit(field, "unanswered", "a turn of the transcript is empty", "remove the row; it is left out")
    said = [turn | {"role": "user" if turn["role"] == "Human" else "assistant"} for turn in found]
    return turns({field: said}, field)


def _sides(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...], row: Mapping[str, Any], where: Where, margin: float | None
) -> Pair:
    """Two conversations that differ in their last answer; their prompt is what they share, or else the row's."""
    before, better = _answered(chosen, "chosen")
    other, worse = _answered(rejected, "rejected")
    if before != other:
        raise Unfit("rejected", "pair", "chosen and rejected differ before their last answer", "remove the row; it is left out")
    prompt = waiting(before, "chosen", where) if before or not _any(row, INSTRUCTIONS) else instruction(row, where)
    return _checked(Pair(prompt=prompt, chosen=better, rejected=worse, margin=margin))


def _checked(pair: Pair) -> Pair:
    if pair.chosen == pair.rejected:
        raise Unfit("rejected", "tied", "chosen and rejected are the same text", "remove the row; it is left out")
    return pair


def _tree(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    """OpenAssistant: every prompter's message with two or more ranked replies. Rank 0 is the best of K and scores K - 1."""
    root = row.get("prompt")
    if not isinstance(root, Mapping):
        raise Unfit("prompt", "type" if root else "missing", f"`prompt` is {_is(root)}, not a message")
    found = False
    pending: list[tuple[str, Mapping[str, Any], tuple[Message, ...]]] = [("prompt", root, ())]
    for name, node, before in pending:  # grows as it goes
        said = node.get("role", "assistant" if before and before[-1].role == "user" else "prompter")
        role = _role({"role": said})
        if role is None or role == (before[-1].role if before else "assistant"):
            kind = "type" if role is None else "order"
            raise Unfit(f"{name}.role", kind, f"a message is by {reprlib.repr(said)}", "prompter and assistant take turns")
        with _inside(name):
            messages = (*before, Message(role=role, content=text_of(node, "text")))
            replies = list_of(node, "replies") if node.get("replies") else []
        answers = []
        for place, reply in enumerate(replies):
            path = f"{name}.replies[{place}]"
            if not isinstance(reply, Mapping):
                raise Unfit(path, "type", f"a reply is {_is(reply)}, not an object", f"mend `{path}`")
            pending.append((path, reply, messages))
            with _inside(path):
                rank = number_of(reply, "rank")
                if rank is not None:
                    source = reply.get("model_name")
                    source = text_of(reply, "model_name", may_be_empty=True) if isinstance(source, str) else ""
                    answers.append(Answer(response=text_of(reply, "text"), score=-rank, source=source or "person"))
        if role == "user" and len(answers) > 1:
            found = True
            worst = min(answer.score or 0.0 for answer in answers)
            scored = tuple(Answer(response=a.response, score=(a.score or 0.0) - worst, source=a.source) for a in answers)
            yield ScoredAnswers(prompt=Prompt(messages=messages, where=where), answers=scored)
    if not found:
        raise Unfit("prompt", "unranked", "no message of the tree has two ranked replies", "rank them; the tree is left out")


def _labelled(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    """A text with its one `label`, or with the list of those that apply (`labels`)."""
    text = text_of(row, _field(row, TEXTS))
    many = row.get("labels") is not None or "label" not in row
    if many and row.get("label") is not None:
        raise Unfit("labels", "type", "the row has `label` and `labels`", "keep one of the two")
    yield Labelled(text=text, labels=_labels(row) if many else (_label(row.get("label"), "label"),), many=many, where=where)


def _labels(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A list of labels; a cell of a table holds it as JSON."""
    given = row.get("labels")
    if isinstance(given, str) and given.lstrip().startswith("["):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise Unfit("labels", "type", "`labels` is not a list in JSON", 'write it as ["one", "other"]') from None
    if given is None:
        raise Unfit("labels", "missing", "there is no `labels`", "give the list of labels; [] where none applies")
    if not isinstance(given, list):
        told = 'write ["one", "other"], or call a single label `label`'
        raise Unfit("labels", "type", f"`labels` is {_is(given)}, not a list", told)
    return tuple(dict.fromkeys(_label(item, f"labels[{place}]") for place, item in enumerate(given)))


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
    return text_of({field: value}, field)


def _prompt(row: Mapping[str, Any], where: Where) -> Iterable[Record | Unfit]:
    if _any(row, CHATS):
        field = _field(row, CHATS)
        messages = turns(row, field)
        yield waiting(messages[: -1 if messages[-1].role == "assistant" else None], field, where)
    else:
        yield instruction(row, where)


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(name in row for name in names)


def _any(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    return any(name in row for name in names)


# In order: the first that fits a row is its shape.
FORMATS: tuple[Format, ...] = (
    Format(name="scored answers (GPT-4-LLM)", gives="scored", fits=_has("responses_and_scores"), read=_scored),
    Format(
        name="message trees (OpenAssistant)", gives="scored", fits=lambda r: isinstance(r.get("prompt"), Mapping), read=_tree
    ),
    Format(
        name="transcripts (Anthropic HH)",
        gives="pairs",
        fits=lambda r: "rejected" in r and isinstance(r.get("chosen"), str) and not _any(r, INSTRUCTIONS),
        read=_transcripts,
    ),
    Format(name="pairs", gives="pairs", fits=_has("chosen", "rejected"), read=_pair),
    Format(name="tasks with instances (self-instruct)", gives="demonstrations", fits=_has("instances"), read=_instances),
    Format(name="chat messages (OpenAI)", gives="demonstrations", fits=_has("messages"), read=_chat),
    Format(name="conversations (ShareGPT)", gives="demonstrations", fits=_has("conversations"), read=_chat),
    Format(
        name="instructions (Alpaca)",
        gives="demonstrations",
        fits=lambda r: "instruction" in r and _any(r, RESPONSES),
        read=_demonstration,
    ),
    Format(name="prompt and completion", gives="demonstrations", fits=_has("prompt", "completion"), read=_demonstration),
    Format(name="question and answer", gives="demonstrations", fits=_has("question", "answer"), read=_demonstration),
    Format(
        name="prompt and response",
        gives="demonstrations",
        fits=lambda r: _any(r, INSTRUCTIONS) and _any(r, RESPONSES),
        read=_demonstration,
    ),
    Format(
        name="labelled texts",
        gives="labels",
        fits=lambda r: _any(r, TEXTS) and _any(r, ("label", "labels")),
        read=_labelled,
    ),
    Format(
        name="prompts",
        gives="prompts",
        fits=lambda r: _any(r, CHATS) or any(name in r and not isinstance(r[name], Mapping) for name in INSTRUCTIONS),
        read=_prompt,
    ),
)
PROMPTS = FORMATS[-1]
# What each wish accepts: a row's shape must give one of these.
ACCEPTED: Mapping[Want, tuple[str, ...]] = {
    "prompts": ("prompts", "demonstrations", "scored", "pairs", "labels"),
    "demonstrations": ("demonstrations",),
    "scored": ("scored",),
    "pairs": ("pairs",),
    "comparisons": ("scored", "pairs"),
    "answers": ("scored", "pairs", "demonstrations"),
    "labels": ("labels",),
}


def shape_of(row: Mapping[str, Any], want: Want) -> Format | None:
    """The first shape that fits the row and gives what is wanted."""
    if want == "prompts" and PROMPTS.fits(row) and "instances" not in row:
        return PROMPTS  # whatever else the row has is not needed, so it cannot be wrong
    return next((shape for shape in FORMATS if shape.gives in ACCEPTED[want] and shape.fits(row)), None)


def prompt_in(record: Record) -> Prompt:
    """The record's prompt."""
    return record if isinstance(record, Prompt) else record.prompt
