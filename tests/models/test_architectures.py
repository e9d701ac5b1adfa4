"""Each architecture from a folder to samples, to the log-probs of training, to a reward model and back to a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from sawyer.models import (
    RewardScorer,
    ValueNetwork,
    context_length,
    new_reward,
    open_language_model,
    policy_logprobs,
    sample,
    save_model,
    token_values,
)
from sawyer.records import prompt_of
from sawyer.text import pad_right

ALL = ["gpt2", "llama", "tied", "qwen2", "neox", "neo", "phi", "opt", "opt_narrow", "gemma2"]
QUESTIONS = ["Up?", "What is the opposite of up?", ""]


@pytest.mark.parametrize("name", ALL)
def test_samples_are_what_training_sees(make: Callable[[str], Path], name: str, generator: torch.Generator) -> None:
    opened = open_language_model(make(name))
    prompts = [opened.prompt_encoder.prompt(prompt_of(text)) for text in QUESTIONS]
    found = sample(
        opened.model, prompts, prompt_encoder=opened.prompt_encoder, max_new_tokens=16, temperature=0.7, generator=generator
    )
    rows = [opened.prompt_encoder.answer_ids(p, c.ids) for p, c in zip(prompts, found, strict=True)]
    batch = pad_right(rows, opened.prompt_encoder.pad_id)
    again = policy_logprobs(opened.model, batch, temperature=0.7).logprobs
    theirs = AutoModelForCausalLM.from_pretrained(make(name)).double().eval()
    for r, (row, completion) in enumerate(zip(rows, found, strict=True)):
        told = torch.tensor(completion.logprobs)
        assert torch.allclose(told, again[r][batch.loss_mask[r]], atol=1e-4)
        table = torch.log_softmax(theirs(torch.tensor([row.ids])).logits[0].detach() / 0.7, -1)
        expected = [float(table[t - 1, i]) for t, i in enumerate(row.ids) if row.loss_mask[t]]
        assert told.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_a_reward_model_and_a_value_network_on_it(make: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    opened = open_language_model(make(name))
    save_model(tmp_path, new_reward(make(name), opened.tokenizer, seed=2), opened.tokenizer, {"reward_shift": 0.0})
    scorer = RewardScorer.load(tmp_path)
    answers = ["Down.", "", "Down, the opposite"]
    found = scorer([prompt_of(text) for text in QUESTIONS], answers)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    rows = [scorer.prompt_encoder.answer(prompt_of(text), answer) for text, answer in zip(QUESTIONS, answers, strict=True)]
    expected = [float(theirs(torch.tensor([row.ids])).logits.detach()) for row in rows]
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(found) - min(found) > 1e-3
    batch = pad_right(rows, scorer.prompt_encoder.pad_id)
    for network in (ValueNetwork.from_reward(tmp_path), ValueNetwork.from_policy(make(name))):
        assert torch.equal(token_values(network, batch, batch.mask), torch.zeros(batch.ids.shape))


@pytest.mark.parametrize("name", ALL)
def test_the_context_and_the_width(make: Callable[[str], Path], name: str) -> None:
    opened = open_language_model(make(name))
    assert context_length(opened.model) == opened.prompt_encoder.context == 40
    assert opened.width == 16
    assert opened.parameters == sum(weight.numel() for weight in set(opened.model.parameters()))
