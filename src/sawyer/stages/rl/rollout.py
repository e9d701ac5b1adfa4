"""From prompts to what an update learns from: sample, score, estimate. Nothing here changes a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sawyer.config import Config, Rl, required_section
from sawyer.errors import NotFiniteError
from sawyer.maths import clip_scores, missing_eos, token_rewards
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
    score_details,
    splits_exactly,
    token_values,
    trunk_states,
)
from sawyer.records import Prompt
from sawyer.stages.rl.rl_algorithms import ALGORITHMS, AdvantageInputs
from sawyer.text import Batch, Row, batches, pad_right
from sawyer.train import Placement, distributed

NOT_ESTIMATED = torch.empty(0)  # fits no mask, so that a rollout that was not estimated cannot be learnt from


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """How RL's networks write and read answers."""

    placement: Placement
    temperature: float  # of sampling, and of every log-prob
    max_new_tokens: int
    token_budget: int  # padded tokens of one forward pass

    @classmethod
    def of(cls, config: Config, placement: Placement) -> RolloutSettings:
        """The settings of `config.rl` on these devices."""
        rl = required_section(config.rl, "rl")
        return cls(
            placement=placement,
            temperature=rl.temperature,
            max_new_tokens=rl.max_new_tokens,
            token_budget=config.micro_batch_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Sampled answers, from the sampler to the minibatch: B responses, T tokens of the longest row, counted tokens in `mask`.

    `collect_rollout` fills the answers and their scores, `estimate_advantages` what an update learns from.
    Example, one row of prompt length 2 and response `[7, 1]`: mask `[F, F, T, T]`, old_logprobs `[0, 0, -1.2, -0.1]`,
    advantages `[0, 0, 0.8, 1.1]`.
    """

    prompts: tuple[Prompt, ...]  # (B,)
    completions: tuple[Completion, ...]  # (B,)
    texts: tuple[str, ...]  # (B,) the responses decoded
    rows: tuple[Row, ...]  # (B,) prompt and response ids
    mask: Tensor  # (B, T) bool, True on response tokens and their EOS
    scores: Tensor  # (B,) fp32, the scorer's, in its standard unit, before clip and penalty
    ended: Tensor  # (B,) bool, the response ends with EOS
    # (B,) each: the parts of a composed score, unweighted; None where a part does not apply to an answer
    parts: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    disagreement: Tensor | None = None  # (B,) fp32, of an ensemble's members, in reward units
    # What ridge values are read from: N counted tokens of this process's share of the rows, other rows in each process.
    state_index: Tensor | None = None  # (N, 2) int64, the row and column of each token
    states: Tensor | None = None  # (N, d) fp32, the frozen state before each token

    old_logprobs: Tensor = NOT_ESTIMATED  # (B, T) fp32, log pi_old of each token, at the sampling temperature
    ref_logprobs: Tensor = NOT_ESTIMATED  # (B, T) fp32, log pi_ref likewise
    rewards: Tensor = NOT_ESTIMATED  # (B, T) fp32, the final score on the last token, with the KL penalties where paid there
    advantages: Tensor = NOT_ESTIMATED  # (B, T) fp32, 0 where not counted
    old_values: Tensor | None = None  # (B, T) fp32, V of the state before each counted token, in reward units
    returns: Tensor | None = None  # (B, T) fp32, the values' targets; None where the algorithm has no values
    kl_loss_coefficient: float = 0.0  # reward units a nat of k3 costs in the loss; 0 where the KL is paid in the rewards

    @property
    def tokens(self) -> int:
        """Of all rows, prompts included."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def sampled_logprobs(self) -> Tensor:
        """(n,) fp32: the log-probs of all responses' tokens as they were sampled, response after response."""
        return torch.tensor([value for completion in self.completions for value in completion.logprobs])


def collect_rollout(
    policy: LanguageModel,
    prompts: Sequence[Prompt],
    scorer: Scorer,
    settings: RolloutSettings,
    generator: torch.Generator,
    ridge_values: RidgeValues | None = None,
) -> Rollout:
    """Sample one response to each prompt from the policy at the training temperature, and score it as text.

    With `ridge_values` the rollout has the states in which the reward model read the answers as it scored them. Answers whose
    text encodes to other tokens than were sampled are read once more.
    """
    encoder = policy.prompt_encoder
    prompt_ids = [encoder.prompt(prompt) for prompt in prompts]
    capture: AbstractContextManager[Mapping[Row, Tensor | None]] = nullcontext({})
    if ridge_values is not None and ridge_values.scorer is not None:
        capture = ridge_values.scorer.captured_states()
    with settings.placement.autocast():
        completions = sample(
            policy.model,
            prompt_ids,
            prompt_encoder=encoder,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            generator=generator,
            map_rows=distributed.map_sharded,
        )
        texts = [encoder.decode(completion.ids) for completion in completions]
        with capture as captured_states:
            scores = score_details(scorer, prompts, texts)
    rows = tuple(encoder.answer_ids(ids, c.ids) for ids, c in zip(prompt_ids, completions, strict=True))
    names = dict.fromkeys(name for score in scores for name in score.parts)
    rollout = Rollout(
        prompts=tuple(prompts),
        completions=tuple(completions),
        texts=tuple(texts),
        rows=rows,
        mask=pad_right(rows, 0).loss_mask,
        scores=torch.tensor([score.reward for score in scores], dtype=torch.float32),
        ended=torch.tensor([completion.ended for completion in completions]),
        parts={name: tuple(score.parts.get(name) for score in scores) for name in names},
        disagreement=None
        if scores[0].disagreement is None
        else torch.tensor([score.disagreement for score in scores], dtype=torch.float32),
    )
    if ridge_values is None:
        return rollout
    # The reward model reads every answer with an EOS, whether it was sampled or not.
    ends = [c.ids if c.ended else (*c.ids, encoder.eos_id) for c in completions]
    scored_rows = [encoder.answer_ids(ids, response) for ids, response in zip(prompt_ids, ends, strict=True)]
    captured_by_index = {index: captured_states[row] for index, row in enumerate(scored_rows) if row in captured_states}
    return read_frozen_states(rollout, ridge_values, captured_by_index, settings)


def read_frozen_states(
    rollout: Rollout, ridge_values: RidgeValues, captured_states: Mapping[int, Tensor | None], settings: RolloutSettings
) -> Rollout:
    """The rollout with the frozen states in which its response tokens are chosen.

    `captured_states` has some rows' states by the row's index, (n, d) or longer, None where another process has them; this
    process reads its share of the others.
    """
    rows = rollout.rows
    mine = [index for index, states in captured_states.items() if states is not None]
    parts = [states[: sum(rows[index].loss_mask)] for index, states in captured_states.items() if states is not None]
    unread = [index for index in range(len(rows)) if index not in captured_states]
    unread = [unread[i] for i in distributed.shard_indices([len(rows[index].ids) for index in unread])]
    for indices, batch in batches([rows[index] for index in unread], pad_id=0, token_budget=settings.token_budget):
        with settings.placement.autocast():
            states = ridge_values.states(batch.to(settings.placement.device))
        mine += [unread[i] for i in indices]
        parts.append(states.cpu()[before_trained(batch)])
    if not mine:
        empty = torch.zeros(0, len(ridge_values.centre))
        return replace(rollout, state_index=torch.zeros(0, 2, dtype=torch.long), states=empty)
    row, column = pad_right([rows[index] for index in mine], 0).loss_mask.nonzero(as_tuple=True)
    return replace(rollout, state_index=torch.stack([torch.tensor(mine)[row], column], 1), states=torch.cat(parts))


def check_scores_finite(rollout: Rollout) -> Rollout:
    """The same rollout. Raises NotFiniteError for a score that is not finite, before anything is learnt from it."""
    wrong = torch.nonzero(~torch.isfinite(rollout.scores)).flatten().tolist()
    if wrong:
        raise NotFiniteError(
            f"rl: the score of the answer {rollout.texts[wrong[0]][:60]!r} is {float(rollout.scores[wrong[0]])} "
            f"({len(wrong)} of {len(rollout.texts)} answers)",
            expected="finite numbers",
            why="a policy that learns from it is destroyed; its weights are as they were",
            todo="look at the RL reward: the reward model (stage at fault: reward), or a part of rl.rewards",
        )
    return rollout


def estimate_advantages(
    rollout: Rollout,
    policy: nn.Module,
    reference: nn.Module,
    critic: nn.Module | RidgeValues | None,
    settings: RolloutSettings,
    rl: Rl,
    *,
    kl_coefficient: float,
    use_sampled_logprobs: bool = False,
) -> Rollout:
    """The rollout with log-probs under policy and reference, values of the `critic`, rewards, advantages and returns.

    With `use_sampled_logprobs` the policy's log-probs are those of the sampler, in fp32 the same to rounding; a critic on the
    policy's trunk reads them anyway.
    """
    algorithm = ALGORITHMS[rl.algorithm]
    old_values: Tensor | None = None
    if isinstance(critic, PolicyWithValue):
        old_logprobs, old_values = _read_rows(
            rollout.rows, settings, lambda batch: logprobs_and_values(critic, batch, settings.temperature)
        )
    elif use_sampled_logprobs:
        old_logprobs = torch.zeros(rollout.mask.shape).masked_scatter(rollout.mask, rollout.sampled_logprobs)
    else:
        old_logprobs = logprobs_of(policy, rollout.rows, settings)
    if isinstance(critic, RidgeValues):
        old_values = ridge_values_of(critic, rollout, like=old_logprobs)
    elif critic is not None and old_values is None:
        old_values = values_of(critic, rollout.rows, settings)
    ref_logprobs = logprobs_of(reference, rollout.rows, settings)
    scores = shaped_scores(rollout, reward_clip=rl.reward_clip, missing_eos_penalty=rl.missing_eos_penalty)
    kl_in_loss = kl_coefficient if algorithm.kl_in_loss else 0.0
    rewards = token_rewards(scores, old_logprobs, ref_logprobs, rollout.mask, kl_coefficient - kl_in_loss)
    assert algorithm.advantages is not None
    inputs = AdvantageInputs(
        scores=scores,
        rewards=rewards,
        values=old_values,
        mask=rollout.mask,
        gamma=rl.gamma,
        gae_lambda=rl.gae_lambda,
        group_size=rl.group_size,
    )
    advantages, returns = algorithm.advantages(inputs)
    return replace(
        rollout,
        old_logprobs=old_logprobs,
        ref_logprobs=ref_logprobs,
        old_values=old_values,
        advantages=advantages,
        returns=returns,
        rewards=rewards,
        kl_loss_coefficient=kl_in_loss,
    )


def shaped_scores(rollout: Rollout, *, reward_clip: float | None, missing_eos_penalty: float) -> Tensor:
    """(B,) fp32: the scores that advantages are made of: clipped, then less the penalty of answers that did not end.

    The penalty comes after the clip, which would swallow it.
    """
    scores = rollout.scores if reward_clip is None else clip_scores(rollout.scores, reward_clip)
    return missing_eos(scores, rollout.ended, missing_eos_penalty)


def logprobs_of(model: nn.Module, rows: Sequence[Row], settings: RolloutSettings) -> Tensor:
    """(B, T) log-probs of the response tokens at RL's temperature, 0 elsewhere, on the CPU."""
    temperature = settings.temperature
    return _read_rows(rows, settings, lambda batch: [policy_logprobs(model, batch, temperature=temperature).logprobs])[0]


def logprobs_and_entropies(model: nn.Module, rows: Sequence[Row], settings: RolloutSettings) -> tuple[Tensor, Tensor]:
    """(B, T) each, from one pass: `logprobs_of`, and the entropies of the distributions that the tokens are drawn from."""
    temperature = settings.temperature

    def figures(batch: Batch) -> list[Tensor]:
        states = trunk_states(model, batch, before_trained(batch)) if splits_exactly(model) else None
        logprobs = policy_logprobs(model, batch, temperature=temperature, states=states).logprobs
        return [logprobs, policy_entropies(model, batch, temperature=temperature, states=states)]

    logprobs, entropies = _read_rows(rows, settings, figures)
    return logprobs, entropies


def ridge_values_of(ridge_values: RidgeValues, rollout: Rollout, *, like: Tensor) -> Tensor:
    """(B, T) values of the states in which the response tokens are chosen, 0 elsewhere, on the CPU, as `like` (B, T)."""
    assert rollout.states is not None and rollout.state_index is not None, "the answers were collected without their states"
    values = torch.zeros_like(like)
    values[rollout.state_index.unbind(1)] = ridge_values.of_states(rollout.states).to(values)
    distributed.all_reduce_(values)  # each process has read other rows
    return values


def values_of(model: nn.Module, rows: Sequence[Row], settings: RolloutSettings) -> Tensor:
    """(B, T) values of the state before each response token, of no meaning elsewhere, on the CPU."""
    return _read_rows(rows, settings, lambda batch: [values_before(model, batch)])[0]


@torch.no_grad()
def _read_rows(
    rows: Sequence[Row], settings: RolloutSettings, figures: Callable[[Batch], Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """(B, T) each, on the CPU: what `figures` makes of batches of the rows, (b, t) each, in the rows' order."""
    longest = max(len(row.ids) for row in rows)

    def read(mine: list[int]) -> Tensor:
        parts = []
        for indices, batch in batches([rows[i] for i in mine], pad_id=0, token_budget=settings.token_budget):
            with settings.placement.autocast():
                columns = [x.float() for x in figures(batch.to(settings.placement.device))]
                parts.append((indices, torch.stack(columns, 2).cpu()))
        table = torch.zeros(len(mine), longest, parts[0][1].shape[2])
        for indices, part in parts:
            table[indices, : part.shape[1]] = part
        return table

    tables: Tensor = distributed.map_sharded([len(row.ids) for row in rows], read)
    return tables.unbind(2)


def logprobs_and_values(model: PolicyWithValue, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """(B, T) each, from one pass of the shared trunk: the policy's log-probs, and `values_before`."""
    states = trunk_states(model.policy, batch, before_trained(batch))
    logprobs = policy_logprobs(model.policy, batch, temperature=temperature, states=states).logprobs
    return logprobs, _shift_right(model.of_states(states))


def values_before(model: nn.Module, batch: Batch) -> Tensor:
    """(B, T): the value of the state in which each trained token is chosen; of no meaning elsewhere."""
    return _shift_right(token_values(model, batch, before_trained(batch)))


def _shift_right(values: Tensor) -> Tensor:
    """(B, T) values at tokens -> (B, T): the value read at token t-1 is that of the state in which token t is chosen."""
    return nn.functional.pad(values[:, :-1].float(), (1, 0))
