"""A raw row -> a record, by the shapes people publish. Which one a file has is decided by its first rows, and said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sawyer.records.types import Answer, Demonstration, Message, Pair, Prompt, Record, Role, ScoredAnswers, Where

Want = Literal["prompts", "demonstrations", "scored", "pairs", "comparisons", "text"]


class Unfit(Exception):
    """A row that cannot become a record: `field` is what is wrong, `kind` and `message` say how, `todo` what helps."""

    def __init__(self, field: str, kind: str, message: str, todo: str = "") -> None:
        super().__init__(message)
        self.field, self.kind, self.message = field, kind, message
        self.todo = todo or f"mend `{field}`, or name its column in `columns:`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One shape: `fits` looks at an object's keys, `read` makes its records."""

    name: str
    gives: Literal["prompts", "demonstrations", "scored", "pairs"]
    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Where], Iterable[Record]]


ROLES: Mapping[str, Role] = {
    "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
    "bot": "assistant", "model": "assistant", "chatgpt": "assistant", "system": "system",
}  # fmt: skip
INSTRUCTIONS = ("instruction", "prompt", "question", "user_input", "text", "query")
RESPONSES = ("output", "response", "completion", "answer")


def text_of(row: Mapping[str, Any], field: str, *, may_be_empty: bool = False) -> str:
    """A field that must be text."""
    if field not in row or row[field] is None:
        raise Unfit(field, "missing", f"there is no `{field}`")
    value = row[field]
    if not isinstance(value, str):
        raise Unfit(field, "type", f"`{field}` is a {type(value).__name__}, not text")
    if not may_be_empty and not value.strip():
        raise Unfit(field, "empty", f"`{field}` is empty")
    return value.strip()


def number_of(row: Mapping[str, Any], field: str) -> float | None:
    """A score: a finite number, or None where nobody has given one."""
    value = row.get(field)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise Unfit(field, "score", f"`{field}` is {value!r}, not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unfit(field, "score", f"`{field}` is {value!r}, not a finite number")
    return float(value)


def single(text: str, where: Where) -> Prompt:
    """A prompt of one turn."""
    return Prompt(messages=(Message(role="user", content=text),), where=where)


def instruction(row: Mapping[str, Any], where: Where) -> Prompt:
    """instruction and input (blank line between them), or whichever of the prompt's names there is."""
    field = next((name for name in INSTRUCTIONS if name in row), INSTRUCTIONS[0])
    if isinstance(row.get(field), list):
        return conversation(row[field], field, where, answered=False)[0]
    text = text_of(row, field)
    extra = row.get("input") if field == "instruction" else None
    if extra is not None and not isinstance(extra, str):
        raise Unfit("input", "type", f"`input` is a {type(extra).__name__}, not text")
    return single(f"{text}\n\n{extra.strip()}" if extra and extra.strip() else text, where)


def conversation(turns: Any, field: str, where: Where, *, answered: bool) -> tuple[Prompt, str]:
    """OpenAI's {role, content} or ShareGPT's {from, value} turns -> (what comes before the last answer, that answer)."""
    if not isinstance(turns, list) or not turns:
        raise Unfit(field, "type", f"`{field}` is not a list of turns")
    messages: list[Message] = []
    for place, turn in enumerate(turns):
        name = f"{field}[{place}]"
        if not isinstance(turn, Mapping):
            raise Unfit(name, "type", f"turn {place + 1} is not an object")
        said = turn.get("role", turn.get("from"))
        role = ROLES.get(str(said).lower())
        if role is None:
            raise Unfit(name, "type", f"turn {place + 1} is by {said!r}", f"use one of: {', '.join(ROLES)}")
        content = text_of(turn, "content" if "content" in turn else "value" if "value" in turn else "text")
        if role != "system" and messages and messages[-1].role == role:
            raise Unfit(name, "order", f"two turns of the {role} follow each other", "join them, or remove one")
        messages.append(Message(role=role, content=content))
    if messages[0].role == "assistant" or (
        messages[0].role == "system" and len(messages) > 1 and messages[1].role == "assistant"
    ):
        raise Unfit(field, "order", "the conversation begins with the assistant", "remove that turn")
    if not answered:
        messages = messages[: -1 if messages[-1].role == "assistant" else None]
        return Prompt(messages=tuple(messages), where=where), ""
    while messages and messages[-1].role != "assistant":
        messages.pop()  # an unanswered last question cannot be imitated
    if len(messages) < 2:
        raise Unfit(field, "missing", "no turn is the assistant's")
    return Prompt(messages=tuple(messages[:-1]), where=where), messages[-1].content


def _demonstration(row: Mapping[str, Any], where: Where) -> Iterable[Record]:
    field = next((name for name in RESPONSES if name in row), RESPONSES[0])
    yield Demonstration(prompt=instruction(row, where), response=text_of(row, field))


def _chat(row: Mapping[str, Any], where: Where) -> Iterable[Record]:
    field = "messages" if "messages" in row else "conversations"
    prompt, response = conversation(row[field], field, where, answered=True)
    yield Demonstration(prompt=prompt, response=response)


def _instances(row: Mapping[str, Any], where: Where) -> Iterable[Record]:
    """self-instruct: one instruction with several {input, output}."""
    for place, instance in enumerate(row["instances"]):
        if not isinstance(instance, Mapping):
            raise Unfit(f"instances[{place}]", "type", "an instance is not an object")
        joined = {"instruction": row.get("instruction"), "input": instance.get("input", "")}
        yield Demonstration(prompt=instruction(joined, where), response=text_of(instance, "output"))


def _scored(row: Mapping[str, Any], where: Where) -> Iterable[Record]:
    """GPT-4-LLM: responses_and_scores, each {response, score, source}."""
    listed = row["responses_and_scores"]
    if not isinstance(listed, list) or not listed:
        raise Unfit("responses_and_scores", "type", "it is not a list of answers")
    answers = []
    for place, item in enumerate(listed):
        name = f"responses_and_scores[{place}]"
        if not isinstance(item, Mapping):
            raise Unfit(name, "type", "an answer is not an object")
        try:
            # An empty answer is an answer: somebody gave it, and it was judged.
            text = text_of(item, "response", may_be_empty=True)
            answers.append(Answer(response=text, score=number_of(item, "score"), source=str(item.get("source") or "")))
        except Unfit as unfit:
            raise Unfit(f"{name}.{unfit.field}", unfit.kind, unfit.message) from None
    yield ScoredAnswers(prompt=instruction(row, where), answers=tuple(answers))


def _pair(row: Mapping[str, Any], where: Where) -> Iterable[Record]:
    margin = number_of(row, "margin")
    if margin is not None and margin <= 0:
        raise Unfit("margin", "score", f"`margin` is {margin:g}", "a margin is how much better the chosen answer is: above 0")
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list):
        prompt, better = conversation(chosen, "chosen", where, answered=True)
        other, worse = conversation(rejected, "rejected", where, answered=True)
        if "prompt" in row or "instruction" in row:
            prompt = instruction(row, where)
        elif prompt.messages != other.messages:
            raise Unfit("rejected", "pair", "chosen and rejected answer different conversations")
    else:
        better, worse = text_of(row, "chosen"), text_of(row, "rejected")
        prompt = instruction(row, where)
    yield _checked_pair(Pair(prompt=prompt, chosen=better, rejected=worse, margin=margin))


def _transcripts(row: Mapping[str, Any], where: Where) -> Iterable[Record]:
    """Anthropic HH: two transcripts of "\\n\\nHuman: ...\\n\\nAssistant: ..." turns that differ in their last answer."""
    prompt, better = conversation(_turns(row, "chosen"), "chosen", where, answered=True)
    other, worse = conversation(_turns(row, "rejected"), "rejected", where, answered=True)
    if prompt.messages != other.messages:
        raise Unfit("rejected", "pair", "chosen and rejected differ before their last answer", "remove the row")
    yield _checked_pair(Pair(prompt=prompt, chosen=better, rejected=worse))


def _turns(row: Mapping[str, Any], field: str) -> list[dict[str, str]]:
    turns = []
    for block in text_of(row, field).split("\n\nHuman:"):
        said, *answers = block.split("\n\nAssistant:")
        if said.strip():
            turns.append({"role": "user", "content": said.removeprefix("Human:").strip()})
        turns += [{"role": "assistant", "content": answer.strip()} for answer in answers]
    return turns


def _checked_pair(pair: Pair) -> Pair:
    if pair.chosen == pair.rejected:
        raise Unfit("rejected", "tied", "chosen and rejected are the same text", "remove the row: it teaches nothing")
    return pair


def _tree(row: Mapping[str, Any], where: Where) -> Iterable[Record]:
    """OpenAssistant: every prompter's message with two or more ranked replies. Rank 0 is the best of K and scores K - 1."""
    root = row["prompt"]
    if not isinstance(root, Mapping):
        raise Unfit("prompt", "type", "`prompt` is not a message")
    pending: list[tuple[Mapping[str, Any], tuple[Message, ...]]] = [(root, ())]
    while pending:
        node, before = pending.pop(0)
        role = ROLES.get(str(node.get("role", "prompter")))
        if role is None:
            raise Unfit("role", "type", f"a message is by {node.get('role')!r}")
        messages = (*before, Message(role=role, content=text_of(node, "text")))
        replies = [reply for reply in node.get("replies") or [] if isinstance(reply, Mapping)]
        pending += [(reply, messages) for reply in replies]
        ranked = [reply for reply in replies if isinstance(reply.get("rank"), int)]
        if role == "user" and len(ranked) > 1:
            best = max(reply["rank"] for reply in ranked)
            answers = tuple(
                Answer(response=text_of(r, "text"), score=float(best - r["rank"]), source=str(r.get("model_name") or "person"))
                for r in ranked
            )
            yield ScoredAnswers(prompt=Prompt(messages=messages, where=where), answers=answers)


def _prompt(row: Mapping[str, Any], where: Where) -> Iterable[Record]:
    if "messages" in row or "conversations" in row:
        field = "messages" if "messages" in row else "conversations"
        yield conversation(row[field], field, where, answered=False)[0]
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
    Format(name="chat messages", gives="demonstrations", fits=lambda r: _any(r, ("messages", "conversations")), read=_chat),
    Format(
        name="instructions",
        gives="demonstrations",
        fits=lambda r: _any(r, INSTRUCTIONS) and _any(r, RESPONSES),
        read=_demonstration,
    ),
    Format(name="prompts", gives="prompts", fits=lambda r: _any(r, INSTRUCTIONS), read=_prompt),
)
# What each wish accepts: a row's shape must give one of these.
ACCEPTED: Mapping[Want, tuple[str, ...]] = {
    "prompts": ("prompts", "demonstrations", "scored", "pairs"),
    "demonstrations": ("demonstrations", "pairs"),
    "scored": ("scored",),
    "pairs": ("pairs",),
    "comparisons": ("scored", "pairs"),
}


def shape_of(row: Mapping[str, Any], want: Want) -> Format | None:
    """The first shape that fits the row and gives what is wanted; for prompts, one whose last turn may be unanswered."""
    for shape in FORMATS:
        if shape.fits(row) and shape.gives in ACCEPTED[want]:
            if want == "prompts" and shape.gives in ("demonstrations", "prompts") and "instances" not in row:
                return PROMPTS
            if want == "demonstrations" and shape.gives == "pairs":
                return next((f for f in FORMATS if f.gives == "demonstrations" and f.fits(row)), None)
            return shape
    return None


PROMPTS = FORMATS[-1]


def prompt_in(record: Record) -> Prompt:
    """The record's prompt."""
    return record if isinstance(record, Prompt) else record.prompt
