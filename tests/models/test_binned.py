"""Attention of rows in bins, against sums written out: each token of each row by itself, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sawyer.models import binned
from sawyer.models.binned import Binned
from sawyer.models.fast import packing_layout
from sawyer.models.fast.packing_layout import Bins, PackedLayout, PrefixGroup

# 4 | 2 1 4 ; 5 ; 1 | 3 1 ; 6 ; 9: two prompts that are shared and rows of several lengths. 0-3 | 4 5 | 6 ...
FAMILIES = (
    PrefixGroup(shared=4, own=(2, 1, 4)),
    PrefixGroup(shared=0, own=(5,)),
    PrefixGroup(shared=1, own=(3, 1)),
    PrefixGroup(shared=0, own=(6,)),
    PrefixGroup(shared=0, own=(9,)),
)
COUNT = 4 + 7 + 5 + 1 + 4 + 6 + 9
LAST = nn.Identity()


def rows_by_hand() -> list[tuple[list[int], list[int]]]:
    """(the prompt that is shared, what is the row's own), token by token."""
    return [
        ([0, 1, 2, 3], [4, 5]),
        ([0, 1, 2, 3], [6]),
        ([0, 1, 2, 3], [7, 8, 9, 10]),
        ([], [11, 12, 13, 14, 15]),
        ([16], [17, 18, 19]),
        ([16], [20]),
        ([], [21, 22, 23, 24, 25, 26]),
        ([], [27, 28, 29, 30, 31, 32, 33, 34, 35]),
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


def inputs(generator: torch.Generator, *, heads: int = 4, read: int = 4, width: int = 3) -> list[Tensor]:
    counts = (heads, read, read)
    return [torch.randn(h, COUNT, width, generator=generator, dtype=torch.float64).requires_grad_() for h in counts]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What has been laid out, before and after."""
    packing_layout._bins.cache_clear()
    yield
    packing_layout._bins.cache_clear()


@pytest.fixture(params=[9, 16, 96])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Places of a bin. With 9, as many as the longest row has, the first family is cut, its prompt in two bins; with 16 one is
    filled up; with 96 all are in one."""
    monkeypatch.setattr(packing_layout, "WIDTH", request.param)
    return int(request.param)


def in_bins(read: Tensor | None = None, families: tuple[PrefixGroup, ...] = FAMILIES) -> Bins:
    return PackedLayout(families=families, read=read, last=LAST).bins(LAST)


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize(("heads", "read"), [(4, 4), (4, 2), (3, 1)])
def test_states_and_gradients_are_those_of_sums_by_hand(generator: torch.Generator, heads: int, read: int) -> None:
    given = inputs(generator, heads=heads, read=read)
    aim = torch.randn(COUNT, heads, 3, generator=generator, dtype=torch.float64)
    found, known = Binned.apply(*given, in_bins(), 0.7), by_hand(*given, 0.7)
    assert torch.allclose(found, known, atol=1e-12)
    for mine, theirs in zip(slopes(found, aim, given), slopes(known, aim, given), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def slopes(found: Tensor, aim: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((found * aim).sum(), given, retain_graph=True)


@pytest.mark.usefixtures("width")
def test_in_the_last_layer_only_those_attend_whose_states_are_read(generator: torch.Generator) -> None:
    """A prompt's token, one of an answer that may lie behind a copy of it, two of one row, the end of another."""
    read = torch.tensor([3, 9, 13, 15, 20])
    given = inputs(generator)
    aim = torch.randn(COUNT, 4, 3, generator=generator, dtype=torch.float64)
    bins = in_bins(read)
    found, known = Binned.apply(*given, bins, 0.7), by_hand(*given, 0.7)
    mine = torch.zeros(COUNT, dtype=torch.bool).index_fill_(0, read, True)
    assert torch.allclose(found[mine], known[mine], atol=1e-12)
    assert bool((found[~mine] == 0).all())
    aim[~mine] = 0
    for one, other in zip(slopes(found, aim, given), slopes(known, aim, given), strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert len(bins.asking) <= 5 * bins.count < len(bins.tokens)
    everyone = PackedLayout(families=FAMILIES, read=read, last=LAST).bins(nn.Identity())
    assert everyone.attending is None  # before the last one all attend


def test_copies_of_a_prompt_and_what_fills_up_give_no_gradient(generator: torch.Generator, width: int) -> None:
    """The likely mistake: such places get the gradient of the token that stands there, and keys and values theirs twice."""
    families = (PrefixGroup(shared=3, own=(4, 3)),)
    bins = in_bins(families=families)
    assert (len(bins.order) - 10, len(bins.tokens) - len(bins.order)) == ((3, 1) if width == 9 else (0, 0))
    given = [torch.randn(1, 10, 2, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    taken = Binned.apply(*given, bins, 1.0)
    plain = torch.stack([hand(given, [*range(min(token + 1, 3)), *range(3, token + 1)]) for token in range(7)])
    plain = torch.cat([plain, torch.stack([hand(given, [0, 1, 2, *range(7, token + 1)]) for token in range(7, 10)])])
    assert torch.allclose(taken[:, 0], plain, atol=1e-12)
    aim = torch.ones(10, 1, 2, dtype=torch.float64)
    found, known = slopes(taken, aim, given), slopes(plain.unsqueeze(1), aim, given)
    for mine, theirs in zip(found, known, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)
    aim[:3] += 1  # as if both copies of the prompt spoke
    assert not torch.allclose(found[2], slopes(plain.unsqueeze(1), aim, given)[2], atol=1e-2)


def hand(given: list[Tensor], seen: list[int]) -> Tensor:
    """(D,): what the last of the tokens `seen` finds among them."""
    query, key, value = (x[0] for x in given)
    return (query[seen[-1]] @ key[seen].T).softmax(0) @ value[seen]


def test_heads_and_tokens_may_lie_in_any_order(generator: torch.Generator) -> None:
    """As GPT-2 has them, a token's query, key and value beside each other; as rotations leave them; and in no order that
    heads share."""
    plain = [x.detach() for x in inputs(generator)]
    fused = torch.cat([x.transpose(0, 1) for x in plain], 1)  # (N, 3 H, D)
    beside = [x.transpose(0, 1) for x in fused.split(4, 1)]
    odd = [torch.empty(4, 3, COUNT, dtype=torch.float64).transpose(1, 2).copy_(x) for x in plain]
    known = by_hand(*plain, 0.7)
    for given in (plain, beside, odd):
        assert torch.allclose(Binned.apply(*given, in_bins(), 0.7), known, atol=1e-12)


def test_how_rows_lie_in_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three answers to one prompt of three tokens, `0 1 2 | 3 4 | 5 | 6`, and a row `7 8`, in bins of six: the prompt is in
    both, and the last answer is read."""
    monkeypatch.setattr(packing_layout, "WIDTH", 6)
    families = (PrefixGroup(shared=3, own=(2, 1, 1)), PrefixGroup(shared=0, own=(2,)))
    bins = in_bins(families=families)
    assert bins.tokens.view(bins.count, -1).tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 6, 7, 8]]
    assert [["".join(".x"[int(x)] for x in row) for row in bin_[0] == 0] for bin_ in bins.bias] == [
        ["x.....", "xx....", "xxx...", "xxxx..", "xxxxx.", "xxx..x"],
        ["x.....", "xx....", "xxx...", "xxxx..", "....x.", "....xx"],
    ]
    assert bins.found.tolist() == [0, 1, 2, 3, 4, 5, 9, 10, 11]
    assert bins.order.tolist() == [0, 6, 1, 7, 2, 8, 3, 4, 5, 9, 10, 11]
    assert bins.starts.tolist() == [0, 2, 4, 6, 7, 8, 9, 10, 11]
    alone = in_bins(torch.tensor([6]), families)
    assert (alone.asking[alone.found].tolist(), alone.bias.shape) == ([6], (2, 1, 1, 6))
    assert (alone.bias[1, 0, 0] == 0).tolist() == [True, True, True, True, False, False]


def test_a_bin_is_as_wide_as_its_rows_need(width: int) -> None:
    """No wider than what lies in it, as wide as the longest row at least; and what fills up sees itself alone."""
    bins = in_bins()
    columns = len(bins.tokens) // bins.count
    assert columns == {9: 9, 16: 16, 96: COUNT}[width]
    assert bins.count == {9: 6, 16: 3, 96: 1}[width]
    assert bool(((bins.bias == 0).sum(3) >= 1).all())  # a row of -inf alone would be NaN
    assert in_bins(families=(PrefixGroup(shared=0, own=(3,)), PrefixGroup(shared=90, own=(20,)))).bias.shape[3] == 110


def test_which_rows_are_padded_together() -> None:
    lengths = [6, 4, 7, 9, 5]
    assert list(packing_layout._alike(lengths)) == [[1, 4, 0], [2, 3]]  # 6 is 1.5 times 4, 7 is more
    assert list(packing_layout._alike([])) == []


def test_a_layer_s_rows_are_laid_out_once_for_all_networks() -> None:
    for _ in range(3):
        in_bins(), in_bins(read=torch.tensor([3]))
    assert packing_layout._bins.cache_info().misses == 2


def test_sums_are_made_where_a_token_is_read_again(width: int) -> None:
    """A prompt's tokens once in each bin that has it; what fills up is not counted."""
    bins = in_bins()
    x = torch.ones(bins.count, 1, len(bins.tokens) // bins.count, 1)
    counts = binned._summed(x, bins, 1)[0, :, 0].tolist()
    assert counts == [2 if width == 9 else 1] * 4 + [1] * (COUNT - 4)
