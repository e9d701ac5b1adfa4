"""Batches against tensors written out by hand; micro-batches by their properties over many lengths."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sawyer.text import Row, batches, pad_left, pad_right, whole_numbers
from sawyer.text.batch import micro_batches

PAD = 9


def row(ids: list[int], trained: list[int]) -> Row:
    return Row(ids=tuple(ids), loss_mask=tuple(bool(t) for t in trained), prompt_length=trained.count(0), cut=False)


# The second row holds the pad's id as a real token: a mask made by comparing ids loses it.
ROWS = [row([5, 6, 7, 1], [0, 0, 1, 1]), row([PAD, 1], [0, 1]), row([4, 4, 1], [0, 1, 1])]


def test_pad_right() -> None:
    batch = pad_right(ROWS, PAD)
    assert batch.ids.tolist() == [[5, 6, 7, 1], [PAD, 1, PAD, PAD], [4, 4, 1, PAD]]
    assert batch.mask.tolist() == [[True] * 4, [True, True, False, False], [True, True, True, False]]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0], [0, 1, 2, 0]]
    assert batch.loss_mask.tolist() == [[False, False, True, True], [False, True, False, False], [False, True, True, False]]
    assert [t.dtype for t in (batch.ids, batch.mask, batch.positions, batch.loss_mask)] == [
        torch.int64,
        torch.bool,
        torch.int64,
        torch.bool,
    ]


def test_a_mask_from_ids_would_differ() -> None:
    batch = pad_right(ROWS, PAD)
    assert not torch.equal(batch.ids != PAD, batch.mask)


def test_pad_left() -> None:
    batch = pad_left([[5, 6, 7, 1], [PAD, 1], [4]], PAD)
    assert batch.ids.tolist() == [[5, 6, 7, 1], [PAD, PAD, PAD, 1], [PAD, PAD, PAD, 4]]
    assert batch.mask.tolist() == [[True] * 4, [False, False, True, True], [False, False, False, True]]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert not batch.loss_mask.any()


@pytest.mark.parametrize("pad", [pad_right, lambda rows, pad_id: pad_left([r.ids for r in rows], pad_id)])
def test_positions_count_the_real_tokens(pad: object) -> None:
    batch = pad(ROWS, PAD)  # type: ignore[operator]
    counted = batch.mask.long().cumsum(1) - 1
    assert torch.equal(batch.positions[batch.mask], counted[batch.mask])


def test_the_pad_is_never_trained() -> None:
    batch = pad_right(ROWS, PAD)
    assert not (batch.loss_mask & ~batch.mask).any()
    assert int(batch.loss_mask.sum()) == sum(sum(r.loss_mask) for r in ROWS)


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 200))
def test_micro_batches(lengths: list[int], budget: int) -> None:
    groups = micro_batches(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert groups == micro_batches(lengths, budget)
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget
    # Of similar length: no group reaches below the longest row of the one before it.
    ends = [(min(lengths[i] for i in group), max(lengths[i] for i in group)) for group in groups]
    assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_micro_batches_are_filled() -> None:
    assert micro_batches([3, 1, 3, 1, 1], 6) == [[1, 3, 4], [0, 2]]
    assert micro_batches([7, 2], 4) == [[1], [0]]
    assert micro_batches([], 4) == []


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=60), st.integers(1, 200))
def test_families_stay_together(rows: list[tuple[int, int]], budget: int) -> None:
    lengths, families = [length for length, _ in rows], [family for _, family in rows]
    groups = micro_batches(lengths, budget, families)
    order = [i for group in groups for i in group]
    assert sorted(order) == list(range(len(rows)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget
    assert len([1 for a, b in pairwise(order) if families[a] != families[b]]) == max(0, len(set(families)) - 1)


def test_families_by_their_longest_row() -> None:
    """Family 1 ends with 5 tokens, 0 with 3: by length alone they mix."""
    lengths, families = [5, 2, 3, 1], [1, 0, 0, 1]
    assert micro_batches(lengths, 6, families) == [[1, 2], [3], [0]]
    assert micro_batches(lengths, 6) == [[3, 1], [2], [0]]


def test_batches_by_prompt() -> None:
    """The prompt is what comes before the first token that is trained: `5 6` twice, `5 7` once."""
    given = [row([5, 6, 8, 8, 8], [0, 0, 1, 1, 1]), row([5, 7, 8], [0, 0, 1]), row([5, 6, 9], [0, 0, 1])]
    assert [i for i, _ in batches(given, pad_id=PAD, token_budget=5, by_prompt=True)] == [[1], [2], [0]]
    assert [i for i, _ in batches(given, pad_id=PAD, token_budget=10, by_prompt=True)] == [[1, 2], [0]]
    assert [i for i, _ in batches(given, pad_id=PAD, token_budget=15, by_prompt=True)] == [[1, 2, 0]]


def test_whole_numbers() -> None:
    told = whole_numbers(range(2**40, 2**40 + 3))
    assert told.dtype == torch.int64 and told.tolist() == [2**40, 2**40 + 1, 2**40 + 2]
    told += 1  # nobody else's memory, and it can be written
    assert told.tolist() == [2**40 + 1, 2**40 + 2, 2**40 + 3]
    assert whole_numbers(iter([-1])).tolist() == [-1]


def test_batches_give_each_row_once() -> None:
    seen = []
    for indices, batch in batches(ROWS, pad_id=PAD, token_budget=6):
        for place, index in enumerate(indices):
            assert batch.ids[place][batch.mask[place]].tolist() == list(ROWS[index].ids)
            assert batch.ids.numel() <= 6
            seen.append(index)
    assert sorted(seen) == [0, 1, 2]
    assert list(batches([], pad_id=PAD, token_budget=6)) == []
