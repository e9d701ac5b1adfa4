"""Log-probabilities of tokens from logits, or from the states that logits are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

CHUNK = 2**25  # logits made at once: 64 MB in bf16; of twice as many the products take a little longer (LAB.md)
KEPT = 2**27  # exponentials kept for the backward pass, rather than made again: 256 MB in bf16
BLOCK = 2**18  # logits exponentiated at once in fp32: 1 MB stays in the processor's cache


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
            for here in _cut(len(targets), CHUNK, len(weight)):
                logits = linear(inputs[here], table, shift)
                _exponentiate(logits, targets[here], temperature, found[here], sums[here], keeps=keeps)
                if keeps:
                    kept.append(logits)
        ctx.save_for_backward(inputs, table, shift, targets, sums, *kept)
        ctx.temperature, ctx.types = temperature, [None if x is None else x.dtype for x in (states, weight, bias)]
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, table, shift, targets, sums, *kept = ctx.saved_tensors
        factors = (-grad / (sums * ctx.temperature)).unsqueeze(1)
        need_states, need_weight, need_bias = ctx.needs_input_grad[:3]
        of_states, of_weight, of_bias = ctx.types
        for_states = torch.empty_like(inputs, dtype=of_states) if need_states else None
        for_weight, for_bias = (None, None)
        for number, here in enumerate(_cut(len(targets), CHUNK, len(table))):
            if kept:
                terms = kept[number]
            else:
                terms = linear(inputs[here], table, shift)
                again = torch.empty(2, len(terms), dtype=torch.float32, device=terms.device)
                _exponentiate(terms, targets[here], ctx.temperature, *again, keeps=True)
            if for_states is not None:
                for_states[here] = (terms @ table) * factors[here]
            if need_weight:
                part = terms.t() @ (inputs[here] * factors[here]).to(terms.dtype)
                for_weight = part.to(of_weight) if for_weight is None else for_weight.add_(part)
            if need_bias:
                share = (terms.t() @ factors[here].to(terms.dtype))[:, 0].to(of_bias)
                for_bias = share if for_bias is None else for_bias.add_(share)
        return for_states, for_weight, for_bias, None, None, None, None


def _cut(rows: int, most: int, vocabulary: int) -> list[slice]:
    """Pieces of at most `most` logits, a row at least each."""
    size = max(1, most // vocabulary)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _exponentiate(logits: Tensor, targets: Tensor, temperature: float, found: Tensor, sums: Tensor, *, keeps: bool) -> None:
    """Write each row's log-prob of its target into `found` and the sum of its exp(logit - greatest) into `sums`. With `keeps`
    these stand in the place of the logits afterwards, at the target less their sum."""
    for here in _cut(len(logits), BLOCK, logits.shape[1]):
        at = targets[here].unsqueeze(1)
        scaled = logits[here].float()  # fp32 logits themselves: written over
        if temperature != 1.0:
            scaled = scaled.div_(temperature)
        most = scaled.amax(1, keepdim=True)
        chosen = scaled.gather(1, at) - most
        terms = scaled.sub_(most).exp_()
        whole = terms.sum(1, keepdim=True)
        found[here], sums[here] = (chosen - whole.log()).squeeze(1), whole.squeeze(1)
        if keeps:
            logits[here] = terms
            logits[here].scatter_(1, at, (chosen.exp_() - whole).to(logits.dtype))
