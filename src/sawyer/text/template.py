"""How a conversation becomes text. Every template is a chat template on the tokenizer, so it travels with each model.

`question` is the original SAWYER's: `Question: {prompt}\\nResponse:` then ` {response}` and EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
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
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
PROBE = (
    Message(role="user", content="first question"),
    Message(role="assistant", content="first answer"),
    Message(role="user", content="second question"),
    Message(role="assistant", content="second answer"),
)


def set_template(tokenizer: Any, name: str) -> None:
    """Put a template on the tokenizer: `question`, `chatml`, `tokenizer` (its own) or the path of a Jinja file.

    ChatML's markers become tokens of their own where the tokenizer lacks them. Raises ModelError for a file that is not there,
    for `tokenizer` where it has none, and for a template that changes earlier turns when later ones come: then the same
    prompt would be different tokens in different stages.
    """
    if name == "tokenizer":
        if not tokenizer.chat_template:
            raise ModelError(
                "template: tokenizer, but this tokenizer brings no chat template",
                expected="a tokenizer with one",
                todo="use `template: question` or `template: chatml`",
            )
    elif name in TEMPLATES:
        adds_bos = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{- bos_token -}}" if adds_bos else "") + TEMPLATES[name]
        if name == "chatml":
            missing = [token for token in CHATML_TOKENS if token not in tokenizer.get_vocab()]
            tokenizer.add_tokens(missing, special_tokens=True)
    else:
        try:
            tokenizer.chat_template = Path(name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(
                f"template: {name} cannot be read ({error})",
                expected=f"{', '.join(TEMPLATES)}, tokenizer, or a Jinja file",
                todo="check the path; it is taken from the folder the command runs in",
            ) from error
    check_prefixes(tokenizer, name)


def render(tokenizer: Any, messages: Sequence[Message], *, answer_next: bool) -> str:
    """The conversation as text; with `answer_next` it ends where the assistant's answer begins."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer_next)
    except Exception as error:  # Jinja reports a template's own refusals and mistakes alike, by several classes
        raise ModelError(
            f"the chat template cannot render {len(turns)} turns ({type(error).__name__}: {error})",
            expected="a template that takes system, user and assistant messages in the order of your data",
            todo="use `template: question`, or mend the Jinja file",
        ) from error
    return str(text)


def check_prefixes(tokenizer: Any, name: str) -> None:
    """Each answer must continue its prompt's text, and each later turn the turns before it."""
    for end in (2, 4):
        prompt = render(tokenizer, PROBE[: end - 1], answer_next=True)
        answered = render(tokenizer, PROBE[:end], answer_next=False)
        if not answered.startswith(prompt) or not prompt.startswith(answered_before(tokenizer, end)):
            raise ModelError(
                f"the template {name!r} rewrites earlier turns when a later one is added",
                expected="a template whose text only ever grows at its end",
                why="prompts would be tokenised one way in training and another way in sampling",
                todo="use `template: question` or `chatml`",
            )
        missing = [turn.content for turn in PROBE[:end] if turn.content not in answered]
        if missing:
            raise ModelError(
                f"the template {name!r} leaves out what a turn says",
                expected="a template that writes each message's content",
                why="prompts would reach the model without their question",
                todo="mend the Jinja file, or use `template: question`",
            )


def answered_before(tokenizer: Any, end: int) -> str:
    """The text of the probe's turns that are complete before turn `end`, without trailing white space."""
    return render(tokenizer, PROBE[: end - 2], answer_next=False).rstrip() if end > 2 else ""


def template_text(name: str) -> str:
    """The words a template adds around a prompt and a response, for a tokenizer that is trained to know them."""
    if name == "chatml":
        return "user\nassistant\nsystem\n"
    return "Question:\nResponse:\n"
