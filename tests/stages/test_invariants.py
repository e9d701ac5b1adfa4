"""What must hold before the first update, and what must change nothing (method, section 4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import on_cpu
from torch import Tensor, nn

from sawyer.maths import gae, kl_k1, masked_sum, ppo_policy, token_rewards, whiten
from sawyer.models import PolicyWithValue, RewardScorer, ValueNetwork, open_language_model, policy_logprobs, sequence_logits
from sawyer.records import read
from sawyer.stages.rl.ppo_updates import update_on_rollout
from sawyer.stages.rl.rollout import (
    Rollout,
    collect_rollout,
    estimate_advantages,
    logprobs_and_entropies,
    values_before,
    values_of,
)
from sawyer.text import Batch, Row, pad_right
from sawyer.train import OptimizerStep, generator

Fixture = Any
ROUNDING = 1e-5
FIELDS = ("old_logprobs", "ref_logprobs", "old_values", "advantages", "returns", "rewards")


def value_network(tiny: Fixture) -> ValueNetwork:
    """With a head that is not zero, so that values differ from state to state."""
    value = ValueNetwork.from_policy(tiny.sft)
    nn.init.normal_(value.head.weight, generator=generator(0, "head"))
    return value


@pytest.fixture
def start(tiny: Fixture, tmp_path: Path) -> Any:
    """(config, episodes, experience, policy) at step 0: policy, sampler and reference are the SFT model."""
    config = tiny.rl_config(tmp_path, episodes=12, batch_size=12, num_minibatches=1, max_new_tokens=20, temperature=0.8)
    speaker = open_language_model(tiny.sft)
    prompts = read([str(tiny.prompts)], want="prompts").records[:12]
    episodes = collect_rollout(speaker, prompts, RewardScorer.load(tiny.reward), on_cpu(config), generator(0, "draw"))
    reference = open_language_model(tiny.sft).model
    experience = estimate_advantages(
        episodes, speaker.model, reference, value_network(tiny), on_cpu(config), config.rl, kl_coefficient=0.05
    )
    return config, episodes, experience, speaker.model


def learners(tiny: Fixture, policy: nn.Module) -> list[OptimizerStep]:
    nets = {"policy": policy, "value": value_network(tiny)}
    return [OptimizerStep(net, name=name, learning_rate=1e-2, factor=lambda _: 1.0) for name, net in nets.items()]


def test_before_the_first_update_nothing_has_moved(tiny: Fixture, start: Any) -> None:
    config, episodes, experience, model = start
    sampled = [value for completion in episodes.completions for value in completion.logprobs]
    assert torch.allclose(torch.tensor(sampled), experience.old_logprobs[experience.mask], atol=ROUNDING)
    kl = masked_sum(kl_k1(experience.old_logprobs, experience.ref_logprobs), experience.mask, dim=1)
    assert float(kl.abs().max()) < ROUNDING
    report = update_on_rollout(experience, *learners(tiny, model), on_cpu(config), config.rl, seed=config.seed, number=0)
    assert report.metrics["ratio"] == pytest.approx(1.0, abs=ROUNDING)
    assert report.metrics["approx_kl"] == pytest.approx(0.0, abs=ROUNDING)
    assert report.metrics["clip_fraction"] == 0.0
    assert report.first_ratio_error < ROUNDING
    # Whitened advantages at ratio 1: the loss is minus their mean, 0.
    assert report.metrics["policy_loss"] == pytest.approx(0.0, abs=ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["temperature", "reference"])
def test_another_temperature_or_reference_would_be_seen(tiny: Fixture, start: Any, wrong: str) -> None:
    config, episodes = start[:2]
    other = tiny.base if wrong == "reference" else tiny.sft
    if wrong == "temperature":
        config = config.model_copy(update={"rl": config.rl.model_copy(update={"temperature": 1.0})})
    found = estimate_advantages(
        episodes,
        open_language_model(tiny.sft).model,
        open_language_model(other).model,
        value_network(tiny),
        on_cpu(config),
        config.rl,
        kl_coefficient=0.05,
    )
    if wrong == "reference":
        kl = masked_sum(kl_k1(found.old_logprobs, found.ref_logprobs), found.mask, dim=1)
        assert float(kl.mean()) > 1.0
    else:
        sampled = torch.tensor([value for completion in episodes.completions for value in completion.logprobs])
        assert float((sampled - found.old_logprobs[found.mask]).abs().max()) > 0.1


@pytest.mark.parametrize(("coefficient", "value", "zero"), [(0.0, 0.7, True), (0.1, 0.7, False), (0.0, 0.2, False)])
def test_equal_scores_without_kl_give_no_gradient(
    tiny: Fixture, start: Any, coefficient: float, value: float, zero: bool
) -> None:
    """Every score is 0.7 and so is every value: nothing is better than expected. Whitening would divide 0 by 0."""
    _, episodes, experience, model = start
    mask = experience.mask
    away = experience.ref_logprobs - 0.3 * mask
    scores = torch.full((len(episodes.rows),), 0.7)
    rewards = token_rewards(scores, experience.old_logprobs, away, mask, coefficient)
    advantages = gae(rewards, torch.full(mask.shape, value), mask, 1.0, 0.95).advantages
    new = policy_logprobs(model, pad_right(episodes.rows, 0), temperature=0.8).logprobs
    ppo_policy(new, experience.old_logprobs, advantages, mask, 0.2).total.backward()
    norm = sum(float(weight.grad.square().sum()) for weight in model.parameters() if weight.grad is not None) ** 0.5
    assert (norm < 1e-5) == zero


def test_equal_scores_are_whitened_to_rounding_not_to_noise(start: Any) -> None:
    mask = start[2].mask
    assert float(whiten(torch.full(mask.shape, 0.7), mask).abs().max()) < 1e-2


def moved(tiny: Fixture, config: Any, experience: Rollout) -> list[Tensor]:
    """All weights of policy and value network after the update."""
    nets = learners(tiny, open_language_model(tiny.sft).model)
    update_on_rollout(experience, *nets, on_cpu(config), config.rl, seed=config.seed, number=0)
    return [weight.detach() for net in nets for weight in net.parameters]


def test_what_stands_at_masked_places_changes_nothing(tiny: Fixture, start: Any) -> None:
    config, _, experience, _ = start
    poisoned = {name: torch.where(experience.mask, getattr(experience, name), torch.nan) for name in FIELDS}
    assert all(bool(tensor.isnan().any()) for tensor in poisoned.values())
    clean = moved(tiny, config, experience)
    assert all(torch.equal(a, b) for a, b in zip(clean, moved(tiny, config, replace(experience, **poisoned)), strict=True))
    # The test's own test: one counted place poisoned is refused.
    where = tuple(torch.nonzero(experience.mask)[0])
    advantages = experience.advantages.clone()
    advantages[where] = torch.nan
    with pytest.raises(Exception, match="nan"):
        moved(tiny, config, replace(experience, advantages=advantages))


def test_the_order_of_rows_changes_nothing_but_rounding(tiny: Fixture, start: Any, capture: Fixture) -> None:
    config, _, experience, _ = start
    order = torch.randperm(len(experience.rows), generator=generator(3, "order"))
    turned = replace(
        experience,
        rows=tuple(experience.rows[i] for i in order),
        mask=experience.mask[order],
        **{name: getattr(experience, name)[order] for name in FIELDS},
    )
    mixed = replace(turned, advantages=experience.advantages)

    def gradients(given: Rollout) -> list[Tensor]:
        nets = learners(tiny, open_language_model(tiny.sft).model)
        found = [capture(net) for net in nets]
        update_on_rollout(given, *nets, on_cpu(config), config.rl, seed=config.seed, number=0)
        return [one.gradients[0] for one in found]

    straight = gradients(experience)
    for a, b in zip(straight, gradients(turned), strict=True):
        assert float((a - b).abs().max()) < ROUNDING * float(a.abs().max())
    assert float((straight[0] - gradients(mixed)[0]).abs().max()) > 0.1 * float(straight[0].abs().max())


def longer(batch: Batch, ids: int) -> Batch:
    """The same rows with nine more columns of padding, filled with token `ids`."""
    more = (len(batch.ids), 9)
    return Batch(
        ids=torch.cat([batch.ids, torch.full(more, ids)], 1),
        mask=torch.cat([batch.mask, torch.zeros(more, dtype=torch.bool)], 1),
        positions=torch.cat([batch.positions, torch.zeros(more, dtype=torch.long)], 1),
        loss_mask=torch.cat([batch.loss_mask, torch.zeros(more, dtype=torch.bool)], 1),
    )


@pytest.mark.parametrize("pad", [0, 1, 77])
def test_padding_changes_nothing_but_rounding(tiny: Fixture, start: Any, pad: int) -> None:
    rows = start[1].rows
    short, long = pad_right(rows, 0), longer(pad_right(rows, pad), pad)
    width, model, value = short.ids.shape[1], open_language_model(tiny.sft).model, value_network(tiny)
    scorer = RewardScorer.load(tiny.reward)
    with torch.no_grad():
        found = policy_logprobs(model, long).logprobs
        assert torch.allclose(found[:, :width], policy_logprobs(model, short).logprobs, atol=ROUNDING)
        assert float(found[:, width:].abs().max()) == 0.0
        counted = torch.nn.functional.pad(short.mask, (0, 9))
        assert torch.allclose(values_before(value, long)[counted], values_before(value, short)[short.mask], atol=ROUNDING)
        assert torch.allclose(sequence_logits(scorer.model, long), sequence_logits(scorer.model, short), atol=ROUNDING)


def test_a_token_never_read_may_be_nan(tiny: Fixture, start: Any) -> None:
    """Padding's own embedding is poisoned in the networks that do not foretell tokens."""
    scorer, value = RewardScorer.load(tiny.reward), value_network(tiny)
    rows: tuple[Row, ...] = start[1].rows
    batch = pad_right(rows, scorer.prompt_encoder.pad_id)
    assert not bool((batch.ids[batch.mask] == scorer.prompt_encoder.pad_id).any())
    with torch.no_grad():
        before = sequence_logits(scorer.model, batch)[:, 0], values_before(value, batch)[batch.mask]
        for trunk in (scorer.model.base_model, value.trunk):
            trunk.get_input_embeddings().weight[scorer.prompt_encoder.pad_id] = torch.nan
        assert torch.equal(sequence_logits(scorer.model, batch)[:, 0], before[0])
        assert torch.equal(values_before(value, batch)[batch.mask], before[1])


def test_what_one_trunk_says_of_the_answers_is_read_in_one_pass(tiny: Fixture, start: Any) -> None:
    config, episodes, experience, model = start
    reference = open_language_model(tiny.sft).model
    critic = PolicyWithValue(model)
    nn.init.normal_(critic.head.weight, generator=generator(0, "head"))
    expected = values_of(critic, episodes.rows, on_cpu(config))
    passes: list[int] = []
    handle = model.base_model.register_forward_hook(lambda *_: passes.append(1))
    found = estimate_advantages(episodes, model, reference, critic, on_cpu(config), config.rl, kl_coefficient=0.05)
    assert len(passes) == 1
    logprobs, entropies = logprobs_and_entropies(model, episodes.rows, on_cpu(config))
    assert len(passes) == 2
    handle.remove()
    assert found.old_values is not None and bool(expected[experience.mask].any())
    assert torch.allclose(found.old_values, expected, atol=1e-6)
    assert torch.allclose(found.old_logprobs, experience.old_logprobs, atol=1e-6)
    assert torch.equal(logprobs, experience.old_logprobs)
    with torch.no_grad():
        ids = torch.tensor([episodes.rows[0].ids])
        drawn = torch.log_softmax(model(input_ids=ids).logits[0].double() / 0.8, 1)
    by_hand = -(drawn.exp() * drawn).sum(1)[:-1]
    counted = experience.mask[0, 1 : ids.shape[1]]
    assert torch.allclose(entropies[0, 1 : ids.shape[1]][counted].double(), by_hand[counted], atol=1e-5)


def test_the_value_before_a_token_has_not_seen_it(tiny: Fixture, start: Any) -> None:
    config, episodes = start[:2]
    value = value_network(tiny)
    row = episodes.rows[0]
    last = replace(row, ids=(*row.ids[:-1], row.ids[-1] + 1))
    one, other = (values_of(value, [r], on_cpu(config))[0] for r in (row, last))
    assert torch.equal(one, other)
    first = replace(row, ids=(row.ids[0] + 1, *row.ids[1:]))
    changed = values_of(value, [first], on_cpu(config))[0]
    assert float(changed[0]) == float(one[0]) == 0.0
    assert float((changed - one)[torch.tensor(row.loss_mask)].abs().min()) > 0.0
