"""What a row is. Every format that is read becomes one of these; every stage takes one of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from sawyer.errors import DataError

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
    in_loss: bool = True  # of an assistant's turn in a demonstration: whether it is imitated (OpenAI's `weight` 1)


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
    """A prompt and the response to imitate. Assistant turns inside `prompt` are imitated too, unless they are not `in_loss`."""

    prompt: Prompt
    response: str

    @property
    def where(self) -> Where:
        return self.prompt.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response. `score` is None until it has been judged; `source` names its writer ("" if unknown)."""

    response: str
    score: float | None
    source: str = ""


class Pair(NamedTuple):
    """Two of a prompt's scored answers by their index: `better` beats `worse` by `difference` > 0 on the judges' scale."""

    better: int
    worse: int
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """All pairs of a prompt's scored answers: those that teach, and how many do not."""

    preferences: tuple[Pair, ...]
    ties: int  # pairs with equal scores
    same_text: int  # pairs of one text with two scores: no model could tell them apart


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPrompt:
    """A prompt with its answers and their scores on one scale, higher is better; or a ready-made pair, the better answer first.

    Example: `JudgedPrompt(prompt=..., answers=(Answer(response="Down.", score=6.0), Answer(response="Up.", score=2.0)))`
    """

    prompt: Prompt
    answers: tuple[Answer, ...]
    is_pair: bool = False  # of its two scores only the order means something, and the difference where `margin` is known
    margin: float | None = None  # of a ready-made pair, in the judges' unit; None: unknown, its difference counts as 1
    weight: float = 1.0  # > 0; a judgement of weight 2 teaches as much as the same row given twice
    rater: str = ""  # whose judgement it is, where rows name it: each of them is an independent judgement
    both_bad: bool = False  # a tie of answers of which none is good

    @classmethod
    def ready_made(cls, prompt: Prompt, chosen: str, rejected: str, margin: float | None = None) -> JudgedPrompt:
        """A pair as its file has it. A row that is read for its answers alone may be a tie (margin 0) or contradict itself
        (below 0); training never sees such rows."""
        score = 1.0 if margin is None else margin
        answers = (Answer(response=chosen, score=score), Answer(response=rejected, score=0.0))
        return cls(prompt=prompt, answers=answers, is_pair=True, margin=margin)

    @property
    def where(self) -> Where:
        return self.prompt.where

    @property
    def chosen(self) -> str | None:
        """A ready-made pair's better response."""
        return self.answers[0].response if self.is_pair else None

    @property
    def rejected(self) -> str | None:
        """A ready-made pair's other response."""
        return self.answers[1].response if self.is_pair else None

    def drop_unscored(self) -> JudgedPrompt:
        """The same without the answers that wait for a score."""
        return replace(self, answers=tuple(answer for answer in self.answers if answer.score is not None))

    @property
    def responses(self) -> tuple[str, ...]:
        return tuple(answer.response for answer in self.answers)

    @property
    def scores(self) -> tuple[float, ...]:
        """The scores of `drop_unscored()`, in its order."""
        return tuple(answer.score for answer in self.answers if answer.score is not None)

    def pairs(self) -> Pairs:
        """The one definition of a pair: two answers of `drop_unscored()` with different scores and different texts.

        K scores give up to K(K-1)/2 pairs. A text that was judged twice stands twice among the answers: two judgements.
        Example: scores 6, 2, 2 -> preferences ((0, 1, 4.0), (0, 2, 4.0)), 1 tie.
        """
        answers = [(answer.response, answer.score) for answer in self.answers if answer.score is not None]
        preferences, ties, same_text = [], 0, 0
        for i, (response, score) in enumerate(answers):
            for j in range(i + 1, len(answers)):
                difference = score - answers[j][1]
                if difference == 0:
                    ties += 1
                elif response == answers[j][0]:
                    same_text += 1
                else:
                    preferences.append(Pair(i, j, difference) if difference > 0 else Pair(j, i, -difference))
        return Pairs(preferences=tuple(preferences), ties=ties, same_text=same_text)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """A text and the class it belongs to; with `many`, all the classes that apply to it, which may be none.

    Example: `LabelledText(text="The mechanical doll wriggled itself loose.", labels=("1",), many=False)`
    """

    text: str
    labels: tuple[str, ...]  # each once; in the file's order
    many: bool
    where: Where = NOWHERE

    @property
    def prompt(self) -> Prompt:
        """The text as a prompt of one turn: splits and leaks go by it."""
        return prompt_of(self.text, where=self.where)


Record = Prompt | Demonstration | JudgedPrompt | LabelledText


def prompt_of(text: str, *, where: Where = NOWHERE) -> Prompt:
    """A single-turn prompt."""
    return Prompt(messages=(Message(role="user", content=text),), where=where)


def prompt_from_messages(messages: Sequence[Message | Mapping[str, str]]) -> Prompt:
    """A conversation that waits for an answer. Raises DataError where its last message is not the user's."""
    turns = tuple(m if isinstance(m, Message) else Message(role=m["role"], content=m["content"]) for m in messages)  # type: ignore[arg-type]
    if not turns or turns[-1].role != "user":
        raise DataError("the conversation does not wait for an answer", expected="messages of which the last one is the user's")
    return Prompt(messages=turns)


def prompt_in(record: Record) -> Prompt:
    """The record's prompt."""
    return record if isinstance(record, Prompt) else record.prompt


def responses_of(record: Record) -> tuple[str, ...]:
    """The responses that a row holds, in its order; none of a prompt or a labelled text."""
    match record:
        case Demonstration():
            return (record.response,)
        case JudgedPrompt():
            return record.responses
        case Prompt() | LabelledText():
            return ()
