"""Model folders of a few thousand weights, one an architecture, made once. Weights are noisy, so that logits differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from sawyer.models import open_language_model, train_tokenizer
from sawyer.text import set_template

CONTEXT = 40
KNOWN, VOCABULARY = 280, 288  # tokens that the tokenizer knows, rows that the models have
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
OPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
NEO: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 8,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GEMMA2 = {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 3.0}
BUILD: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2Config(**GPT2),
    "llama": lambda: hf.LlamaConfig(**SIZES, num_key_value_heads=1),
    "tied": lambda: hf.LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2": lambda: hf.Qwen2Config(**SIZES, num_key_value_heads=1),
    "neox": lambda: hf.GPTNeoXConfig(**SIZES),
    "neo": lambda: hf.GPTNeoConfig(**NEO),
    "phi": lambda: hf.PhiConfig(**SIZES),
    "opt": lambda: hf.OPTConfig(**OPT),
    "opt_narrow": lambda: hf.OPTConfig(**{**OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "gemma2": lambda: hf.Gemma2Config(**SIZES, **GEMMA2),
    "granite": lambda: hf.GraniteConfig(**SIZES, num_key_value_heads=1, logits_scaling=8.0),
    "cohere": lambda: hf.CohereConfig(**SIZES, num_key_value_heads=1, logit_scale=0.25),
    "roberta": lambda: hf.RobertaConfig(**SIZES),
    "mamba": lambda: hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4),
}

TEXT = "Question: What is the opposite of up?\nResponse: Down, the opposite of up is down.\n"


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`make("llama")`: the folder of that architecture, with a tokenizer whose template is `question`."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            tokenizer = train_tokenizer([TEXT] * 3, KNOWN, CONTEXT)
            set_template(tokenizer, "question")
            tokenizer.save_pretrained(made[name])
            with torch.random.fork_rng():
                torch.manual_seed(7)
                model = hf.AutoModelForCausalLM.from_config(BUILD[name]())
                with torch.no_grad():
                    for weight in model.parameters():
                        weight.add_(0.2 * torch.randn_like(weight))
            model.save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture
def speaker(make: Callable[[str], Path]) -> Callable[[str], Any]:
    """`speaker("llama")`: that folder, opened by the code under test."""
    return lambda name: open_language_model(make(name))


@pytest.fixture(autouse=True)
def no_bars() -> Iterator[None]:
    """transformers shows bars on stderr while it saves; nothing here needs them."""
    hf.utils.logging.disable_progress_bar()
    yield
    hf.utils.logging.enable_progress_bar()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)
