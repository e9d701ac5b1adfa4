"""What a row is. Every format that is read becomes one of these; every stage takes one of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where a record came from: `file` as the user spelt it, `line` counted from 1 (0: no line is known)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


NOWHERE = Where(file="<memory>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    trained: bool = True  # of an assistant's turn in a demonstration: whether it is imitated (OpenAI's `weight` 1)


NO_FIELDS: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation that waits for an answer: the last message is the user's.

    Example: `Prompt(messages=(Message(role="user", content='What is the opposite of "up"?'),))`
    """

    messages: tuple[Message, ...]
    where: Where = NOWHERE
    # The row's other fields as its file has them, where prompts are read: what a reward function may look at.
    fields: Mapping[str, Any] = field(default_factory=lambda: NO_FIELDS, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The last user message: what a person sees as the question."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt and the response to imitate. Assistant turns inside `prompt` are imitated too, unless they are not `trained`."""

    prompt: Prompt
    response: str

    @property
    def where(self) -> Where:
        return self.prompt.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One judged response. `score` is None until somebody judged it; `source` says who wrote it ("" if unknown)."""

    response: str
    score: float | None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAnswers:
    """K answers to one prompt with scores on one scale (higher is better).

    Example: `ScoredAnswers(prompt=..., answers=(Answer(response="Down.", score=6.0), Answer(response="Up.", score=2.0)))`
    """

    prompt: Prompt
    answers: tuple[Answer, ...]

    @property
    def where(self) -> Where:
        return self.prompt.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A ready-made judgement: `chosen` beats `rejected`, by `margin` in the scores' unit (None: not told, taken as 1).

    A row read for its answers alone may be a tie (margin 0) or contradict itself (below 0); what is learnt from never is.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None = None

    @property
    def where(self) -> Where:
        return self.prompt.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text and the class it belongs to; with `many`, all the classes that apply to it, which may be none.

    Example: `Labelled(text="The mechanical doll wriggled itself loose.", labels=("1",), many=False)`
    """

    text: str
    labels: tuple[str, ...]  # each once; in the file's order
    many: bool
    where: Where = NOWHERE

    @property
    def prompt(self) -> Prompt:
        """The text as a prompt of one turn: splits and leaks are told by it."""
        return prompt_of(self.text, where=self.where)


Record = Prompt | Demonstration | ScoredAnswers | Pair | Labelled


def prompt_of(text: str, *, where: Where = NOWHERE) -> Prompt:
    """A single-turn prompt."""
    return Prompt(messages=(Message(role="user", content=text),), where=where)


def responses_of(record: Record) -> tuple[str, ...]:
    """The responses that a row holds, in its order; none of a prompt or a labelled text."""
    match record:
        case Demonstration():
            return (record.response,)
        case ScoredAnswers():
            return tuple(answer.response for answer in record.answers)
        case Pair():
            return record.chosen, record.rejected
        case Prompt() | Labelled():
            return ()
