"""Log-probabilities of tokens from logits, or from the states that logits are made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

# Logits made at once: 64 MB in bf16; the products of twice as many take a little longer (lab/speed.md#vocabulary).
CHUNK = 2**25
KEPT = 2**27  # exponentials kept for the backward pass, rather than made again: 256 MB in bf16
BLOCK = 2**18  # logits exponentiated at once in fp32: 1 MB stays in the processor's cache
# Tokens in an fp32 product on a processor: all of GPT-2's at once take half as long again (lab/speed.md#vocabulary-in-pieces).
COLUMNS = 2**11


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target] in fp32 whatever the logits' type.

    logits (..., V), targets (...) int64 -> (...). Computed as logit minus log-sum-exp, so no (..., V) table of
    log-probabilities is made.
    """
    logits = logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(logits, dim=-1)


def projected_logprobs(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, temperature: float, precision: torch.dtype
) -> Tensor:
    """log softmax((states weight^T + bias) / temperature)[target] in fp32, by a projection computed in `precision`.

    states (N, d), weight (V, d), bias (V,), targets (N,) int64 -> (N,). The same as `token_logprobs` of the logits, with fewer
    passes over them: no fp32 copy is ever whole in memory, and with a large vocabulary much of a small model's time goes into
    such passes. Its gradient is that of the softmax, (onehot - p) / temperature, through the same products as autograd's.
    """
    learns = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (states, weight, bias))
    keeps = learns and len(targets) * len(weight) <= KEPT
    found: Tensor = _Projected.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, targets, temperature, precision, keeps
    )
    return found


class _Projected(torch.autograd.Function):
    """What is kept for the backward pass stands in the logits' own place: exp(logit - greatest), at the target less their sum.

    A row of it times -1 / sum is onehot - p, and that factor is put on the narrow states, not on the wide row: so the backward
    pass is nothing but products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        precision: torch.dtype,
        keeps: bool,
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            inputs, table = states.to(precision), weight.to(precision)
            shift = None if bias is None else bias.to(precision)
            found = torch.empty(len(targets), dtype=torch.float32, device=states.device)
            sums = torch.empty_like(found)
            kept = []
            for here in _rows(len(targets), table, keeps=keeps):
                pieces = _logits(inputs[here], table, shift)
                _exponentiate(pieces, targets[here], temperature, found[here], sums[here], keeps=keeps)
                if keeps:
                    kept.extend(pieces)
        ctx.save_for_backward(inputs, table, shift, targets, sums, *kept)
        ctx.temperature, ctx.types = temperature, [None if x is None else x.dtype for x in (states, weight, bias)]
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, table, shift, targets, sums, *kept = ctx.saved_tensors
        factors = (-grad / (sums * ctx.temperature)).unsqueeze(1)
        new = torch.empty_like if len(targets) else torch.zeros_like  # what no row is added to is written by nobody
        for_states, for_weight, for_bias = (
            new(x, dtype=dtype) if needed else None
            for x, dtype, needed in zip((inputs, table, shift), ctx.types, ctx.needs_input_grad, strict=False)
        )
        columns = _columns(table)
        for number, here in enumerate(_rows(len(targets), table, keeps=len(kept) > 0)):
            if kept:
                pieces = kept[number * len(columns) : (number + 1) * len(columns)]
            else:
                pieces = _logits(inputs[here], table, shift)
                again = torch.empty(2, len(pieces[0]), dtype=torch.float32, device=table.device)
                _exponentiate(pieces, targets[here], ctx.temperature, *again, keeps=True)
            weighted = (inputs[here] * factors[here]).to(table.dtype)
            of_states = torch.empty_like(weighted)
            for tokens, terms in zip(columns, pieces, strict=True):
                if for_states is not None:
                    _add_product(of_states, terms, table[tokens], first=tokens.start == 0)
                if for_weight is not None:
                    _add_product(for_weight[tokens], terms.t(), weighted, first=number == 0)
                if for_bias is not None:
                    share = factors[here].to(terms.dtype)
                    _add_product(for_bias[tokens].unsqueeze(1), terms.t(), share, first=number == 0)
            if for_states is not None:
                for_states[here] = of_states * factors[here]
        return for_states, for_weight, for_bias, None, None, None, None


def _cut(rows: int, most: int, vocabulary: int) -> list[slice]:
    """Pieces of at most `most` logits, a row at least each."""
    size = max(1, most // vocabulary)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _pieced(table: Tensor) -> bool:
    """Whether a product with the vocabulary is made in pieces: fp32 on a processor."""
    return table.device.type == "cpu" and table.dtype == torch.float32


def _rows(count: int, table: Tensor, *, keeps: bool) -> list[slice]:
    """The rows of each product with the vocabulary: all of them where it is made in pieces and their logits are kept anyway."""
    return _cut(count, KEPT if keeps and _pieced(table) else CHUNK, len(table))


def _columns(table: Tensor) -> list[slice]:
    """The tokens of each product with the vocabulary."""
    return _cut(len(table), COLUMNS if _pieced(table) else len(table), 1)


def _logits(inputs: Tensor, table: Tensor, shift: Tensor | None) -> list[Tensor]:
    """(rows, tokens) of each piece of the vocabulary."""
    return [linear(inputs, table[tokens], None if shift is None else shift[tokens]) for tokens in _columns(table)]


def _add_product(whole: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """Add left @ right to `whole`; the first time write it there."""
    if whole.dtype == left.dtype:
        whole.addmm_(left, right, beta=0 if first else 1)  # with 0 whatever is there counts for nothing, NaN included
    elif first:
        whole.copy_(left @ right)
    else:
        whole.add_(left @ right)


def _exponentiate(
    pieces: Sequence[Tensor], targets: Tensor, temperature: float, found: Tensor, sums: Tensor, *, keeps: bool
) -> None:
    """Write each row's log-prob of its target into `found` and the sum of its exp(logit - greatest) into `sums`, given its
    logits in pieces side by side. With `keeps` these stand in the place of the logits afterwards, at the target less their
    sum."""
    places = _places(pieces, targets)
    chosen = torch.empty_like(found)
    for piece, rows, columns in places:
        chosen[rows] = piece[rows, columns].float() / temperature
    for here in _cut(len(targets), BLOCK, pieces[0].shape[1]):
        scaled = [piece[here].float() for piece in pieces]  # fp32 logits themselves: written over
        if temperature != 1.0:
            scaled = [part.div_(temperature) for part in scaled]
        most = reduce(torch.maximum, [part.amax(1, keepdim=True) for part in scaled])
        whole = torch.stack([part.sub_(most).exp_().sum(1) for part in scaled]).sum(0)
        chosen[here] -= most.squeeze(1)
        found[here], sums[here] = chosen[here] - whole.log(), whole
        if keeps and pieces[0].dtype != torch.float32:
            for piece, part in zip(pieces, scaled, strict=True):
                piece[here] = part
    if keeps:
        for piece, rows, columns in places:
            piece[rows, columns] = (chosen[rows].exp_() - sums[rows]).to(piece.dtype)


def _places(pieces: Sequence[Tensor], targets: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(piece, rows, columns): where each row's target lies in the pieces that have any."""
    if len(pieces) == 1:
        return [(pieces[0], torch.arange(len(targets), device=targets.device), targets)]
    width = pieces[0].shape[1]
    numbers = targets // width
    rows = {number: (numbers == number).nonzero().squeeze(1) for number in sorted(set(numbers.tolist()))}
    return [(pieces[number], here, targets[here] - number * width) for number, here in rows.items()]
