"""A saved folder in plain transformers, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sawyer.models import open_language_model, read_extra, save_model
from sawyer.records import prompt_of

IDS = torch.tensor([[50, 60, 70, 80]])


@pytest.mark.parametrize("name", ["gpt2", "tied", "llama", "opt", "gemma2", "phi"])
def test_transformers_loads_what_is_saved(make: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    opened = open_language_model(make(name), "chatml")  # two tokens more
    with torch.no_grad():
        opened.model.get_input_embeddings().weight.mul_(1.1)
    save_model(tmp_path, opened.model, opened.tokenizer)
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    rounding = 1e-5 if name in ("gpt2", "phi") else 0.0  # GPT-2's activation, which we compute in one kernel
    assert torch.allclose(theirs.eval()(IDS).logits, opened.model(IDS).logits, atol=rounding, rtol=0)
    generation = theirs.generation_config
    assert (generation.pad_token_id, generation.eos_token_id) == (1, 0)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 0, 282)
    chat = [{"role": "user", "content": "Up?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert tuple(ids) == opened.prompt_encoder.prompt(prompt_of("Up?"))
    again = open_language_model(tmp_path)
    assert torch.equal(again.model(IDS).logits, opened.model(IDS).logits)
    assert (
        again.tokenizer.decode(again.prompt_encoder.prompt(prompt_of("Up?")))
        == "<|im_start|>user\nUp?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_extra_facts(make: Callable[[str], Path], tmp_path: Path) -> None:
    opened = open_language_model(make("gpt2"))
    save_model(tmp_path, opened.model, opened.tokenizer, {"best_step": 7})
    assert read_extra(tmp_path) == {"best_step": 7}
    again = open_language_model(tmp_path)
    save_model(tmp_path, again.model, again.tokenizer)  # another model, of which nothing is told
    assert read_extra(tmp_path) == {}
    assert "sawyer" not in json.loads((tmp_path / "config.json").read_text())


def test_a_folder_written_elsewhere_tells_nothing(make: Callable[[str], Path]) -> None:
    assert read_extra(make("gpt2")) == {}


def test_generation_settings_of_the_source_do_not_stop_a_save(make: Callable[[str], Path], tmp_path: Path) -> None:
    """Hub folders come with sampling settings that transformers refuses to write as they are."""
    opened: Any = open_language_model(make("gpt2"))
    save_model(tmp_path, opened.model, opened.tokenizer)
    path = tmp_path / "generation_config.json"
    settings = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.3, "eos_token_id": [0, 5], "pad_token_id": 0}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    again: Any = open_language_model(tmp_path)
    save_model(tmp_path, again.model, again.tokenizer)
    written = json.loads(path.read_text())
    assert (written["eos_token_id"], written["pad_token_id"], written["bos_token_id"]) == ([0, 5], 1, 0)
    assert again.model.generation_config.repetition_penalty in (None, 1.0)
