"""Sampling: prompts in, completions out, with the log-prob of every token. Seeded, and each row's draws are its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.errors import TrainingError
from sawyer.models.forward import next_logits
from sawyer.text import Codec, pad_left

ROWS = 256  # sampled together; more gain nothing on a processor and cost cache
LEAVE = 0.25  # share of a batch's rows that must have ended before they are taken out: taking out copies the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Example: ids `(7, 9, 1)`, logprobs `(-0.7, -2.1, -0.1)`, ended True where 1 is EOS."""

    ids: tuple[int, ...]  # the response's tokens, with EOS where it ended by itself
    logprobs: tuple[float, ...]  # log pi of each at the sampling temperature, over the whole vocabulary
    ended: bool  # False: the length limit cut it


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    codec: Codec,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    greedy: bool = False,
) -> list[Completion]:
    """One completion a prompt, in the prompts' order. Pure sampling: no top-k, no top-p.

    Each row's uniform numbers are drawn before anything else, so a row's answer does not depend on which rows share its batch.
    The pad token and rows of the model beyond the tokenizer are never drawn. A row stops at the model's context at the latest.
    Raises TrainingError where the model's logits are no numbers to draw from.
    """
    draws = torch.rand(len(prompts), max_new_tokens, generator=generator, dtype=torch.float64)
    room = [min(max_new_tokens, codec.context - len(ids)) for ids in prompts]
    order = sorted((i for i in range(len(prompts)) if room[i] > 0), key=lambda i: len(prompts[i]))
    found = {i: Completion(ids=(), logprobs=(), ended=False) for i in range(len(prompts)) if room[i] <= 0}
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        limits = [room[i] for i in chosen]
        completions = _sample(model, [prompts[i] for i in chosen], codec, limits, temperature, draws[chosen], greedy)
        found |= dict(zip(chosen, completions, strict=True))
    return [found[i] for i in range(len(prompts))]


@torch.no_grad()
def deliberate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    codec: Codec,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[Completion]:
    """The original SAWYER's setting: temperature 0.5, top-k 10, no repeated bigram, 5 beams. Log-probs are not told."""
    device = next(model.parameters()).device
    never = [codec.pad_id, *range(codec.size, model.get_input_embeddings().weight.shape[0])]
    found: list[Completion] = []
    for ids in prompts:
        limit = min(max_new_tokens, codec.context - len(ids))
        if limit <= 0:
            found.append(Completion(ids=(), logprobs=(), ended=False))
            continue
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            inputs = torch.tensor([list(ids)], device=device)
            out = model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=True,
                temperature=0.5,
                top_k=10,
                top_p=1.0,
                no_repeat_ngram_size=2,
                num_beams=5,
                max_new_tokens=limit,
                pad_token_id=codec.pad_id,
                eos_token_id=codec.eos_id,
                suppress_tokens=never,
            )[0, len(ids) :].tolist()
        ended = codec.eos_id in out
        kept = out[: out.index(codec.eos_id) + 1] if ended else [i for i in out if i != codec.pad_id]
        found.append(Completion(ids=tuple(kept), logprobs=(), ended=ended))
    return found


def _sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    codec: Codec,
    limits: Sequence[int],
    temperature: float,
    draws: Tensor,
    greedy: bool,
) -> list[Completion]:
    device = next(model.parameters()).device
    draws, left = draws.to(device), torch.tensor(limits, device=device)
    tokens: list[Tensor] = []  # a column a step, of all rows; rows that left hold EOS
    logprobs: list[Tensor] = []
    alive = torch.arange(len(prompts), device=device)  # which prompts the batch's rows are
    running = torch.ones_like(left, dtype=torch.bool)
    ids, mask, positions = _padded(prompts, device)
    cache = None
    for step in range(max(limits)):
        logits, cache = next_logits(
            model, input_ids=ids, attention_mask=mask.long(), position_ids=positions, past_key_values=cache
        )
        logits /= temperature
        whole = torch.logsumexp(logits, 1)
        if not bool(torch.isfinite(whole).all()):
            raise _ruined()
        chosen = _draw(logits, None if greedy else draws[alive, step], codec)
        column = torch.full((len(prompts),), codec.eos_id, device=device)
        value = torch.zeros(len(prompts), device=device)
        column[alive] = chosen
        value[alive] = logits.gather(1, chosen.unsqueeze(1)).squeeze(1) - whole
        tokens.append(column)
        logprobs.append(value)
        running &= (column != codec.eos_id) & (left > step + 1)
        here = running[alive]
        count = int(here.sum())
        if count == 0:
            break
        if mask.shape[1] == codec.context:
            # Short rows' padding fills the context before their tokens do: what goes on is read again without it.
            alive = alive[here]
            written = zip(alive.tolist(), torch.stack(tokens, 1)[alive].tolist(), strict=True)
            ids, mask, positions = _padded([[*prompts[i], *row] for i, row in written], device)
            cache = None
            continue
        ids, positions = chosen.unsqueeze(1), positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        if count <= (1 - LEAVE) * len(alive):
            keep = torch.nonzero(here).squeeze(1)
            cache.batch_select_indices(keep)
            alive, ids, positions, mask = alive[keep], ids[keep], positions[keep], mask[keep]
    return _completions(torch.stack(tokens, 1), torch.stack(logprobs, 1), limits, codec.eos_id)


def _ruined() -> TrainingError:
    return TrainingError(
        "the model that was to answer gives logits that are not finite",
        expected="finite numbers",
        why="no token can be drawn from them: training has destroyed its weights",
        todo="lower the learning rate of the stage that trained it, and train it again",
    )


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, positions) padded on the left with each row's own last token: whatever a pad token's embedding is."""
    batch = pad_left(rows, 0).to(device)
    return torch.where(batch.mask, batch.ids, batch.ids[:, -1:]), batch.mask, batch.positions


def _draw(logits: Tensor, uniforms: Tensor | None, codec: Codec) -> Tensor:
    """The next token of each row by inverse distribution function: one uniform number a row. None: the likeliest token."""
    # float64: over 50,000 tokens the rounding of a running fp32 sum is as large as a rare token's share.
    allowed = logits.clone() if uniforms is None else logits.double()
    allowed[:, codec.pad_id] = -torch.inf
    allowed[:, codec.size :] = -torch.inf
    if uniforms is None:
        return allowed.argmax(1)
    summed = torch.softmax(allowed, dim=1).cumsum_(1)
    whole = summed[:, -1:].contiguous()
    # Below the whole sum even where rounding says otherwise, so that the token found always has a share of its own.
    target = (uniforms.unsqueeze(1) * whole).minimum(torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(summed, target, right=True).squeeze(1)


def _completions(tokens: Tensor, logprobs: Tensor, limits: Sequence[int], eos_id: int) -> list[Completion]:
    found = []
    for ids, values, limit in zip(tokens.tolist(), logprobs.tolist(), limits, strict=True):
        ended = eos_id in ids[:limit]
        length = ids.index(eos_id) + 1 if ended else min(limit, len(ids))
        found.append(Completion(ids=tuple(ids[:length]), logprobs=tuple(values[:length]), ended=ended))
    return found
