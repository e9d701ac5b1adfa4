"""The package in float64, so that what is compared with it differs by rounding far below what a mistake does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def double_precision() -> Iterator[None]:
    """Wherever the package says fp32 it gets fp64, and new tensors are fp64."""
    single = torch.float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch, "float32", torch.float64)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(single)
