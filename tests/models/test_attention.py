"""Attention of each row's last token by products, against sums written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sawyer.models.fast.attention import attend_last

HIDDEN = torch.zeros(3, 1, 1, 7)
HIDDEN[0, ..., :2] = -torch.inf  # a short prompt, padded on the left
HIDDEN[:, ..., 6:] = -torch.inf  # room for what is not yet written


def inputs(generator: torch.Generator, *, read: int = 4, width: int = 8, value_width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    query = torch.randn(3, 4, 1, width, generator=generator)
    key, value = (torch.randn(3, read, 7, w, generator=generator) for w in (width, value_width))
    return query, key, value


def by_hand(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """(B, 1, H, D) in float64, each row's and head's sum by itself."""
    rows, heads = query.shape[:2]
    found = torch.zeros(rows, 1, heads, value.shape[3], dtype=torch.float64)
    for row in range(rows):
        for head in range(heads):
            read = head // (heads // key.shape[1])
            seen = [t for t in range(key.shape[2]) if HIDDEN[row, 0, 0, t] == 0]
            scores = [float(query[row, head, 0].double() @ key[row, read, t].double()) * scale for t in seen]
            shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
            for share, t in zip(shares, seen, strict=True):
                found[row, 0, head] += share * value[row, read, t].double()
    return found


@pytest.mark.parametrize("read", [4, 2, 1])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_it_is_attention(generator: torch.Generator, read: int, scaling: float | None) -> None:
    query, key, value = inputs(generator, read=read, value_width=5)
    found, _ = attend_last(nn.Identity(), query, key, value, None, bias=HIDDEN, scaling=scaling)
    known = by_hand(query, key, value, 8**-0.5 if scaling is None else scaling)
    assert torch.allclose(found.double(), known, atol=1e-6)
    unseen, _ = attend_last(nn.Identity(), query, key, value, None, bias=torch.zeros_like(HIDDEN), scaling=scaling)
    assert not torch.allclose(unseen.double(), known, atol=1e-2)


def test_in_bf16_it_is_as_near_as_the_fused_kernel(generator: torch.Generator) -> None:
    """Scores are rounded to bf16 before the softmax, which the fused kernel does not do; beside the rounding of what it
    returns that is little."""
    worst: dict[str, float] = {"products": 0.0, "kernel": 0.0}
    for _ in range(20):
        query, key, value = (x.to(torch.bfloat16) for x in inputs(generator, width=64, value_width=64))
        known = by_hand(query, key, value, 0.125)
        products, _ = attend_last(nn.Identity(), query, key, value, None, bias=HIDDEN)
        kernel = nn.functional.scaled_dot_product_attention(query, key, value, HIDDEN.to(torch.bfloat16)).transpose(1, 2)
        for name, found in (("products", products), ("kernel", kernel)):
            worst[name] = max(worst[name], float((found.double() - known).abs().max()))
    assert worst["products"] <= 1.5 * worst["kernel"]


def test_keys_that_were_turned_in_fp32(generator: torch.Generator) -> None:
    query, key, value = inputs(generator)
    found, _ = attend_last(nn.Identity(), query, key, value.to(torch.bfloat16), None, bias=HIDDEN)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), by_hand(query, key, value, 8**-0.5), atol=0.03)


@pytest.mark.parametrize("name", ["sliding_window", "softcap", "s_aux"])
def test_what_it_does_not_know_it_refuses(generator: torch.Generator, name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        attend_last(nn.Identity(), *inputs(generator), None, bias=HIDDEN, **{name: 4})
