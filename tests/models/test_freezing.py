"""Freezing: which weights stay, counted by hand, and that training leaves them bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from sawyer.errors import ConfigError, ModelError
from sawyer.models.freezing import FrozenLayers, freeze, layers_of

WIDE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
    "num_labels": 1,
    "pad_token_id": 1,
}
DEBERTA = {"relative_attention": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm", "pos_att_type": ["c2p", "p2c"]}
GPT2 = hf.GPT2Config(vocab_size=50, n_embd=8, n_layer=3, n_head=2, n_positions=20, num_labels=1, pad_token_id=1)
SHAPES: dict[str, Any] = {
    "gpt2": GPT2,
    "llama": hf.LlamaConfig(**WIDE),
    "opt": hf.OPTConfig(**{**WIDE, "ffn_dim": 16, "word_embed_proj_dim": 4, "do_layer_norm_before": False, "hidden_size": 8}),
    "bert": hf.BertConfig(**WIDE),
    "roberta": hf.RobertaConfig(**WIDE),
    "deberta": hf.DebertaV2Config(**WIDE, **DEBERTA),
    "distilbert": hf.DistilBertConfig(vocab_size=50, dim=8, n_layers=3, n_heads=2, hidden_dim=16, num_labels=1),
}
# The names of what is trained with the first two of three layers frozen, beside the third layer's own.
REST: dict[str, set[str]] = {
    "gpt2": {"transformer.ln_f", "score"},
    "llama": {"model.norm", "score"},
    "opt": {"model.decoder.project_out", "score"},
    "bert": {"bert.pooler.dense", "classifier"},
    "roberta": {"classifier.dense", "classifier.out_proj"},
    "deberta": {"pooler.dense", "classifier"},
    "distilbert": {"pre_classifier", "classifier"},
}
HEADS: dict[str, set[str]] = {
    **{name: {"score"} for name in ("gpt2", "llama", "opt")},
    **{name: rest for name, rest in REST.items() if name in ("bert", "roberta", "deberta", "distilbert")},
}


def build(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return hf.AutoModelForSequenceClassification.from_config(SHAPES[name]).eval()


def trained(model: Any) -> set[str]:
    return {name.rpartition(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("name", SHAPES)
def test_the_first_layers(name: str) -> None:
    model = build(name)
    found = freeze(model, 2)
    layer = {f"{at}." for at, module in model.named_modules() if module is layers_of(model)[2]}
    assert len(layer) == 1
    own = {name for name in trained(model) if name.startswith(next(iter(layer)))}
    assert own and trained(model) - own == REST[name]
    assert (found.layers, found.of_layers) == (2, 3)
    assert found.trainable == sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert found.total == model.num_parameters()


@pytest.mark.parametrize("name", SHAPES)
def test_the_trunk(name: str) -> None:
    model = build(name)
    freeze(model, "all_but_head")
    assert trained(model) == HEADS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_nothing(name: str) -> None:
    model = build(name)
    freeze(model, "all_but_head")
    found = freeze(model, 0)
    assert found.trainable == found.total == model.num_parameters()


def test_counts_by_hand() -> None:
    # A GPT-2 layer of width 8: two norms of 16, attention 8*24+24 + 8*8+8, feed-forward 8*32+32 + 32*8+8.
    layer = 2 * 16 + 216 + 72 + 288 + 264
    total = 50 * 8 + 20 * 8 + 3 * layer + 16 + 8
    assert freeze(build("gpt2"), 2) == FrozenLayers(layers=2, of_layers=3, trainable=layer + 16 + 8, total=total)
    assert freeze(build("gpt2"), "all_but_head").trainable == 8
    assert freeze(build("gpt2"), 3).summary == f"3 of 3 layers frozen, 24 of {total:,} weights remain trainable"


def test_a_tied_output_is_frozen_with_the_embeddings() -> None:
    model: Any = hf.AutoModelForCausalLM.from_config(GPT2)
    assert model.lm_head.weight is model.transformer.wte.weight
    freeze(model, 1)
    assert not model.lm_head.weight.requires_grad
    assert model.transformer.ln_f.weight.requires_grad


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("what", [1, "all_but_head"])
def test_training_leaves_what_is_frozen(name: str, what: Any) -> None:
    model = build(name)
    freeze(model, what)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    fixed = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    step = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        model(input_ids=torch.arange(12).view(2, 6) + 2).logits.sum().backward()
        step.step()
        step.zero_grad()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert fixed and not fixed & moved
    # DistilBERT and its kin have weights that a sum over two rows may leave; the head always moves.
    assert moved


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"reward\.freeze: 4 layers, but the model has 3"):
        freeze(build("bert"), 4, setting="reward.freeze")


def test_two_stacks() -> None:
    small = {"d_model": 8, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2}
    config = hf.BartConfig(vocab_size=50, encoder_layers=2, decoder_layers=2, decoder_attention_heads=2, num_labels=1, **small)
    with pytest.raises(ModelError, match="2 stacks of 2 layers"):
        freeze(hf.AutoModelForSequenceClassification.from_config(config), 1)
