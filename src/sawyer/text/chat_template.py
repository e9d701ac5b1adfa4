"""How a conversation becomes text. Every template is a chat template on the tokenizer, so it travels with each model.

`question` is the original SAWYER's: `Question: {prompt}\\nResponse:` then ` {response}` and EOS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from sawyer.errors import ModelError
from sawyer.records import Message

QUESTION = (
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'system' -%}{{ m['content'] + '\\n\\n' }}"
    "{%- elif m['role'] == 'user' -%}"
    "{{ ('\\n' if not loop.first and messages[loop.index0 - 1]['role'] == 'assistant' else '')"
    " + 'Question: ' + m['content'] + '\\nResponse:' }}"
    "{%- else -%}{{ (' ' + m['content'] if m['content'] else '') + eos_token }}"
    "{%- endif -%}{%- endfor -%}"
)
CHATML = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{{ (eos_token if m['role'] == 'assistant' else '<|im_end|>') + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
TEMPLATES = {"question": QUESTION, "chatml": CHATML}
BOS = "{{- bos_token -}}"  # before one of them, for a tokenizer that begins texts so
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
PROBE = (
    Message(role="user", content="first question"),
    Message(role="assistant", content="first answer"),
    Message(role="user", content="second question"),
    Message(role="assistant", content="second answer"),
)
TODAY = re.compile(r"""strftime_now\(\s*(["'])(?P<format>[^"']*)\1\s*\)""")
THINK, THOUGHT = "<think>", "</think>"
HOLE = "<the answer>"  # where a template would write one
_day: ContextVar[date | None] = ContextVar("day", default=None)


@contextmanager
def fix_date(day: date) -> Iterator[None]:
    """Within it, templates that print today's date are given `day`: a run that is resumed tomorrow reads the same prompts."""
    token = _day.set(day)
    try:
        yield
    finally:
        _day.reset(token)


def set_template(tokenizer: Any, name: str, *, rows: int | None = None) -> str:
    """Put a template on the tokenizer; returns in words which one it is.

    `auto` is the tokenizer's own where it has one, else `question`. Others: `question`, `chatml`, `tokenizer` (its own) or the
    path of a Jinja file. ChatML's markers become tokens of their own where the tokenizer lacks them; where the model has `rows`
    embeddings and no room for more, they are written as text. Where a template asks for today's date, it is written into it
    (`pin_date`). Raises ModelError for a file that is not there, for `tokenizer` where
    it has none, and for a template that `check_template` refuses.
    """
    if name == "auto":
        name = "tokenizer" if tokenizer.chat_template else "question"
    if name == "tokenizer":
        if not tokenizer.chat_template:
            raise ModelError(
                "template: tokenizer, but this tokenizer brings no chat template",
                expected="a tokenizer with one",
                todo="use `template: question` or `template: chatml`",
            )
    elif name in TEMPLATES:
        adds_bos = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = (BOS if adds_bos else "") + TEMPLATES[name]
        if name == "chatml":
            missing = [token for token in CHATML_TOKENS if token not in tokenizer.get_vocab()]
            if rows is None or len(tokenizer) + len(missing) <= rows:
                tokenizer.add_tokens(missing, special_tokens=True)
    else:
        try:
            tokenizer.chat_template = Path(name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(
                f"template: {name} cannot be read ({error})",
                expected=f"auto, {', '.join(TEMPLATES)}, tokenizer, or a Jinja file",
                todo="check the path; it is taken from the folder the command runs in",
            ) from error
    day = pin_date(tokenizer)
    check_template(tokenizer, name)
    words = f"the template `{name}`"
    if name == "tokenizer":  # a model that we have saved has one that we put on it
        builtin = _builtin_name(tokenizer.chat_template)
        words = "its own chat template" + ("" if builtin is None else f", `{builtin}`")
    words += "" if day is None else f", dated {day.isoformat()}"
    last = ", which rewrites earlier turns: of a conversation the last answer alone is trained"
    return words + (last if rewrites(tokenizer) else "")


def _builtin_name(template: str) -> str | None:
    """Which of `TEMPLATES` a template is, as `set_template` writes it."""
    return next((name for name, text in TEMPLATES.items() if template in (text, f"{BOS}{text}")), None)


def pin_date(tokenizer: Any) -> date | None:
    """Write the date into a template that asks for today's (Llama 3, Granite and others do), so that prompts stay what they are
    tomorrow, here and in whatever loads the saved folder. Returns the date; None where the template prints none."""
    day = _day.get() or date.today()

    def date_literal(call: re.Match[str]) -> str:
        return repr(datetime(day.year, day.month, day.day).strftime(call["format"]))

    def pin(template: str) -> str:
        return TODAY.sub(date_literal, template)

    before = tokenizer.chat_template
    if isinstance(before, dict):
        tokenizer.chat_template = {key: pin(template) for key, template in before.items()}
    else:
        tokenizer.chat_template = pin(before)
    return None if tokenizer.chat_template == before else day


def render(tokenizer: Any, messages: Sequence[Message], *, answer_next: bool) -> str:
    """The conversation as text; with `answer_next` it ends where the assistant's answer begins."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer_next)
    except Exception as error:  # Jinja reports a template's own refusals and mistakes alike, by several classes
        raise ModelError(
            f"the chat template cannot render {len(turns)} turns, {_roles(messages)} ({type(error).__name__}: {error})",
            expected="a template that takes system, user and assistant messages in the order of your data",
            todo="use `template: question`, or mend the Jinja file",
        ) from error
    return str(text)


def _roles(messages: Sequence[Message]) -> str:
    roles = [message.role for message in messages]
    return ", ".join(roles if len(roles) <= 4 else [*roles[:3], "..."])


def render_answered(tokenizer: Any, before: str, messages: Sequence[Message]) -> str:
    """The text of a conversation that ends with an answer, as it is trained: it goes on from the prompt's own text `before`.

    Some templates write a prompt otherwise once it is answered: Mistral's leaves the system text out, others a thought that the
    prompt opens (DeepSeek-R1, QwQ) or closes at once (Gemma 4). Then the prompt stays as it is, and the answer follows with
    the end that the template writes; a thought that is open is closed first, with what the answer thinks or nothing in it.
    Raises ModelError where the template's own text from the question to the answer does not fit the prompt's.
    """
    text = render(tokenizer, messages, answer_next=False)
    if text.startswith(before):
        return text
    content, question = messages[-1].content, messages[-2].content.strip()
    empty = render(tokenizer, (*messages[:-1], replace(messages[-1], content=HOLE)), answer_next=False)
    lead, hole, end = empty.rpartition(HOLE)
    prompt_tail, answered_tail = before.rpartition(question)[2], lead.rpartition(question)[2]  # from the question on
    fits = answered_tail.startswith(prompt_tail) or prompt_tail.startswith(answered_tail.rstrip())
    if not (question and question in before and question in lead and hole and fits):
        raise ModelError(
            f"the chat template writes a prompt otherwise once it is answered: {before[-60:]!r} is gone",
            expected="a template whose answer goes on where its prompt ends",
            why="the model would be trained on other prompts than it gets later",
            todo="use `template: question` or `chatml`",
        )
    if before.rstrip().endswith(THINK):
        thought, closes, answer = content.rpartition(THOUGHT)
        thought = thought.strip().removeprefix(THINK).strip("\n") if closes else ""
        return f"{before}{thought}\n{THOUGHT}\n\n{answer.lstrip()}{end}"
    return f"{before}{answered_tail.removeprefix(prompt_tail) if answered_tail.startswith(prompt_tail) else ''}{content}{end}"


def check_template(tokenizer: Any, name: str) -> None:
    """Raise ModelError for a template that cannot render a question and its answer, that leaves out what a turn says, or whose
    answer does not go on where its prompt ends. One that rewrites earlier turns is taken: of those the last answer is trained.
    """
    texts = [(PROBE[:2], render(tokenizer, PROBE[:2], answer_next=False))]
    if takes_turns(tokenizer):
        texts.append((PROBE[0:3:2], render(tokenizer, PROBE[:3], answer_next=True)))
    missing = [turn.content for turns, text in texts for turn in turns if turn.content not in text]
    if missing:
        raise ModelError(
            f"the template {name!r} leaves out what a turn says",
            expected="a template that writes each message's content",
            why="prompts would reach the model without their question",
            todo="mend the Jinja file, or use `template: question`",
        )
    render_answered(tokenizer, render(tokenizer, PROBE[:1], answer_next=True), PROBE[:2])


def takes_turns(tokenizer: Any) -> bool:
    """Whether the template renders a conversation of several turns at all."""
    try:
        render(tokenizer, PROBE[:3], answer_next=True)
    except ModelError:
        return False
    return True


def rewrites(tokenizer: Any) -> bool:
    """Whether an answer is written otherwise once later turns follow (a thought is left out, a system text moves)."""
    if not takes_turns(tokenizer):
        return False
    before = render(tokenizer, PROBE[:1], answer_next=True)
    first, later = render_answered(tokenizer, before, PROBE[:2]), render(tokenizer, PROBE[:3], answer_next=True)
    return not later.startswith(first[: first.rfind(PROBE[1].content) + len(PROBE[1].content)])


def turn_end(tokenizer: Any) -> int | None:
    """The special token that the template writes after an answer (`<|eot_id|>`, `<|im_end|>`, `<end_of_turn>`, an EOS); None
    where it writes none, or cannot be rendered."""
    try:
        text = render(tokenizer, PROBE[:2], answer_next=False)
    except ModelError:
        return None
    _, answer, tail = text.rpartition(PROBE[1].content)
    specials = special_ids(tokenizer)
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if answer and tail else []
    return next((int(token) for token in ids if token in specials), None)


def special_ids(tokenizer: Any) -> set[int]:
    """What a tokenizer takes for a marker and not for text. It may know markers that it does not name (`<|eot_id|>`)."""
    return {*tokenizer.all_special_ids, *(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)}


def template_text(name: str) -> str:
    """The words a template adds around a prompt and a response, for a tokenizer that is trained to know them."""
    if name == "chatml":
        return "user\nassistant\nsystem\n"
    return "Question:\nResponse:\n"
