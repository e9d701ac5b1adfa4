"""Precision is one decision with a reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from sawyer.errors import ConfigError
from sawyer.train import choose_device, device, record_fast_paths
from sawyer.train.device import BF16_VOCABULARY, BF16_WIDTH


def test_what_the_config_asks_for_is_taken() -> None:
    assert choose_device("cpu", "bf16", width=8).precision == "bf16"
    assert choose_device("cpu", "fp32", width=8192).precision == "fp32"


def test_a_narrow_model_on_a_processor_stays_in_fp32_and_the_reason_says_so() -> None:
    place = choose_device("cpu", "auto", width=BF16_WIDTH - 1)
    assert place.precision == "fp32"
    assert place.reason.startswith("cpu, fp32: ")


@pytest.mark.parametrize(
    ("width", "vocabulary", "precision"),
    [
        (BF16_WIDTH, 0, "bf16"),
        (BF16_WIDTH - 1, BF16_VOCABULARY - 1, "fp32"),
        (256, BF16_VOCABULARY, "bf16"),  # most of its products are the projection to the vocabulary
        (256, 0, "fp32"),  # the same network as a reward model has none
    ],
)
def test_where_products_are_large_bf16_is_chosen(
    monkeypatch: pytest.MonkeyPatch, width: int, vocabulary: int, precision: str
) -> None:
    monkeypatch.setattr(device, "multiplies_bf16", lambda: True)
    assert choose_device("cpu", "auto", width=width, vocabulary=vocabulary).precision == precision
    monkeypatch.setattr(device, "multiplies_bf16", lambda: False)
    assert choose_device("cpu", "auto", width=width, vocabulary=vocabulary).precision == "fp32"


def test_autocast_multiplies_in_the_chosen_precision() -> None:
    weight = torch.ones(2, 2)
    with choose_device("cpu", "bf16", width=8).autocast():
        assert (weight @ weight).dtype == torch.bfloat16
    with choose_device("cpu", "fp32", width=8).autocast():
        assert (weight @ weight).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        choose_device("cuda", "auto", width=8)


@pytest.mark.parametrize(("own", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_card_that_only_emulates_bf16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch, own: bool, precision: str) -> None:
    """As torch has it: with emulation every card says yes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or own)
    assert choose_device("cuda", "auto", width=8192).precision == precision


@pytest.mark.fast_path
def test_which_fast_path_a_model_takes_is_an_event() -> None:
    events: list[dict[str, Any]] = []
    run: Any = SimpleNamespace(
        journal=SimpleNamespace(event=lambda stage, kind, **row: events.append({"stage": stage, "kind": kind, **row}))
    )
    sizes = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    models = {
        "the policy": transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval(),
        "the reward model": transformers.MistralForSequenceClassification(
            transformers.MistralConfig(**sizes, num_key_value_heads=2, num_labels=1, sliding_window=4)
        ).eval(),
    }
    record_fast_paths(run, "rl", models)
    assert [(row["stage"], row["kind"], row["model"], row["path"]) for row in events] == [
        ("rl", "fast_path", "the policy", "packing and static cache"),
        ("rl", "fast_path", "the reward model", "none"),
    ]
    assert events[1]["message"] == "the reward model: none (its config names sliding_window: 4)"
