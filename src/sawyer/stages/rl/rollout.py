"""From prompts to what an update learns from: sample, score, estimate. Nothing here changes a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sawyer.config import Config, Rl, required_section
from sawyer.errors import NotFiniteError
from sawyer.maths import clip_scores, missing_eos
from sawyer.models import (
    Completion,
    LanguageModel,
    PolicyWithValue,
    RidgeValues,
    Scorer,
    before_trained,
    policy_entropies,
    policy_logprobs,
    sample,
    scored,
    splits_exactly,
    token_values,
    trunk_states,
)
from sawyer.records import Prompt
from sawyer.stages.rl.advantage_estimators import advantages_of
from sawyer.text import Batch, Row, batches, pad_right
from sawyer.train import Placement, distributed


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The frozen states before counted tokens, of this process's share of the rows. N tokens."""

    places: Tensor  # (N, 2) int64, each token's row and column among those of the experience
    states: Tensor  # (N, d) fp32, on the CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """Sampled answers and what they earned. B responses."""

    prompts: tuple[Prompt, ...]  # (B,)
    completions: tuple[Completion, ...]  # (B,)
    texts: tuple[str, ...]  # (B,) the responses decoded
    rows: tuple[Row, ...]  # (B,) prompt and response ids
    scores: Tensor  # (B,) fp32, the scorer's, in its standard unit, before clip and penalty
    ended: Tensor  # (B,) bool, the response ends with EOS
    # (B,) each: the parts of a composed score, unweighted; None where a part does not apply to an answer
    parts: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    disagreement: Tensor | None = None  # (B,) fp32, of an ensemble's members, in the reward's unit
    seen: Seen | None = None  # what values are read from, where they are fitted; another share in each process

    @property
    def tokens(self) -> int:
        """Of all rows, prompts included."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def sampled_logprobs(self) -> Tensor:
        """(n,) fp32: the log-probs of all responses' tokens as they were sampled, response after response."""
        return torch.tensor([value for completion in self.completions for value in completion.logprobs])


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What one update learns from. T is the longest row; counted are the response's tokens (`mask`).

    Example, one row of prompt length 2 and response `[7, 1]`: mask `[F, F, T, T]`, old_logprobs `[0, 0, -1.2, -0.1]`,
    advantages `[0, 0, 0.8, 1.1]`.
    """

    rows: tuple[Row, ...]  # (B,)
    mask: Tensor  # (B, T) bool, True on response tokens and their EOS
    old_logprobs: Tensor  # (B, T) fp32, log pi_old of each token, at the sampling temperature
    ref_logprobs: Tensor  # (B, T) fp32, log pi_ref likewise
    old_values: Tensor | None  # (B, T) fp32, V of the state before each counted token, in reward units; None: nobody tells
    advantages: Tensor  # (B, T) fp32, of the algorithm
    returns: Tensor | None  # (B, T) fp32, what the values are to become; None where there are none
    rewards: Tensor  # (B, T) fp32, the final score on the last token, with the KL penalties where they are paid there
    kl_in_loss: float = 0.0  # what a nat of k3 costs in the loss; 0 where the KL is paid in the rewards
    seen: Seen | None = None  # what the values were read from, where they are fitted


def collect(
    speaker: LanguageModel,
    prompts: Sequence[Prompt],
    scorer: Scorer,
    config: Config,
    place: Placement,
    draw: torch.Generator,
    values: RidgeValues | None = None,
) -> Episodes:
    """Sample one response to each of the prompts from the policy at the training temperature, and score it as text.

    `values`, if they are fitted, get the states in which the reward model reads the answers: as it scores them, and of those
    whose text encodes to other tokens than were sampled once more.
    """
    rl = required_section(config.rl, "rl")
    encoded = [speaker.prompt_encoder.prompt(prompt) for prompt in prompts]
    listening: AbstractContextManager[Mapping[Row, Tensor | None]] = nullcontext({})
    if values is not None and values.scorer is not None:
        listening = values.scorer.captured_states()
    with place.autocast():
        completions = sample(
            speaker.model,
            encoded,
            prompt_encoder=speaker.prompt_encoder,
            max_new_tokens=rl.max_new_tokens,
            temperature=rl.temperature,
            generator=draw,
            map_rows=distributed.map_sharded,
        )
        texts = [speaker.prompt_encoder.decode(completion.ids) for completion in completions]
        with listening as heard:
            found = scored(scorer, prompts, texts)
    rows = [speaker.prompt_encoder.answer_ids(ids, c.ids) for ids, c in zip(encoded, completions, strict=True)]
    seen = None
    if values is not None:
        ends = [c.ids if c.ended else (*c.ids, speaker.prompt_encoder.eos_id) for c in completions]
        scored_as = [speaker.prompt_encoder.answer_ids(*one) for one in zip(encoded, ends, strict=True)]
        known = {number: heard[row] for number, row in enumerate(scored_as) if row in heard}
        seen = frozen_states(values, rows, known, config, place)
    names = dict.fromkeys(name for score in found for name in score.parts)
    return Episodes(
        prompts=tuple(prompts),
        completions=tuple(completions),
        texts=tuple(texts),
        rows=tuple(rows),
        scores=torch.tensor([score.reward for score in found], dtype=torch.float32),
        ended=torch.tensor([completion.ended for completion in completions]),
        parts={name: tuple(score.parts.get(name) for score in found) for name in names},
        disagreement=None
        if found[0].disagreement is None
        else torch.tensor([score.disagreement for score in found], dtype=torch.float32),
        seen=seen,
    )


def estimate(
    episodes: Episodes,
    policy: nn.Module,
    reference: nn.Module,
    value: nn.Module | RidgeValues | None,
    coefficient: float,
    config: Config,
    place: Placement,
    sampled: bool = False,
) -> Experience:
    """Log-probs under policy and reference, values where something estimates them, rewards, advantages and returns.

    With `sampled` the policy's log-probs are those with which it was sampled, in fp32 the same to rounding; where values come
    from its trunk they are read anyway.
    """
    rl = required_section(config.rl, "rl")
    values: Tensor | None
    seen: Seen | None = None
    mask = pad_right(episodes.rows, 0).loss_mask
    if isinstance(value, PolicyWithValue):
        old, values = _read(episodes.rows, config, place, lambda batch: logprobs_and_values(value, batch, rl.temperature))
    else:
        old = _sampled(episodes, mask) if sampled else logprobs_of(policy, episodes.rows, config, place)
        if isinstance(value, RidgeValues):
            seen = episodes.seen
            assert seen is not None, "states were not rl for as the answers were collected"
            values = values_seen(value, seen, old)
        else:
            values = None if value is None else values_of(value, episodes.rows, config, place)
    ref = logprobs_of(reference, episodes.rows, config, place)
    found = advantages_of(learnt_scores(episodes, rl), old, ref, values, mask, coefficient, rl)
    return Experience(
        rows=episodes.rows,
        mask=mask,
        old_logprobs=old,
        ref_logprobs=ref,
        old_values=values,
        advantages=found.advantages,
        returns=found.returns,
        rewards=found.rewards,
        kl_in_loss=found.kl_in_loss,
        seen=seen,
    )


def learnt_scores(episodes: Episodes, asked: Rl) -> Tensor:
    """(B,) fp32: the scores that advantages are made of, clipped and less the penalty of answers that did not end."""
    scores = episodes.scores if asked.reward_clip is None else clip_scores(episodes.scores, asked.reward_clip)
    return missing_eos(scores, episodes.ended, asked.missing_eos_penalty)


def logprobs_of(model: nn.Module, rows: Sequence[Row], config: Config, place: Placement) -> Tensor:
    """(B, T) log-probs of the response tokens at the RL temperature, 0 elsewhere, on the CPU."""
    temperature = required_section(config.rl, "rl").temperature
    return _read(rows, config, place, lambda batch: [policy_logprobs(model, batch, temperature=temperature).logprobs])[0]


def logprobs_and_entropies(model: nn.Module, rows: Sequence[Row], config: Config, place: Placement) -> tuple[Tensor, Tensor]:
    """(B, T) each, from one pass: `logprobs_of`, and the entropies of the distributions that the tokens are drawn from."""
    temperature = required_section(config.rl, "rl").temperature

    def figures(batch: Batch) -> list[Tensor]:
        states = trunk_states(model, batch, before_trained(batch)) if splits_exactly(model) else None
        logprobs = policy_logprobs(model, batch, temperature=temperature, states=states).logprobs
        return [logprobs, policy_entropies(model, batch, temperature=temperature, states=states)]

    logprobs, entropies = _read(rows, config, place, figures)
    return logprobs, entropies


def frozen_states(
    model: RidgeValues, rows: Sequence[Row], known: Mapping[int, Tensor | None], config: Config, place: Placement
) -> Seen:
    """The states in which the response tokens are chosen, as a frozen network reads them. `known` are those of some rows, by
    their number, (n, d) or longer each, None where another process has them; the others are read."""
    mine = [number for number, states in known.items() if states is not None]
    found = [states[: sum(rows[number].loss_mask)] for number, states in known.items() if states is not None]
    left = [number for number in range(len(rows)) if number not in known]
    left = [left[i] for i in distributed.shard_indices([len(rows[number].ids) for number in left])]
    for indices, batch in batches([rows[number] for number in left], pad_id=0, token_budget=config.micro_batch_tokens):
        with place.autocast():
            read = model.states(batch.to(place.device))
        mine += [left[i] for i in indices]
        found.append(read.cpu()[before_trained(batch)])
    if not mine:
        return Seen(places=torch.zeros(0, 2, dtype=torch.long), states=torch.zeros(0, len(model.centre)))
    row, column = pad_right([rows[number] for number in mine], 0).loss_mask.nonzero(as_tuple=True)
    return Seen(places=torch.stack([torch.tensor(mine)[row], column], 1), states=torch.cat(found))


def values_seen(model: RidgeValues, seen: Seen, like: Tensor) -> Tensor:
    """(B, T) values of the states in which the response tokens are chosen, 0 elsewhere, on the CPU, as `like` (B, T)."""
    values = torch.zeros_like(like)
    values[seen.places.unbind(1)] = model.of_states(seen.states).to(values)
    distributed.all_reduce_(values)  # each process has read other rows
    return values


def values_of(model: nn.Module, rows: Sequence[Row], config: Config, place: Placement) -> Tensor:
    """(B, T) values of the state before each response token, of no meaning elsewhere, on the CPU."""
    return _read(rows, config, place, lambda batch: [values_before(model, batch)])[0]


def _sampled(episodes: Episodes, mask: Tensor) -> Tensor:
    """(B, T) log-probs of the response tokens `mask` as they were sampled, 0 elsewhere, on the CPU."""
    found = torch.zeros(mask.shape)
    found[mask] = episodes.sampled_logprobs
    return found


@torch.no_grad()
def _read(
    rows: Sequence[Row], config: Config, place: Placement, figures: Callable[[Batch], Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """(B, T) each, on the CPU: what `figures` makes of batches of the rows, (b, t) each, laid out in the rows' order."""
    longest = max(len(row.ids) for row in rows)

    def read(mine: list[int]) -> Tensor:
        parts = []
        for indices, batch in batches([rows[i] for i in mine], pad_id=0, token_budget=config.micro_batch_tokens):
            with place.autocast():
                parts.append((indices, torch.stack([x.float() for x in figures(batch.to(place.device))], 2).cpu()))
        found = torch.zeros(len(mine), longest, parts[0][1].shape[2])
        for indices, part in parts:
            found[indices, : part.shape[1]] = part
        return found

    told: Tensor = distributed.map_sharded([len(row.ids) for row in rows], read)
    return told.unbind(2)


def finite(episodes: Episodes) -> Episodes:
    """The same. Raises NotFiniteError for a score that is no number to learn from, before anything is learnt."""
    wrong = torch.nonzero(~torch.isfinite(episodes.scores)).flatten().tolist()
    if wrong:
        raise NotFiniteError(
            f"rl: the score of the answer {episodes.texts[wrong[0]][:60]!r} is {float(episodes.scores[wrong[0]])} "
            f"({len(wrong)} of {len(episodes.texts)} answers)",
            expected="finite numbers",
            why="a policy that learns from it is destroyed; its weights are as they were",
            todo="look at what rl pays for: the reward model (stage at fault: reward), or a part of rl.rewards",
        )
    return episodes


def logprobs_and_values(model: PolicyWithValue, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """(B, T) each, from one pass of the trunk that both have: the policy's log-probs, and `values_before`."""
    states = trunk_states(model.policy, batch, before_trained(batch))
    logprobs = policy_logprobs(model.policy, batch, temperature=temperature, states=states).logprobs
    return logprobs, before(model.of_states(states))


def values_before(model: nn.Module, batch: Batch) -> Tensor:
    """(B, T): the value of the state in which each trained token is chosen; of no meaning elsewhere."""
    return before(token_values(model, batch, before_trained(batch)))


def before(values: Tensor) -> Tensor:
    """(B, T) values at tokens -> (B, T): the value read at token t-1 is that of the state in which token t is chosen."""
    return nn.functional.pad(values[:, :-1].float(), (1, 0))
