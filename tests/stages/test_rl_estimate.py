"""From answers to advantages: every number against a loop over one answer's tokens."""

from __future__ import annotations

import json
import math
from collections import Counter
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import on_cpu
from torch import nn

from sawyer.models import RewardScorer, ValueNetwork, open_language_model
from sawyer.records import read
from sawyer.runs import Run
from sawyer.stages.rl.rollout import Rollout, collect_rollout, estimate_advantages
from sawyer.stages.rl.trainer import Trainer
from sawyer.train import generator

Fixture = Any
stage = import_module("sawyer.stages.rl.trainer")
BETA, TEMPERATURE = 0.2, 0.7


def setting(tiny: Fixture, out: Path, *, sampled: bool = False, **rl: Any) -> tuple[Any, Rollout, Rollout]:
    """(config, episodes, experience) of twelve answers of different lengths; the reference is another model. With
    `sampled` there is no policy to read."""
    asked = {"max_new_tokens": 18, "temperature": TEMPERATURE, "gamma": 0.9, "gae_lambda": 0.8, "missing_eos_penalty": 0.0}
    config = tiny.rl_config(out, **{**asked, **rl}, rl__micro_batch_tokens=150)
    speaker = open_language_model(tiny.sft)
    prompts = read([str(tiny.prompts)], want="prompts").records[:12]
    value = ValueNetwork.from_reward(tiny.reward)
    nn.init.normal_(value.head.weight, generator=generator(0, "head"))
    episodes = collect_rollout(speaker, prompts, RewardScorer.load(tiny.reward), on_cpu(config), generator(0, "draw"))
    policy: nn.Module = nn.Identity() if sampled else speaker.model
    found = estimate_advantages(
        episodes,
        policy,
        open_language_model(tiny.base).model,
        value,
        on_cpu(config),
        config.rl,
        kl_coefficient=BETA,
        use_sampled_logprobs=sampled,
    )
    return config, episodes, found


def logprobs_by_hand(model: Any, ids: tuple[int, ...], start: int) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double() / TEMPERATURE
    return [float(torch.log_softmax(logits[t - 1], 0)[ids[t]]) for t in range(start, len(ids))]


def values_by_hand(tiny: Fixture, ids: tuple[int, ...], start: int) -> list[float]:
    value = ValueNetwork.from_reward(tiny.reward)
    nn.init.normal_(value.head.weight, generator=generator(0, "head"))
    with torch.no_grad():
        hidden = value.trunk(input_ids=torch.tensor([ids])).last_hidden_state[0]
        return [float(hidden[t - 1] @ value.head.weight[0] + value.head.bias[0]) for t in range(start, len(ids))]


@pytest.mark.slow
def test_rewards_advantages_and_returns_against_a_loop(tiny: Fixture, tmp_path: Path) -> None:
    _, episodes, experience = setting(tiny, tmp_path)
    policy, reference = open_language_model(tiny.sft).model, open_language_model(tiny.base).model
    lengths = {len(c.ids) for c in episodes.completions}
    assert len(lengths) > 4
    assert set(episodes.ended.tolist()) == {True, False}
    rewards, raw, returns = [], [], []
    for i, row in enumerate(episodes.rows):
        start, end = row.prompt_length, len(row.ids)
        old, ref = (logprobs_by_hand(model, row.ids, start) for model in (policy, reference))
        values = values_by_hand(tiny, row.ids, start)
        reward = [-BETA * (a - b) for a, b in zip(old, ref, strict=True)]
        reward[-1] += float(episodes.scores[i])
        advantage = [0.0] * len(reward)
        for t in range(len(reward)):  # the sum as it is written, not the recursion
            for later in range(t, len(reward)):
                after = values[later + 1] if later + 1 < len(reward) else 0.0
                advantage[t] += (0.9 * 0.8) ** (later - t) * (reward[later] + 0.9 * after - values[later])
        assert experience.mask[i].tolist() == [start <= t < end for t in range(experience.mask.shape[1])]
        assert experience.old_logprobs[i, start:end].tolist() == pytest.approx(old, abs=1e-4)
        assert experience.ref_logprobs[i, start:end].tolist() == pytest.approx(ref, abs=1e-4)
        assert experience.old_values[i, start:end].tolist() == pytest.approx(values, abs=1e-4)
        assert experience.rewards[i].sum().item() == pytest.approx(sum(reward), abs=1e-4)
        assert experience.rewards[i, start:end].tolist() == pytest.approx(reward, abs=1e-4)
        expected = [a + v for a, v in zip(advantage, values, strict=True)]
        assert experience.returns[i, start:end].tolist() == pytest.approx(expected, abs=1e-4)
        rewards += reward
        raw += advantage
        returns += expected
    mean = sum(raw) / len(raw)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in raw) / len(raw))
    white = [(a - mean) / deviation for a in raw]
    assert experience.advantages[experience.mask].tolist() == pytest.approx(white, abs=1e-3)
    assert not bool(experience.advantages[~experience.mask].any())
    assert not bool(experience.rewards[~experience.mask].any())


def test_sampled_log_probs_are_those_of_a_pass(tiny: Fixture, tmp_path: Path) -> None:
    (_, _, read), (_, _, sampled) = setting(tiny, tmp_path), setting(tiny, tmp_path, sampled=True)
    for name in ("old_logprobs", "ref_logprobs", "old_values", "advantages", "returns", "rewards"):
        assert torch.allclose(getattr(sampled, name), getattr(read, name), atol=1e-4), name
    assert not torch.allclose(sampled.old_logprobs, read.old_logprobs.roll(1, 1), atol=1e-2)


@pytest.mark.parametrize(
    ("precision", "refused", "expected"),
    [
        ("fp32", None, [False, True, True]),
        ("fp32", 0, [False, False, True]),  # a guard keeps the first batch from being learnt: the gates see the second
        ("bf16", None, [False, False, False]),
    ],
)
def test_the_first_batch_is_read_and_in_bf16_all_are(
    tiny: Fixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    refused: int | None,
    expected: list[bool],
) -> None:
    """So that the gates compare what sampling says with what training reads; in bf16 the two differ by too much."""
    asked: list[bool] = []

    def noting(*given: Any, **more: Any) -> Rollout:
        asked.append(more["use_sampled_logprobs"])
        return estimate_advantages(*given, **more)

    monkeypatch.setattr(stage, "estimate_advantages", noting)
    with tiny.run(tmp_path, "sft", "reward") as run:
        work = Trainer(tiny.rl_config(tmp_path, episodes=24).model_copy(update={"precision": precision}), run)
        monkeypatch.setattr(work, "_apply_guards", lambda index, _: index == refused)
        for index in range(3):
            work.step(index)
        seen = [json.loads(line) for line in run.layout.events.read_text().splitlines()]
    assert asked == expected
    assert sum(event.get("name") == "step0_sampler" for event in seen) == 1


def test_an_episode_is_the_very_tokens_that_were_sampled(tiny: Fixture, tmp_path: Path) -> None:
    _, episodes, _ = setting(tiny, tmp_path)
    speaker, scorer = open_language_model(tiny.sft), RewardScorer.load(tiny.reward)
    for i, (prompt, completion, row) in enumerate(zip(episodes.prompts, episodes.completions, episodes.rows, strict=True)):
        assert row.ids == (*speaker.prompt_encoder.prompt(prompt), *completion.ids)
        assert episodes.ended[i].item() == completion.ended == (completion.ids[-1] == speaker.prompt_encoder.eos_id)
        assert episodes.texts[i] == speaker.prompt_encoder.decode(completion.ids)
    assert episodes.scores.tolist() == pytest.approx(scorer(episodes.prompts, episodes.texts), abs=1e-5)


def last_rewards(found: tuple[Any, Rollout, Rollout]) -> list[float]:
    """The score each answer was paid: its reward at the last token less the KL there."""
    _, episodes, experience = found
    ends = [len(row.ids) - 1 for row in episodes.rows]
    kl = BETA * (experience.old_logprobs - experience.ref_logprobs)
    return [float(experience.rewards[i, end] + kl[i, end]) for i, end in enumerate(ends)]


def test_scores_are_clipped_and_an_answer_without_an_end_pays(tiny: Fixture, tmp_path: Path) -> None:
    plain = setting(tiny, tmp_path)
    scores, ended = plain[1].scores.tolist(), plain[1].ended.tolist()
    assert last_rewards(plain) == pytest.approx(scores, abs=1e-4)
    bound = sorted(map(abs, scores))[6]
    clipped = last_rewards(setting(tiny, tmp_path, reward_clip=bound))
    assert clipped == pytest.approx([min(max(score, -bound), bound) for score in scores], abs=1e-4)
    assert clipped != pytest.approx(scores, abs=1e-4)
    paid = last_rewards(setting(tiny, tmp_path, missing_eos_penalty=1.5))
    assert paid == pytest.approx([s - (0 if end else 1.5) for s, end in zip(scores, ended, strict=True)], abs=1e-4)
    # The penalty is taken after the clip: it must not be clipped away.
    both = last_rewards(setting(tiny, tmp_path, missing_eos_penalty=1.5, reward_clip=bound))
    assert both == pytest.approx([c - (0 if end else 1.5) for c, end in zip(clipped, ended, strict=True)], abs=1e-4)


# Figures of a batch


@pytest.fixture
def measured(tiny: Fixture, tmp_path: Path) -> Any:
    """(episodes, experience, the batch's figures); some prompts come twice and some answers are the same."""
    config, episodes, experience = setting(tiny, tmp_path)

    class Bare(Trainer):
        def __init__(self, config: Any, run: Run | None) -> None:
            from sawyer.maths import FixedKL

            self.config, self.rl, self.kl = config, config.rl, FixedKL(coefficient=0.3)

    return episodes, experience, Bare(config, None).measure(experience)


def test_figures_per_response_and_per_token(measured: Any) -> None:
    episodes, experience, found = measured
    answers = [completion.ids for completion in episodes.completions]
    tokens = sum(map(len, answers))
    kls, rewards, entropy = [], [], 0.0
    for i, row in enumerate(episodes.rows):
        places = range(row.prompt_length, len(row.ids))
        kls.append(sum(float(experience.old_logprobs[i, t] - experience.ref_logprobs[i, t]) for t in places))
        rewards.append(sum(float(experience.rewards[i, t]) for t in places))
        entropy -= sum(float(experience.old_logprobs[i, t]) for t in places)
    bigrams = [pair for ids in answers for pair in pairwise(ids)]
    assert found["kl"] == pytest.approx(sum(kls) / 12, abs=1e-4)
    assert found["reward"] == pytest.approx(sum(rewards) / 12, abs=1e-4)
    assert found["score"] == pytest.approx(sum(episodes.scores.tolist()) / 12, abs=1e-5)
    assert found["sampled_entropy"] == pytest.approx(entropy / tokens, abs=1e-5)
    assert found["sampled_entropy"] != pytest.approx(entropy / experience.mask.numel(), abs=1e-3)
    assert found["length"] == tokens / 12
    assert found["eos_rate"] == pytest.approx(Counter(episodes.ended.tolist())[True] / 12)
    assert found["distinct_2"] == len(set(bigrams)) / len(bigrams)
    assert found["kl_coefficient"] == 0.3
    assert found["mode_response_rate"] == 0.0
    # What is paid is the score less the KL's price.
    assert found["reward"] == pytest.approx(found["score"] - BETA * found["kl"], abs=1e-4)
