"""What this processor multiplies in bf16, as PyTorch tells it."""

from __future__ import annotations

from functools import lru_cache

import torch


@lru_cache(maxsize=1)
def multiplies_bf16() -> bool:
    """Whether its bf16 products are faster than its fp32 ones."""
    return any(_has(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@lru_cache(maxsize=1)
def multiplies_bf16_in_blocks() -> bool:
    """Whether its bf16 products read weights from blocks, of rows (AVX512) or of tiles (AMX).

    There a product of few rows spends a third of its time on laying its weights out (LAB.md, "What does sampling wait for with
    AMX?").
    """
    return _has("avx512_bf16") or _has("amx_bf16")


@lru_cache(maxsize=1)
def multiplies_bf16_in_tiles() -> bool:
    """Whether it multiplies whole tiles of bf16 matrices at once (AMX): some eight times as fast as fp32."""
    return _has("amx_bf16")


@lru_cache(maxsize=1)
def multiplies_bf16_by_rows() -> bool:
    """Whether it has bf16 products, but none of whole tiles of a matrix: AVX512 without AMX.

    There the fused attention of one query spends most of its time on calls of products with one row each (LAB.md, "What does
    sampling wait for on a processor without tiles?").
    """
    return _has("avx512_bf16") and not multiplies_bf16_in_tiles()


def products_in_blocks() -> bool:
    """Whether autocast has such products made here and now."""
    return _in_bf16() and multiplies_bf16_in_blocks()


def products_by_rows() -> bool:
    """Whether autocast has such products made here and now."""
    return _in_bf16() and multiplies_bf16_by_rows()


def _in_bf16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _has(name: str) -> bool:
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get(name))
