"""A prompt and its response as a text pair, as encoders (BERT, RoBERTa, DeBERTa) read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from sawyer.records import Prompt, Role
from sawyer.text.encoding import Markers, Row

SPEAKERS: Mapping[Role, str] = {"system": "System", "user": "User", "assistant": "Assistant"}


class RewardEncoder(Protocol):
    """What turns a prompt and a response into the row that a reward model reads: a template or a text pair."""

    @property
    def context(self) -> int:
        """The most tokens of a row."""
        ...

    @property
    def pad_id(self) -> int:
        """The padding token."""
        ...

    def answer(self, prompt: Prompt, response: str) -> Row:
        """A prompt with one response."""
        ...


E = TypeVar("E", bound=RewardEncoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPairEncoder:
    """An encoder's tokenizer: (conversation, response) as it encodes a pair of texts, its own special tokens between them.

    `tokenizer(conversation(prompt), response, truncation=True)` in plain transformers gives the same ids: of a pair that is
    too long, the longer text loses its end. Special tokens spelt out in a text are broken up first: a text must not end its
    pair. `types`: the model takes `token_type_ids`.
    """

    tokenizer: Any
    context: int
    types: bool
    _markers: Markers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_markers", Markers.of(self.tokenizer))

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return int(self.tokenizer.pad_token_id)

    def answer(self, prompt: Prompt, response: str) -> Row:
        """A prompt with one response; the response is marked, with the special token that closes it."""
        first, second = self._markers.break_up(conversation(prompt)), self._markers.break_up(response)
        pair = self._encode(first, second, {})
        cut = len(pair["input_ids"][0]) > self.context
        if cut:
            pair = self._encode(first, second, {"truncation": "longest_first", "max_length": self.context})
        ids = tuple(pair["input_ids"][0])
        if self.tokenizer.is_fast:
            begins = next((i for i, side in enumerate(pair.sequence_ids(0)) if side == 1), len(ids) - 1)
        else:  # slow tokenizers do not say which token is whose
            begins = len(ids) - 1 - len(self.tokenizer(second, add_special_tokens=False)["input_ids"])
        return Row(
            ids=ids,
            loss_mask=tuple(i >= begins for i in range(len(ids))),
            prompt_length=max(0, begins),
            cut=cut,
            types=tuple(pair["token_type_ids"][0]) if self.types else (),
        )

    def _encode(self, first: str, second: str, limits: Mapping[str, Any]) -> Any:
        # As a list of one pair: an empty second text by itself would be taken for none.
        return self.tokenizer([first], [second], return_token_type_ids=self.types, verbose=False, **limits)


def conversation(prompt: Prompt) -> str:
    """A prompt as plain text: a single question as it stands, of several turns each behind who speaks.

    Example: `"User: What is Google?\\nAssistant: A company.\\nUser: Where is it?"`
    """
    if len(prompt.messages) == 1:
        return prompt.text
    return "\n".join(f"{SPEAKERS[message.role]}: {message.content}" for message in prompt.messages)


def limit_tokens(encoder: E, max_tokens: int | None) -> E:
    """The same encoder for rows of at most `max_tokens` tokens; None leaves the model's context as the limit."""
    if max_tokens is None:
        return encoder
    return replace(encoder, context=min(encoder.context, max_tokens))  # type: ignore[type-var]  # every reader is a dataclass
