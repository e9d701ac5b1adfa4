"""Text <-> token ids. Prompt and response are tokenised apart and joined, in every stage, so the boundary never moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sawyer.errors import ModelError
from sawyer.records import Demonstration, Message, Prompt
from sawyer.text.template import render


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training sequence.

    Example: prompt ids `[5, 6]`, response ids `[7, 1]` with EOS 1 -> ids `(5, 6, 7, 1)`, trained `(F, F, T, T)`.
    """

    ids: tuple[int, ...]  # (T,)
    trained: tuple[bool, ...]  # (T,) True on the assistant's tokens and the EOS after them
    prompt_length: int  # tokens before the last response
    cut: bool  # the model's context cut off the end, the EOS with it (of a text pair: the end of the longer text)
    types: tuple[int, ...] = ()  # (T,) which text of a pair each token is of, for models that are told so; () for all others


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A conversation that waits for an answer: as the template writes it, and as tokens."""

    text: str
    ids: tuple[int, ...]
    trained: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """A tokenizer with its template and the model's `context` (the most tokens it can read)."""

    tokenizer: Any
    context: int
    _known: dict[tuple[Message, ...], _Known] = field(default_factory=dict, repr=False)
    _specials: list[str] = field(default_factory=list, repr=False)

    @property
    def pad_id(self) -> int:
        """The padding token: its own, never EOS."""
        return int(self.tokenizer.pad_token_id)

    @property
    def eos_id(self) -> int:
        """The token that ends a response."""
        return int(self.tokenizer.eos_token_id)

    @property
    def size(self) -> int:
        """Number of token ids the tokenizer can mean; a model may have rows beyond them."""
        return len(self.tokenizer)

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Ids of the prompt."""
        return self._conversation(prompt.messages).ids

    def fits(self, prompt: Prompt, room: int = 1) -> bool:
        """Whether the prompt leaves `room` tokens of the context for an answer."""
        return len(self.prompt(prompt)) + room <= self.context

    def demonstration(self, record: Demonstration) -> Row:
        """The prompt and its response and EOS; assistant turns inside the prompt are trained as well."""
        known = self._conversation(record.prompt.messages)
        return self._row(known.ids, known.trained, self._response(record.prompt.messages, record.response))

    def answer(self, prompt: Prompt, response: str) -> Row:
        """A prompt with one response and its EOS; only the response is marked."""
        ids = self._conversation(prompt.messages).ids
        return self._row(ids, (False,) * len(ids), self._response(prompt.messages, response))

    def answer_ids(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Row:
        """A prompt with the very tokens that were sampled: decoding and encoding them again might give others."""
        return self._row(tuple(prompt_ids), (False,) * len(prompt_ids), tuple(response_ids))

    def decode(self, response_ids: Sequence[int]) -> str:
        """The response as text, without special tokens and outer white space."""
        return str(self.tokenizer.decode(list(response_ids), skip_special_tokens=True)).strip()

    def _row(self, prompt: tuple[int, ...], trained: tuple[bool, ...], response: tuple[int, ...]) -> Row:
        ids, marks = prompt + response, trained + (True,) * len(response)
        return Row(
            ids=ids[: self.context],
            trained=marks[: self.context],
            prompt_length=min(len(prompt), self.context),
            cut=len(ids) > self.context,
        )

    def _conversation(self, messages: tuple[Message, ...]) -> _Known:
        """Its earlier answers are encoded as if just given."""
        if messages in self._known:
            return self._known[messages]
        clean = self._harmless(messages)
        text = render(self.tokenizer, clean, answer_next=True)
        ids: list[int] = []
        trained: list[bool] = []
        cursor = 0
        for place, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = render(self.tokenizer, clean[:place], answer_next=True)
            answered = _grown(before, render(self.tokenizer, clean[: place + 1], answer_next=False))
            written, length = self._written(answered[len(before) :])
            reached = len(before) + length
            _grown(answered[:reached], text)
            context, answer = self._encode(text[cursor : len(before)]), (*self._encode(written), self.eos_id)
            ids += [*context, *answer]
            trained += [False] * len(context) + [True] * len(answer)
            cursor = reached
        rest = self._encode(text[cursor:])
        found = _Known(text=text, ids=tuple(ids) + rest, trained=tuple(trained) + (False,) * len(rest))
        if not found.ids:
            raise ModelError("the template gives no token for a prompt", todo="use `template: question`")
        if len(self._known) < 100_000:  # the same prompts come again in every stage and epoch
            self._known[messages] = found
        return found

    def _response(self, messages: tuple[Message, ...], response: str) -> tuple[int, ...]:
        """Ids of a response as the template writes it after its prompt, then EOS."""
        clean = self._harmless((*messages, Message(role="assistant", content=response)))
        before = self._conversation(messages).text
        answered = _grown(before, render(self.tokenizer, clean, answer_next=False))
        return (*self._encode(self._written(answered[len(before) :])[0]), self.eos_id)

    def _written(self, turn: str) -> tuple[str, int]:
        """(a turn's text without its EOS, characters of `turn` that it and its EOS take): line ends after it are the next's."""
        text, end = turn.rstrip(), self.tokenizer.eos_token
        text = text if text.endswith(end) else turn.rstrip("\n")
        return text.removesuffix(end), len(text)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else ()

    def _harmless(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Special tokens spelt out in a message are broken up: a user's text must not end a turn or a response."""
        if not self._specials:
            self._specials.extend(special_tokens(self.tokenizer))
        return tuple(Message(role=m.role, content=broken(m.content, self._specials)) for m in messages)


def _grown(before: str, after: str) -> str:
    """`after`, which must continue `before`."""
    if not after.startswith(before):
        raise ModelError(
            f"the chat template rewrites earlier turns of a conversation that begins {before[:60]!r}",
            expected="a template whose text only ever grows at its end",
            why="prompts would be tokenised one way in training and another way in sampling",
            todo="use `template: question` or `chatml`",
        )
    return after


def special_tokens(tokenizer: Any) -> list[str]:
    """What a tokenizer takes for a marker and not for text, the longest first."""
    # A tokenizer may know markers (`<|eot_id|>`) that it does not list among its named special tokens.
    added = tokenizer.added_tokens_decoder.values()
    names = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    return sorted(names, key=lambda name: (-len(name), name))


def broken(text: str, specials: Sequence[str]) -> str:
    """The text with each special token in it broken up by a space: `<|end|>` -> `< |end|>`."""
    for special in specials:
        if special in text:
            text = text.replace(special, f"{special[:1]} {special[1:]}")
    return text
