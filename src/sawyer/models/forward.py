"""Networks forward: log-probs of trained tokens, scores of sequences, values of states. fp32 out, whatever the precision.

The vocabulary's projection runs on trained positions only and in chunks: most of a small model's arithmetic, and all of its
memory, would otherwise go into logits that are discarded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from sawyer.maths import projected_logprobs, token_entropies, token_logprobs
from sawyer.models.fast import missing_to_multiple, packs_exactly, real_states
from sawyer.models.map_rows import MapRows, map_here
from sawyer.models.network_parts import fill_padding, head_of, network_of, score_head, splits_exactly, trunk_of
from sawyer.text import Batch, Row, batches

TOKEN_BUDGET = 16384  # padded tokens that go through a network at once where nothing is trained
CHUNK = 2**24  # logits in memory at once; 64 MB in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Example: ids `[5, 6, 7, 1]`, loss_mask `[F, F, T, T]` -> logprobs `[0, 0, log pi(7|5,6), log pi(1|5,6,7)]`."""

    logprobs: Tensor  # (B, T) fp32, at trained positions; 0 elsewhere


def policy_logprobs(model: nn.Module, batch: Batch, *, temperature: float = 1.0, states: Tensor | None = None) -> TokenLogprobs:
    """log pi(ids[t] | ids[:t]) at the trained positions of a right-padded batch, logits divided by `temperature`.

    The first token of a row has no state before it and must not be trained. `states` are the batch's `trunk_states` where
    the caller has them already.
    """
    rows, columns = torch.nonzero(batch.loss_mask, as_tuple=True)
    table = torch.zeros(batch.ids.shape, dtype=torch.float32, device=batch.ids.device)
    if len(rows) == 0:
        return TokenLogprobs(logprobs=table)
    if bool((columns == 0).any()):
        raise ValueError("the first token of a row cannot be trained: nothing comes before it")
    targets = batch.ids[rows, columns]
    if splits_exactly(model):
        hidden = _states_before(model, batch, rows, columns, states)
        logprobs = _project_logprobs(model, hidden, targets, temperature)
    else:
        logits = model(input_ids=fill_padding(batch.ids, batch.mask), use_cache=False).logits[rows, columns - 1]
        logprobs = token_logprobs(logits.float() / temperature, targets)
    return TokenLogprobs(logprobs=table.index_put((rows, columns), logprobs))


@torch.no_grad()
def policy_entropies(model: nn.Module, batch: Batch, *, temperature: float = 1.0, states: Tensor | None = None) -> Tensor:
    """(B, T) fp32: the entropy in nats of the distribution from which each trained token is drawn; 0 elsewhere.

    Of the whole distribution, not of the token that was drawn; otherwise as `policy_logprobs`.
    """
    rows, columns = torch.nonzero(batch.loss_mask, as_tuple=True)
    table = torch.zeros(batch.ids.shape, dtype=torch.float32, device=batch.ids.device)
    if len(rows) == 0:
        return table
    pieces: Iterator[Tensor]
    if splits_exactly(model):
        head = head_of(model)
        hidden = _states_before(model, batch, rows, columns, states)
        pieces = (head(states) for states in hidden.split(max(1, CHUNK // head.weight.shape[0])))
    else:
        pieces = iter([model(input_ids=fill_padding(batch.ids, batch.mask), use_cache=False).logits[rows, columns - 1]])
    return table.index_put((rows, columns), torch.cat([token_entropies(logits.float() / temperature) for logits in pieces]))


@torch.no_grad()
def mean_loss(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    pad_id: int,
    token_budget: int,
    device: torch.device,
    map_rows: MapRows = map_here,
) -> float:
    """Mean of -log pi over the trained tokens of `rows`, in nats a token."""
    losses = row_losses(model, rows, pad_id=pad_id, token_budget=token_budget, device=device, map_rows=map_rows)
    return math.fsum(losses) / sum(sum(row.loss_mask) for row in rows)


@torch.no_grad()
def row_losses(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    pad_id: int,
    token_budget: int,
    device: torch.device,
    map_rows: MapRows = map_here,
) -> list[float]:
    """(B,) -log pi of each row's trained tokens, in nats a row."""
    cost = row_cost(model)

    def read(mine: list[int]) -> list[float]:
        losses = [0.0] * len(mine)
        for indices, batch in batches([rows[i] for i in mine], pad_id=pad_id, token_budget=token_budget):
            sums = policy_logprobs(model, batch.to(device)).logprobs.double().sum(1)
            for index, value in zip(indices, sums.tolist(), strict=True):
                losses[index] = -value
        return losses

    return map_rows([cost(row) for row in rows], read)


def sequence_logits(model: nn.Module, batch: Batch, states: Tensor | None = None) -> Tensor:
    """(B, C) fp32: what the head says of each row, read at its last real token (decoders) or as the architecture does.

    `states` are a decoder's `trunk_states` at those tokens at least, where the caller has them already.
    """
    head, trunk = score_head(model), trunk_of(model)
    if head is not None and states is not None:
        return head(states[last_tokens(batch)]).float()
    if head is None or trunk is model:
        types = {} if batch.types is None else {"token_type_ids": batch.types}
        return model(input_ids=batch.ids, attention_mask=batch.mask.long(), **types).logits.float()
    return head(real_states(trunk, batch, last_tokens(batch))).float()


def shares_prompts(model: nn.Module) -> bool:
    """Whether `sequence_logits` reads a prompt that several rows of a batch begin with once. On a card that seldom pays for the
    calls of attention that it takes, and such rows are read padded."""
    trunk = trunk_of(model)
    decodes = score_head(model) is not None and trunk is not model
    return decodes and next(model.parameters()).device.type == "cpu" and packs_exactly(trunk)


@torch.no_grad()
def is_causal(model: nn.Module) -> bool:
    """Whether what a network makes of a token leaves the tokens after it out: decoders do, encoders do not. It is tried."""
    settings: Any = model.config
    if settings.is_encoder_decoder:
        return False
    ids = torch.tensor([[0, 1, 0], [0, 1, 1]], device=next(model.parameters()).device)
    one, other = trunk_of(model)(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :2]
    return torch.allclose(one, other, atol=1e-5, rtol=1e-5)  # untrained weights attend weakly: little more than rounding


def last_tokens(batch: Batch) -> Tensor:
    """(B, T) bool: each row's last real token."""
    return batch.mask & ~pad(batch.mask[:, 1:], (0, 1))


def before_trained(batch: Batch) -> Tensor:
    """(B, T) bool: the tokens from whose states the trained ones are predicted, each the one before."""
    return pad(batch.loss_mask[:, 1:], (0, 1))


def trunk_states(model: nn.Module, batch: Batch, read: Tensor | None = None) -> Tensor:
    """(B, T, d): the last hidden state of a model's trunk at the tokens `read` (B, T) of a right-padded batch, 0 elsewhere.
    None: at every one."""
    states = real_states(trunk_of(model), batch, read)
    where = batch.mask if read is None else read
    return states.new_zeros(*where.shape, states.shape[-1]).index_put((where,), states)


def token_values(model: Any, batch: Batch, read: Tensor) -> Tensor:
    """(B, T) fp32: the value network's output at the tokens `read` (B, T) of a right-padded batch, 0 elsewhere."""
    trunk = model.trunk if hasattr(model, "trunk") else trunk_of(model.policy)
    values = model.head(real_states(trunk, batch, read))[:, 0].float()
    return values.new_zeros(read.shape).index_put((read,), values)


def _states_before(model: nn.Module, batch: Batch, rows: Tensor, columns: Tensor, states: Tensor | None) -> Tensor:
    """(n, d): the state from which the token at each place is predicted."""
    if states is None:
        return real_states(trunk_of(model), batch, before_trained(batch))
    return states[rows, columns - 1]


def _project_logprobs(model: nn.Module, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    head, device = head_of(model), hidden.device.type
    if type(head) is nn.Linear:
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
        count = len(targets)
        if missing := missing_to_multiple(count, device):
            hidden, targets = pad(hidden, (0, 0, 0, missing)), pad(targets, (0, missing))
        logprobs = projected_logprobs(hidden, head.weight, head.bias, targets, temperature=temperature, precision=precision)
        return logprobs[:count]

    def project(states: Tensor, chosen: Tensor) -> Tensor:
        return token_logprobs(head(states).float() / temperature, chosen)

    size = max(1, CHUNK // head.weight.shape[0])
    if len(hidden) <= size:
        return project(hidden, targets)
    pieces = []
    for states, chosen in zip(hidden.split(size), targets.split(size), strict=True):
        # Recomputed in the backward pass, so that one chunk's logits are held at a time.
        piece = checkpoint(project, states, chosen, use_reentrant=False) if torch.is_grad_enabled() else project(states, chosen)
        pieces.append(piece)
    return torch.cat(pieces)


def row_cost(model: Any) -> Callable[[Row], float]:
    """What a row costs, in weights met: by each token all but the embeddings, by a trained one those of the projection to the
    vocabulary too, which in a narrow model are most of them."""
    model = network_of(model)
    head, table = head_of(model), model.get_input_embeddings().weight
    projection = 0 if head is None else head.weight.numel()
    embeddings = 0 if head is not None and head.weight is table else table.numel()
    read = sum(weight.numel() for weight in model.parameters()) - projection - embeddings
    return lambda row: read * len(row.ids) + projection * sum(row.loss_mask)
