"""Adapters that plain PEFT wrote: each weight that it trained counts, or the kind is refused by name; ours in plain PEFT."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from sawyer.errors import ModelError
from sawyer.models import (
    AdapterView,
    MultiAdapter,
    load_base,
    load_policy,
    load_tokenizer,
    lora_summary,
    new_reward_model,
    open_language_model,
    read_adapter,
    save_merged,
    save_model,
)
from sawyer.models.adapters import merge
from sawyer.runs import ADAPTER

Make = Callable[[str], Path]
IDS = torch.tensor([[50, 60, 70, 80, 61]])
PLAIN: dict[str, Any] = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"]}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "both tables": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "a norm": {"modules_to_save": ["norm"]},
    "token rows": {"trainable_token_indices": [5, 60]},
    "low rank on embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "one table for both": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "low rank on both": {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    "patterns": {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"up_proj": 1}},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "a pattern for all": {"target_modules": r".*layers\.0\..*(q|o)_proj", "exclude_modules": ["o_proj"]},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
}


@dataclass(frozen=True)
class Asked:
    rank: int = 3
    alpha: float = 6.0
    targets: list[str] | None = None


@pytest.fixture(autouse=True)
def peft_is_quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def foreign(base: Path, folder: Path, **settings: Any) -> Any:
    """Adapters of this kind that have learnt something, in a folder as PEFT writes it; the model that PEFT makes of them."""
    model = hf.AutoModelForCausalLM.from_pretrained(base)
    wrapped: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{**PLAIN, **settings}))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
    wrapped.save_pretrained(folder)
    return wrapped.eval()


@torch.no_grad()
def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    found: Tensor = model(input_ids=ids).logits
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "tied"])
def test_every_trained_weight_counts(make: Make, tmp_path: Path, name: str, kind: str) -> None:
    """Opened here, and merged into a folder that plain transformers loads: as PEFT has it. The base is something else."""
    theirs = logits(foreign(make(name), tmp_path / "adapter", **KINDS[kind]))
    assert torch.allclose(logits(open_language_model(tmp_path / "adapter").model), theirs, atol=1e-4)
    (tmp_path / "merged").mkdir()
    save_merged(tmp_path / "adapter", tmp_path / "merged")
    assert torch.allclose(logits(hf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), theirs, atol=1e-4)
    assert not torch.allclose(logits(hf.AutoModelForCausalLM.from_pretrained(make(name))), theirs, atol=1e-2)


def test_a_table_of_another_length(make: Make, tmp_path: Path) -> None:
    """Embeddings that were resized before training, as recipes for new chat tokens have it."""
    model = hf.AutoModelForCausalLM.from_pretrained(make("llama"))
    model.resize_token_embeddings(320, mean_resizing=False)
    wrapped: Any = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["embed_tokens", "lm_head"], **PLAIN)
    )
    with torch.no_grad():
        for weight in wrapped.parameters():
            weight.add_(0.1 * weight.requires_grad)
    wrapped.save_pretrained(tmp_path / "adapter")
    found = open_language_model(tmp_path / "adapter").model
    ids = torch.tensor([[50, 300, 319]])
    assert torch.allclose(logits(found, ids), logits(wrapped.eval(), ids), atol=1e-4)


@pytest.mark.parametrize("kind", ["embeddings", "dora", "pissa"])
def test_what_cannot_be_trained_further(make: Make, tmp_path: Path, kind: str) -> None:
    """Nor spoken for beside others on one network; the advice is followed, and works."""
    foreign(make("llama"), tmp_path / "adapter", **KINDS[kind])
    with pytest.raises(ModelError, match=r"(?s)train more than LoRA's A and B.*sawyer merge"):
        open_language_model(tmp_path / "adapter", lora=Asked())
    tokenizer = load_tokenizer(make("llama"))
    shared = MultiAdapter(load_policy(make("llama"), tokenizer))
    with pytest.raises(ModelError, match="train more than"):
        shared.add("policy", read_adapter(tmp_path / "adapter"), tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    save_merged(tmp_path / "adapter", tmp_path / "merged")
    open_language_model(tmp_path / "merged", lora=Asked())


def test_a_reward_model_begins_with_all_of_it(make: Make, tmp_path: Path) -> None:
    """Also where its output projection was trained, which a reward model has not."""
    foreign(make("llama"), tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    policy: Any = open_language_model(tmp_path / "adapter").model
    judge: Any = new_reward_model(tmp_path / "adapter", seed=1).model
    assert torch.allclose(judge.base_model(IDS).last_hidden_state, policy.base_model(IDS).last_hidden_state, atol=1e-5)


def test_what_plain_weights_cannot_hold(make: Make, tmp_path: Path) -> None:
    foreign(make("llama"), tmp_path / "adapter", lora_bias=True)
    with pytest.raises(ModelError, match="base layer has no bias"):
        open_language_model(tmp_path / "adapter")


ODD: dict[str, tuple[Any, str]] = {
    "an unknown kind": ({"peft_type": "IA3"}, "they are IA3"),
    "no kind": ({"peft_type": None}, "they are None"),
    "activated by tokens": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    "layers that are repeated": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    "a setting from the future": ({"twisted": True}, "they use twisted"),
    "a rank below nothing": ({"r": -3}, "rank -3"),
    "a rank that fills memory": ({"r": 10**9}, "rank 1000000000"),
    "a rank in words": ({"r": "many"}, "rank 'many'"),
    "targets that are a number": ({"target_modules": 5}, ""),
    "targets that are nowhere": ({"target_modules": ["nowhere"]}, "takes no adapters"),
    "an alpha in words": ({"lora_alpha": "many"}, ""),
    "other targets": ({"target_modules": ["q_proj"]}, "does not fit"),
    "more targets": ({"target_modules": ["q_proj", "up_proj", "k_proj"]}, "does not fit"),
    "a base that is a number": ({"base_model_name_or_path": 5}, "holds adapters for"),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_settings_are_told_in_words(make: Make, tmp_path: Path, what: str) -> None:
    change, told = ODD[what]
    foreign(make("llama"), tmp_path / "adapter")
    path = tmp_path / "adapter" / ADAPTER
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=told):
        open_language_model(tmp_path / "adapter")


@pytest.mark.parametrize("text", ["[]", "{", '"x"', "[" * 5000])
def test_settings_that_are_no_table(make: Make, tmp_path: Path, text: str) -> None:
    foreign(make("llama"), tmp_path / "adapter")
    (tmp_path / "adapter" / ADAPTER).write_text(text)
    with pytest.raises(ModelError):
        open_language_model(tmp_path / "adapter")


# Ours in plain PEFT


@pytest.mark.parametrize("template", ["question", "chatml"])
def test_our_folder_answers_alike_in_plain_peft(make: Make, tmp_path: Path, template: str) -> None:
    """A base model all of whose rows are taken: nothing is added that plain PEFT's model has no row for. Prompts of the chat
    template, and a padded batch, say what they say here."""
    base = shutil.copytree(make("gpt2"), tmp_path / "base")
    tokenizer = hf.AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token, tokenizer.chat_template = None, None
    config = hf.AutoConfig.from_pretrained(base, vocab_size=len(tokenizer), n_positions=80)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        hf.AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    opened = open_language_model(base, template, lora=Asked(), seed=5)
    with torch.no_grad():
        for weight in opened.model.parameters():
            weight.add_(0.1 * weight.requires_grad)
    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", opened.model, opened.tokenizer)

    saved = hf.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs = PeftModel.from_pretrained(hf.AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "ours")).eval()
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = saved.apply_chat_template([{"role": "user", "content": "Up?"}], add_generation_prompt=True, return_tensors="pt")
    chat = ids["input_ids"] if not isinstance(ids, Tensor) else ids
    for model in (theirs, again):
        assert torch.allclose(logits(model, chat), logits(opened.model, chat), atol=1e-4)
        batch = saved(["What is up?", "Up"], padding=True, padding_side="right", return_tensors="pt")
        with torch.no_grad():
            beside = model(**batch).logits[1, :1]
        assert torch.allclose(beside, logits(opened.model, torch.tensor([saved("Up")["input_ids"]]))[0, :1], atol=1e-4)
    reopened = open_language_model(tmp_path / "ours")
    assert reopened.prompt_encoder.pad_id < len(tokenizer) and len(reopened.tokenizer) == len(tokenizer)


# Experts


@pytest.fixture(scope="module")
def mixture(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(make("llama"), tmp_path_factory.mktemp("moe") / "model")
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    told = json.loads((folder / "config.json").read_text())
    kept = {name: told[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    config = hf.Qwen3MoeConfig(
        **kept, **sizes, **ends, num_key_value_heads=1, max_position_embeddings=40, decoder_sparse_step=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        (folder / "model.safetensors").unlink()
        hf.Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


def test_experts_without_an_adapter_are_told(mixture: Path) -> None:
    """Two layers of 4 experts, each 32 x 16 and 16 x 16."""
    model = open_language_model(mixture, lora=Asked()).model
    experts = 2 * 4 * (32 * 16 + 16 * 16)
    total = sum(weight.numel() for weight in model.parameters())
    assert f"experts, {experts / total:.0%} of the weights, get no adapter" in lora_summary(model)
    assert "down_proj, gate_up_proj" in lora_summary(model)
    assert "experts" not in lora_summary(open_language_model(mixture, lora=Asked(targets=["q_proj", "down_proj"])).model)


def test_experts_are_adapted_where_they_are_named(mixture: Path, tmp_path: Path) -> None:
    """Saved, read by plain PEFT, opened again and merged: all say the same, and something else than the base."""
    opened = open_language_model(mixture, lora=Asked(targets=["q_proj", "gate_up_proj", "down_proj"]), seed=5)
    base = logits(open_language_model(mixture).model)
    assert torch.allclose(logits(opened.model), base, atol=1e-5)
    names = [name for name, weight in opened.model.named_parameters() if weight.requires_grad]
    assert sum(".experts." in name for name in names) == 2 * 2 * 2
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in names:
            weight = opened.model.get_parameter(name)
            weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
    ours = logits(opened.model)
    assert not torch.allclose(ours, base, atol=1e-2)
    (tmp_path / "adapter").mkdir()
    save_model(tmp_path / "adapter", opened.model, opened.tokenizer)
    theirs = PeftModel.from_pretrained(hf.AutoModelForCausalLM.from_pretrained(mixture), str(tmp_path / "adapter")).eval()
    assert torch.allclose(logits(theirs), ours, atol=1e-4)
    assert torch.allclose(logits(open_language_model(tmp_path / "adapter").model), ours, atol=1e-4)
    merge(opened.model)
    assert torch.allclose(logits(opened.model), ours, atol=1e-4)
    assert not any("lora" in name for name, _ in opened.model.named_parameters())


def test_experts_of_several_models_on_one_network(mixture: Path, tmp_path: Path) -> None:
    """Policy and reference with adapters on experts: each speaks for itself."""
    opened = open_language_model(mixture, lora=Asked(targets=["q_proj", "down_proj"]), seed=5)
    with torch.no_grad():
        for weight in opened.model.parameters():
            weight.add_(0.1 * weight.requires_grad)
    (tmp_path / "sft").mkdir()
    save_model(tmp_path / "sft", opened.model, opened.tokenizer)
    shared = MultiAdapter(load_base(tmp_path / "sft", opened.tokenizer))
    shared.add("reference", read_adapter(tmp_path / "sft"), tmp_path / "sft")
    shared.add_copy("policy", "reference")
    policy, reference = AdapterView(shared, "policy"), AdapterView(shared, "reference")
    assert torch.allclose(logits(policy), logits(opened.model), atol=1e-5)
    policy.learn()
    with torch.no_grad():
        for weight in policy.base_model.adapter.parameters():
            weight.add_(0.1)
    assert torch.allclose(logits(reference), logits(opened.model), atol=1e-5)
    assert not torch.allclose(logits(policy), logits(reference), atol=1e-2)
    assert torch.allclose(logits(AdapterView(shared)), logits(open_language_model(mixture).model), atol=1e-5)
