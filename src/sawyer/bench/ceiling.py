"""The machine's own limits: the best matrix-product rate that is found, and how fast it copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Rows, inputs and outputs of a product, from a small model's layer to a square: the best of them is the ceiling.
SHAPES = ((512, 768, 768), (1024, 768, 3072), (2048, 2048, 2048), (2048, 256, 1024))
CARD_SHAPES = (*SHAPES, (8192, 4096, 4096), (8192, 8192, 8192))
COPIED = 64 * 2**20  # fp32 numbers: more than any cache holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Products count 2 m k n operations; a copy counts what is read and what is written."""

    fp32_gflops: float
    bf16_gflops: float
    copy_gb_per_second: float


def ceiling(device: torch.device, *, repeats: int = 5) -> Ceiling:
    """Measure them, each the median of `repeats` tries after one that does not count."""
    found: dict[torch.dtype, float] = {}
    for precision in (torch.float32, torch.bfloat16):
        found[precision] = 0.0
        for m, k, n in CARD_SHAPES if device.type == "cuda" else SHAPES:
            a = torch.randn(m, k, device=device).to(precision)
            b = torch.randn(n, k, device=device).to(precision)
            took = _median(lambda a=a, b=b: torch.nn.functional.linear(a, b), device, repeats)  # type: ignore[misc]
            found[precision] = max(found[precision], 2 * m * k * n / took / 1e9)
    source, target = torch.ones(COPIED, device=device), torch.empty(COPIED, device=device)
    copied = 2 * source.numel() * source.element_size() / 1e9
    return Ceiling(
        fp32_gflops=found[torch.float32],
        bf16_gflops=found[torch.bfloat16],
        copy_gb_per_second=copied / _median(lambda: target.copy_(source), device, repeats),
    )


def finish(device: torch.device) -> None:
    """Wait for what a card still has to do: its clock is not ours."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _median(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for number in range(repeats + 1):
        finish(device)
        start = time.perf_counter()
        call()
        finish(device)
        times += [time.perf_counter() - start] if number else []
    return statistics.median(times)
