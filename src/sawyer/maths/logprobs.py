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
SAVE = 2**27  # exponentials saved for the backward pass, rather than computed again: 256 MB in bf16
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
    save = learns and len(targets) * len(weight) <= SAVE
    logprobs: Tensor = _ProjectedLogprobs.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, targets, temperature, precision, save
    )
    return logprobs


class _ProjectedLogprobs(torch.autograd.Function):
    """Saves for the backward pass, in the logits' memory, exp(logit - max), at the target less the row's sum.

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
        save: bool,
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            inputs, table = states.to(precision), weight.to(precision)
            shift = None if bias is None else bias.to(precision)
            logprobs = torch.empty(len(targets), dtype=torch.float32, device=states.device)
            sums = torch.empty_like(logprobs)
            exponentials = []
            for rows in _row_slices(len(targets), table, save=save):
                pieces = _logits(inputs[rows], table, shift)
                _exponentiate(pieces, targets[rows], temperature, logprobs[rows], sums[rows], save=save)
                if save:
                    exponentials.extend(pieces)
        ctx.save_for_backward(inputs, table, shift, targets, sums, *exponentials)
        ctx.temperature, ctx.types = temperature, [None if x is None else x.dtype for x in (states, weight, bias)]
        return logprobs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, table, shift, targets, sums, *exponentials = ctx.saved_tensors
        factors = (-grad / (sums * ctx.temperature)).unsqueeze(1)
        new = torch.empty_like if len(targets) else torch.zeros_like  # without rows nothing is ever written into it
        states_grad, weight_grad, bias_grad = (
            new(x, dtype=dtype) if needs_grad else None
            for x, dtype, needs_grad in zip((inputs, table, shift), ctx.types, ctx.needs_input_grad, strict=False)
        )
        columns = _column_slices(table)
        for number, rows in enumerate(_row_slices(len(targets), table, save=len(exponentials) > 0)):
            if exponentials:
                pieces = exponentials[number * len(columns) : (number + 1) * len(columns)]
            else:
                pieces = _logits(inputs[rows], table, shift)
                again = torch.empty(2, len(pieces[0]), dtype=torch.float32, device=table.device)
                _exponentiate(pieces, targets[rows], ctx.temperature, *again, save=True)
            scaled_states = (inputs[rows] * factors[rows]).to(table.dtype)
            rows_grad = torch.empty_like(scaled_states)
            for tokens, terms in zip(columns, pieces, strict=True):
                if states_grad is not None:
                    _add_product(rows_grad, terms, table[tokens], first=tokens.start == 0)
                if weight_grad is not None:
                    _add_product(weight_grad[tokens], terms.t(), scaled_states, first=number == 0)
                if bias_grad is not None:
                    share = factors[rows].to(terms.dtype)
                    _add_product(bias_grad[tokens].unsqueeze(1), terms.t(), share, first=number == 0)
            if states_grad is not None:
                states_grad[rows] = rows_grad * factors[rows]
        return states_grad, weight_grad, bias_grad, None, None, None, None


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _in_pieces(table: Tensor) -> bool:
    """Whether a product with the vocabulary is made in pieces: fp32 on a processor."""
    return table.device.type == "cpu" and table.dtype == torch.float32


def _row_slices(count: int, table: Tensor, *, save: bool) -> list[slice]:
    """The rows of each product with the vocabulary: all of them where it is in pieces and the logits are saved anyway."""
    return _slices(count, max(1, (SAVE if save and _in_pieces(table) else CHUNK) // len(table)))


def _column_slices(table: Tensor) -> list[slice]:
    """The tokens of each product with the vocabulary."""
    return _slices(len(table), COLUMNS if _in_pieces(table) else len(table))


def _logits(inputs: Tensor, table: Tensor, shift: Tensor | None) -> list[Tensor]:
    """(rows, tokens) of each piece of the vocabulary."""
    return [linear(inputs, table[tokens], None if shift is None else shift[tokens]) for tokens in _column_slices(table)]


def _add_product(whole: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """Add left @ right to `whole`; the first time write it there."""
    if whole.dtype == left.dtype:
        whole.addmm_(left, right, beta=0 if first else 1)  # beta 0 ignores the old content, NaN included
    elif first:
        whole.copy_(left @ right)
    else:
        whole.add_(left @ right)


def _exponentiate(
    pieces: Sequence[Tensor], targets: Tensor, temperature: float, logprobs: Tensor, sums: Tensor, *, save: bool
) -> None:
    """Write each row's log-prob of its target into `logprobs` and the sum of its exp(logit - max) into `sums`, from its logits
    in pieces side by side. With `save` these replace the logits, at the target less their sum."""
    target_entries = _target_entries(pieces, targets)
    chosen = torch.empty_like(logprobs)
    for piece, rows, columns in target_entries:
        chosen[rows] = piece[rows, columns].float() / temperature
    for block in _slices(len(targets), max(1, BLOCK // pieces[0].shape[1])):
        logits = [piece[block].float() for piece in pieces]  # of fp32 pieces views, which the next lines write over
        if temperature != 1.0:
            logits = [part.div_(temperature) for part in logits]
        largest = reduce(torch.maximum, [part.amax(1, keepdim=True) for part in logits])
        total = torch.stack([part.sub_(largest).exp_().sum(1) for part in logits]).sum(0)
        chosen[block] -= largest.squeeze(1)
        logprobs[block], sums[block] = chosen[block] - total.log(), total
        if save and pieces[0].dtype != torch.float32:
            for piece, part in zip(pieces, logits, strict=True):
                piece[block] = part
    if save:
        # 1 - p from fp32 numbers: for a sure token the exponential alone rounds it away.
        for piece, rows, columns in target_entries:
            piece[rows, columns] = (chosen[rows].exp_() - sums[rows]).to(piece.dtype)


def _target_entries(pieces: Sequence[Tensor], targets: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(piece, rows, columns): the entries of the rows' targets in the pieces that have any."""
    if len(pieces) == 1:
        return [(pieces[0], torch.arange(len(targets), device=targets.device), targets)]
    width = pieces[0].shape[1]
    numbers = targets // width
    rows = {number: (numbers == number).nonzero().squeeze(1) for number in sorted(set(numbers.tolist()))}
    return [(pieces[number], indices, targets[indices] - number * width) for number, indices in rows.items()]
