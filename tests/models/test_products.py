"""Attention by products of rows padded together, against sums written out: each token of each row by itself, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sawyer.models import laid, products
from sawyer.models.laid import EndToEnd, Family, Layout
from sawyer.models.products import Products

# 4 | 2 1 ; 5 ; 1 | 3 ; 6 ; 9: two prompts that are shared and rows of several lengths. 0-3 | 4 5 | 6 ...
FAMILIES = (
    Family(shared=4, own=(2, 1)),
    Family(shared=0, own=(5,)),
    Family(shared=1, own=(3, 1)),
    Family(shared=0, own=(6,)),
    Family(shared=0, own=(9,)),
)
COUNT = 4 + 3 + 5 + 1 + 4 + 6 + 9
LAST = nn.Identity()


def rows_by_hand() -> list[tuple[list[int], list[int]]]:
    """(the prompt that is shared, what is the row's own), token by token."""
    return [
        ([0, 1, 2, 3], [4, 5]),
        ([0, 1, 2, 3], [6]),
        ([], [7, 8, 9, 10, 11]),
        ([12], [13, 14, 15]),
        ([12], [16]),
        ([], [17, 18, 19, 20, 21, 22]),
        ([], [23, 24, 25, 26, 27, 28, 29, 30, 31]),
    ]


def by_hand(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """(N, H, E): for each token those of its row up to itself, each head by itself."""
    said: dict[int, list[int]] = {}
    for prompt, own in rows_by_hand():
        row = prompt + own
        for place, token in enumerate(row):
            said[token] = row[: place + 1]
    heads, shared_by = query.shape[0], query.shape[0] // key.shape[0]
    found = [
        [
            (query[head, token] @ key[head // shared_by, seen].T * scale).softmax(0) @ value[head // shared_by, seen]
            for head in range(heads)
        ]
        for token, seen in sorted(said.items())
    ]
    return torch.stack([torch.stack(heads) for heads in found])


def inputs(generator: torch.Generator, *, heads: int = 4, read: int = 4, width: int = 3, told: int = 3) -> list[Tensor]:
    shapes = ((heads, width), (read, width), (read, told))
    return [torch.randn(h, COUNT, w, generator=generator, dtype=torch.float64).requires_grad_() for h, w in shapes]


def laid_out(heads: int = 4, key_heads: int = 4, *, read: Tensor | None = None) -> Layout:
    return EndToEnd(families=FAMILIES, read=read, last=LAST).layout(LAST, heads, key_heads)


@pytest.mark.parametrize(("heads", "read", "told"), [(4, 4, 3), (4, 2, 5), (3, 1, 3)])
def test_states_and_gradients_are_those_of_sums_by_hand(generator: torch.Generator, heads: int, read: int, told: int) -> None:
    given = inputs(generator, heads=heads, read=read, told=told)
    aim = torch.randn(COUNT, heads, told, generator=generator, dtype=torch.float64)
    found, known = Products.apply(*given, laid_out(heads, read), 0.7), by_hand(*given, 0.7)
    assert torch.allclose(found, known, atol=1e-12)
    for mine, theirs in zip(slopes(found, aim, given), slopes(known, aim, given), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def slopes(found: Tensor, aim: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((found * aim).sum(), given)


def test_in_the_last_layer_only_those_attend_whose_states_are_read(generator: torch.Generator) -> None:
    """A prompt's token, two of one row, the end of another; no row of which nothing is read is laid out."""
    read = torch.tensor([3, 9, 11, 16])
    given = inputs(generator)
    aim = torch.randn(COUNT, 4, 3, generator=generator, dtype=torch.float64)
    layout = laid_out(read=read)
    found, known = Products.apply(*given, layout, 0.7), by_hand(*given, 0.7)
    mine = torch.zeros(COUNT, dtype=torch.bool).index_fill_(0, read, True)
    assert torch.allclose(found[mine], known[mine], atol=1e-12)
    assert bool((found[~mine] == 0).all())
    aim[~mine] = 0
    for one, other in zip(slopes(found, aim, given), slopes(known, aim, given), strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert sum(len(group.bias) for group in layout.groups) == 3
    everyone = EndToEnd(families=FAMILIES, read=read, last=LAST).layout(nn.Identity(), 4, 4)
    assert everyone.tokens is None  # before the last one all attend


def test_queries_that_fill_up_give_no_gradient(generator: torch.Generator) -> None:
    """The likely mistake: such places get the gradient of the token that stands there, and keys and values theirs twice."""
    given = inputs(generator)
    aim = torch.randn(COUNT, 4, 3, generator=generator, dtype=torch.float64)
    layout = laid_out()
    assert len(layout.padding) > 0
    wrong = Products.apply(*given, replace(layout, padding=layout.padding[:0]), 0.7)
    right = by_hand(*given, 0.7)
    assert torch.allclose(wrong, right, atol=1e-12)
    assert not torch.allclose(slopes(wrong, aim, given)[1], slopes(right, aim, given)[1], atol=1e-2)


def test_heads_and_tokens_may_lie_in_any_order(generator: torch.Generator) -> None:
    """As GPT-2 has them, a token's query, key and value beside each other; as rotations leave them; and in no order that
    heads share."""
    plain = [x.detach() for x in inputs(generator)]
    fused = torch.cat([x.transpose(0, 1) for x in plain], 1)  # (N, 3 H, D)
    beside = [x.transpose(0, 1) for x in fused.split(4, 1)]
    odd = [torch.empty(4, 3, COUNT, dtype=torch.float64).transpose(1, 2).copy_(x) for x in plain]
    known = by_hand(*plain, 0.7)
    for given in (plain, beside, odd):
        assert torch.allclose(Products.apply(*given, laid_out(), 0.7), known, atol=1e-12)


def test_how_rows_are_laid_out() -> None:
    """Two answers to one prompt of three tokens, of which the second is read at its end: `0 1 2 | 3 4 | 5`."""
    families = (Family(shared=3, own=(2, 1)),)
    layout = EndToEnd(families=families).layout(LAST, 1, 1)
    prompt, answers = layout.groups
    assert layout.queries.tokens[prompt.queries].tolist() == layout.keys.tokens[prompt.keys].tolist() == [0, 1, 2]
    assert layout.queries.tokens[answers.queries].tolist() == [5, 0, 3, 4]  # the shorter first, filled up
    assert layout.keys.tokens[answers.keys].tolist() == [0, 1, 2, 5, 0, 0, 1, 2, 3, 4]
    assert (answers.bias == 0)[:, 0].tolist() == [
        [[True, True, True, True, False], [True, False, False, False, False]],
        [[True, True, True, True, False], [True, True, True, True, True]],
    ]
    assert layout.padding.tolist() == [4]
    assert layout.places.tolist() == [0, 1, 2, 5, 6, 3]
    alone = EndToEnd(families=families, read=torch.tensor([5]), last=LAST).layout(LAST, 1, 1)
    assert [group.bias.shape for group in alone.groups] == [(1, 1, 1, 4)]
    assert (alone.queries.tokens.tolist(), alone.keys.tokens.tolist()) == ([5], [0, 1, 2, 5])


def test_which_rows_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [6, 4, 7, 9, 5]
    assert list(laid._alike(range(5), lengths)) == [[1, 4, 0], [2, 3]]  # 6 is 1.5 times 4, 7 is more
    assert list(laid._alike([3, 0], lengths)) == [[0, 3]]
    assert list(laid._alike(range(5), lengths, 2 * 5**2)) == [[1, 4], [0], [2], [3]]  # a row alone may have more
    assert list(laid._alike([], lengths)) == []
    many = EndToEnd(families=(Family(shared=0, own=(7,)),) * 6)
    monkeypatch.setattr(laid, "SCORES", 3 * 7**2)
    laid._layout.cache_clear()
    assert [len(group.bias) for group in many.layout(LAST, 1, 1).groups] == [3, 3]
    assert [len(places) for places in many.whole.places] == [6]  # a kernel holds no scores
    laid._layout.cache_clear()


def test_a_layer_s_rows_are_laid_out_once_for_all_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    laid._layout.cache_clear()
    for _ in range(3):
        laid_out(), laid_out(read=torch.tensor([3]))
    assert laid._layout.cache_info().misses == 2


def test_sums_are_made_where_a_token_is_read_again() -> None:
    """The prompt's tokens once in their own row and once in each answer; every other token once."""
    layout = laid_out(1, 1)
    x = torch.ones(len(layout.keys.tokens), 1)
    counts = products._summed(x, layout, torch.Size((1, COUNT, 1)))[0, :, 0].tolist()
    fillers = torch.bincount(layout.keys.tokens, minlength=COUNT).tolist()
    assert counts == fillers  # fillers too: they are hidden, so that theirs is 0
    assert counts[1:4] == [3, 3, 3] and counts[4] == 1
