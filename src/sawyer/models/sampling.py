"""Sampling: prompts in, completions out, with the log-prob of every token. Seeded, and each row's draws are its own, but for
beam search, where they are a batch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.errors import NotFiniteError
from sawyer.models.decoding import caches_exactly, new_decoder
from sawyer.models.fast import missing_to_multiple, prepack_weights, rows_that_fit
from sawyer.models.map_rows import MapRows, map_here
from sawyer.text import PromptEncoder, pad_left

ROWS = 256  # sampled together at least
# Memory up to which there may be more rows: a step of a narrow model takes little longer for many rows than for one.
CACHE_BYTES = 2**30
BLOCK = 256  # tokens whose shares are summed before the running sum is taken
BEAM_PROMPTS = 8  # prompts that beam search answers together, five rows each
ROWS_OF = 8  # of what its rows are a multiple where each new number of them costs
LEAVE = 0.25  # share of a batch's rows that must have ended before they are taken out: taking out copies the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Example: ids `(7, 9, 1)`, logprobs `(-0.7, -2.1, -0.1)`, ended True where 1 is EOS."""

    ids: tuple[int, ...]  # the response's tokens, with the end where it ended by itself
    logprobs: tuple[float, ...]  # log pi of each at the sampling temperature, over the whole vocabulary
    ended: bool  # False: the length limit cut it


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    prompt_encoder: PromptEncoder,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    greedy: bool = False,
    map_rows: MapRows = map_here,
) -> list[Completion]:
    """One completion a prompt, in the prompts' order. Pure sampling: no top-k, no top-p.

    Each row's uniform numbers are drawn before anything else, so a row's answer does not depend on which rows share its batch,
    nor on how many processes `map_rows` shares the prompts among.
    A row ends with any of `prompt_encoder.end_ids`.
    The pad token and rows of the model beyond the tokenizer are never drawn. A row stops at the model's context at the latest.
    Raises NotFiniteError where the model's logits are no numbers to draw from.
    """
    draws = torch.rand(len(prompts), max_new_tokens, generator=generator, dtype=torch.float64)
    room = [min(max_new_tokens, prompt_encoder.context - len(ids)) for ids in prompts]

    def sample_rows(mine: list[int]) -> list[Completion]:
        order = sorted((i for i in mine if room[i] > 0), key=lambda i: len(prompts[i]))
        completions_of = {i: Completion(ids=(), logprobs=(), ended=False) for i in mine if room[i] <= 0}
        with prepack_weights(model, max((room[i] for i in order), default=0)):
            longest = max((len(prompts[i]) + room[i] for i in order), default=0)
            together = max(ROWS, rows_that_fit(CACHE_BYTES, model, longest))
            for start in range(0, len(order), together):
                chosen = order[start : start + together]
                limits = [room[i] for i in chosen]
                completions = _sample(
                    model, [prompts[i] for i in chosen], prompt_encoder, limits, temperature, draws[chosen], greedy
                )
                completions_of |= dict(zip(chosen, completions, strict=True))
        return [completions_of[i] for i in mine]

    return map_rows([len(ids) for ids in prompts], sample_rows)


@torch.no_grad()
def beam_search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    prompt_encoder: PromptEncoder,
    max_new_tokens: int,
    generator: torch.Generator,
    map_rows: MapRows = map_here,
) -> list[Completion]:
    """The original SAWYER's setting: temperature 0.5, top-k 10, no repeated bigram, 5 beams. Without log-probs.

    Prompts of about the same length that have the same room are answered together and share their draws, so that an answer
    depends on which prompts are in its batch, but not on how many processes share them.
    """
    device = next(model.parameters()).device
    never = _never(prompt_encoder, model.get_input_embeddings().weight.shape[0])
    room = [min(max_new_tokens, prompt_encoder.context - len(ids)) for ids in prompts]
    cache_is_exact = caches_exactly(model)
    together = _beam_batches(prompts, room, may_pad=cache_is_exact)
    seeds = [int(torch.randint(2**31, (1,), generator=generator)) for _ in together]

    def answer_batch(number: int) -> list[Completion]:
        indices = together[number]
        limit = room[indices[0]]
        if limit <= 0:
            return [Completion(ids=(), logprobs=(), ended=False)] * len(indices)
        batch = pad_left([prompts[i] for i in indices], prompt_encoder.pad_id).to(device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seeds[number])
            out = model.generate(
                batch.ids,
                attention_mask=batch.mask.long(),
                do_sample=True,
                temperature=0.5,
                top_k=10,
                top_p=1.0,
                no_repeat_ngram_size=2,
                num_beams=5,
                max_new_tokens=limit,
                pad_token_id=prompt_encoder.pad_id,
                eos_token_id=list(prompt_encoder.end_ids),
                suppress_tokens=never,
                use_cache=cache_is_exact,
            )
        return [_beam_completion(row, prompt_encoder) for row in out[:, batch.ids.shape[1] :].tolist()]

    def answers(mine: list[int]) -> list[list[Completion]]:
        with prepack_weights(model, max((room[together[number][0]] for number in mine), default=0)):
            return [answer_batch(number) for number in mine]

    # A batch's work is its beams' new tokens, whatever its prompts' lengths.
    work = [len(indices) * room[indices[0]] for indices in together]
    completions = map_rows(work, answers)
    completion_of = {
        i: one for indices, some in zip(together, completions, strict=True) for i, one in zip(indices, some, strict=True)
    }
    return [completion_of[i] for i in range(len(prompts))]


def _beam_batches(prompts: Sequence[Sequence[int]], room: Sequence[int], *, may_pad: bool) -> list[list[int]]:
    """Which prompts are answered together by beam search: at most `BEAM_PROMPTS` that have the same room, by their length;
    where nothing may be padded, of one length."""
    groups: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: (-room[i], len(prompts[i]), i)):
        first = groups[-1][0] if groups else i
        fits = room[first] == room[i] and (may_pad or len(prompts[first]) == len(prompts[i]))
        if groups and len(groups[-1]) < BEAM_PROMPTS and fits:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _beam_completion(ids: Sequence[int], prompt_encoder: PromptEncoder) -> Completion:
    """What `generate` wrote for a prompt, without what fills it up."""
    end = _end(ids, prompt_encoder.end_ids)
    response = [i for i in ids if i != prompt_encoder.pad_id] if end is None else ids[: end + 1]
    return Completion(ids=tuple(response), logprobs=(), ended=end is not None)


def _end(ids: Sequence[int], ends: Sequence[int]) -> int | None:
    """Where the first token that ends an answer is; None where none is."""
    return next((index for index, token in enumerate(ids) if token in ends), None)


def _never(prompt_encoder: PromptEncoder, rows: int) -> list[int]:
    """The tokens that are not drawn: the pad token, unless an answer may end in it or it means what is unknown, and rows of the
    model beyond the tokenizer."""
    means = (*prompt_encoder.end_ids, prompt_encoder.tokenizer.unk_token_id)
    return [*([] if prompt_encoder.pad_id in means else [prompt_encoder.pad_id]), *range(prompt_encoder.size, rows)]


def _sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    prompt_encoder: PromptEncoder,
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
    is_running = torch.ones_like(left, dtype=torch.bool)
    rows = new_decoder(model, prompts, room=max(limits))
    logits = rows.prompt_logits()
    never = torch.tensor(_never(prompt_encoder, logits.shape[1]), dtype=torch.long, device=device)
    ends = torch.tensor(prompt_encoder.end_ids, device=device)
    for step in range(max(limits)):
        if temperature != 1.0:
            logits.div_(temperature)
        chosen, logprob = _draw(logits, None if greedy else draws[alive, step], never)
        if not bool(torch.isfinite(logprob).all()):
            raise _not_finite()
        column = torch.full((len(prompts),), prompt_encoder.eos_id, device=device)
        value = torch.zeros(len(prompts), device=device)
        column[alive], value[alive] = chosen, logprob
        tokens.append(column)
        logprobs.append(value)
        is_running &= ~torch.isin(column, ends) & (left > step + 1)
        here = is_running[alive]
        count = int(here.sum())
        if count == 0:
            break
        if rows.width == prompt_encoder.context:
            # Short rows' padding fills the context before their tokens do: what goes on is read again without it.
            alive = alive[here]
            response_rows = zip(alive.tolist(), torch.stack(tokens, 1)[alive].tolist(), strict=True)
            rows = new_decoder(model, [[*prompts[i], *row] for i, row in response_rows], room=max(limits) - step - 1)
            logits = rows.prompt_logits()
            continue
        row_count = count + missing_to_multiple(count, device.type, ROWS_OF)
        if row_count <= (1 - LEAVE) * len(alive):
            # Unfinished rows first, then some that have ended, to fill up the number.
            rows_left = here.long().argsort(descending=True, stable=True)[:row_count]
            rows.keep(rows_left)
            alive, chosen = alive[rows_left], chosen[rows_left]
        logits = rows.next_logits(chosen)
    return _completions(torch.stack(tokens, 1), torch.stack(logprobs, 1), limits, prompt_encoder.end_ids)


def _not_finite() -> NotFiniteError:
    return NotFiniteError(
        "the model that was to answer gives logits that are not finite",
        expected="finite numbers",
        why="no token can be drawn from them: training has destroyed its weights",
        todo="lower the learning rate of the stage that trained it, and train it again",
    )


def _draw(logits: Tensor, uniforms: Tensor | None, never: Tensor) -> tuple[Tensor, Tensor]:
    """(the next token of each row, its log-prob over the whole vocabulary) by inverse distribution function: one uniform number
    a row. None: the likeliest token. The tokens `never` are not drawn. Writes into `logits`."""
    left_out = torch.logsumexp(logits[:, never], 1)
    logits[:, never] = -torch.inf
    most = logits.amax(1)
    if uniforms is None:  # found before rounding makes equals of them; it takes several times as long as the amax
        likeliest = logits.argmax(1)
    terms = logits.sub_(most.unsqueeze(1)).exp_()
    sums = _running_sums(terms)
    chosen = likeliest if uniforms is None else _inverse(terms, sums, uniforms)
    whole = torch.logaddexp(sums[:, -1].log(), (left_out - most).double())  # of all that the model could say
    return chosen, (terms.gather(1, chosen.unsqueeze(1)).squeeze(1).log() - whole).float()


def _running_sums(terms: Tensor) -> Tensor:
    """(B, V) -> (B, blocks): the running sum at the end of each `BLOCK` of the vocabulary, in float64.

    Over 50,000 tokens the rounding of a running fp32 sum is as large as a rare token's share, and a running float64 sum of all
    takes longer than a small model's forward pass. A block's own sum is fp32, as its terms are: what rounding takes from it is
    no more than it takes from one of them.
    """
    size = terms.shape[1] // BLOCK * BLOCK
    blocks = terms[:, :size].unflatten(1, (-1, BLOCK)).sum(2)
    return torch.cat([blocks, terms[:, size:].sum(1, keepdim=True)], 1).double().cumsum_(1)


def _inverse(terms: Tensor, sums: Tensor, uniforms: Tensor) -> Tensor:
    """For each row the first token at which the running sum of `terms` (B, V) exceeds `uniforms` (B,) of their whole; `sums`
    is `_running_sums(terms)`."""
    size, last = terms.shape[1], sums.shape[1] - 1
    block = torch.searchsorted(sums, _below(uniforms.unsqueeze(1) * sums[:, -1:], sums[:, -1:]), right=True)
    block = block.clamp(max=last)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    tokens = block * BLOCK + torch.arange(BLOCK, device=terms.device)
    inside = torch.where(tokens < size, terms.gather(1, tokens.clamp(max=size - 1)).double(), 0.0).cumsum_(1)
    target = _below((uniforms.unsqueeze(1) * sums[:, -1:] - before).clamp(min=0), inside[:, -1:])
    token_ids = block * BLOCK + torch.searchsorted(inside, target, right=True)
    return token_ids.squeeze(1).clamp(max=size - 1)  # beyond it only where terms are no numbers, which the caller finds out


def _below(target: Tensor, whole: Tensor) -> Tensor:
    """The target, below the whole sum even where rounding says otherwise: the token found always has a share of its own."""
    return target.minimum(torch.nextafter(whole, torch.zeros_like(whole)))


def _completions(tokens: Tensor, logprobs: Tensor, limits: Sequence[int], ends: Sequence[int]) -> list[Completion]:
    completions = []
    for ids, values, limit in zip(tokens.tolist(), logprobs.tolist(), limits, strict=True):
        end = _end(ids[:limit], ends)
        length = min(limit, len(ids)) if end is None else end + 1
        completions.append(Completion(ids=tuple(ids[:length]), logprobs=tuple(values[:length]), ended=end is not None))
    return completions
