"""What a run leaves is plain: transformers loads it without us and computes the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.models import RewardScorer, open_language_model, policy_logprobs
from sawyer.records import Message, Prompt, prompt_of, read
from sawyer.text import pad_right

Fixture = Any
QUESTION = 'What is the opposite of "hot"?'


@pytest.fixture(scope="module")
def folders(tiny: Fixture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models of a whole tiny run, trained by the stages one after the other."""
    from sawyer.stages import base, reward, rl, sft

    out = tmp_path_factory.mktemp("plain") / "run"
    text = out.parent / "text.txt"
    text.write_text("\n\n".join(record.response for record in read([str(tiny.instructions)], want="demonstrations").records))
    config = tiny.rl_config(
        out,
        rl__model=None,
        rl__base={"text": [str(text)], "vocab_size": 330, "layers": 2, "width": 16, "heads": 2, "context": 160, "window": 64}
        | {"tokens": 4000},
        rl__sft={"data": [str(tiny.instructions)], "epochs": 0.3, "max_new_tokens": 8, "learning_rate": 1e-2},
        rl__reward={"data": [str(tiny.comparisons)], "batch_size": 20, "learning_rate": 1e-2, "calibration_prompts": 9},
    )
    with tiny.run(out) as run:
        for stage in (base, sft, reward, rl):
            stage.train(config, run)
        return {name: run.layout.model(name) for name in ("base", "sft", "reward", "rl")}


def prompts_of(tiny: Fixture) -> list[Prompt]:
    system, turn, answer = (Message(role="system", content="Be kind."), Message(role="user", content="Hi."), "Hello.")
    several = (system, turn, Message(role="assistant", content=answer), Message(role="user", content=QUESTION))
    return [prompt_of(QUESTION), Prompt(messages=several), *read([str(tiny.prompts)], want="prompts").records[:6]]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "sft", "rl"])
def test_a_language_model_says_the_same(tiny: Fixture, folders: dict[str, Path], stage: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folders[stage]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders[stage])
    speaker = open_language_model(folders[stage])
    for prompt in prompts_of(tiny):
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(speaker.prompt_encoder.prompt(prompt)) == text
        row = speaker.prompt_encoder.answer(prompt, "The opposite is cold.")
        with torch.no_grad():
            theirs = torch.log_softmax(model(input_ids=torch.tensor([row.ids])).logits[0], -1)
            ours = policy_logprobs(speaker.model, pad_right([row], 0)).logprobs[0]
        for t in range(row.prompt_length, len(row.ids)):
            assert float(ours[t]) == pytest.approx(float(theirs[t - 1, row.ids[t]]), abs=1e-4)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.slow
def test_the_prompt_is_the_original_sawyer_s(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders["rl"])
    text = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True)
    assert text == f"Question: {QUESTION}\nResponse:"
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Cold."}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == f"{text} Cold.{tokenizer.eos_token}"


def test_plain_generation_stops_where_the_model_does(tiny: Fixture, folders: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folders["rl"])
    tokenizer = AutoTokenizer.from_pretrained(folders["rl"], padding_side="left")
    prompt_encoder = open_language_model(folders["rl"]).prompt_encoder
    texts = [tokenizer.decode(prompt_encoder.prompt(prompt)) for prompt in prompts_of(tiny)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    out = model.generate(**inputs, do_sample=True, max_new_tokens=60)[:, inputs["input_ids"].shape[1] :]
    for ids in out.tolist():
        after = ids[ids.index(tokenizer.eos_token_id) + 1 :] if tokenizer.eos_token_id in ids else []
        assert set(after) <= {tokenizer.pad_token_id}


def test_a_reward_model_scores_the_same(tiny: Fixture, folders: dict[str, Path]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folders["reward"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders["reward"])
    assert model.config.num_labels == 1
    told = model.config.sawyer
    prompts = prompts_of(tiny)
    responses = [f"The answer is {'very ' * i}cold." for i in range(len(prompts))]
    texts = []
    for prompt, response in zip(prompts, responses, strict=True):
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        texts.append(tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": response}], tokenize=False))
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape == (len(prompts), 1)
    scores = ((logits[:, 0] - told["reward_shift"]) / told["reward_scale"]).tolist()
    ours = RewardScorer.load(folders["reward"])(prompts, responses)
    assert max(ours) - min(ours) > 0.1
    assert ours == pytest.approx(scores, abs=1e-3)


def test_stages_leave_no_pickle(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        assert (folder / "model.safetensors").is_file()
        assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
