"""Thinning: greedy, the first kept, by brute force in float64; memory of blocks alone; the mean cosine by all pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sawyer.maths import deduplicate, mean_cosine


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def by_brute_force(vectors: Tensor, threshold: float) -> tuple[list[int], dict[int, tuple[int, float]]]:
    """(kept rows, left-out row -> (its most like kept row before it, the cosine)), row by row."""
    rows = vectors.double()
    keep: list[int] = []
    out: dict[int, tuple[int, float]] = {}
    for i in range(len(rows)):
        likeness = [(cosine(rows[i], rows[j]), j) for j in keep]
        best, j = max(likeness, default=(-math.inf, -1))
        if best >= threshold:
            out[i] = (j, best)
        else:
            keep.append(i)
    return keep, out


def clustered(count: int, width: int, clusters: int, spread: float, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centering_terms = torch.randn(clusters, width, generator=draw)
    which = torch.randint(clusters, (count,), generator=draw)
    return (centering_terms[which] + spread * torch.randn(count, width, generator=draw)) * (
        0.1 + 5 * torch.rand(count, 1, generator=draw)
    )


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1024])
@pytest.mark.parametrize(("spread", "threshold"), [(0.3, 0.9), (0.1, 0.95), (1.0, 0.5), (0.5, 0.8)])
def test_as_brute_force(block: int, spread: float, threshold: float) -> None:
    vectors = clustered(150, 8, 12, spread, 3)
    keep, out = by_brute_force(vectors, threshold)
    found = deduplicate(vectors, threshold, block=block)
    assert 5 < len(keep) < 145, "both kinds are there"
    assert torch.nonzero(found.keep).flatten().tolist() == keep
    for i, (j, likeness) in out.items():
        assert (int(found.twin[i]), float(found.similarity[i])) == (j, pytest.approx(likeness, abs=1e-5))
    assert found.twin[keep].tolist() == keep


def on_circle(*degrees: float) -> Tensor:
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def test_only_kept_rows_push_others_out() -> None:
    """0, 20, 40 degrees at cos 25: 20 is like 0 and goes; 40 is like 20 alone, which is not there. Not greedy: 40 goes too."""
    found = deduplicate(on_circle(0, 20, 40), math.cos(math.radians(25)))
    assert found.keep.tolist() == [True, False, True]
    assert int(found.twin[1]) == 0 and float(found.similarity[1]) == pytest.approx(math.cos(math.radians(20)))


def test_the_order_decides_which_is_kept() -> None:
    threshold = math.cos(math.radians(25))
    assert deduplicate(on_circle(20, 0, 40), threshold).keep.tolist() == [True, False, False]


def test_length_is_nothing_and_direction_all() -> None:
    lengths = torch.tensor([[1.0], [7.0], [0.01]])
    assert deduplicate(on_circle(0, 90, 2) * lengths, 0.9).keep.tolist() == [True, True, False]
    assert deduplicate(on_circle(0, 180), 0.9).keep.tolist() == [True, True], "the contrary is not the same"


def test_zeros_and_a_single_row() -> None:
    assert deduplicate(torch.zeros(3, 4), 0.5).keep.tolist() == [True] * 3
    assert deduplicate(torch.ones(1, 4), 0.5).keep.tolist() == [True]
    assert deduplicate(torch.ones(5, 4), 0.5).keep.tolist() == [True, False, False, False, False]


def test_no_product_is_larger_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = Tensor.__matmul__

    def noted(self: Tensor, other: Tensor) -> Tensor:
        product = real(self, other)
        sizes.append(product.numel())
        return product

    monkeypatch.setattr(Tensor, "__matmul__", noted)
    deduplicate(torch.eye(600), 0.9, block=50)
    assert max(sizes) == 50 * 50 and sum(sizes) >= 600 * 600 / 2


def test_the_mean_cosine_of_all_pairs() -> None:
    vectors = clustered(40, 5, 3, 0.5, 1)
    pairs = [cosine(vectors[i].double(), vectors[j].double()) for i in range(40) for j in range(40) if i != j]
    assert mean_cosine(vectors) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert mean_cosine(vectors) != pytest.approx((sum(pairs) + 40) / 1600, abs=1e-3), "a row with itself is no pair"
    assert mean_cosine(on_circle(0, 60)) == pytest.approx(0.5)
    assert mean_cosine(on_circle(0)) == 0.0
