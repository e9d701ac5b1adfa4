"""PPO, RLOO and GRPO in one loop: each one's estimate and update against plain loops in float64, and what each leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fp64 import double_precision
from scripted import on_cpu
from torch import Tensor, nn

from sawyer.config import Config, parse_config
from sawyer.errors import ConfigError
from sawyer.maths import explained_variance
from sawyer.models import PolicyWithValue, RewardScorer, RidgeValues, ValueNetwork, open_language_model
from sawyer.records import read
from sawyer.stages.rl.ppo_updates import VALUE_COEFFICIENT, update_on_rollout
from sawyer.stages.rl.reward_sources import stage_reward_model
from sawyer.stages.rl.rl_stage import train
from sawyer.stages.rl.rollout import Rollout, collect_rollout, estimate_advantages, read_frozen_states
from sawyer.stages.rl.trainer import Trainer
from sawyer.train import OptimizerStep, generator

Fixture = Any
CLOSE = 1e-6  # in float64: the largest difference of a loss or gradient that counts as none
TEMPERATURE, CLIP, VALUE_CLIP, BETA, GROUP = 0.8, 0.1, 0.05, 0.3, 4
KINDS = ("rloo", "grpo", "ppo own", "ppo shared", "ppo ridge")


def config_of(tiny: Fixture, out: Path, kind: str, **more: Any) -> Config:
    algorithm, _, value = kind.partition(" ")
    asked: dict[str, Any] = {
        "algorithm": algorithm,
        "group_size": GROUP,
        "episodes": 12,
        "batch_size": 12,
        "num_minibatches": 1,
    }
    asked |= {"epochs": 1, "max_new_tokens": 18, "temperature": TEMPERATURE, "clip_range": CLIP, "learning_rate": 0.01}
    asked |= {"kl": {"coefficient": BETA}, "missing_eos_penalty": 0.5}
    if algorithm == "ppo":
        asked |= {"gae_lambda": 0.9, "gamma": 0.97, "value_init": "policy" if value == "own" else value}
        asked |= {} if value == "ridge" else {"value_clip_range": VALUE_CLIP}
    return tiny.rl_config(out, **{**asked, **more}, rl__micro_batch_tokens=more.pop("tokens", 150))


def networks(tiny: Fixture, kind: str, away: float = 0.0) -> tuple[Any, nn.Module | None]:
    """(policy, what estimates values), `away` from where the SFT model is."""
    policy: Any = open_language_model(tiny.sft).model.double()
    critic: Any = None
    if kind == "ppo own":
        critic = ValueNetwork.from_policy(tiny.sft)
    elif kind == "ppo shared":
        critic = PolicyWithValue(policy)
    elif kind == "ppo ridge":
        critic = RidgeValues(open_language_model(tiny.base).model.double(), 16, generator(0, "features"))
        nn.init.normal_(critic.weights, std=0.5, generator=generator(0, "weights"))
        nn.init.normal_(critic.centre, generator=generator(0, "centre"))
        for name in ("projection", "centre", "spread", "weights"):
            setattr(critic, name, getattr(critic, name).double())
    if isinstance(critic, ValueNetwork | PolicyWithValue):
        nn.init.normal_(critic.head.weight, std=0.5, generator=generator(0, "head"))
        critic.double()
    with torch.no_grad():
        for number, weight in enumerate(policy.parameters()):
            weight += away * torch.randn(weight.shape, generator=generator(7, "away", number), dtype=weight.dtype)
    return policy, critic


def experienced(tiny: Fixture, out: Path, kind: str) -> tuple[Config, Rollout, Rollout]:
    """Twelve answers, four to each of three prompts; the reference is another model."""
    config = config_of(tiny, out, kind)
    speaker = open_language_model(tiny.sft)
    prompts = [p for p in read([str(tiny.prompts)], want="prompts").records[:3] for _ in range(GROUP)]
    episodes = collect_rollout(speaker, prompts, RewardScorer.load(tiny.reward), on_cpu(config), generator(1, "draw"))
    policy, critic = networks(tiny, kind)
    reference, doubled = open_language_model(tiny.base).model.double(), replace(episodes, scores=episodes.scores.double())
    with double_precision():
        if isinstance(critic, RidgeValues):
            doubled = read_frozen_states(doubled, critic, {}, on_cpu(config))
        found = estimate_advantages(doubled, policy, reference, critic, on_cpu(config), config.rl, kl_coefficient=BETA)
    return config, doubled, found


def logprobs(model: Any, ids: tuple[int, ...], start: int) -> Tensor:
    """(T,) of the response's tokens, from the model's own whole logits."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].double() / TEMPERATURE
    return torch.stack([logits[t - 1][ids[t]] - torch.logsumexp(logits[t - 1], 0) for t in range(start, len(ids))])


def values(critic: Any, ids: tuple[int, ...], start: int) -> Tensor:
    if isinstance(critic, RidgeValues):
        reader: Any = critic.reader
        x = reader.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0] - critic.centre
        told = [float(one @ critic.weights[:16] + (one @ critic.projection).relu() @ critic.weights[16:-1]) for one in x]
        return (torch.tensor(told).double() + critic.weights[-1])[start - 1 : len(ids) - 1]
    trunk = critic.policy.base_model if isinstance(critic, PolicyWithValue) else critic.trunk
    hidden = trunk(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return (hidden @ critic.head.weight[0] + critic.head.bias[0])[start - 1 : len(ids) - 1]


def advantages_by_hand(tiny: Fixture, kind: str, episodes: Rollout) -> list[list[float]]:
    """One list an answer, from the formulas as they are written."""
    policy, critic = networks(tiny, kind)
    reference: Any = open_language_model(tiny.base).model.double()
    scores = [
        float(score) - (0.0 if ended else 0.5) for score, ended in zip(episodes.scores, episodes.ended.tolist(), strict=True)
    ]
    with torch.no_grad():
        kls = [
            (logprobs(policy, row.ids, row.prompt_length) - logprobs(reference, row.ids, row.prompt_length)).tolist()
            for row in episodes.rows
        ]
        known = [values(critic, r.ids, r.prompt_length).tolist() for r in episodes.rows] if critic is not None else []
    found: list[list[float]] = []
    for i, kl in enumerate(kls):
        mine = range(i - i % GROUP, i - i % GROUP + GROUP)
        if kind == "rloo":
            whole = {j: scores[j] - BETA * sum(kls[j]) for j in mine}
            found.append([whole[i] - sum(whole[j] for j in mine if j != i) / (GROUP - 1)] * len(kl))
        elif kind == "grpo":
            mean = sum(scores[j] for j in mine) / GROUP
            deviation = math.sqrt(sum((scores[j] - mean) ** 2 for j in mine) / (GROUP - 1))
            found.append([(scores[i] - mean) / (deviation + 1e-4)] * len(kl))
        else:
            rewards = [-BETA * k for k in kl]
            rewards[-1] += scores[i]
            after = [*known[i][1:], 0.0]
            deltas = [r + 0.97 * b - a for r, a, b in zip(rewards, known[i], after, strict=True)]
            found.append([sum((0.97 * 0.9) ** (u - t) * deltas[u] for u in range(t, len(kl))) for t in range(len(kl))])
    if kind.startswith("ppo"):
        flat = [a for one in found for a in one]
        mean = sum(flat) / len(flat)
        deviation = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat) + 1e-8)
        found = [[(a - mean) / deviation for a in one] for one in found]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_the_formula_s(tiny: Fixture, tmp_path: Path, kind: str) -> None:
    _, episodes, experience = experienced(tiny, tmp_path, kind)
    assert set(episodes.ended.tolist()) == {True, False}
    assert len({len(row.ids) for row in episodes.rows}) > 3
    for i, expected in enumerate(advantages_by_hand(tiny, kind, episodes)):
        assert experience.advantages[i][experience.mask[i]].tolist() == pytest.approx(expected, abs=CLOSE)
    assert not bool(experience.advantages[~experience.mask].any())
    assert (experience.old_values is None) == (experience.returns is None) == (not kind.startswith("ppo"))
    assert experience.kl_loss_coefficient == (BETA if kind == "grpo" else 0.0)
    paid = [float(s) - (0.0 if e else 0.5) for s, e in zip(episodes.scores, episodes.ended, strict=True)]
    kls = ((experience.old_logprobs - experience.ref_logprobs) * experience.mask).sum(1)
    costs = 0.0 if kind == "grpo" else BETA * kls
    assert experience.rewards.sum(1).tolist() == pytest.approx((torch.tensor(paid).double() - costs).tolist(), abs=CLOSE)


Loss = Callable[[Any, nn.Module | None, Rollout, int], Tensor]


def loss_by_hand(policy: Any, critic: Any, experience: Rollout, i: int, kind: str, wrong: str = "") -> Tensor:
    """The loss of answer i, a sum over its tokens; `wrong` makes one of the known mistakes."""
    row = experience.rows[i]
    here = slice(row.prompt_length, len(row.ids))
    new, old, ref = (
        logprobs(policy, row.ids, row.prompt_length),
        experience.old_logprobs[i, here],
        experience.ref_logprobs[i, here],
    )
    advantage = experience.advantages[i, here] * (-1 if wrong == "sign" else 1)
    rho = torch.exp(new - old)
    held = rho if wrong == "never clipped" else rho.clamp(1 - CLIP, 1 + CLIP)
    total = -torch.minimum(rho * advantage, held * advantage).sum()
    if kind == "grpo" and wrong != "KL left out":
        apart = new - ref if wrong == "KL the other way" else ref - new
        k = apart if wrong == "k1 for k3" else torch.exp(apart) - apart - 1
        total = total + BETA * k.sum()
    if kind == "ppo shared":
        v, v_old, target = (
            values(critic, row.ids, row.prompt_length),
            experience.old_values[i, here],
            experience.returns[i, here],
        )  # type: ignore[index]
        near = v_old + (v - v_old).clamp(-VALUE_CLIP, VALUE_CLIP)
        coefficient = 1.0 if wrong == "value not weighed" else 0.1
        total = total + coefficient * 0.5 * torch.maximum((v - target) ** 2, (near - target) ** 2).sum()
    return total


def gradient(net: nn.Module) -> Tensor:
    return torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in net.parameters()])


def both(
    tiny: Fixture, out: Path, capture: Fixture, kind: str, wrong: str = "", tokens: int = 150, poison: bool = False
) -> tuple[Tensor, Tensor]:
    """The policy's gradient by the stage, and by the formula: away from the sampling policy, so that ratios are clipped."""
    config, _, experience = experienced(tiny, out, kind)
    config = config.model_copy(update={"micro_batch_tokens": tokens})
    policy, critic = networks(tiny, kind, away=0.05)
    trained = critic if kind == "ppo shared" else policy
    assert trained is not None
    count = sum(len(row.ids) - row.prompt_length for row in experience.rows)
    sum((loss_by_hand(policy, critic, experience, i, kind, wrong) for i in range(len(experience.rows))), torch.zeros(())).div(
        count
    ).backward()
    by_hand = gradient(trained)
    if poison:
        names = ("old_logprobs", "ref_logprobs", "advantages", "old_values", "returns", "rewards")
        there = {name: getattr(experience, name) for name in names}
        experience = replace(
            experience, **{n: torch.where(experience.mask, x, math.nan) for n, x in there.items() if x is not None}
        )
    with double_precision():
        learner = OptimizerStep(trained, name="policy", learning_rate=1.0, factor=lambda _: 1.0)
        found = capture(learner)
        value = OptimizerStep(critic, name="value", learning_rate=1.0, factor=lambda _: 1.0) if kind == "ppo own" else None
        if value is not None:
            capture(value)
        report = update_on_rollout(experience, learner, value, on_cpu(config), config.rl, seed=config.seed, number=0)
    assert 0.05 < report.metrics["clip_fraction"] < 0.95
    return found.gradients[0], by_hand


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_s_gradient_is_the_formula_s(tiny: Fixture, tmp_path: Path, capture: Fixture, kind: str) -> None:
    ours, by_hand = both(tiny, tmp_path, capture, kind)
    assert float(by_hand.abs().max()) > 1e-2
    assert float((ours - by_hand).abs().max()) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_neither_split_nor_poisoned_padding_changes_the_gradient(
    tiny: Fixture, tmp_path: Path, capture: Fixture, kind: str
) -> None:
    for number, more in enumerate(({"tokens": 40}, {"tokens": 10_000}, {"poison": True})):
        ours, by_hand = both(tiny, tmp_path / str(number), capture, kind, **more)
        assert float((ours - by_hand).abs().max()) < CLOSE


MISTAKES = [(kind, wrong) for kind in KINDS for wrong in ("sign", "never clipped")]
MISTAKES += [("grpo", wrong) for wrong in ("KL left out", "KL the other way", "k1 for k3")]
MISTAKES += [("ppo shared", "value not weighed")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wrong"), MISTAKES)
def test_a_known_mistake_is_seen(tiny: Fixture, tmp_path: Path, capture: Fixture, kind: str, wrong: str) -> None:
    ours, by_hand = both(tiny, tmp_path, capture, kind, wrong)
    assert float((ours - by_hand).abs().max()) > 1e-3


# The stage


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each(tiny: Fixture, tmp_path: Path, events: Any, kind: str) -> None:
    config = config_of(tiny, tmp_path / "run", kind, episodes=36, num_minibatches=3, epochs=2, eval_every=2)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        rows = run.journal.rows("rl")
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
        plan = events(run, "plan")[0]["message"]
    algorithm = kind.partition(" ")[0]
    assert figures["algorithm"] == algorithm and plan.startswith(f"{algorithm}: 3 updates of 12 answers")
    assert ", 4 to each, " in plan
    assert (", values fitted, policy and reference of " in plan) == (kind == "ppo ridge")
    assert all(verdict == "ok" for name, verdict in gates.items() if name.startswith("step0"))
    told = rows[0].keys() & {"value_loss", "explained_variance", "value_grad_norm", "kl_loss"}
    valued = {"value_loss", "explained_variance"}
    assert (
        told
        == {
            "rloo": set(),
            "grpo": {"kl_loss"},
            "ppo own": {*valued, "value_grad_norm"},
            "ppo shared": valued,
            "ppo ridge": {"explained_variance"},
        }[kind]
    )
    assert rows[2]["kl"] != 0.0


def test_the_answers_to_a_prompt_stand_together(tiny: Fixture, tmp_path: Path) -> None:
    config = config_of(tiny, tmp_path / "run", "rloo", episodes=24)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        first, second = work.prompts_at(0), work.prompts_at(1)
    for asked in (first, second):
        assert len(asked) == 12 and len({prompt.text for prompt in asked}) == 3
        assert all(asked[i] == asked[i - i % GROUP] for i in range(12))
    assert not {p.text for p in first} & {p.text for p in second}


def test_fitted_values_are_learnt_without_a_network(tiny: Fixture, tmp_path: Path) -> None:
    config = config_of(tiny, tmp_path / "run", "ppo ridge", reward_clip=None)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        critic = work.critic
        assert isinstance(critic, RidgeValues) and work.value is None and list(work.optimizers) == ["policy"]
        assert critic.reader is stage_reward_model(config, work.scorer).model  # type: ignore[union-attr]
        read = [weight.clone() for weight in critic.reader.parameters()]
        first = work.step(0)
        assert first is not None and first["explained_variance"] == pytest.approx(0.0, abs=1e-6)
        experience = estimate_advantages(
            collect_rollout(
                work.language_model,
                work.prompts_at(0),
                work.scorer,
                work.settings,
                generator(config.seed, "rl", "rollout", 0),
                critic,
            ),
            work.language_model.model,
            work.reference,
            critic,
            work.settings,
            config.rl,
            kl_coefficient=BETA,
        )
    assert all(torch.equal(a, b) for a, b in zip(read, critic.reader.parameters(), strict=True))
    # Of prompts that it has seen answered it now knows something.
    assert experience.old_values is not None and experience.returns is not None
    assert explained_variance(experience.old_values, experience.returns, experience.mask) > 0.01
    assert bool(experience.old_values[experience.mask].std() > 0.01) and not bool(experience.old_values[~experience.mask].any())


def test_a_shared_value_is_one_network_and_one_optimizer(tiny: Fixture, tmp_path: Path) -> None:
    config = config_of(tiny, tmp_path / "run", "ppo shared")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        assert work.value is None and isinstance(work.critic, PolicyWithValue)
        assert work.critic.policy is work.language_model.model and work.policy.model is work.critic
        assert not bool(work.critic.head.weight.any())
        before = [weight.clone() for weight in work.critic.parameters()]
        work.step(0)
    assert all(not torch.equal(a, b) for a, b in zip(before, work.critic.parameters(), strict=True))
    assert VALUE_COEFFICIENT == 0.1


# What makes no sense is refused


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"algorithm": "rloo", "gae_lambda": 0.95}, "rl.gae_lambda: it means nothing to rloo, only to ppo"),
        ({"algorithm": "grpo", "gamma": 1.0}, "rl.gamma: it means nothing to grpo"),
        ({"algorithm": "grpo", "value_init": "policy"}, "rl.value_init: it means nothing to grpo"),
        ({"algorithm": "rloo", "value_clip_range": 0.2}, "rl.value_clip_range: it means nothing"),
        ({"algorithm": "rloo", "value_learning_rate": 1e-4}, "rl.value_learning_rate: it means nothing"),
        ({"algorithm": "rloo", "group_size": 1}, "rl.group_size: rloo compares the answers to one prompt and needs at least 2"),
        ({"algorithm": "grpo", "group_size": 3}, "rl.group_size: 3 answers per prompt do not divide a batch of 8"),
        ({"value_init": "shared", "value_learning_rate": 1e-4}, "rl.value_learning_rate: with value_init: shared"),
        ({"value_init": "ridge", "value_learning_rate": 1e-4}, "rl.value_learning_rate: with value_init: ridge"),
        ({"value_init": "ridge", "value_clip_range": 0.3}, "rl.value_clip_range: with value_init: ridge"),
        ({"beta": 0.1}, "rl.beta: it means nothing to ppo, only to dpo"),
    ],
)
def test_what_means_nothing_is_refused(tiny: Fixture, tmp_path: Path, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tiny.rl_config(tmp_path, **asked)
    assert told in str(refused.value)


def test_a_run_s_own_file_with_its_defaults_can_be_told_otherwise(tiny: Fixture, tmp_path: Path) -> None:
    whole = tiny.rl_config(tmp_path).model_dump(mode="json")
    assert whole["rl"]["value_clip_range"] == 0.2 and whole["rl"]["value_learning_rate"] is None
    again = parse_config(whole | {"rl": whole["rl"] | {"value_init": "ridge"}})
    assert again.rl is not None and again.rl.value_init == "ridge"


@pytest.mark.parametrize("weights", [(0.0,), (1.0, -1.0)], ids=["all zero", "two that cancel"])
def test_rewards_that_add_up_to_nothing_are_refused(tiny: Fixture, tmp_path: Path, weights: tuple[float, ...]) -> None:
    parts = [{"name": f"part_{i}", "model": "stage", "weight": weight} for i, weight in enumerate(weights)]
    with pytest.raises(ConfigError, match="the weights are all 0 or cancel"):
        tiny.rl_config(tmp_path, rewards=parts)
    tiny.rl_config(tmp_path, rewards=[*parts, {"name": "other", "model": str(tiny.reward), "weight": 1.0}])


@pytest.mark.parametrize(
    ("algorithm", "given"),
    [
        ("dpo", {"group_size": 4}),
        ("dpo", {"episodes": 64}),
        ("dpo", {"num_minibatches": 4}),
        ("dpo", {"clip_range": 0.2}),
        ("dpo", {"reward_clip": 2.0}),
        ("dpo", {"kl": {"coefficient": 0.05}}),
        ("dpo", {"kl": {"target": 6.0}}),
        ("dpo", {"gae_lambda": 0.95}),
        ("best_of_n", {"batch_size": 8}),
        ("best_of_n", {"epochs": 2}),
        ("best_of_n", {"learning_rate": 1e-4}),
        ("best_of_n", {"kl": {"budget": 20.0}}),
        ("best_of_n", {"eval_every": 10}),
        ("best_of_n", {"max_rollbacks": 1}),
        ("best_of_n", {"group_size": 1}),
    ],
)
def test_what_means_nothing_without_a_rollout_is_refused(
    tiny: Fixture, tmp_path: Path, algorithm: str, given: dict[str, Any]
) -> None:
    plain = tiny.rl_config(tmp_path).model_dump()
    asked = {"prompts": [str(tiny.prompts)], "algorithm": algorithm}
    parse_config({**plain, "rl": asked})
    with pytest.raises(ConfigError, match=rf"rl\.{next(iter(given))}.* {algorithm}"):
        parse_config({**plain, "rl": {**asked, **given}})


def test_dpo_needs_judgements(tiny: Fixture, tmp_path: Path) -> None:
    paid = [{"name": "gold", "function": "sawyer.worlds:golds"}]
    tree = {**tiny.rl_config(tmp_path).model_dump(), "reward": None}
    asked = {"prompts": [str(tiny.prompts)], "rewards": paid}
    parse_config({**tree, "rl": asked})
    with pytest.raises(ConfigError, match=r"rl\.data: dpo learns from judged pairs, and the file names none"):
        parse_config({**tree, "rl": {**asked, "algorithm": "dpo"}})


@pytest.mark.parametrize(("algorithm", "group"), [("ppo", 1), ("rloo", 4), ("grpo", 4)])
def test_what_is_written_is_what_is_known_and_can_be_read_again(
    tiny: Fixture, tmp_path: Path, algorithm: str, group: int
) -> None:
    config = tiny.rl_config(tmp_path, algorithm=algorithm)
    written = config.model_dump(mode="json")
    assert parse_config(written) == config
    assert written["rl"]["group_size"] == group
    assert ("gae_lambda" in written["rl"]) == (algorithm == "ppo")
