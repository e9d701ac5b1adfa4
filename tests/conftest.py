"""What holds for every test."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

# A second thread gains nothing on tensors this small, and waiting for it costs a quarter of the processor's time. Read when
# torch loads, here and in the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module", autouse=True)
def settled() -> Iterator[None]:
    """What was there before a file's tests stays to the end, and the collector need not look at it again: each stage calls it,
    and a million objects of imported libraries would take it half a second, more than the stage itself takes."""
    gc.collect()
    gc.freeze()
    yield


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layers whose weights have been laid out, in order, as on a processor whose bf16 products read them from blocks."""
    import torch

    from sawyer.models import blocked, processor

    monkeypatch.setattr(processor, "multiplies_bf16_in_blocks", lambda: True)
    if not blocked._works(torch.bfloat16):
        pytest.skip("this PyTorch cannot lay out weights")
    found: list[Any] = []
    product = blocked._product
    monkeypatch.setattr(blocked, "_product", lambda layer, *how: found.append(layer) or product(layer, *how))
    return found
