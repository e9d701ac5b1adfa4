"""Every call into what torch, transformers and PEFT do not document: where one of them changes, this file alone breaks.

`tests/models/test_compat.py` has one test for each, which says what breaks without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

AttentionFunction = Callable[..., tuple[Tensor, None]]


def flash_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The CPU's fused kernel, (B, H, T, D) each: (output, log-sum-exp of the scores (B, H, T) in fp32).

    The public `scaled_dot_product_attention` keeps the log-sum-exps to itself, without which two parts cannot be merged.
    """
    out_and_sums: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=scale
    )
    return out_and_sums


def flash_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, log_sums: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, from what `flash_attention` gave."""
    grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, out, log_sums, 0.0, causal, scale=scale
    )
    return grads


def prepack_weight(weight: Tensor, rows: int) -> Tensor:
    """An (out, in) weight in oneDNN's own blocks, for products of about so many rows."""
    blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return blocks


def prepacked_product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """activation(x W^T + bias) of a prepacked weight; `activation` is none or gelu (the tanh approximation)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "tanh")
    return out


def cpu_capabilities() -> Mapping[str, Any]:
    """The instruction sets that PyTorch sees; nothing where it does not say."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def attention_name(trunk: Any) -> str:
    """Which of transformers' attentions a trunk uses, such as sdpa."""
    return str(trunk.config._attn_implementation)


@contextmanager
def use_attention(function: AttentionFunction, trunk: Any) -> Iterator[None]:
    """Within it the trunk attends by `function`, which gets the keywords of the forward pass.

    A registered name without a mask function of its own: transformers then makes no mask. The public `set_attn_implementation`
    walks through all submodules, which costs more than a short forward pass.
    """
    from transformers import AttentionInterface

    name = f"sawyer_{function.__name__}"
    AttentionInterface.register(name, function)
    before = trunk.config._attn_implementation
    trunk.config._attn_implementation = name
    try:
        yield
    finally:
        trunk.config._attn_implementation = before


def sdpa_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, dropout: float, scaling: float | None
) -> Tensor:
    """transformers' own causal attention of rows without a mask: (B, H, T, D) -> (B, T, H, D)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    out: Tensor = sdpa_attention_forward(module, query, key, value, None, dropout=dropout, scaling=scaling, is_causal=True)[0]
    return out


def cache_layers(config: Any) -> list[Any]:
    """The layers of the cache that transformers makes for a trunk of this config."""
    return list(DynamicCache(config=config).layers)


def keeps_all_keys(layer: Any) -> bool:
    """Whether a layer of a cache keeps the keys and values of all tokens: no window, no state."""
    return type(layer) is DynamicLayer


CacheLayer = DynamicLayer  # what our own cache layer derives from


def new_cache(layers: Sequence[Any]) -> Cache:
    """A cache of such layers, as a forward pass takes it."""
    return Cache(layers=list(layers))


def keep_cache_rows(cache: Any, rows: Tensor) -> None:
    """Leave only these rows in transformers' own cache. Layers with a convolution's state do it as beam search does, and
    no other way."""
    states = any(hasattr(layer, "conv_states") for layer in cache.layers)
    (cache.reorder_cache if states else cache.batch_select_indices)(rows)


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is GPT-2's linear layer, whose weight is (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def gpt2_mlps(modules: Sequence[nn.Module]) -> list[Any]:
    """GPT-2's feed-forward blocks among the modules: `act` there reads nothing but `c_fc`."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    return [module for module in modules if type(module) is GPT2MLP]


def tanh_gelus() -> tuple[type[nn.Module], ...]:
    """The classes that transformers has for GPT-2's GELU."""
    from transformers.activations import ACT2FN

    return tuple({type(ACT2FN[name]) for name in ("gelu_new", "gelu_pytorch_tanh")})


def is_adapter_layer(module: nn.Module) -> bool:
    """Whether a module is one of PEFT's, around a layer of the network."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def set_active_adapter(layers: Sequence[Any], name: str) -> None:
    """From now on the layers add this adapter and no other. PEFT's public way also freezes the others, which may train."""
    for layer in layers:
        layer._active_adapter = [name]


def model_families(auto_class: str) -> Collection[str]:
    """The `model_type`s that one of transformers' auto classes loads."""
    from transformers.models.auto import modeling_auto

    names = {
        "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
    return names[auto_class].keys()
