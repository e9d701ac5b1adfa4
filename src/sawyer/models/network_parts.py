"""The parts of a network: its trunk, which gives hidden states, and its head, which makes logits of them.

Everything here runs padded rows, as plain transformers does; `models.fast` has quicker ways to the same numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

EXACT = 1e-4  # how far head(trunk) may be from the model's own logits, as a share of the largest
LARGE = 100.0  # logits at which the two are compared: caps bend only large ones

_splits: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def network_of(model: Any) -> Any:
    """The whole network where `model` is one adapter's view of it (`multi_adapter`), else `model` itself."""
    return getattr(model, "network", model)


def trunk_of(model: Any) -> Any:
    """The network below the head: what gives hidden states."""
    return getattr(model, "base_model", model)


def head_of(model: Any) -> Any:
    """The layer that makes logits of hidden states; None where there is none."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def score_head(model: nn.Module) -> nn.Linear | None:
    """The linear layer that reads a decoder's last hidden state as a score; None for other architectures."""
    head = getattr(model, "score", None)
    return head if isinstance(head, nn.Linear) else None


def width_of(trunk: Any) -> int:
    """Hidden units, as the config says; 0 where there is no config."""
    return trunk.config.get_text_config().hidden_size if hasattr(trunk, "config") else 0


def fill_padding(ids: Tensor, mask: Tensor) -> Tensor:
    """The ids with each row's first token in the place of padding: a pad token's embedding may be NaN."""
    return torch.where(mask, ids, ids[:, :1])


def padded_states(trunk: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, T, d): the last hidden states of a right-padded batch. The trunk must be causal: then it needs no attention mask,
    since padding comes after all real tokens."""
    states: Tensor = trunk(input_ids=fill_padding(ids, mask), use_cache=False).last_hidden_state
    return states


def next_logits(model: nn.Module, past: Any, **inputs: Any) -> tuple[Tensor, Any]:
    """((B, V) fp32 logits after the last token of each row, the cache) of one forward pass that continues from the cache
    `past`; None: from nothing."""
    splits = splits_exactly(model)
    network = trunk_of(model) if splits else model
    # Where the model can, it projects the last token alone: a prompt's logits may be gigabytes.
    if not splits and "logits_to_keep" in inspect.signature(network_of(model).forward).parameters:
        inputs["logits_to_keep"] = 1
    out = network(**inputs, **cache_kwargs(network, past))
    logits = head_of(model)(out.last_hidden_state[:, -1]) if splits else out.logits[:, -1]
    return logits.float(), out[_cache_argument(network_of(network).__class__.forward)]


def cache_kwargs(network: nn.Module, past: Any) -> dict[str, Any]:
    """The arguments with which a network, or its trunk, continues from a cache and writes into it."""
    return {_cache_argument(network_of(network).__class__.forward): past, "use_cache": True}


@lru_cache(maxsize=16)
def _cache_argument(forward: Callable[..., Any]) -> str:
    """What the cache is called: transformers 5.24 renamed it; state-space models have their own name."""
    names = inspect.signature(forward).parameters
    return next((name for name in ("cache", "cache_params") if name in names), "past_key_values")


def splits_exactly(model: nn.Module) -> bool:
    """Whether the model's logits are its head applied to its trunk's last hidden state: tried once, on two tokens.

    Not so where an architecture scales or caps its logits; those models run whole. The trunk's states are scaled up for the
    trial: a fresh model's logits are so small that a cap of 30 moves them less than rounding does.
    """
    model = network_of(model)  # adapters change nothing of how a network is built
    if model not in _splits:
        trunk, head = trunk_of(model), head_of(model)
        _splits[model] = trunk is not model and head is not None and _head_gives_logits(model, trunk, head)
    return _splits[model]


@torch.no_grad()
def _head_gives_logits(model: nn.Module, trunk: nn.Module, head: nn.Module) -> bool:
    device = next(model.parameters()).device
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    states: list[Tensor] = []

    def enlarge(_module: nn.Module, _inputs: Any, out: Any) -> Any:
        out.last_hidden_state = out.last_hidden_state * (LARGE / head(out.last_hidden_state).abs().max().clamp(min=1e-9))
        states.append(out.last_hidden_state)
        return out

    hook = trunk.register_forward_hook(enlarge)
    try:
        with torch.autocast(device.type, enabled=False):
            theirs = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            ours = head(states[0]) if states else None
    finally:
        hook.remove()
    if ours is None or ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() < EXACT * ours.abs().max())
