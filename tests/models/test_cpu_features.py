"""What a processor multiplies, by what it says that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from sawyer.models.fast import cpu_features

ASKED: tuple[Callable[[], bool], ...] = (
    cpu_features.multiplies_bf16,
    cpu_features.multiplies_bf16_in_blocks,
    cpu_features.multiplies_bf16_by_rows,
    cpu_features.multiplies_bf16_in_tiles,
    cpu_features.multiplies_fp32_in_blocks,
)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What the machine's own processor has, before and after."""
    for ask in ASKED:
        ask.cache_clear()  # type: ignore[attr-defined]
    yield
    for ask in ASKED:
        ask.cache_clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("has", "known"),
    [
        ((), (False, False, False, False, False)),
        (("avx2",), (False, False, False, False, True)),  # such as Zen 3
        (("avx2", "avx512_f", "avx512_vnni"), (False, False, False, False, False)),
        (("avx2", "avx512_f", "avx512_bf16"), (True, True, True, False, False)),  # such as Zen 4
        (("avx2", "avx512_f", "avx512_bf16", "amx_bf16"), (True, True, False, True, False)),  # such as Sapphire Rapids
        (("bf16",), (True, False, False, False, False)),  # ARM
    ],
)
def test_by_its_capabilities(monkeypatch: pytest.MonkeyPatch, has: tuple[str, ...], known: tuple[bool, ...]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True), raising=False)
    assert tuple(ask() for ask in ASKED) == known
    assert (cpu_features.multiplies_in_blocks(), cpu_features.multiplies_by_rows()) == (known[4], False)  # without autocast
    with torch.autocast("cpu", dtype=torch.float16):
        assert not cpu_features.multiplies_in_blocks() and not cpu_features.multiplies_by_rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (cpu_features.multiplies_in_blocks(), cpu_features.multiplies_by_rows()) == known[1:3]
