"""What tests of masked float64 arithmetic share: draws, comparing, and what must not leak out of padding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

EXACT = 0.0
ROUNDING = 1e-12  # float64, a few dozen operations on numbers of size 1
POISONS = (math.nan, math.inf, -math.inf)


def close(found: Tensor, expected: object, tolerance: float) -> None:
    required_section = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == required_section.shape
    assert bool(((found.double() - required_section).abs() <= tolerance).all()), f"{found} is not {required_section}"


def double(numbers: list[Any]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
