"""Randomness as a function of seed, purpose and step."""

from __future__ import annotations

import torch

from sawyer.train import batch_indices, generator


def test_same_name_same_numbers_and_other_names_other_numbers() -> None:
    draw = [torch.rand(4, generator=generator(0, "rl", "rollout", step)) for step in (3, 3, 4)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert not torch.equal(draw[0], torch.rand(4, generator=generator(1, "rl", "rollout", 3)))


def test_every_row_comes_once_an_epoch_and_the_last_batch_holds_the_rest() -> None:
    batches = [batch_indices(10, 4, step, total=25, seed=0, stage="sft") for step in range(7)]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 4, 1]
    flat = [index for batch in batches for index in batch]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))
    assert flat[:10] != flat[10:20]


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    straight = [batch_indices(7, 3, step, total=30, seed=5, stage="rl") for step in range(10)]
    backwards = [batch_indices(7, 3, step, total=30, seed=5, stage="rl") for step in reversed(range(10))]
    assert straight == backwards[::-1]
