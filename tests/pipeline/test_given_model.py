"""A model from elsewhere, as the hub has GPT-2: vocab.json and merges.txt, tied embeddings, no padding token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import ByteLevelBPETokenizer

from sawyer import pipeline
from sawyer.config import parse_config
from sawyer.models import open_language_model
from sawyer.records import prompt_of
from sawyer.runs.atomic_files import hash_folder

pytestmark = pytest.mark.slow

EOS = "<|endoftext|>"


@pytest.fixture
def gpt2(tiny: Any, tmp_path: Path) -> Path:
    """A folder of GPT-2's architecture and files with a few thousand weights."""
    folder = tmp_path / "gpt2"
    folder.mkdir()
    core = ByteLevelBPETokenizer()
    core.train([str(tiny.data / "statements.txt")], vocab_size=500, special_tokens=[EOS], show_progress=False)
    core.save_model(str(folder))
    # The hub's vocabulary has its one special token last.
    vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text())
    order = [token for token in sorted(vocabulary, key=lambda token: vocabulary[token]) if token != EOS]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate([*order, EOS])}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))
    last = len(order)
    torch.manual_seed(0)
    sizes = {"vocab_size": last + 1, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, bos_token_id=last, eos_token_id=last)).save_pretrained(folder)
    return folder


def test_sft_of_a_given_gpt2(tiny: Any, tmp_path: Path, gpt2: Path) -> None:
    theirs = hf.AutoTokenizer.from_pretrained(gpt2)
    assert theirs.pad_token is None and theirs.eos_token == EOS
    before, out = hash_folder(gpt2), tmp_path / "run"
    asked = {"data": [str(tiny.data / "instructions.json")], "epochs": 3, "batch_size": 16, "learning_rate": 1e-2}
    config = {"out": str(out), "model": str(gpt2), "device": "cpu", "precision": "fp32", "sft": {**asked, "max_new_tokens": 40}}
    figures = pipeline.run(parse_config(config))["sft"]
    assert hash_folder(gpt2) == before
    assert figures["eval_loss"] < figures["base_eval_loss"]
    # A padding token of its own, one row more: EOS stays what ends an answer, and the model has learnt to say it.
    model = hf.AutoModelForCausalLM.from_pretrained(out / "sft" / "model")
    tokenizer = hf.AutoTokenizer.from_pretrained(out / "sft" / "model")
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.eos_token_id == len(theirs) - 1
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == len(theirs) + 1
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert figures["eos_rate"] > 0.5
    # The text's tokens are the source's.
    ids = open_language_model(out / "sft" / "model").prompt_encoder.prompt(prompt_of("What is up?"))
    assert list(ids) == theirs("Question: What is up?\nResponse:")["input_ids"]
