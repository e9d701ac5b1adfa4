"""PPO's update against a step written anew in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from fp64 import double_precision
from scripted import on_cpu
from torch import Tensor, nn

from sawyer.errors import TrainingError
from sawyer.models import RewardScorer, ValueNetwork, open_language_model
from sawyer.records import read
from sawyer.stages.rl.ppo_updates import update_on_rollout
from sawyer.stages.rl.rollout import Rollout, collect_rollout, estimate_advantages
from sawyer.train import OptimizerStep, generator

Fixture = Any
RATE, VALUE_RATE, EPS, CLIP, VALUE_CLIP, TEMPERATURE = 3e-3, 5e-3, 1e-5, 0.1, 0.05, 0.8


@pytest.fixture(scope="module", autouse=True)
def exact(tiny64: Fixture) -> Iterator[None]:
    """In fp32 Adam makes a step of what is rounding alone: the gradient of the keys' biases, which is 0."""
    with double_precision():
        yield


def value_network(tiny64: Fixture) -> ValueNetwork:
    value = ValueNetwork.from_policy(tiny64.sft)
    nn.init.normal_(value.head.weight, generator=generator(0, "head"))
    return value


@pytest.fixture(scope="module")
def made(tiny64: Fixture, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Rollout]:
    asked = {
        "max_new_tokens": 18,
        "temperature": TEMPERATURE,
        "clip_range": CLIP,
        "value_clip_range": VALUE_CLIP,
        "gae_lambda": 0.9,
    }
    out = tmp_path_factory.mktemp("update")
    config = tiny64.rl_config(out, episodes=12, batch_size=12, num_minibatches=3, epochs=2, **asked, rl__micro_batch_tokens=120)
    speaker = open_language_model(tiny64.sft)
    prompts = read([str(tiny64.prompts)], want="prompts").records[:12]
    episodes = collect_rollout(speaker, prompts, RewardScorer.load(tiny64.reward), on_cpu(config), generator(0, "draw"))
    reference = open_language_model(tiny64.base).model
    return config, estimate_advantages(
        episodes, speaker.model, reference, value_network(tiny64), on_cpu(config), config.rl, kl_coefficient=0.1
    )


def nets(tiny64: Fixture, max_norm: float = 1.0) -> tuple[OptimizerStep, OptimizerStep]:
    policy, value = open_language_model(tiny64.sft).model, value_network(tiny64)

    def learner(net: nn.Module, name: str, rate: float) -> OptimizerStep:
        return OptimizerStep(net, name=name, learning_rate=rate, factor=lambda step: 1 - step / 10, max_norm=max_norm, eps=EPS)

    return learner(policy, "policy", RATE), learner(value, "value", VALUE_RATE)


class Plain:
    """One network's PPO steps, a row at a time, from the models' own forward passes."""

    def __init__(self, net: nn.Module, rate: float, max_norm: float) -> None:
        self.net, self.rate, self.max_norm, self.steps = net, rate, max_norm, 0
        self.weights = [weight for weight in net.parameters() if weight.requires_grad]
        self.adam = torch.optim.AdamW(self.weights, lr=rate, eps=EPS, weight_decay=0.0, betas=(0.9, 0.999), fused=False)

    def outputs(self, ids: tuple[int, ...], start: int) -> Tensor:
        inputs = torch.tensor([ids])
        if isinstance(self.net, ValueNetwork):
            hidden = self.net.trunk(input_ids=inputs).last_hidden_state[0]
            return (hidden @ self.net.head.weight[0] + self.net.head.bias[0])[start - 1 : -1]
        logits = self.net(input_ids=inputs).logits[0] / TEMPERATURE
        found = torch.log_softmax(logits, -1)
        return torch.stack([found[t - 1, ids[t]] for t in range(start, len(ids))])

    def loss(self, experience: Rollout, i: int) -> Tensor:
        row = experience.rows[i]
        here = slice(row.prompt_length, len(row.ids))
        new = self.outputs(row.ids, row.prompt_length)
        if isinstance(self.net, ValueNetwork):
            old, target = experience.old_values[i, here], experience.returns[i, here]
            held = old + torch.clamp(new - old, min=-VALUE_CLIP, max=VALUE_CLIP)
            return (0.5 * torch.max((new - target) ** 2, (held - target) ** 2)).sum()
        ratio = torch.exp(new - experience.old_logprobs[i, here])
        advantage = experience.advantages[i, here]
        clipped = torch.clamp(ratio, min=1 - CLIP, max=1 + CLIP)
        return -torch.min(ratio * advantage, clipped * advantage).sum()

    def step(self, experience: Rollout, chosen: list[int]) -> tuple[float, float]:
        """(mean loss, gradient norm) of the minibatch, which is then applied."""
        tokens = sum(len(experience.rows[i].ids) - experience.rows[i].prompt_length for i in chosen)
        loss = sum((self.loss(experience, i) for i in chosen), torch.zeros(())) / tokens
        self.adam.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((w.grad**2).sum() for w in self.weights if w.grad is not None))  # type: ignore[arg-type]
        for weight in self.weights:
            if weight.grad is not None and norm > self.max_norm:
                weight.grad *= self.max_norm / norm
        self.adam.param_groups[0]["lr"] = self.rate * (1 - self.steps / 10)
        self.adam.step()
        self.steps += 1
        return float(loss.detach()), float(norm)


def orders(config: Any, number: int) -> list[list[int]]:
    """The minibatches in the order they come."""
    found = []
    for epoch in range(config.rl.epochs):
        order = torch.randperm(12, generator=generator(config.seed, "rl", "epoch", number, epoch))
        found += [chunk.tolist() for chunk in order.split(12 // config.rl.num_minibatches)]
    return found


def apart(a: nn.Module, b: nn.Module) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def disturbed(experience: Rollout) -> Rollout:
    """As if policy and value network had moved since: some ratios and values are beyond their clip, some are not."""
    noise = torch.randn(experience.mask.shape, generator=generator(0, "noise"))
    return replace(
        experience,
        old_logprobs=experience.old_logprobs + 0.1 * noise,
        old_values=experience.old_values + 0.05 * noise.flip(0),
    )


@pytest.mark.slow
@pytest.mark.parametrize("max_norm", [0.05, 1e9])
def test_one_step_is_ppo_s(tiny64: Fixture, made: Any, max_norm: float) -> None:
    config, experience = made[0], disturbed(made[1])
    asked = config.rl.model_copy(update={"epochs": 1, "num_minibatches": 1})
    policy, value = nets(tiny64, max_norm)
    plain = [Plain(copy.model, rate, max_norm) for copy, rate in zip(nets(tiny64), (RATE, VALUE_RATE), strict=True)]
    told = [net.step(experience, list(range(12))) for net in plain]
    moved = apart(policy.model, plain[0].net), apart(value.model, plain[1].net)
    report = update_on_rollout(experience, policy, value, on_cpu(config), asked, seed=config.seed, number=0)
    assert min(moved) > 1e-3
    assert apart(policy.model, plain[0].net) < 1e-9
    assert apart(value.model, plain[1].net) < 1e-9
    assert (report.metrics["policy_loss"], report.metrics["grad_norm"]) == pytest.approx(told[0], rel=1e-4, abs=1e-6)
    assert (report.metrics["value_loss"], report.metrics["value_grad_norm"]) == pytest.approx(told[1], rel=1e-4, abs=1e-6)
    assert min(norm for _, norm in told) > 0.05  # so that the smaller bound binds
    assert 0.05 < report.metrics["clip_fraction"] < 0.95


@pytest.mark.parametrize("max_norm", [0.05, 1e9])
def test_an_update_is_ppo_s(tiny64: Fixture, made: Any, max_norm: float) -> None:
    """Two epochs of three minibatches; from the second minibatch on ratios and values are clipped."""
    config, experience = made
    policy, value = nets(tiny64, max_norm)
    plain = [Plain(copy.model, rate, max_norm) for copy, rate in zip(nets(tiny64), (RATE, VALUE_RATE), strict=True)]
    losses: list[list[tuple[float, float]]] = [[], []]
    for chosen in orders(config, 4):
        for net, told in zip(plain, losses, strict=True):
            told.append(net.step(experience, chosen))
    before = apart(policy.model, plain[0].net), apart(value.model, plain[1].net)
    report = update_on_rollout(experience, policy, value, on_cpu(config), config.rl, seed=config.seed, number=4)
    assert policy.steps_done == value.steps_done == 6
    assert min(before) > 5e-3
    assert apart(policy.model, plain[0].net) < 2e-4  # rounding grows from step to step
    assert apart(value.model, plain[1].net) < 2e-4
    sizes = [sum(len(experience.rows[i].ids) - experience.rows[i].prompt_length for i in c) for c in orders(config, 4)]
    for name, told in zip(("policy_loss", "value_loss"), losses, strict=True):
        expected = sum(loss * size for (loss, _), size in zip(told, sizes, strict=True)) / sum(sizes)
        assert report.metrics[name] == pytest.approx(expected, abs=1e-5)
    assert report.metrics["grad_norm"] == pytest.approx(sum(norm for _, norm in losses[0]) / 6, rel=1e-4)
    assert report.metrics["value_grad_norm"] == pytest.approx(sum(norm for _, norm in losses[1]) / 6, rel=1e-4)
    assert report.metrics["learning_rate"] == pytest.approx(RATE * 0.5)
    assert 0 < report.metrics["clip_fraction"] < 1
    assert report.first_ratio_error < 1e-9


@pytest.mark.parametrize("wrong", ["sign", "clip", "returns"])
def test_a_wrong_step_would_be_seen(tiny64: Fixture, made: Any, wrong: str) -> None:
    config, experience = made
    policy, value = nets(tiny64)
    plain = [Plain(copy.model, rate, 1.0) for copy, rate in zip(nets(tiny64), (RATE, VALUE_RATE), strict=True)]
    changed = {
        "sign": lambda: replace(experience, advantages=-experience.advantages),
        "returns": lambda: replace(experience, returns=experience.returns + 0.1),
        "clip": lambda: experience,
    }[wrong]()
    for chosen in orders(config, 4):
        for net in plain:
            net.step(experience, chosen)
    asked = config.rl.model_copy(update={"clip_range": 0.5, "value_clip_range": 0.5}) if wrong == "clip" else config.rl
    update_on_rollout(changed, policy, value, on_cpu(config), asked, seed=config.seed, number=4)
    assert max(apart(policy.model, plain[0].net), apart(value.model, plain[1].net)) > 1e-3


def test_report_means_are_over_tokens_of_all_minibatches(tiny64: Fixture, made: Any) -> None:
    config, experience = made
    policy, value = nets(tiny64)
    plain = Plain(nets(tiny64)[0].model, RATE, 1.0)
    clipped = kl = ratios = tokens = 0.0
    for chosen in orders(config, 0):
        for i in chosen:
            row = experience.rows[i]
            with torch.no_grad():
                new = plain.outputs(row.ids, row.prompt_length)
            moved = new - experience.old_logprobs[i, row.prompt_length : len(row.ids)]
            better = experience.advantages[i, row.prompt_length : len(row.ids)] > 0
            beyond = torch.where(better, moved.exp() > 1 + CLIP, moved.exp() < 1 - CLIP)
            clipped += float(beyond.sum())
            kl += float((moved.exp() - 1 - moved).sum())
            ratios += float(moved.exp().sum())
            tokens += len(new)
        plain.step(experience, chosen)
    report = update_on_rollout(experience, policy, value, on_cpu(config), config.rl, seed=config.seed, number=0)
    assert report.metrics["clip_fraction"] == pytest.approx(clipped / tokens, abs=2 / tokens)
    assert report.metrics["approx_kl"] == pytest.approx(kl / tokens, rel=1e-3)
    assert report.metrics["ratio"] == pytest.approx(ratios / tokens, rel=1e-5)
    counted = experience.mask
    error = (experience.returns - experience.old_values)[counted].double()
    expected = 1 - float(error.var(correction=0) / experience.returns[counted].double().var(correction=0))
    assert report.metrics["explained_variance"] == pytest.approx(expected, rel=1e-6)


def test_every_answer_is_learnt_from_once_an_epoch(made: Any) -> None:
    chosen = orders(made[0], 0)
    assert (
        sorted(i for batch in chosen[:3] for i in batch) == sorted(i for batch in chosen[3:] for i in batch) == list(range(12))
    )
    assert chosen[:3] != chosen[3:]


@pytest.mark.parametrize("where", ["advantages", "returns"])
def test_what_is_not_finite_is_refused_and_that_network_is_untouched(tiny64: Fixture, made: Any, where: str) -> None:
    config, experience = made
    poisoned = getattr(experience, where).clone()
    poisoned[experience.mask] = float("inf")
    policy, value = nets(tiny64)
    hit = policy if where == "advantages" else value
    before = [weight.detach().clone() for weight in hit.parameters]
    with pytest.raises(TrainingError, match=f"{hit.name}: update 0"):
        update_on_rollout(
            replace(experience, **{where: poisoned}), policy, value, on_cpu(config), config.rl, seed=config.seed, number=0
        )
    assert all(torch.equal(a, b) for a, b in zip(before, hit.parameters, strict=True))
    assert hit.steps_done == 0
