"""Frozen networks held in bf16 say what they said under autocast, to the last digit, and take less memory."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from sawyer.models import hold_in_bf16, policy_logprobs, sequence_logits
from sawyer.text import Row, pad_right

Speakers = Callable[[str], Any]

ROWS = [
    Row(ids=ids, loss_mask=(False,) * 2 + (True,) * (len(ids) - 2), prompt_length=2, cut=False)
    for ids in ((50, 60, 70, 80, 0), (50, 60, 71, 0), (51, 61, 0))
]
BATCH = pad_right(ROWS, 1)


def said(model: Any) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        return policy_logprobs(model, BATCH).logprobs


def size(model: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


@pytest.mark.fast_path
@pytest.mark.parametrize("name", ["gpt2", "tied", "llama", "neox", "phi", "opt"])
def test_the_same_numbers_in_less_memory(speaker: Speakers, name: str) -> None:
    model = speaker(name).model
    before, heavy, rounded = said(model), size(model), deepcopy(model).to(torch.bfloat16)
    hold_in_bf16(model)
    assert torch.equal(said(model), before)
    assert size(model) < heavy
    linear = sum(m.weight.numel() for m in model.modules() if type(m) is nn.Linear)
    assert heavy - size(model) >= 2 * (linear if name in ("llama", "neox") else 1)  # there no projection is an embedding
    assert model.get_input_embeddings().weight.dtype == torch.float32
    # Everything in bf16, embeddings and norms too, is something else: the reference would not be the policy's start.
    assert not torch.equal(said(rounded), before)


@pytest.mark.fast_path
def test_a_reward_model_too(speaker: Speakers) -> None:
    from transformers import GPT2ForSequenceClassification

    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(deepcopy(speaker("gpt2").model.config)).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = sequence_logits(model, BATCH)
        hold_in_bf16(model)
        assert torch.equal(sequence_logits(model, BATCH), before)
    assert model.score.weight.dtype == torch.bfloat16


def test_what_is_not_known_stays(speaker: Speakers) -> None:
    """Gemma 2's attention is its own: nobody has tried what its layers make of other weights."""
    model = speaker("gemma2").model
    hold_in_bf16(model)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
