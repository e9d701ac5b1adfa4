"""The machine's own limit: the best rate of matrix products that is found."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

# Rows, inputs and outputs of a product, from a small model's layer to a square: the best of them is the ceiling.
SHAPES = ((512, 768, 768), (1024, 768, 3072), (2048, 2048, 2048), (2048, 256, 1024))
CARD_SHAPES = (*SHAPES, (8192, 4096, 4096), (8192, 8192, 8192))


def product_rate(device: torch.device, dtype: torch.dtype, *, repeats: int = 5) -> float:
    """GFLOP/s of the best shape, each the median of `repeats` tries after one that does not count; 2 m k n operations each."""
    best = 0.0
    for m, k, n in CARD_SHAPES if device.type == "cuda" else SHAPES:
        a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)
        took = _median(lambda a=a, b=b: torch.nn.functional.linear(a, b), device, repeats)  # type: ignore[misc]
        best = max(best, 2 * m * k * n / took / 1e9)
    return best


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
