"""Adapters: off they change nothing, merged they change what they changed before, saved they are what PEFT reads."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from sawyer.errors import ConfigError, ModelError
from sawyer.models import (
    AdapterTrunk,
    AdapterView,
    Classifier,
    MultiAdapter,
    RewardScorer,
    ValueNetwork,
    copy_model,
    load_policy,
    new_classifier,
    new_reward_model,
    open_language_model,
    policy_logprobs,
    read_adapter,
    read_extra,
    sample,
    save_model,
    sequence_logits,
    token_values,
    without_adapters,
)
from sawyer.models.adapters import merge
from sawyer.models.fast import packing as packing
from sawyer.models.fast.packing import packs_exactly
from sawyer.models.load import load_reward, load_tokenizer
from sawyer.models.network_parts import splits_exactly, trunk_of
from sawyer.records import prompt_of
from sawyer.runs import base_of, settings_of
from sawyer.text import Row, pad_right

pytest.importorskip("peft", reason="an environment from before PEFT was a dependency: install the package again")

IDS = torch.tensor([[50, 60, 70, 80, 61]])
Make = Callable[[str], Path]


@dataclass(frozen=True)
class Asked:
    rank: int = 3
    alpha: float = 6.0
    targets: list[str] | None = None


def row(*ids: int) -> Row:
    return Row(ids=ids, loss_mask=(False, *[True] * (len(ids) - 1)), prompt_length=1, cut=False)


BATCH = pad_right([row(50, 60, 70, 80, 90, 0), row(51, 61, 0), row(52, 62, 1, 72, 0)], 1)


def stir(model: nn.Module, size: float = 0.3, seed: int = 3) -> None:
    """Whatever is trained moves."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=draw))


def adapted(folder: Path, **asked: Any) -> Any:
    return open_language_model(folder, lora=Asked(**asked), seed=5)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits
    return found


@torch.no_grad()
def rowwise(model: Any, ids: Tensor) -> Tensor:
    """(T, V) log-probs of one row by the network's own forward pass."""
    found: Tensor = model(input_ids=ids).logits[0].log_softmax(1)
    return found


def saved(folder: Path, source: Path, extra: dict[str, Any] | None = None) -> Any:
    """An adapter that has learnt something, in `folder`; the network with it."""
    opened = adapted(source)
    stir(opened.model)
    folder.mkdir()
    save_model(folder, opened.model, opened.tokenizer, extra)
    return opened.model


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "neox"])
def test_a_new_adapter_changes_nothing_and_off_it_never_does(make: Make, name: str) -> None:
    base = logits(open_language_model(make(name)).model)
    model = adapted(make(name)).model
    assert torch.equal(logits(model), base)
    stir(model)
    assert not torch.allclose(logits(model), base, atol=1e-2)
    with without_adapters(model):
        assert torch.equal(logits(model), base)
    assert not torch.allclose(logits(model), base, atol=1e-2)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_an_adapter_adds_by_hand(make: Make, name: str) -> None:
    """W x + alpha / rank * B A x; GPT-2's layers keep W the other way round. Without alpha / rank it is something
    else."""
    model = adapted(make(name)).model
    stir(model)
    layer = model.transformer.h[0].attn.c_attn if name == "gpt2" else model.model.layers[0].self_attn.q_proj
    a, b, base = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.get_base_layer()
    x = torch.linspace(-1, 1, a.shape[1]).unsqueeze(0)
    plain = x @ base.weight + base.bias if name == "gpt2" else x @ base.weight.T
    assert torch.allclose(layer(x), plain + 6.0 / 3 * (x @ a.T) @ b.T, atol=1e-5)
    assert not torch.allclose(layer(x), plain + (x @ a.T) @ b.T, atol=1e-2)


def test_only_adapters_are_trained(make: Make) -> None:
    model = adapted(make("gpt2")).model
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert names and all(".lora_A.default." in name or ".lora_B.default." in name for name in names)
    # c_attn 16 -> 48, c_proj 16 -> 16, c_fc 16 -> 64, c_proj 64 -> 16, of rank 3, in two layers.
    assert sum(model.get_parameter(name).numel() for name in names) == 2 * 3 * (64 + 32 + 80 + 80)
    (-policy_logprobs(model, BATCH).logprobs.sum()).backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == names


def test_targets(make: Make) -> None:
    model = adapted(make("gpt2"), targets=["c_attn"]).model
    assert {name.split(".lora_")[0].rpartition(".")[2] for name, w in model.named_parameters() if w.requires_grad} == {"c_attn"}
    with pytest.raises(ConfigError, match="no linear layers called q_proj") as found:
        adapted(make("gpt2"), targets=["q_proj"])
    assert "c_attn, c_fc, c_proj" in str(found.value)


@pytest.mark.fast_path
@pytest.mark.parametrize("way", ["packed", "padded"])
def test_fast_paths_go_through_the_adapters(make: Make, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Rows end to end, trunk and head apart, and the cache of sampling give what the network gives of each row alone."""
    monkeypatch.setitem(packing.CALL_COST, "cpu", 0.0 if way == "packed" else float("inf"))
    opened = adapted(make("gpt2"))
    model = opened.model
    stir(model)
    assert splits_exactly(model) and packs_exactly(trunk_of(model))
    found = policy_logprobs(model, BATCH).logprobs.detach()
    for place, length in enumerate([6, 3, 5]):
        ids = BATCH.ids[place : place + 1, :length]
        alone = rowwise(model, ids)
        expected = [float(alone[t - 1, ids[0, t]]) for t in range(1, length)]
        assert found[place, 1:length].tolist() == pytest.approx(expected, abs=1e-4)
    prompts = [opened.prompt_encoder.prompt(prompt_of(text)) for text in ("Up?", "What is the opposite of up?")]
    said = sample(
        model,
        prompts,
        prompt_encoder=opened.prompt_encoder,
        max_new_tokens=6,
        temperature=1.0,
        generator=torch.Generator().manual_seed(1),
    )
    for prompt, completion in zip(prompts, said, strict=True):
        whole = rowwise(model, torch.tensor([[*prompt, *completion.ids]]))
        expected = [float(whole[len(prompt) + t - 1, token]) for t, token in enumerate(completion.ids)]
        assert list(completion.logprobs) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "tied", "llama", "opt"])
def test_merged_weights_say_what_the_adapter_said(make: Make, tmp_path: Path, name: str) -> None:
    """In float64 to rounding, and in the plain folder that transformers loads alone; the base says something else."""
    model = saved(tmp_path / "adapter", make(name))
    whole = open_language_model(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    save_model(tmp_path / "merged", whole.model, whole.tokenizer)
    assert torch.allclose(logits(whole.model), logits(model), atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name, _ in whole.model.named_parameters())
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(theirs.eval()), logits(model), atol=2e-5, rtol=1e-5)
    exact = model.double()
    adapter = logits(exact)
    base = logits(open_language_model(make(name)).model.double())
    merge(exact)
    assert torch.allclose(logits(exact), adapter, atol=1e-11, rtol=0)
    assert not torch.allclose(base, adapter, atol=1e-2)


def test_the_folder_is_peft_s(make: Make, tmp_path: Path) -> None:
    """Plain PEFT, and transformers through it, load what is saved; what PEFT saves is read here."""
    from peft import AutoPeftModelForCausalLM

    model = saved(tmp_path / "adapter", make("gpt2"), {"best_step": 4})
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "sawyer.json"} <= names
    assert not {"config.json", "model.safetensors"} & names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
        theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
        assert torch.allclose(logits(peft), logits(model), atol=1e-5)
        assert torch.allclose(logits(theirs), logits(model), atol=1e-5)
        peft.save_pretrained(tmp_path / "foreign")
    for path in (tmp_path / "foreign").glob("tokenizer*"):
        path.unlink()
    again = open_language_model(tmp_path / "foreign")  # adapters alone: no tokenizer, nothing of ours
    assert torch.allclose(logits(again.model), logits(model), atol=1e-5)
    assert read_extra(tmp_path / "adapter") == {"best_step": 4}
    assert settings_of(tmp_path / "adapter")["n_layer"] == 2


def test_the_same_adapter_leaves_the_same_bytes(make: Make, tmp_path: Path) -> None:
    for name in "ab":
        saved(tmp_path / name, make("gpt2"))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    targets = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets) == ["c_attn", "c_fc", "c_proj"]


def test_training_goes_on_from_an_adapter(make: Make, tmp_path: Path) -> None:
    model = saved(tmp_path / "adapter", make("gpt2"))
    again = adapted(tmp_path / "adapter", rank=7).model  # it has its own rank
    assert torch.equal(logits(again), logits(model))
    assert again.attached_adapter.config.r == 3
    stir(again, seed=4)
    copy_model(tmp_path / "adapter", _made(tmp_path / "copy"), {"best_of": 8})
    assert read_extra(tmp_path / "copy") == {"best_of": 8}
    assert torch.equal(
        logits(open_language_model(tmp_path / "copy").model), logits(open_language_model(tmp_path / "adapter").model)
    )


def test_a_base_that_is_gone_or_moved(make: Make, tmp_path: Path) -> None:
    shutil.copytree(make("gpt2"), tmp_path / "run" / "base" / "model")
    (tmp_path / "run" / "sft").mkdir()
    saved(tmp_path / "run" / "sft" / "model", tmp_path / "run" / "base" / "model")
    (tmp_path / "run").rename(tmp_path / "moved")  # both in one run: they find each other
    folder = tmp_path / "moved" / "sft" / "model"
    assert Path(base_of(folder)) == tmp_path / "moved" / "base" / "model"
    open_language_model(folder)
    (tmp_path / "moved" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"holds adapters for .*which is not there"):
        open_language_model(folder)


def test_adapters_of_another_network_are_refused(make: Make, tmp_path: Path) -> None:
    saved(tmp_path / "adapter", make("gpt2"))
    path = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "base_model_name_or_path": str(make("llama"))}))
    with pytest.raises(ModelError, match="takes no adapters"):
        open_language_model(tmp_path / "adapter")
    path.write_text(json.dumps({**settings, "peft_type": "IA3"}))
    with pytest.raises(ModelError, match="cannot be used"):
        open_language_model(tmp_path / "adapter")


@pytest.mark.parametrize("name", ["gpt2", "roberta"])
@pytest.mark.parametrize("heads", [1, 3])
def test_reward_models(make: Make, tmp_path: Path, name: str, heads: int) -> None:
    """The head is trained whole, and saved with the adapters."""
    judge: Any = new_reward_model(make(name), seed=2, heads=heads, lora=Asked())
    heads_of = {
        "gpt2": {"score.weight"},
        "roberta": {f"classifier.{p}.{k}" for p in ("dense", "out_proj") for k in ("weight", "bias")},
    }
    plain = {n for n, w in judge.model.named_parameters() if w.requires_grad and ".lora_" not in n}
    assert plain == heads_of[name] == set(judge.model.attached_adapter.heads)
    stir(judge.model)
    told = {"reward_shift": 0.5, "reward_scale": 2.0, "ensemble": {"heads": heads}}
    save_model(_made(tmp_path / "reward"), judge.model, judge.tokenizer, told)
    again: Any = load_reward(tmp_path / "reward", judge.tokenizer)
    assert torch.allclose(sequence_logits(again, BATCH), sequence_logits(judge.model, BATCH), atol=1e-5)
    assert again.config.num_labels == heads and read_extra(tmp_path / "reward") == told
    before = new_reward_model(make(name), seed=2, heads=heads).model
    assert not torch.allclose(sequence_logits(before, BATCH), sequence_logits(judge.model, BATCH), atol=1e-2)


def test_a_reward_model_begins_with_the_sft_model_s_adapter(make: Make, tmp_path: Path) -> None:
    saved(tmp_path / "sft", make("gpt2"))
    judge: Any = new_reward_model(tmp_path / "sft", seed=2, lora=Asked())
    whole: Any = new_reward_model(tmp_path / "sft", seed=2)
    assert torch.allclose(sequence_logits(judge.model, BATCH), sequence_logits(whole.model, BATCH), atol=1e-5)
    save_model(_made(tmp_path / "reward"), judge.model, judge.tokenizer)
    assert base_of(tmp_path / "reward") == str(make("gpt2"))
    assert all(weight.requires_grad for weight in whole.model.parameters())


def test_peft_loads_a_reward_model(make: Make, tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    judge: Any = new_reward_model(make("gpt2"), seed=2, lora=Asked())
    stir(judge.model)
    save_model(_made(tmp_path / "reward"), judge.model, judge.tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft: Any = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "reward", num_labels=1).eval()
    assert torch.allclose(logits(peft), judge.model(input_ids=IDS).logits, atol=1e-5)


def test_classifiers(make: Make, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make("gpt2"))
    model: Any = new_classifier(make("gpt2"), tokenizer, ["dull", "merry", "odd"], many=False, seed=1, lora=Asked())
    stir(model)
    save_model(_made(tmp_path / "classes"), model, tokenizer)
    found = Classifier(tmp_path / "classes")
    assert found.labels == ("dull", "merry", "odd") and not found.many
    ids = torch.tensor([tokenizer("Up?")["input_ids"]])
    shares = model(input_ids=ids).logits[0].softmax(0).tolist()
    assert list(found(["Up?"])[0].values()) == pytest.approx(shares, abs=1e-5)


# One network for several models


def shared_with(make: Make, tmp_path: Path) -> tuple[MultiAdapter, Any]:
    model = saved(tmp_path / "sft", make("gpt2"))
    shared = MultiAdapter(load_policy(make("gpt2"), load_tokenizer(make("gpt2"))))
    shared.add("reference", read_adapter(tmp_path / "sft"), tmp_path / "sft")
    shared.add_copy("policy", "reference")
    return shared, model


def test_views_speak_each_for_itself(make: Make, tmp_path: Path) -> None:
    shared, model = shared_with(make, tmp_path)
    base, reference, policy = AdapterView(shared), AdapterView(shared, "reference"), AdapterView(shared, "policy")
    assert torch.equal(logits(base), logits(open_language_model(make("gpt2")).model))
    assert torch.equal(logits(reference), logits(model))
    policy.learn()
    stir(policy, seed=8)
    assert torch.equal(logits(reference), logits(model)), "the policy's weights are not the reference's"
    assert not torch.allclose(logits(policy), logits(model), atol=1e-2)
    one, other = policy_logprobs(policy, BATCH).logprobs, policy_logprobs(reference, BATCH).logprobs
    assert torch.allclose(other, policy_logprobs(model, BATCH).logprobs, atol=1e-5)
    assert not torch.allclose(one, other, atol=1e-2)


def test_gradients_stay_with_their_adapter(make: Make, tmp_path: Path) -> None:
    """Also when another adapter has spoken between forward and backward."""
    shared, model = shared_with(make, tmp_path)
    policy, reference = AdapterView(shared, "policy"), AdapterView(shared, "reference")
    policy.learn()
    loss = -policy_logprobs(policy, BATCH).logprobs.sum()
    policy_logprobs(reference, BATCH)
    loss.backward()
    moved = {name for name, weight in shared.network.named_parameters() if weight.grad is not None}
    assert moved and all(".policy." in name for name in moved)
    (-policy_logprobs(model, BATCH).logprobs.sum()).backward()
    for name in moved:
        alone = model.get_parameter(name.replace(".policy.", ".default.")).grad
        assert torch.allclose(shared.network.get_parameter(name).grad, alone, atol=1e-5, rtol=1e-4), name


def test_a_value_network_is_an_adapter_and_a_head(make: Make, tmp_path: Path) -> None:
    shared, model = shared_with(make, tmp_path)
    shared.add_copy("value", "policy")
    trunk = AdapterTrunk(shared, "value")
    trunk.adapter.requires_grad_(True)
    value, alone = ValueNetwork(trunk, 16), ValueNetwork(model.base_model, 16)
    for network in (value, alone):
        nn.init.constant_(network.head.weight, 0.5)
    assert torch.allclose(token_values(value, BATCH, BATCH.mask), token_values(alone, BATCH, BATCH.mask), atol=1e-5)
    assert {name.split(".")[0] for name, weight in value.named_parameters() if weight.requires_grad} == {"trunk", "head"}
    token_values(value, BATCH, BATCH.mask).sum().backward()
    assert all(weight.grad is None or ".value." in name for name, weight in shared.network.named_parameters())


def test_a_view_is_saved_as_its_adapter(make: Make, tmp_path: Path) -> None:
    shared, model = shared_with(make, tmp_path)
    save_model(_made(tmp_path / "policy"), AdapterView(shared, "policy"), load_tokenizer(make("gpt2")))
    assert (tmp_path / "policy" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "sft" / "adapter_model.safetensors"
    ).read_bytes()
    assert torch.allclose(logits(open_language_model(tmp_path / "policy").model), logits(model), atol=1e-5)


def test_scorers_read_a_folder_of_adapters(make: Make, tmp_path: Path) -> None:
    judge: Any = new_reward_model(make("gpt2"), seed=2, lora=Asked())
    stir(judge.model)
    save_model(_made(tmp_path / "reward"), judge.model, judge.tokenizer, {"reward_shift": 0.5, "reward_scale": 2.0})
    found = RewardScorer.load(tmp_path / "reward")([prompt_of("Up?")], ["Down."])
    read = judge.prompt_encoder.answer(prompt_of("Up?"), "Down.")
    raw = float(judge.model(input_ids=torch.tensor([read.ids])).logits.detach())
    assert found[0] == pytest.approx((raw - 0.5) / 2.0, abs=1e-5)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
