"""Talking to a run of tiny models: who answers, the same as plain transformers would, and how it is shown."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from raising import raises_with

from sawyer.chat import Chat
from sawyer.errors import DataError, RunError
from sawyer.models import RewardScorer, load_tokenizer, new_policy, new_reward, save_model, train_tokenizer
from sawyer.models.fast import prepacked_linear
from sawyer.records import Message, prompt_of
from sawyer.runs import Layout, replace_folder
from sawyer.text import set_template

QUESTION = 'What is the opposite of "hot"?'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a base, an SFT, an RL and a reward model, all untrained."""
    layout = Layout(tmp_path_factory.mktemp("runs") / "tiny")
    layout.root.mkdir()
    tokenizer = train_tokenizer(["Question: what is hot or cold?\nResponse: The opposite of hot is cold."] * 3, 300, 128)
    set_template(tokenizer, "question")
    for seed, stage in enumerate(("base", "sft", "rl")):
        model = new_policy(
            vocab_size=len(tokenizer),
            layers=1,
            width=32,
            heads=2,
            context=128,
            seed=seed,
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
        )
        with torch.no_grad():
            model.transformer.wte.weight *= 8  # sure of itself, so that greedy answers are not a tie
        with replace_folder(layout.model(stage)) as inside:
            save_model(inside, model, tokenizer)
    reward = new_reward(layout.model("sft"), load_tokenizer(layout.model("sft")), seed=5)
    with replace_folder(layout.model("reward")) as inside:
        save_model(inside, reward, tokenizer, {"reward_shift": 0.5, "reward_scale": 2.0})
    layout.config.write_text(
        yaml.safe_dump(
            {"out": str(layout.root), "base": {"text": ["x.txt"]}, "world": {"rater": "honest"}, "sft": {"data": ["a"]}}
        )
    )
    return layout.root


def test_every_model_answers_and_the_reward_model_judges(folder: Path) -> None:
    replies = Chat(folder).ask(QUESTION, max_new_tokens=12)
    assert [reply.model for reply in replies] == ["base", "sft", "rl"]
    assert len({reply.response for reply in replies}) == 3
    scorer = RewardScorer.load(Layout(folder).model("reward"))
    expected = scorer([prompt_of(QUESTION)] * 3, [reply.response for reply in replies])
    assert [reply.reward for reply in replies] == pytest.approx(expected, abs=1e-5)


def test_each_models_weights_are_laid_out_once(folder: Path, tmp_path: Path, precision: str, laid_out: list[Any]) -> None:
    """For all questions."""
    config = Layout(shutil.copytree(folder, tmp_path / "run")).config
    config.write_text(config.read_text() + f"precision: {precision}\n")
    chat = Chat(tmp_path / "run")
    for _ in range(2):
        chat.ask(QUESTION, max_new_tokens=prepacked_linear.MIN_PASSES)
        assert len(laid_out) == 3 * 5  # models, each with a layer's four products and the vocabulary's


def test_greedy_is_what_plain_transformers_says(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reply = Chat(folder).ask(QUESTION, greedy=True, max_new_tokens=16)[2]
    model = AutoModelForCausalLM.from_pretrained(Layout(folder).model("rl"))
    tokenizer = AutoTokenizer.from_pretrained(Layout(folder).model("rl"))
    text = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True)
    assert text == f"Question: {QUESTION}\nResponse:"
    inputs = tokenizer(text, return_tensors="pt")
    bad = [[tokenizer.pad_token_id]]
    out = model.generate(**inputs, do_sample=False, max_new_tokens=16, bad_words_ids=bad, pad_token_id=tokenizer.pad_token_id)
    said = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert reply.response == said


def test_the_same_seed_the_same_answers(folder: Path) -> None:
    chat = Chat(folder)
    assert chat.ask(QUESTION, seed=1, max_new_tokens=8) == chat.ask(QUESTION, seed=1, max_new_tokens=8)
    assert chat.ask(QUESTION, seed=1, max_new_tokens=8) != chat.ask(QUESTION, seed=2, max_new_tokens=8)


def test_gold_is_there_for_the_worlds_own_questions_alone(folder: Path) -> None:
    from sawyer.worlds import tasks

    chat = Chat(folder)
    known = tasks("train", 1, 0)[0].prompt
    assert all(reply.gold is not None for reply in chat.ask(known, max_new_tokens=4))
    assert all(reply.gold is None for reply in chat.ask("Say something nobody has ever asked.", max_new_tokens=4))


def test_a_conversation_is_more_than_its_last_turn(folder: Path) -> None:
    chat = Chat(folder)
    turns = [
        Message(role="user", content="what is hot?"),
        {"role": "assistant", "content": "cold."},
        Message(role="user", content=QUESTION),
    ]
    assert chat.ask(turns, greedy=True, max_new_tokens=8) != chat.ask(QUESTION, greedy=True, max_new_tokens=8)
    with raises_with(DataError, expected="the user's"):
        chat.ask(turns[:2])


def test_what_cannot_be_asked_is_said(folder: Path) -> None:
    chat = Chat(folder)
    with raises_with(DataError, given="tokens", expected="fewer than", todo="shorter"):
        chat.ask("cold " * 200)
    with pytest.raises(DataError, match="empty"):
        chat.ask("  ")


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("base: {text: [x.txt]}\n")
    with pytest.raises(RunError, match="no model"):
        Chat(tmp_path)


def test_a_run_without_a_model_that_answers_says_so(folder: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.config.write_text(
        yaml.safe_dump({"out": str(tmp_path), "reward": {"data": ["a"], "model": str(tmp_path / "given")}})
    )
    with pytest.raises(RunError, match="has no model that answers") as none:
        Chat(tmp_path)
    (tmp_path / "reward").symlink_to(folder / "reward")
    with pytest.raises(RunError, match="has no model that answers") as judge:
        Chat(tmp_path)
    assert "name another run" in none.value.todo and f"sawyer score {tmp_path} FILE" in judge.value.todo


def test_a_given_base_model_that_is_gone_is_left_out(folder: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.config.write_text(yaml.safe_dump({"out": str(tmp_path), "model": str(tmp_path / "gone"), "sft": {"data": ["a"]}}))
    (tmp_path / "sft").symlink_to(folder / "sft")
    chat = Chat(tmp_path)
    assert chat.models == ("sft",) and "base" in chat.missing
    assert chat.ask(QUESTION, max_new_tokens=4)[0].reward is None


def test_one_question_as_json(folder: Path, sawyer: Callable[..., Any]) -> None:
    done = sawyer("chat", folder, "--prompt", QUESTION, "--json", "--max-new-tokens", "6")
    found = json.loads(done.out)
    assert done.code == 0 and found["prompt"] == QUESTION
    assert [answer["model"] for answer in found["answers"]] == ["base", "sft", "rl"]
    assert all(isinstance(answer["reward"], float) for answer in found["answers"])


def test_one_question_side_by_side(folder: Path, sawyer: Callable[..., Any]) -> None:
    done = sawyer("chat", folder, "--prompt", QUESTION, "--greedy", "--max-new-tokens", "4")
    assert done.code == 0 and "base" in done.out and "SFT" in done.out and "RL" in done.out and "│" in done.out


def test_questions_from_a_pipe(folder: Path, sawyer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("what is hot?\n\nwhat is cold?\n"))
    done = sawyer("chat", folder, "--json", "--max-new-tokens", "4")
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()] == ["what is hot?", "what is cold?"]


def test_too_long_a_question_is_explained(folder: Path, sawyer: Callable[..., Any]) -> None:
    done = sawyer("chat", folder, "--prompt", "cold " * 200)
    assert done.code == 1 and "what to do" in done.err and "Traceback" not in done.err


def conversing(folder: Path, tmp_path: Path) -> Path:
    """The same run, of models that know conversations."""
    root = shutil.copytree(folder, tmp_path / "talks")
    settings = yaml.safe_load(Layout(root).config.read_text())
    del settings["world"]
    Layout(root).config.write_text(yaml.safe_dump(settings))
    return root


def test_a_conversation_goes_on_with_each_models_own_answers(folder: Path, tmp_path: Path) -> None:
    chat, alone = Chat(conversing(folder, tmp_path)), Chat(folder)
    how: dict[str, Any] = {"greedy": True, "max_new_tokens": 8}
    first = chat.say("what is hot?", system="cold is hot", **how)
    assert first == chat.ask("what is hot?", system="cold is hot", **how) != chat.ask("what is hot?", **how)
    second = chat.say(QUESTION, system="cold is hot", **how)
    for number, reply in enumerate(second):
        turns = [
            {"role": "system", "content": "cold is hot"},
            {"role": "user", "content": "what is hot?"},
            {"role": "assistant", "content": first[number].response},
            {"role": "user", "content": QUESTION},
        ]
        assert reply == chat.ask(turns, **how)[number]
    chat.reset()
    assert chat.say(QUESTION, **how) == chat.ask(QUESTION, **how)
    with raises_with(DataError, given="conversation", todo="/reset"):
        chat.say("cold " * 200)
    with raises_with(DataError, given="system prompt", todo="`system`"):
        chat.ask(turns, system="cold")
    assert chat.is_conversational and not alone.is_conversational


def test_a_system_prompt_and_several_turns_from_a_pipe(
    folder: Path, tmp_path: Path, sawyer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = conversing(folder, tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("what is hot?\nwhat is cold?\n/reset\nwhat is cold?\n"))
    done = sawyer("chat", root, "--json", "--greedy", "--max-new-tokens", "6", "--system", "cold is hot")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["prompt"] for row in rows] == ["what is hot?", "what is cold?", "what is cold?"]
    assert rows[1]["answers"] != rows[2]["answers"]
    alone = sawyer(
        "chat", root, "--json", "--greedy", "--max-new-tokens", "6", "--system", "cold is hot", "--prompt", "what is cold?"
    )
    assert json.loads(alone.out)["answers"] == rows[2]["answers"]


def test_a_system_prompt_that_a_template_refuses_is_explained(folder: Path, tmp_path: Path, sawyer: Callable[..., Any]) -> None:
    root = conversing(folder, tmp_path)
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    path = Layout(root).model("sft") / "chat_template.jinja"
    path.write_text(template + path.read_text())
    done = sawyer("chat", root, "--prompt", QUESTION, "--system", "Be terse.", "--max-new-tokens", "2")
    assert done.code == 1 and "the sft model" in done.err and "System role not supported" in done.err
    assert "leave the system prompt out" in done.err
