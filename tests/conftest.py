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


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """With SAWYER_FAST=off every test of a result must pass; those of how it is computed fast are left out."""
    if os.environ.get("SAWYER_FAST", "").lower() == "off":
        fast = [
            item for item in items if item.get_closest_marker("fast_path") or "laid_out" in getattr(item, "fixturenames", ())
        ]
        config.hook.pytest_deselected(items=fast)
        items[:] = [item for item in items if item not in fast]


@pytest.fixture(scope="module", autouse=True)
def settled() -> Iterator[None]:
    """What was there before a file's tests stays to the end, and the collector need not look at it again: each stage calls it,
    and a million objects of imported libraries would take it half a second, more than the stage itself takes."""
    gc.collect()
    gc.freeze()
    yield


@pytest.fixture(params=["bf16", "fp32"])
def precision(request: pytest.FixtureRequest) -> str:
    """What a config may say, one after the other."""
    found: str = request.param
    return found


@pytest.fixture
def laid_out(precision: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layers whose weights have been laid out, in order, as on a processor whose products in that precision read them from
    blocks, in fp32 those of small layers too."""
    import torch

    from sawyer.models.fast import cpu_features, prepacked_linear

    monkeypatch.setattr(cpu_features, f"multiplies_{precision}_in_blocks", lambda: True)
    monkeypatch.setattr(prepacked_linear, "LARGE", 0)
    if not prepacked_linear._operators_work({"bf16": torch.bfloat16, "fp32": torch.float32}[precision]):
        pytest.skip(f"this PyTorch cannot lay out weights here for products in {precision}")
    found: list[Any] = []
    product = prepacked_linear._prepacked_forward
    monkeypatch.setattr(prepacked_linear, "_prepacked_forward", lambda layer, *how: found.append(layer) or product(layer, *how))
    return found
