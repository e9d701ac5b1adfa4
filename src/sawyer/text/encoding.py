"""Text <-> token ids. What a conversation's own template writes is tokenised as a whole, as every other program does it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sawyer.errors import ModelError
from sawyer.records import Demonstration, Message, Prompt
from sawyer.text.chat_template import render, render_answered, special_ids, turn_end

CACHED_CHARACTERS = 20_000_000  # of prompts whose tokens are cached: with their tokens at most half a gigabyte
SHORTEST = 3  # characters of a marker: some pad with `!`, which stays what it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training sequence.

    Example: prompt ids `[5, 6]`, response ids `[7, 1]` with EOS 1 -> ids `(5, 6, 7, 1)`, loss_mask `(F, F, T, T)`.
    """

    ids: tuple[int, ...]  # (T,)
    loss_mask: tuple[bool, ...]  # (T,) True on the assistant's tokens and the end after them
    prompt_length: int  # tokens before the last response
    cut: bool  # the model's context cut off the end, that of the answer with it (of a text pair: of the longer text)
    types: tuple[int, ...] = ()  # (T,) which text of a pair each token is of; () for models that do not ask

    def without_tail(self) -> Row:
        """The same without what the template writes after the last trained token, such as a line's end."""
        length = len(self.loss_mask)
        while length and not self.loss_mask[length - 1]:
            length -= 1
        if length in (0, len(self.ids)):
            return self
        return replace(self, ids=self.ids[:length], loss_mask=self.loss_mask[:length], types=self.types[:length])


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenConversation:
    """A conversation that waits for an answer: as the template writes it, and as tokens."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithAnswer:
    """A conversation with its answer, as tokens: the answer's are those from `begin` to `stop`, its end among them."""

    ids: tuple[int, ...]
    begin: int
    stop: int
    adds_eos: bool = False  # the template writes no end: EOS was added, and is the last token


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEncoder:
    """A tokenizer with its template and the model's `context` (the most tokens it can read).

    `end_ids` are the tokens of which any ends an answer: those that the model's makers name (generation_config.json), the
    tokenizer's EOS and what the template writes after an answer; the last two are added here. A prompt's ids are those of
    `apply_chat_template(..., add_generation_prompt=True)`, and an answered conversation's those of `apply_chat_template`,
    unless a token would reach over the prompt's end: then prompt and answer are tokenised apart, since a model that answers
    begins after the prompt's last token. Special tokens that are typed in a message are broken up, and an end that is typed
    at the end of an answer is left out: the template writes one.
    """

    tokenizer: Any
    context: int
    end_ids: tuple[int, ...] = ()
    _size: int = field(init=False, repr=False)
    _turn_end: int | None = field(init=False, repr=False)
    _cache: dict[tuple[Message, ...], _OpenConversation] = field(default_factory=dict, init=False, repr=False)
    _cache_size: list[int] = field(default_factory=lambda: [0], init=False, repr=False)  # characters of its texts
    _markers: Markers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        end = turn_end(self.tokenizer)
        object.__setattr__(self, "_size", id_count(self.tokenizer))
        object.__setattr__(self, "_markers", Markers.of(self.tokenizer))
        object.__setattr__(self, "_turn_end", end)
        object.__setattr__(self, "end_ids", all_ends(self.tokenizer, end, self.end_ids))

    @property
    def pad_id(self) -> int:
        """The padding token. Masks come from lengths: it may be a token that means something elsewhere."""
        return int(self.tokenizer.pad_token_id)

    @property
    def eos_id(self) -> int:
        """The token that is written where an answer needs an end: the template's own end of turn, else the tokenizer's EOS."""
        return int(self.tokenizer.eos_token_id) if self._turn_end is None else self._turn_end

    @property
    def size(self) -> int:
        """One more than the greatest id that the tokenizer can mean; a model may have rows beyond it."""
        return self._size

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Ids of the prompt."""
        return self._conversation(prompt.messages).ids

    def fits(self, prompt: Prompt, room: int = 1) -> bool:
        """Whether the prompt leaves `room` tokens of the context for an answer."""
        return len(self.prompt(prompt)) + room <= self.context

    def demonstration(self, record: Demonstration) -> Row:
        """The prompt and its response and the end. Assistant turns inside the prompt are trained as well, but those that are
        not to be (`Message.in_loss`) and those that the template writes otherwise than when they were given."""
        messages = record.prompt.messages
        return self._row(self._with_answer(messages, record.response), self._earlier(messages))

    def answer(self, prompt: Prompt, response: str) -> Row:
        """A prompt with one response and its end; only the response is marked."""
        return self._row(self._with_answer(prompt.messages, response), ())

    def answer_ids(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Row:
        """A prompt with the very tokens that were sampled: decoding and encoding them again might give others."""
        ids, begin = (*prompt_ids, *response_ids), len(prompt_ids)
        return self._row(_WithAnswer(ids=ids, begin=begin, stop=len(ids)), ())

    def decode(self, response_ids: Sequence[int]) -> str:
        """The response as text, without special tokens and outer white space."""
        ids = list(response_ids)
        while ids and ids[-1] in self.end_ids:  # a makers' end need not be marked as special
            ids.pop()
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _row(self, tokens: _WithAnswer, earlier: Sequence[tuple[int, int]]) -> Row:
        marks = [False] * len(tokens.ids)
        for begin, stop in (*earlier, (tokens.begin, tokens.stop)):
            marks[begin:stop] = [True] * (stop - begin)
        return Row(
            ids=tokens.ids[: self.context],
            loss_mask=tuple(marks[: self.context]),
            prompt_length=min(tokens.begin, self.context),
            cut=len(tokens.ids) > self.context,
        )

    def _conversation(self, messages: tuple[Message, ...]) -> _OpenConversation:
        if messages in self._cache:  # the same prompts come again in every stage and epoch
            return self._cache[messages]
        text = render(self.tokenizer, self._harmless(messages), answer_next=True)
        conversation = _OpenConversation(text=text, ids=self._encode(text))
        if not conversation.ids:
            raise ModelError("the template gives no token for a prompt", todo="use `template: question`")
        self._cache_size[0] += len(text)
        if self._cache_size[0] > CACHED_CHARACTERS:
            self._cache.clear()
            self._cache_size[0] = len(text)
        self._cache[messages] = conversation
        return conversation

    def _with_answer(self, messages: tuple[Message, ...], response: str) -> _WithAnswer:
        before = self._conversation(messages)
        clean = self._harmless((*messages, Message(role="assistant", content=response)))
        text = render_answered(self.tokenizer, before.text, clean)
        if self._turn_end is None:
            text = text.rstrip("\n")
        ids, begin = self._encode(text), len(before.ids)
        if ids[:begin] != before.ids:  # a token reaches over the prompt's end
            ids = before.ids + self._encode(text[len(before.text) :])
        stop = next((i for i in range(begin, len(ids)) if ids[i] in self.end_ids), None)
        if stop is None:
            return _WithAnswer(ids=(*ids, self.eos_id), begin=begin, stop=len(ids) + 1, adds_eos=True)
        return _WithAnswer(ids=ids, begin=begin, stop=stop + 1)

    def _earlier(self, messages: tuple[Message, ...]) -> list[tuple[int, int]]:
        """(begin, stop) of each earlier answer that is to be trained and stands in its conversation as when it was given."""
        whole, spans = self._conversation(messages).ids, []
        for i, message in enumerate(messages):
            if message.role == "assistant" and message.in_loss and i:
                answer = self._with_answer(messages[:i], message.content)
                stop = answer.stop - answer.adds_eos
                if whole[:stop] == answer.ids[:stop]:
                    spans.append((answer.begin, stop))
        return spans

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else ()

    def _harmless(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Special tokens spelt out in a message are broken up: a user's text must not end a turn or a response."""
        return tuple(map(self._clean, messages))

    def _clean(self, message: Message) -> Message:
        if not self._markers.within(message.content):
            return message  # nearly every one
        text = self._without_end(message.content) if message.role == "assistant" else message.content
        return replace(message, content=self._markers.break_up(text))

    def _without_end(self, response: str) -> str:
        ends = [end for end in self.tokenizer.convert_ids_to_tokens(list(self.end_ids)) if end in self._markers.names]
        while end := next((end for end in ends if response.rstrip().endswith(end)), ""):
            response = response.rstrip().removesuffix(end)
        return response


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationEncoder(PromptEncoder):
    """How a reward model that is a decoder reads: the whole conversation as its template writes it and as
    `apply_chat_template` tokenises it, nothing added and nothing left out but what its network takes for padding.

    transformers reads a score at the last token that is not `padding`, the pad token of the model's config: a conversation that
    ends in that very token (Mistral with pad = EOS) is read before it.
    """

    padding: int | None = None

    def answer(self, prompt: Prompt, response: str) -> Row:
        """A prompt with one response; only the response is marked, with the end that the template writes."""
        before = self._conversation(prompt.messages).ids
        messages = self._harmless((*prompt.messages, Message(role="assistant", content=response)))
        ids = self._encode(render(self.tokenizer, messages, answer_next=False))
        same = min(len(ids), len(before))
        begin = next((i for i in range(same) if ids[i] != before[i]), same)
        while len(ids) > 1 and ids[-1] == self.padding:
            ids = ids[:-1]
        begin = min(begin, len(ids) - 1)
        ends = (i + 1 for i in range(begin, len(ids)) if ids[i] in self.end_ids)
        return self._row(_WithAnswer(ids=ids, begin=begin, stop=next(ends, len(ids))), ())


def all_ends(tokenizer: Any, turn: int | None, model_ends: Sequence[int]) -> tuple[int, ...]:
    """Every id that ends an answer, each once: what the template writes, the tokenizer's EOS, then the model's own."""
    ids = [token for token in (turn, tokenizer.eos_token_id, *model_ends) if token is not None]
    size = len(tokenizer) if all(token < len(tokenizer) for token in ids) else id_count(tokenizer)
    return tuple(dict.fromkeys(int(token) for token in ids if 0 <= token < size))


def id_count(tokenizer: Any) -> int:
    """One more than a tokenizer's greatest id: some leave numbers out, so that this is more than its number of tokens."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Markers:
    """What a tokenizer takes for a marker and not for text (Gemma has 6,000 of them), to be found in a text quickly."""

    names: frozenset[str]
    starts: re.Pattern[str]  # one of their first characters
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Markers:
        """Those that a tokenizer names, and those that it only knows."""
        every = {*tokenizer.all_special_tokens, *tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer)))}
        names = {name for name in every if len(name) >= SHORTEST}
        starts = "".join(sorted(re.escape(first) for first in {name[0] for name in names}))
        return cls(
            names=frozenset(names),
            starts=re.compile(f"[{starts}]" if names else "(?!)"),
            lengths=tuple(sorted({len(name) for name in names})),
        )

    def within(self, text: str) -> list[str]:
        """The markers that are in a text, the longest first."""
        starts = [match.start() for match in self.starts.finditer(text)]
        names = {text[start : start + length] for start in starts for length in self.lengths} & self.names
        return sorted(names, key=lambda name: (-len(name), name))

    def break_up(self, text: str) -> str:
        """The text with each marker in it broken up by a space: `<|end|>` -> `< |end|>`."""
        for name in self.within(text):
            text = text.replace(name, f"{name[:1]} {name[1:]}")
        return text


def plain_row(tokenizer: Any, text: str, context: int) -> Row:
    """The ids of a text with what its tokenizer puts around one ([CLS] and [SEP], a BOS, nothing), as every other program
    that calls the tokenizer gets them; longer than `context` it is cut, the special tokens kept.

    A text of no token at all is read as the token that ends one. Nothing is trained.
    """
    ids = tokenizer(text, verbose=False)["input_ids"]
    cut = len(ids) > context
    if cut:
        ids = tokenizer(text, verbose=False, truncation=True, max_length=context)["input_ids"]
    if not ids:
        ends = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        ids = [next(token for token in ends if token is not None)]
    return Row(ids=tuple(ids), loss_mask=(False,) * len(ids), prompt_length=len(ids), cut=cut)


def windows(texts: Sequence[str], tokenizer: Any, length: int) -> list[Row]:
    """All texts end to end, an EOS after each, cut into windows of `length` tokens; the unfilled last one is left out."""
    stream: list[int] = []
    for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        stream += [*ids, tokenizer.eos_token_id]
    mask = (False, *[True] * (length - 1))
    cuts = range(0, len(stream) - length + 1, length)
    return [Row(ids=tuple(stream[cut : cut + length]), loss_mask=mask, prompt_length=1, cut=False) for cut in cuts]
