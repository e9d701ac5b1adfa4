"""All processes make the same number of forward passes, and what stands in for a missing one counts nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from sawyer.train import OptimizerStep, distributed, shard_micro_batches
from sawyer.train.micro_batches import MicroBatches

BUDGET = 10


def split(sizes: Sequence[float]) -> Iterator[list[float]]:
    """Micro-batches of at most `BUDGET`, one longer item by itself."""
    part: list[float] = []
    for size in sizes:
        if part and sum(part) + size > BUDGET:
            yield part
            part = []
        part.append(size)
    if part:
        yield part


def of_every_rank(monkeypatch: pytest.MonkeyPatch, sizes: list[float], processes: int) -> list[MicroBatches[list[float]]]:
    monkeypatch.setattr(distributed, "count", lambda: processes)
    shares: list[int] = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(len(list(split(distributed.shard(sizes, float)))))
    monkeypatch.setattr(distributed, "all_reduce_max", lambda _: [float(max(shares))])
    batches = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        batches.append(shard_micro_batches(sizes, float, split))
    return batches


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "sizes",
    [[5.0], [30.0, 4.0, 4.0, 4.0, 9.0, 9.0], [10.0] * 7, [float(i % 9 + 1) for i in range(40)]],
    ids=["fewer rows than processes", "one long row", "odd", "many"],
)
def test_every_process_runs_as_many(monkeypatch: pytest.MonkeyPatch, sizes: list[float], processes: int) -> None:
    batches = of_every_rank(monkeypatch, sizes, processes)
    assert len({len(batch.parts) + len(batch.idle) for batch in batches}) == 1
    assert min(len(batch.idle) for batch in batches) == 0, "nobody runs for company alone"
    assert sorted(size for batch in batches for part in batch.parts for size in part) == sorted(sizes), "each row once"
    assert all(part == [min(sizes)] for batch in batches for part in batch.idle), "the cheapest stands in"


def test_alone_it_is_the_batch_as_it_is_cut() -> None:
    assert shard_micro_batches([6.0, 6.0, 3.0], float, split) == MicroBatches(parts=([6.0], [6.0, 3.0]))


def test_an_idle_part_runs_the_network_and_changes_nothing() -> None:
    def gradient(batch: Any) -> tuple[float, float, torch.Tensor, list[float], list[float]]:
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        learner = OptimizerStep(net, name="test", learning_rate=0.1, factor=lambda _: 1.0)
        seen: list[float] = []
        passes: list[float] = []
        net.register_forward_hook(lambda *_: passes.append(1.0))

        def loss(part: torch.Tensor, figures: list[float]) -> torch.Tensor:
            found = net(part).pow(2).sum()
            figures.append(float(found.detach()))
            return found

        total, norm = learner.accumulate(batch, lambda p: loss(p, seen), 2.0, idle_loss=lambda p: loss(p, []))
        assert net.weight.grad is not None
        return total, norm, net.weight.grad.clone(), seen, passes

    parts = (torch.ones(2, 3), torch.arange(3.0)[None])
    alone, company = gradient(parts), gradient(MicroBatches(parts=parts, idle=(torch.full((1, 3), 7.0),) * 2))
    assert alone[:2] == company[:2] and torch.equal(alone[2], company[2]) and alone[3] == company[3]
    assert (len(alone[4]), len(company[4])) == (2, 4)
