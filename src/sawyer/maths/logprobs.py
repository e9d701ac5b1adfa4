"""Log-probabilities of tokens from logits, or from the states that logits are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

CHUNK = 2**26  # logits made at once
KEPT = 2**27  # logits kept for the backward pass, rather than made again: 256 MB in bf16
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
    found: Tensor = _Projected.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, targets, temperature, precision
    )
    return found


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        precision: torch.dtype,
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            inputs, table = states.to(precision), weight.to(precision)
            shift = None if bias is None else bias.to(precision)
            keeps = any(ctx.needs_input_grad) and len(targets) * len(weight) <= KEPT
            whole, chosen = torch.empty(2, len(targets), dtype=torch.float32, device=states.device)
            kept = []
            for here in _cut(len(targets), CHUNK, len(weight)):
                logits = linear(inputs[here], table, shift)
                _summed(logits, targets[here], temperature, whole[here], chosen[here])
                if keeps:
                    kept.append(logits)
        ctx.save_for_backward(states, weight, bias, targets, whole, *kept)
        ctx.temperature, ctx.precision = temperature, precision
        found: Tensor = chosen - whole
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets, whole, *kept = ctx.saved_tensors
        inputs, table = states.to(ctx.precision), weight.to(ctx.precision)
        shift = None if bias is None else bias.to(ctx.precision)
        for_states, for_weight, for_bias = (None, None, None)
        need_states, need_weight, need_bias = ctx.needs_input_grad[:3]
        if need_states:
            for_states = torch.empty_like(states)
        for number, here in enumerate(_cut(len(targets), CHUNK, len(weight))):
            logits = kept[number] if kept else linear(inputs[here], table, shift)
            slope = _slopes(logits, targets[here], ctx.temperature, whole[here], grad[here])
            if for_states is not None:
                for_states[here] = slope @ table
            if need_weight:
                part = (slope.t() @ inputs[here]).to(weight.dtype)
                for_weight = part if for_weight is None else for_weight.add_(part)
            if need_bias:
                share = slope.sum(0, dtype=bias.dtype)
                for_bias = share if for_bias is None else for_bias.add_(share)
        return for_states, for_weight, for_bias, None, None, None


def _cut(rows: int, most: int, vocabulary: int) -> list[slice]:
    """Pieces of at most `most` logits, a row at least each."""
    size = max(1, most // vocabulary)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _summed(logits: Tensor, targets: Tensor, temperature: float, whole: Tensor, chosen: Tensor) -> None:
    """Write each row's log-sum-exp and its target's logit, both after the temperature, into `whole` and `chosen`."""
    for here in _cut(len(logits), BLOCK, logits.shape[1]):
        scaled = logits[here].float() if temperature == 1.0 else logits[here].float() / temperature
        chosen[here] = scaled.gather(1, targets[here].unsqueeze(1)).squeeze(1)
        most = scaled.amax(1, keepdim=True)
        # `logits.float()` of fp32 logits is the logits themselves: they are read again in the backward pass.
        terms = scaled.sub_(most) if scaled.dtype != logits.dtype else scaled - most
        whole[here] = terms.exp_().sum(1).log_() + most.squeeze(1)


def _slopes(logits: Tensor, targets: Tensor, temperature: float, whole: Tensor, grad: Tensor) -> Tensor:
    """(n, V) in the logits' type: grad times (onehot - softmax) / temperature."""
    slope = torch.empty_like(logits)
    share = grad / temperature
    for here in _cut(len(logits), BLOCK, logits.shape[1]):
        scaled = logits[here].float() if temperature == 1.0 else logits[here].float() / temperature
        terms = (scaled - whole[here].unsqueeze(1)).exp_().mul_(-share[here].unsqueeze(1))
        terms.scatter_add_(1, targets[here].unsqueeze(1), share[here].unsqueeze(1))
        slope[here] = terms
    return slope
