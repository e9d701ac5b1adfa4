"""Which fast path the architectures take that people use, or why none; and `SAWYER_FAST=off`."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from sawyer.errors import ConfigError
from sawyer.models import fast_path, policy_logprobs, sample
from sawyer.models.fast import FastPath, prepacked_linear
from sawyer.text import Row, pad_right

pytestmark = pytest.mark.fast_path

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "bos_token_id": 2, "eos_token_id": 3,
    "pad_token_id": 1,
}  # fmt: skip
BOTH = FastPath(name="packing and static cache")
CONFIGS: dict[str, tuple[Callable[[], Any], FastPath]] = {
    "GPT-2": (lambda: hf.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2, n_positions=128), BOTH),
    "Llama": (lambda: hf.LlamaConfig(**SIZES), BOTH),
    "Qwen 2": (lambda: hf.Qwen2Config(**SIZES), BOTH),
    "Qwen 3": (lambda: hf.Qwen3Config(**SIZES), BOTH),
    "Mistral without a window": (lambda: hf.MistralConfig(**SIZES, sliding_window=None), BOTH),
    "Mistral": (
        lambda: hf.MistralConfig(**SIZES, sliding_window=8),
        FastPath(name="none", reason="its config names sliding_window: 8"),
    ),
    "Phi-3": (
        lambda: hf.Phi3Config(**SIZES, sliding_window=8),
        FastPath(name="none", reason="its config names sliding_window: 8"),
    ),
    "Gemma 2": (
        lambda: hf.Gemma2Config(**SIZES, sliding_window=8),
        FastPath(name="none", reason="its config names sliding_attention, sliding_window: 8"),
    ),
    "Gemma 3": (
        lambda: hf.Gemma3TextConfig(**SIZES, sliding_window=8, layer_types=["sliding_attention", "full_attention"]),
        FastPath(name="none", reason="its config names sliding_attention, sliding_window: 8"),
    ),
    "Granite": (
        lambda: hf.GraniteConfig(**{n: v for n, v in SIZES.items() if n != "head_dim"}, logits_scaling=8.0),
        FastPath(name="none", reason="its logits are not its head applied to its last hidden states"),
    ),
    "Mamba": (
        lambda: hf.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, state_size=4),
        FastPath(name="none", reason="its config names linear_attention"),
    ),
}


def made(name: str, auto: Any = hf.AutoModelForCausalLM) -> Any:
    torch.manual_seed(0)
    return auto.from_config(CONFIGS[name][0]()).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_which_path_an_architecture_takes(name: str) -> None:
    assert fast_path(made(name)) == CONFIGS[name][1]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (hf.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=2), "packed rows give other states than padded ones"),
        (hf.MptConfig(vocab_size=96, d_model=32, n_layers=2, n_heads=2), "its layers refuse packed rows (AttributeError: "),
    ],
)
def test_what_a_trial_finds(config: Any, reason: str) -> None:
    """Two ways to add ALiBi's biases."""
    path = fast_path(hf.AutoModelForCausalLM.from_config(config).eval())
    assert path.name == "none" and path.reason.startswith(reason), path.reason


def test_reward_models() -> None:
    """A decoder's rows are packed; an encoder reads its pairs padded, as its architecture does."""
    assert fast_path(made("Llama", hf.AutoModelForSequenceClassification)) == FastPath(name="packing")
    windows = fast_path(made("Mistral", hf.AutoModelForSequenceClassification))
    assert windows == FastPath(name="none", reason="its config names sliding_window: 8")
    encoder = hf.AutoModelForSequenceClassification.from_config(hf.RobertaConfig(**SIZES, num_labels=1))
    assert fast_path(encoder).name == "none"


ROWS = [
    Row(ids=ids, loss_mask=(False, False, *[True] * (len(ids) - 2)), prompt_length=2, cut=False)
    for ids in ((4, 5, 6, 7, 8, 3), (4, 5, 9, 3), (10, 11, 12, 3))
]


def test_off_gives_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs, gradients and answers, without packing, static cache or prepacked weights."""
    model = made("Llama")
    encoder: Any = SimpleNamespace(
        tokenizer=SimpleNamespace(unk_token_id=None), context=128, size=96, pad_id=1, eos_id=3, end_ids=(3,)
    )

    def results() -> tuple[Tensor, list[Tensor], list[tuple[int, ...]]]:
        model.zero_grad()
        logprobs = policy_logprobs(model, pad_right(ROWS, 1)).logprobs
        logprobs.sum().backward()
        completions = sample(
            model,
            [row.ids[:2] for row in ROWS],
            prompt_encoder=encoder,
            max_new_tokens=8,
            temperature=1.0,
            generator=torch.Generator().manual_seed(0),
        )
        return logprobs.detach(), [weight.grad for weight in model.parameters()], [one.ids for one in completions]

    fast = results()
    assert fast_path(model) == BOTH
    monkeypatch.setenv("SAWYER_FAST", "off")
    assert fast_path(model) == FastPath(name="none", reason="SAWYER_FAST=off")
    layouts: list[Any] = []
    model.model.register_forward_pre_hook(lambda _, __, named: layouts.append(named.get("layout")), with_kwargs=True)
    slow = results()
    assert layouts and not any(layouts)
    assert torch.allclose(fast[0], slow[0], atol=1e-5) and fast[2] == slow[2]
    assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(fast[1], slow[1], strict=True))


def test_off_prepacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked_linear, "multiplies_in_blocks", lambda: True)
    monkeypatch.setattr(prepacked_linear, "_operators_work", lambda dtype: True)
    monkeypatch.setattr(prepacked_linear, "_prepacked_forwards", lambda model, dtype: {model.lm_head: torch.zeros_like})
    model = made("Llama")
    for setting, replaced in (("on", True), ("off", False)):
        monkeypatch.setenv("SAWYER_FAST", setting)
        with prepacked_linear.prepack_weights(model, prepacked_linear.MIN_PASSES):
            assert ("forward" in vars(model.lm_head)) is replaced


@pytest.mark.parametrize("setting", ["0", "false", "no", "of"])
def test_a_setting_that_is_neither_on_nor_off_is_refused(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("SAWYER_FAST", setting)
    with pytest.raises(ConfigError, match="SAWYER_FAST") as caught:
        fast_path(made("Llama"))
    assert caught.value.expected == "on or off"
