"""How far a decoder's layers look, read from its config alone: what no short trial of its weights can show."""

from __future__ import annotations

import re
from typing import Any

# Layers that read all tokens before theirs, or their own alone; all others have windows, chunks, indices or states.
WHOLE = {"full_attention", "moe", "mlp", "sparse", "dense"}
# Settings that name a number of tokens from which on a layer does something else.
NAMES = re.compile(r"window|chunk|local_attention$|^index_(topk|block)")
EXEMPT = re.compile(r"feed_forward|lm_head|max_window_layers|pattern|^use_|inference")
# Beyond so many tokens keys are chosen among all that are there: what a token reads then depends on the row's length.
CHOSEN = ("index_topk", "keep_window_size")
# Rotary factors of these kinds depend on the longest row of a batch.
LENGTH_DEPENDENT_ROPES = ("longrope", "dynamic")


def long_range(config: Any) -> str:
    """What in an architecture acts beyond a few tokens, in words (`sliding_window: 4096`); empty for plain causal attention to
    whole rows. A window that no row can outgrow acts on nothing."""
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    kinds = sorted({str(kind) for kind in getattr(text, "layer_types", None) or ()} - WHOLE)
    settings = [f"{name}: {value}" for name, value in reaches(text).items() if not isinstance(longest, int) or value < longest]
    settings += [f"rope_type: {rope['rope_type']}" for rope in _ropes(text) if rope.get("rope_type") in LENGTH_DEPENDENT_ROPES]
    return ", ".join([*kinds, *sorted(settings)])


def reaches(config: Any) -> dict[str, int]:
    """The settings that name a number of tokens, by their names."""
    text = config.get_text_config()
    if getattr(text, "use_sliding_window", True) is False:
        return {}
    return {
        name: value
        for name, value in text.to_dict().items()
        if NAMES.search(name) and not EXEMPT.search(name) and type(value) is int and value > 0
    }


def steady_length(config: Any) -> int | None:
    """The longest row whose tokens are read as they are in every shorter row, whatever lies beside it; None: any row.

    With `longrope` a longer one has other rotary factors, from its first token on, and so has the whole batch that it lies in:
    neither a cache nor a batch then says what the row says alone.
    """
    text = config.get_text_config()
    lengths = [value for name in CHOSEN if type(value := getattr(text, name, None)) is int and value > 0]
    for rope in _ropes(text):
        length = rope.get("original_max_position_embeddings") or getattr(text, "max_position_embeddings", None)
        if rope.get("rope_type") in LENGTH_DEPENDENT_ROPES and isinstance(length, int):
            lengths.append(length)
    return min(lengths, default=None)


def context_in(config: Any) -> int:
    """The most tokens that a model of this config reads, and reads alike in any row and batch (`steady_length`)."""
    text = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    length = int(next((length for name in names if (length := getattr(text, name, None))), 1024))
    return min(length, steady_length(config) or length)


def _ropes(text: Any) -> list[dict[str, Any]]:
    """The rotary settings: one set, or one a kind of layer."""
    parameters = getattr(text, "rope_parameters", None)
    if not isinstance(parameters, dict):
        return []
    return [parameters, *(part for part in parameters.values() if isinstance(part, dict))]
