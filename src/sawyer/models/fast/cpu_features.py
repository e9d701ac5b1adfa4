"""What this CPU multiplies fast, as PyTorch sees it."""

from __future__ import annotations

from functools import lru_cache

import torch

from sawyer.models.fast.compat import cpu_capabilities


@lru_cache(maxsize=1)
def multiplies_bf16() -> bool:
    """Whether its bf16 products are faster than its fp32 ones."""
    return any(_has(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@lru_cache(maxsize=1)
def multiplies_bf16_in_blocks() -> bool:
    """Whether its bf16 products read weights from blocks, of rows (AVX512) or of tiles (AMX).

    There a product of few rows spends a third of its time on reordering its weights (lab/speed.md#prepacked-weights).
    """
    return _has("avx512_bf16") or _has("amx_bf16")


@lru_cache(maxsize=1)
def multiplies_fp32_in_blocks() -> bool:
    """Whether its fp32 products of few rows and a large matrix are faster from blocks: AVX2 and nothing beyond, such as Zen 3.

    With AVX512 wide models were not measured (lab/speed.md#prepacked-weights).
    """
    return _has("avx2") and not _has("avx512_f")


@lru_cache(maxsize=1)
def multiplies_bf16_in_tiles() -> bool:
    """Whether it multiplies whole tiles of bf16 matrices at once (AMX): some eight times as fast as fp32."""
    return _has("amx_bf16")


@lru_cache(maxsize=1)
def multiplies_bf16_by_rows() -> bool:
    """Whether it has bf16 products, but none of whole tiles of a matrix: AVX512 without AMX.

    There the fused attention of one query spends most of its time on calls of products with one row each
    (lab/speed.md#attention-of-one-query).
    """
    return _has("avx512_bf16") and not multiplies_bf16_in_tiles()


def product_dtype() -> torch.dtype:
    """The precision of products on the CPU, here and now."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def multiplies_in_blocks() -> bool:
    """Whether products, here and now, are faster from prepacked weights."""
    if product_dtype() == torch.bfloat16:
        return multiplies_bf16_in_blocks()
    return product_dtype() == torch.float32 and multiplies_fp32_in_blocks()


def multiplies_by_rows() -> bool:
    """Whether products, here and now, are bf16 without those of whole tiles (`multiplies_bf16_by_rows`)."""
    return product_dtype() == torch.bfloat16 and multiplies_bf16_by_rows()


def _has(name: str) -> bool:
    return bool(cpu_capabilities().get(name))
