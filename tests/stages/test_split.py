"""One optimizer batch is a number of rows: split into 1, 3 or 7 parts it has the same gradient, in every stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import on_cpu
from torch import Tensor

from sawyer.models import ValueNetwork, open_language_model
from sawyer.records import read
from sawyer.text import Row
from sawyer.text.batch import micro_batches
from sawyer.train import OptimizerStep, batch_indices, choose_device, generator, judged_minibatches

ONE = 1_000_000  # tokens: a budget that no batch here exceeds
ROUNDING = 2e-6  # of the largest entry; a batch's sum is taken in another order
Fixture = Any


def close(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def budget(parts_at: Callable[[int], int], required_section: int) -> int:
    """The largest of the tried token budgets that splits the batch into `required_section` parts or more."""
    return next(tokens for tokens in (int(4000 * 0.94**i) for i in range(80)) if parts_at(tokens) >= required_section)


def parts_of(rows: Sequence[Row], batch: Sequence[int]) -> Callable[[int], int]:
    """How many parts a token budget makes of these rows."""
    return lambda tokens: len(micro_batches([len(rows[i].ids) for i in batch], tokens))


def rows_of(tiny: Fixture, count: int) -> list[Row]:
    speaker = open_language_model(tiny.sft)
    records = read([str(tiny.instructions)], want="demonstrations").records
    return [speaker.prompt_encoder.demonstration(record) for record in records[:count]]


def check(step: Callable[[int, Any], Any], size: Callable[[Any], float], parts_at: Callable[[int], int]) -> None:
    """`step(budget, size)` gives what was captured of the same batch; the mean of the parts' means must not pass."""
    whole = step(ONE, None)
    assert whole.parts == [1]
    for required_section in (3, 7):
        tokens = budget(parts_at, required_section)
        split = step(tokens, None)
        assert required_section <= split.parts[0] <= required_section + 3
        assert split.counts == whole.counts
        assert close(split.gradients[0], whole.gradients[0]) < ROUNDING
        assert split.losses[0] == pytest.approx(whole.losses[0], rel=1e-6)
        wrong = step(tokens, size)
        assert close(wrong.gradients[0], whole.gradients[0]) > 1e-3


def test_base(tiny: Fixture, capture: Fixture, tmp_path: Path) -> None:
    from sawyer.stages.base.base_stage import BaseLoop

    # Windows of one length, 25 of them: parts of 9, 9, 7 and of 3, 3, ..., 1.
    rows = [Row(ids=row.ids[:16], loss_mask=(False, *[True] * 15), prompt_length=1, cut=False) for row in rows_of(tiny, 40)]
    base = {"text": ["t"], "batch_size": 25, "tokens": 16 * 25, "context": 16}

    def step(tokens: int, size: Any) -> Any:
        config = tiny.config(tmp_path, model=None, base=base, micro_batch_tokens=tokens)
        work = BaseLoop(config, choose_device("cpu", "fp32", width=16), open_language_model(tiny.base).model, rows)
        found = capture(work.optimizer_step, size)
        work.step(0)
        return found

    chosen = batch_indices(len(rows), 25, 0, total=25, seed=0, stage="base")
    whole = step(ONE, None)
    assert whole.counts == [25 * 15]
    with torch.no_grad():
        found = open_language_model(tiny.base).model(input_ids=torch.tensor([rows[i].ids for i in chosen])).logits[:, :-1]
    targets = torch.tensor([rows[i].ids[1:] for i in chosen])
    by_hand = torch.nn.functional.cross_entropy(found.flatten(0, 1), targets.flatten())
    assert whole.losses[0] == pytest.approx(float(by_hand), rel=1e-5)
    check(step, lambda part: float(part[1].loss_mask.sum()), parts_of(rows, chosen))


def test_sft(tiny: Fixture, capture: Fixture, tmp_path: Path) -> None:
    from sawyer.stages.sft.sft_stage import SftLoop

    rows = rows_of(tiny, 30)

    def step(tokens: int, size: Any) -> Any:
        config = tiny.config(tmp_path, sft={"data": ["d"], "batch_size": 25}, micro_batch_tokens=tokens)
        work = SftLoop(config, choose_device("cpu", "fp32", width=16), open_language_model(tiny.base), rows)
        found = capture(work.optimizer_step, size)
        work.step(0)
        return found

    chosen = batch_indices(len(rows), 25, 0, total=30, seed=0, stage="sft")
    check(step, lambda part: float(part[1].loss_mask.sum()), parts_of(rows, chosen))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["squared", "margin"])
def test_reward(tiny: Fixture, capture: Fixture, tmp_path: Path, loss: str) -> None:
    from sawyer.models import load_reward, load_tokenizer
    from sawyer.stages.reward.reward_data import load_reward_data
    from sawyer.stages.reward.reward_stage import RewardLoop

    asked = {"data": [str(tiny.comparisons)], "batch_size": 25, "loss": loss, "centering_coefficient": 0.01}
    stages = {"sft": {"data": ["d"]}, "reward": asked}
    speaker = open_language_model(tiny.sft)
    with tiny.run(tmp_path) as run:
        groups = load_reward_data(tiny.config(tmp_path, **stages), run, speaker).train_prompts
    assert len({len(group.pairs) for group in groups}) > 1, "groups of different numbers of pairs, or a mean would do"

    def step(tokens: int, size: Any) -> Any:
        config = tiny.config(tmp_path, **stages, micro_batch_tokens=tokens)
        work = RewardLoop(
            config,
            choose_device("cpu", "fp32", width=16),
            load_reward(tiny.reward, load_tokenizer(tiny.reward)),
            speaker.prompt_encoder.pad_id,
            groups,
        )
        found = capture(work.optimizer_step, size)
        work.step(0)
        return found

    chosen = batch_indices(len(groups), 25, 0, total=len(groups), seed=0, stage="reward")
    batch = [groups[i] for i in chosen]
    check(step, lambda part: float(len(part.judgements.better)), lambda tokens: len(list(judged_minibatches(batch, 0, tokens))))


@pytest.fixture(scope="module")
def experience(tiny: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers of many lengths, some ended and some not, with advantages of both signs."""
    from sawyer.models import RewardScorer
    from sawyer.stages.rl.rollout import collect_rollout, estimate_advantages

    config = tiny.rl_config(tmp_path_factory.mktemp("rl"), max_new_tokens=24)
    speaker, prompts = open_language_model(tiny.sft), read([str(tiny.prompts)], want="prompts").records[:25]
    value = ValueNetwork.from_policy(tiny.sft)
    torch.nn.init.normal_(value.head.weight, generator=generator(0, "head"))
    episodes = collect_rollout(speaker, prompts, RewardScorer.load(tiny.reward), on_cpu(config), generator(0, "draw"))
    return estimate_advantages(
        episodes, speaker.model, open_language_model(tiny.base).model, value, on_cpu(config), config.rl, kl_coefficient=0.1
    )


def captured_update(tiny: Fixture, capture: Fixture, experience: Any, out: Path, tokens: int, sizes: Sequence[Any]) -> Any:
    from sawyer.stages.rl.ppo_updates import update_on_rollout

    config = tiny.rl_config(out, episodes=25, batch_size=25, num_minibatches=1, rl__micro_batch_tokens=tokens)
    # Away from the sampling policy, or no ratio is clipped and no value held back.
    model, value = open_language_model(tiny.sft).model, ValueNetwork.from_policy(tiny.sft)
    torch.nn.init.normal_(value.head.weight, generator=generator(1, "head"))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator(2, "away", *weight.shape))
    learners = [OptimizerStep(net, name="n", learning_rate=1.0, factor=lambda _: 1.0) for net in (model, value)]
    found = [capture(learner, size) for learner, size in zip(learners, sizes, strict=True)]
    report = update_on_rollout(experience, *learners, on_cpu(config), config.rl, seed=config.seed, number=0)
    return *found, report


@pytest.mark.slow
@pytest.mark.parametrize("network", ["policy", "value"])
def test_rl(tiny: Fixture, capture: Fixture, experience: Any, tmp_path: Path, network: str) -> None:
    which = ("policy", "value").index(network)

    def step(tokens: int, size: Any) -> Any:
        return captured_update(tiny, capture, experience, tmp_path, tokens, (size, size))[which]

    check(step, lambda part: float(part.batch.loss_mask.sum()), parts_of(experience.rows, range(25)))


def test_the_report_of_an_update_does_not_depend_on_the_split(
    tiny: Fixture, capture: Fixture, experience: Any, tmp_path: Path
) -> None:
    whole, split = (captured_update(tiny, capture, experience, tmp_path, t, (None, None))[2] for t in (ONE, 150))
    assert 0.01 < whole.metrics["clip_fraction"] < 0.99
    assert whole.first_ratio_error > 0.1
    assert whole.metrics.keys() == split.metrics.keys()
    assert split.first_ratio_error == pytest.approx(whole.first_ratio_error, rel=1e-5)
    for name, value in whole.metrics.items():
        assert split.metrics[name] == pytest.approx(value, rel=1e-5), name
