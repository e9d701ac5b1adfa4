"""Folders that cannot serve, told in one class of error and without a network; what growing does to embeddings."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from sawyer.errors import ModelError
from sawyer.models import (
    ValueNetwork,
    load_policy,
    load_reward,
    load_tokenizer,
    new_policy,
    new_reward,
    open_language_model,
    sample,
    train_tokenizer,
)
from sawyer.models.decoding import caches_exactly

Make = Callable[[str], Path]


@pytest.fixture
def folder(make: Make, tmp_path: Path) -> Path:
    """A copy of the GPT-2 folder, to be damaged."""
    return shutil.copytree(make("gpt2"), tmp_path / "copy")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach a network is refused and listed."""
    attempts: list[Any] = []

    def refuse(*given: Any, **_: Any) -> Any:
        attempts.append(given)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return attempts


def edit(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (found | changes).items() if v is not None}))


def without_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def no_end(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (shutil.rmtree, "no model folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "does not load"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "does not load"),
    "config without a type": (lambda f: (f / "config.json").write_text("{}"), "does not load"),
    "unknown type": (lambda f: edit(f / "config.json", model_type="no such thing"), "knows no family 'no such thing'"),
    "no layers": (lambda f: edit(f / "config.json", n_layer=-2), "n_layer is '-2'"),
    "a thousand million layers": (lambda f: edit(f / "config.json", n_layer=10**9), "n_layer is '1000000000'"),
    "a thousand million labels": (lambda f: edit(f / "config.json", num_labels=10**9), "num_labels is '1000000000'"),
    "layers in words": (lambda f: edit(f / "config.json", num_hidden_layers="many"), "num_hidden_layers is 'many'"),
    "code of the hub": (lambda f: edit(f / "config.json", attn_implementation="some/kernel"), "which is code on the hub"),
    "another width": (lambda f: edit(f / "config.json", n_embd=32), "does not load"),
    "heads that do not divide": (lambda f: edit(f / "config.json", n_head=3), "does not load"),
    "more layers": (lambda f: edit(f / "config.json", n_layer=3), "lacks 12 of its weights"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "cut weights": (lambda f: cut(f / "model.safetensors"), "does not load"),
    "empty weights": (lambda f: cut(f / "model.safetensors", 0), "does not load"),
    "weights are text": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), "does not load"),
    "a tensor is missing": (without_a_tensor, "lacks 1 of its weights, transformer.h.1.mlp.c_fc.weight"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "tokenizer"),
    "tokenizer is no JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "does not load as a tokenizer"),
    "no EOS": (no_end, "no EOS token"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_folder_that_cannot_serve(folder: Path, offline: list[Any], damage: tuple[Callable[[Path], object], str]) -> None:
    spoil, match = damage
    open_language_model(folder)
    spoil(folder)
    with pytest.raises(ModelError, match=match) as told:
        open_language_model(folder)
    assert str(folder) in str(told.value) and "what to do:" in str(told.value)
    assert offline == []


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "a tensor is missing", "no config", "gone"])
def test_a_reward_model_that_cannot_serve(make: Make, folder: Path, offline: list[Any], damage: str) -> None:
    tokenizer = load_tokenizer(folder)
    DAMAGE[damage][0](folder)
    for opened in (lambda: new_reward(folder, tokenizer, seed=0), lambda: load_reward(folder, tokenizer)):
        with pytest.raises(ModelError):
            opened()
    assert offline == []


@pytest.mark.parametrize("source", ["gpt2", "openai-community/gpt2", "no such name!", "a/b/c", "./x", "~/x", "/x/y", ""])
def test_a_name_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: list[Any], source: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="what to do:"):
        open_language_model(source)
    with pytest.raises(ModelError, match="what to do:"):
        load_policy(source, None)
    assert offline == []


def test_a_masked_language_model(make: Make) -> None:
    with pytest.raises(ModelError, match="no causal language model"):
        open_language_model(make("roberta"))


def test_a_recurrent_model(make: Make) -> None:
    """Without keys and values to cache its rows are read again at each token, and say what they say alone."""
    opened = open_language_model(make("mamba"))
    assert "whole rows are read again at each token" in opened.reads
    assert "whole rows" not in open_language_model(make("gpt2")).reads
    check_answers(opened)


def test_a_model_that_answers_otherwise_beside_others(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that ignore the padding, as an architecture that drops `position_ids` has them: nothing is padded then."""
    run = hf.GPT2Model.forward

    @wraps(run)
    def forgetful(self: Any, *given: Any, position_ids: Any = None, **named: Any) -> Any:
        return run(self, *given, **named)

    monkeypatch.setattr(hf.GPT2Model, "forward", forgetful)
    opened = open_language_model(make("gpt2"))
    assert not caches_exactly(opened.model)
    check_answers(opened)


@torch.no_grad()
def check_answers(opened: Any) -> None:
    prompts = [(50, 60), (51, 61, 71, 81, 91), (52,)]
    draw = torch.Generator().manual_seed(1)
    said = sample(
        opened.model, prompts, prompt_encoder=opened.prompt_encoder, max_new_tokens=5, temperature=1.0, generator=draw
    )
    for prompt, one in zip(prompts, said, strict=True):
        table = opened.model(input_ids=torch.tensor([[*prompt, *one.ids]])).logits[0].log_softmax(-1)[len(prompt) - 1 :]
        assert list(one.logprobs) == pytest.approx([float(table[t, i]) for t, i in enumerate(one.ids)], abs=1e-4)


def test_labels(make: Make, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make("gpt2"))
    with pytest.raises(ModelError, match=r"is a language model \(GPT2LMHeadModel\)"):  # transformers: 2 labels
        load_reward(make("gpt2"), tokenizer)
    config = hf.GPT2Config.from_pretrained(make("gpt2"), num_labels=3)
    hf.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="3 labels"):
        load_reward(tmp_path, tokenizer)
    head = new_reward(tmp_path, tokenizer, seed=0).score.weight  # type: ignore[union-attr]
    assert head.shape == (1, 16)  # a classifier is a trunk to start from: its three labels are not the reward
    assert torch.equal(head, new_reward(make("gpt2"), tokenizer, seed=0).score.weight)  # type: ignore[union-attr, arg-type]
    edit(tmp_path / "config.json", id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    with pytest.raises(ModelError, match="does not load as a reward model"):
        load_reward(tmp_path, tokenizer)


def test_a_language_model_is_no_reward_model_even_with_one_label(folder: Path) -> None:
    edit(folder / "config.json", id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights, score\.weight"):
        load_reward(folder, load_tokenizer(folder))


def test_an_encoder_has_no_value_at_every_token(make: Make, tmp_path: Path) -> None:
    hf.RobertaForSequenceClassification(hf.RobertaConfig.from_pretrained(make("roberta"), num_labels=1)).save_pretrained(
        tmp_path
    )
    load_tokenizer(make("roberta")).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="valued at every token"):
        ValueNetwork.from_reward(tmp_path)


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_the_pad_is_a_token_of_its_own(folder: Path, pad: str | None) -> None:
    """GPT-2 has none; others name EOS. The model gets a row for the new one."""
    edit(folder / "tokenizer_config.json", pad_token=pad)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<|pad|>")


@pytest.mark.parametrize("name", ["gpt2", "tied", "llama", "phi"])
def test_new_tokens_begin_as_the_mean(make: Make, name: str) -> None:
    before = hf.AutoModelForCausalLM.from_pretrained(make(name))
    tokenizer = load_tokenizer(make(name))
    tokenizer.add_tokens([f"<|new{i}|>" for i in range(12)], special_tokens=True)  # 280 + 12 > 288
    model: Any = load_policy(make(name), tokenizer)
    tied = name in ("gpt2", "tied")
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    for old, new in (
        (before.get_input_embeddings().weight, model.get_input_embeddings().weight),
        (before.get_output_embeddings().weight, model.get_output_embeddings().weight),
    ):
        assert new.shape == (292, 16)
        assert torch.equal(new[:288], old)
        assert torch.allclose(new[288:], old.mean(0).expand(4, 16), atol=1e-7)
    # Scoring linearly, a new token's logit is the mean of all known ones: it begins neither likely nor unlikely.
    ids = torch.tensor([[50, 60, 70]])
    logits, known = model(ids).logits, before(ids).logits
    assert torch.allclose(logits[..., :288], known, atol=1e-5)
    assert torch.allclose(logits[..., 288:], known.mean(-1, keepdim=True).expand(1, 3, 4), atol=1e-4)
    assert model.config.vocab_size == 292


def test_no_growth_where_rows_are_left(make: Make) -> None:
    tokenizer = load_tokenizer(make("gpt2"))
    assert len(tokenizer) == 280
    model: Any = load_policy(make("gpt2"), tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == 288


def test_a_reward_model_grows_too(make: Make) -> None:
    tokenizer = load_tokenizer(make("gpt2"))
    tokenizer.add_tokens([f"<|new{i}|>" for i in range(12)])
    model: Any = new_reward(make("gpt2"), tokenizer, seed=0)
    weight = model.get_input_embeddings().weight
    assert torch.allclose(weight[288:], weight[:288].mean(0).expand(4, 16), atol=1e-7)


def test_dropout_is_off_and_the_ends_are_told(make: Make, folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["resid_pdrop"] > 0
    opened = open_language_model(folder)
    ids = torch.tensor([[50, 60, 70]])
    for model in (opened.model, new_reward(folder, opened.tokenizer, seed=0), ValueNetwork.from_policy(folder).trunk):
        assert not any(module.training for module in model.modules())
        assert torch.equal(model(input_ids=ids)[0], model(input_ids=ids)[0])
        config: Any = model.config
        assert (config.pad_token_id, config.eos_token_id) == (1, 0)
    generation: Any = opened.model.generation_config
    assert (generation.pad_token_id, generation.eos_token_id) == (1, 0)
    assert {weight.dtype for weight in opened.model.parameters()} == {torch.float32}


def test_half_precision_folders_load_as_fp32(make: Make, tmp_path: Path) -> None:
    hf.AutoModelForCausalLM.from_pretrained(make("llama")).to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_policy(tmp_path, load_tokenizer(make("llama")))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_new_policy() -> None:
    sizes = {"vocab_size": 30, "layers": 1, "width": 8, "heads": 2, "context": 12, "eos_id": 0, "pad_id": 1}
    state = torch.random.get_rng_state()
    one, same, other = (new_policy(**sizes, seed=seed) for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not one.training
    config: Any = one.config
    assert (config.n_positions, config.eos_token_id, config.pad_token_id) == (12, 0, 1)


def test_train_tokenizer() -> None:
    tokenizer = train_tokenizer(["the cat and the hat"] * 4, 270, 64)
    assert len(tokenizer) <= 270 and tokenizer.model_max_length == 64
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    text = " the 日本 cat\n\n<hat>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(" the")["input_ids"]) < 4
