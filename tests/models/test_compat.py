"""One test for each thing that `models.fast.compat` takes from torch, transformers or PEFT without its being documented. Where
one fails after an upgrade, its docstring says what no longer works; `SAWYER_FAST=off` does without most of them."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, MistralConfig

from sawyer.models import new_policy
from sawyer.models.fast import compat

SOURCE = Path(__file__).parents[2] / "src" / "sawyer"
COMPAT = SOURCE / "models" / "fast" / "compat.py"


@pytest.fixture
def gpt2() -> Any:
    return new_policy(vocab_size=16, layers=2, width=8, heads=2, context=16, seed=0, eos_id=0, pad_id=1)


def qkv(generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def test_flash_attention(generator: torch.Generator) -> None:
    """Breaks: attention of packed rows on a CPU."""
    query, key, value = (x.detach() for x in qkv(generator))
    out, log_sums = compat.flash_attention(query, key, value, causal=True, scale=0.3)
    hidden = torch.ones(5, 5).triu(1).bool()
    scores = (0.3 * query @ key.transpose(2, 3)).masked_fill(hidden, -torch.inf)
    assert torch.allclose(out, scores.softmax(-1) @ value, atol=1e-12)
    assert torch.allclose(log_sums, scores.logsumexp(-1), atol=1e-12)


def test_flash_attention_backward(generator: torch.Generator) -> None:
    """Breaks: training on packed rows on a CPU."""
    given = qkv(generator)
    plain = scaled_dot_product_attention(*given, is_causal=True, scale=0.3)
    grad = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((plain * grad).sum(), given)
    with torch.no_grad():
        out, log_sums = compat.flash_attention(*given, causal=True, scale=0.3)
        actual = compat.flash_attention_backward(grad, *given, out, log_sums, causal=True, scale=0.3)
    for mine, theirs in zip(actual, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_prepacked_products(generator: torch.Generator, activation: str) -> None:
    """Breaks: prepacked weights; layers stay as they are, and sampling in bf16 is slower."""
    weight, bias, x = (torch.randn(*shape, generator=generator) for shape in ((8, 6), (8,), (3, 6)))
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    try:
        actual = compat.prepacked_product(x, compat.prepack_weight(weight, 3), bias, activation)
    except RuntimeError:
        pytest.skip("this CPU has no prepacked products")
    expected = linear(x, weight, bias)
    expected = gelu(expected, approximate="tanh") if activation == "gelu" else expected
    assert torch.allclose(actual, expected, atol=1e-5)


def test_cpu_capabilities() -> None:
    """Breaks: bf16 is no longer chosen on CPUs that multiply it fast, and weights are no longer prepacked."""
    capabilities = compat.cpu_capabilities()
    assert all(isinstance(name, str) for name in capabilities)
    if hasattr(torch.cpu, "get_capabilities"):
        assert {"avx2", "avx512_bf16", "amx_bf16"} & {*capabilities} or "architecture" in capabilities


def test_attention_is_named_and_replaced(gpt2: Any) -> None:
    """Breaks: packing, for all architectures."""
    calls: list[dict[str, Any]] = []

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any) -> tuple[Tensor, None]:
        calls.append({"mask": mask, **more})
        return value.transpose(1, 2), None

    trunk = gpt2.transformer
    assert compat.attention_name(trunk) == "sdpa"
    with compat.use_attention(attention, trunk):
        trunk(input_ids=torch.tensor([[2, 3]]), use_cache=False, layout="a layout")
    assert [call["layout"] for call in calls] == ["a layout"] * 2  # keywords of the forward pass reach each layer
    assert [call["mask"] for call in calls] == [None] * 2  # and no mask is made
    assert compat.attention_name(trunk) == "sdpa"


def test_sdpa_attention(generator: torch.Generator) -> None:
    """Breaks: packed rows on a card, and on a CPU with dropout."""
    query, key, value = (x.detach() for x in qkv(generator))
    actual = compat.sdpa_attention(nn.Module(), query, key, value, dropout=0.0, scaling=0.3)
    expected = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3)
    assert torch.equal(actual, expected.transpose(1, 2))


def test_cache_layers() -> None:
    """Breaks: which models write into a static cache."""
    small = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2}
    whole = compat.cache_layers(LlamaConfig(**small))
    windows = compat.cache_layers(MistralConfig(**small, sliding_window=4))
    assert [compat.keeps_all_keys(layer) for layer in whole] == [True] * 3
    assert [compat.keeps_all_keys(layer) for layer in windows] == [False] * 3


def test_a_cache_of_our_own_layers(gpt2: Any) -> None:
    """Breaks: the static cache. Layers are updated in order, and selecting rows reaches each."""

    class Layer(compat.CacheLayer):
        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            self.is_initialized, self.keys, self.values = True, key_states, value_states
            return key_states, value_states

        def batch_select_indices(self, indices: Tensor) -> None:
            self.keys = self.keys[indices]

    layers = [Layer(), Layer()]
    cache = compat.new_cache(layers)
    gpt2(input_ids=torch.tensor([[2, 3], [4, 5]]), past_key_values=cache, use_cache=True)
    assert [layer.keys.shape for layer in layers] == [(2, 2, 2, 4)] * 2
    cache.batch_select_indices(torch.tensor([1]))
    assert [layer.keys.shape[0] for layer in layers] == [1, 1]


def test_rows_of_a_cache_are_selected(gpt2: Any) -> None:
    """Breaks: sampling with transformers' own cache, where finished rows leave the batch."""
    cache = gpt2(input_ids=torch.tensor([[2, 3], [4, 5], [6, 7]]), use_cache=True).past_key_values
    before = cache.layers[0].keys
    compat.keep_cache_rows(cache, torch.tensor([2, 0]))
    assert torch.equal(cache.layers[0].keys, before[[2, 0]])


def test_gpt2_s_layers(gpt2: Any) -> None:
    """Breaks: prepacked weights, LoRA and bf16 weights of GPT-2, whose matrices are (in, out), and its GELU in the product."""
    names = [name for name, module in gpt2.named_modules() if compat.is_conv1d(module)]
    assert len(names) == 8 and "transformer.h.0.attn.c_attn" in names
    assert gpt2.transformer.h[0].mlp.c_fc.weight.shape == (8, 32)
    assert compat.gpt2_mlps(list(gpt2.modules())) == [block.mlp for block in gpt2.transformer.h]


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh"])
def test_tanh_gelus(name: str) -> None:
    """Breaks: GPT-2's activation takes six kernels again; results stay."""
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, activation_function=name))
    act = model.transformer.h[0].mlp.act
    assert type(act) in compat.tanh_gelus()
    x = torch.linspace(-3, 3, 13)
    assert torch.allclose(act(x), gelu(x, approximate="tanh"), atol=1e-6)


def test_the_active_adapter(gpt2: Any) -> None:
    """Breaks: policy, reference and reward model as adapters of one network."""
    from peft import LoraConfig, inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of several adapters in one network
        for name in ("one", "other"):
            inject_adapter_in_model(LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True), gpt2, name)
    layers = [module for module in gpt2.modules() if compat.is_adapter_layer(module)]
    assert len(layers) == 2
    with torch.no_grad():
        for layer in layers:
            layer.lora_B["one"].weight.fill_(1.0)
    learns = [weight.requires_grad for weight in gpt2.parameters()]
    ids, logits = torch.tensor([[2, 3]]), {}
    for name in ("one", "other", "none of them"):
        compat.set_active_adapter(layers, name)
        logits[name] = gpt2(input_ids=ids).logits
    assert torch.equal(logits["other"], logits["none of them"])  # B is zero
    assert not torch.allclose(logits["one"], logits["other"])
    assert [weight.requires_grad for weight in gpt2.parameters()] == learns


def test_model_families() -> None:
    """Breaks: a model of an unknown family is no longer refused before its weights are looked for."""
    assert {"gpt2", "llama", "qwen3", "gemma3_text"} <= {*compat.model_families("AutoModelForCausalLM")}
    assert {"bert", "roberta", "gpt2"} <= {*compat.model_families("AutoModelForSequenceClassification")}
    assert "llava" in compat.model_families("AutoModelForImageTextToText")


# And nothing private anywhere else

OURS = ("self", "cls", "super", "os", "sys", "database")
PUBLIC = {
    "torch.nn.functional",
    "torch.utils.checkpoint",
    "torch.distributed",
    "torch.distributed.nn",
    "transformers.utils",
    "safetensors.torch",
}

EXEMPT = {"distributed_c10d._get_default_store"}  # of train/distributed, which starts without transformers


def private_uses(path: Path) -> Iterator[str]:
    """Attributes of others with an underscore, private operators, and imports from inside the three libraries."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if node.attr == "_replace":  # of a named tuple: documented
                continue
            if ast.unparse(node.value).split(".")[0].split("(")[0] not in OURS:
                yield f"{path.relative_to(SOURCE)}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.count(".") and node.module not in PUBLIC:
            if node.module.split(".")[0] in ("torch", "transformers", "peft", "tokenizers"):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}: {node.module}"


def test_no_other_file_calls_what_is_private() -> None:
    assert list(private_uses(COMPAT))
    others = [path for path in sorted(SOURCE.rglob("*.py")) if path != COMPAT]
    assert {use.rpartition(": ")[2] for path in others for use in private_uses(path)} <= EXEMPT
