"""Templates against strings written out by hand, and against transformers' own rendering of a saved folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sawyer.errors import ModelError
from sawyer.records import Demonstration, Message, Prompt, prompt_of
from sawyer.text import PromptEncoder, set_template, template_text
from sawyer.text.chat_template import TEMPLATES, render

EOS = "<|endoftext|>"
OWN = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def turns(*contents: str, system: str = "") -> tuple[Message, ...]:
    """User and assistant in turn, after a system message if one is given."""
    said = [Message(role="system", content=system)] if system else []
    roles = ("user", "assistant")
    return (*said, *(Message(role=roles[i % 2], content=text) for i, text in enumerate(contents)))  # type: ignore[arg-type]


def rendered(tokenizer: Any, *contents: str, system: str = "", answer_next: bool) -> str:
    return render(tokenizer, turns(*contents, system=system), answer_next=answer_next)


@pytest.mark.parametrize(
    ("contents", "system", "text"),
    [
        (["Where is Princeton?"], "", "Question: Where is Princeton?\nResponse:"),
        (["Where?", "In New Jersey."], "", f"Question: Where?\nResponse: In New Jersey.{EOS}"),
        (["Rewrite.\n\nIt was slow."], "", "Question: Rewrite.\n\nIt was slow.\nResponse:"),
        (["Say nothing.", ""], "", f"Question: Say nothing.\nResponse:{EOS}"),
        (["  spaced  ", " kept \n"], "", f"Question:   spaced  \nResponse:  kept \n{EOS}"),
        (["a", "b", "c"], "", f"Question: a\nResponse: b{EOS}\nQuestion: c\nResponse:"),
        (["a", "b", "c", "d"], "", f"Question: a\nResponse: b{EOS}\nQuestion: c\nResponse: d{EOS}"),
        (["a", "b"], "Be brief.", f"Be brief.\n\nQuestion: a\nResponse: b{EOS}"),
    ],
)
def test_question_is_the_original_template(bytes_tokenizer: Any, contents: list[str], system: str, text: str) -> None:
    set_template(bytes_tokenizer, "question")
    assert rendered(bytes_tokenizer, *contents, system=system, answer_next=len(contents) % 2 == 1) == text


@pytest.mark.parametrize(
    ("contents", "system", "text"),
    [
        (["a"], "", "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"),
        (["a", "b"], "", f"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb{EOS}\n"),
        (
            ["a", "b", "c"],
            "s",
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
            f"b{EOS}\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_chatml(bytes_tokenizer: Any, contents: list[str], system: str, text: str) -> None:
    set_template(bytes_tokenizer, "chatml")
    assert rendered(bytes_tokenizer, *contents, system=system, answer_next=len(contents) % 2 == 1) == text


def test_chatml_adds_its_markers_once_and_forgets_no_other(bytes_tokenizer: Any) -> None:
    bytes_tokenizer.add_special_tokens({"extra_special_tokens": ["<|eot|>"]})
    set_template(bytes_tokenizer, "chatml")
    size = len(bytes_tokenizer)
    set_template(bytes_tokenizer, "chatml")
    assert len(bytes_tokenizer) == size == 256 + 2 + 1 + 2
    markers = bytes_tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert sorted(markers) == [size - 2, size - 1]
    assert bytes_tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"] == [markers[1]]
    assert "<|eot|>" in bytes_tokenizer.all_special_tokens
    assert bytes_tokenizer.decode([*markers, 0], skip_special_tokens=True) == bytes_tokenizer.decode([0])


def test_the_tokenizer_s_own(bytes_tokenizer: Any) -> None:
    bytes_tokenizer.chat_template = OWN
    set_template(bytes_tokenizer, "tokenizer")
    assert rendered(bytes_tokenizer, "a", answer_next=True) == "<|user|>a<|end|><|assistant|>"


def test_a_tokenizer_without_one(bytes_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        set_template(bytes_tokenizer, "tokenizer")


def test_a_jinja_file(bytes_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(OWN, encoding="utf-8")
    set_template(bytes_tokenizer, str(path))
    assert rendered(bytes_tokenizer, "a", "b", answer_next=False) == "<|user|>a<|end|><|assistant|>b<|end|>"


UNFIT = {
    "turns its questions round": (
        OWN.replace("{{ m['content'] }}", "{{ m['content'][::-1] if add_generation_prompt else m['content'] }}"),
        "leaves out what a turn says",
    ),
    "asks otherwise": (
        OWN.replace("<|{{ m['role'] }}|>", "<|{{ m['role'] }}{{ '?' if add_generation_prompt }}|>").replace(
            "<|end|>", "{{ '<|done|>' if add_generation_prompt else '<|end|>' }}"
        ),
        "otherwise once it is answered",
    ),
    "shows the last turn alone": ("{% set messages = messages[-1:] %}" + OWN, "leaves out what a turn says"),
    "forgets what came before": ("{% set messages = messages[-2:] %}" + OWN, "leaves out what a turn says"),
}
REWRITES = {
    "counts its turns at the start": "{{ messages|length }}" + OWN,
    "shortens earlier answers": OWN.replace(
        "{{ m['content'] }}", "{{ m['content'][:3] if m['role'] == 'assistant' and not loop.last else m['content'] }}"
    ),
    "closes the conversation": OWN + "{% if not add_generation_prompt %}<|closed|>{% endif %}",
}


@pytest.mark.parametrize(("template", "match"), UNFIT.values(), ids=UNFIT.keys())
def test_a_template_that_cannot_be_trained(bytes_tokenizer: Any, tmp_path: Path, template: str, match: str) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(template, encoding="utf-8")
    with pytest.raises(ModelError, match=match):
        set_template(bytes_tokenizer, str(path))


@pytest.mark.parametrize("template", REWRITES.values(), ids=REWRITES.keys())
def test_a_template_that_rewrites_earlier_answers_is_taken(bytes_tokenizer: Any, tmp_path: Path, template: str) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(template, encoding="utf-8")
    words = set_template(bytes_tokenizer, str(path))
    assert ("rewrites earlier turns" in words) is ("closed" not in template)
    prompt_encoder = PromptEncoder(tokenizer=bytes_tokenizer, context=512)
    row = prompt_encoder.demonstration(Demonstration(prompt=Prompt(messages=turns("a", "wordy", "b")), response="c"))
    trained = [i for i, on in zip(row.ids, row.loss_mask, strict=True) if on]
    closed = "<|closed|>" if "closed" in template else ""
    assert bytes_tokenizer.decode(trained) == f"c<|end|>{closed}{EOS}"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{% for m in messages %}{{ m['content'] }}", "cannot render"),  # no endfor
        (b"{{ raise_exception('users only') }}", "users only"),
        (b"{{ messages[7]['content'] }}", "cannot render"),
        (b"\xff\xfe{{ messages }}", "cannot be read"),
        (b"Hello.", "leaves out what a turn says"),
        (b"", "cannot render|leaves out"),
    ],
)
def test_a_broken_jinja_file(bytes_tokenizer: Any, tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=match):
        set_template(bytes_tokenizer, str(path))


@pytest.mark.parametrize("name", ["nowhere.jinja", ".", "quesiton", "", "a\0b"])
def test_a_missing_jinja_file(bytes_tokenizer: Any, name: str) -> None:
    with pytest.raises(ModelError, match="question, chatml, tokenizer"):
        set_template(bytes_tokenizer, name)


@pytest.mark.parametrize("name", ["question", "chatml"])
def test_a_saved_folder_renders_our_prompt(bytes_tokenizer: Any, tmp_path: Path, name: str) -> None:
    set_template(bytes_tokenizer, name)
    bytes_tokenizer.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    prompt_encoder = PromptEncoder(tokenizer=bytes_tokenizer, context=512)
    chat = [{"role": m.role, "content": m.content} for m in turns("a", "b", "c?", system="s")]
    prompt = Prompt(messages=turns("a", "b", "c?", system="s"))
    assert theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == bytes_tokenizer.decode(
        prompt_encoder.prompt(prompt)
    )
    found = theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert tuple(found) == prompt_encoder.prompt(prompt)


@pytest.mark.parametrize("name", ["question", "chatml"])
def test_a_saved_model_s_template_is_told_by_its_name(bytes_tokenizer: Any, beginning_tokenizer: Any, name: str) -> None:
    """RL's plan says which one SFT has trained with, though RL takes what the SFT model brings."""
    for tokenizer in (bytes_tokenizer, beginning_tokenizer):
        assert set_template(tokenizer, name) == f"the template `{name}`"
        assert set_template(tokenizer, "auto") == f"its own chat template, `{name}`"
    bytes_tokenizer.chat_template += "{# another #}"
    assert set_template(bytes_tokenizer, "auto") == "its own chat template"


@pytest.mark.parametrize("name", ["question", "chatml"])
def test_a_beginning_token_comes_once(beginning_tokenizer: Any, name: str) -> None:
    assert beginning_tokenizer("a")["input_ids"][0] == beginning_tokenizer.bos_token_id
    set_template(beginning_tokenizer, name)
    prompt_encoder = PromptEncoder(tokenizer=beginning_tokenizer, context=512)
    first, last = beginning_tokenizer.bos_token_id, beginning_tokenizer.eos_token_id
    ids = prompt_encoder.prompt(Prompt(messages=turns("a", "b", "c")))
    assert [i for i in ids if i in (first, last)] == [first, last]  # the beginning, and the earlier answer's end
    assert ids[0] == first
    assert beginning_tokenizer.decode(prompt_encoder.prompt(prompt_of("a"))).startswith(beginning_tokenizer.bos_token)


def test_no_beginning_token_where_the_tokenizer_adds_none(bytes_tokenizer: Any) -> None:
    bytes_tokenizer.bos_token = EOS
    set_template(bytes_tokenizer, "question")
    assert rendered(bytes_tokenizer, "a", answer_next=True) == "Question: a\nResponse:"


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_words_around_a_prompt(bytes_tokenizer: Any, name: str) -> None:
    set_template(bytes_tokenizer, name)
    around = rendered(bytes_tokenizer, "", "", answer_next=False)
    for marker in (EOS, "<|im_start|>", "<|im_end|>"):
        around = around.replace(marker, "\n")
    assert {word for word in around.split() if word} <= set(template_text(name).split())
