"""With `value_init: ridge` the states that values are fitted to are those in which the reward model scored the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sawyer.models import Member, RewardScorer, RidgeValues, load_reward, load_tokenizer
from sawyer.records import Prompt, prompt_of
from sawyer.stages.rl.rollout import Rollout, collect_rollout
from sawyer.stages.rl.trainer import Trainer
from sawyer.text import Batch, Row
from sawyer.train import distributed, generator

Fixture = Any
PARTS = [{"name": "own", "weight": 0.5, "model": "stage"}, {"name": "good", "function": "sawyer.worlds:golds"}]
COUNT = 24
rollout = import_module("sawyer.stages.rl.rollout")


@pytest.fixture
def read_alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were read for their states alone, batch by batch."""
    counts: list[int] = []
    states = RidgeValues.states

    def counted(self: RidgeValues, batch: Batch) -> Tensor:
        counts.append(len(batch.ids))
        return states(self, batch)

    monkeypatch.setattr(RidgeValues, "states", counted)
    return counts


def sampled(work: Trainer, values: RidgeValues | None) -> Rollout:
    """Answers to prompts that come twice each; `values`: who asks for states."""
    prompts = [prompt for prompt in work.prompts[: COUNT // 2] for _ in range(2)]
    return collect_rollout(work.language_model, prompts, work.scorer, work.settings, generator(0, "draw"), values)


def otherwise(work: Trainer, episodes: Rollout) -> list[int]:
    """The answers whose text encodes to other tokens than were sampled."""
    prompt_encoder, eos = work.language_model.prompt_encoder, work.language_model.prompt_encoder.eos_id
    again = [prompt_encoder.answer(p, t).ids for p, t in zip(episodes.prompts, episodes.texts, strict=True)]
    return [i for i, row in enumerate(episodes.rows) if again[i] not in (row.ids, (*row.ids, eos))]


def by_row(rollout: Rollout) -> list[dict[int, Tensor]]:
    """Each row's states by the place of the token that is chosen in them; every place at most once."""
    assert rollout.state_index is not None and rollout.states is not None
    found: list[dict[int, Tensor]] = [{} for _ in range(COUNT)]
    for (row, column), state in zip(rollout.state_index.tolist(), rollout.states, strict=True):
        assert column not in found[row]
        found[row][column] = state
    return found


@pytest.mark.parametrize("rewards", [[], PARTS])
def test_states_are_those_of_the_sampled_tokens(
    tiny: Fixture, tmp_path: Path, read_alone: list[int], rewards: list[Any]
) -> None:
    with tiny.run(tmp_path, "sft", "reward") as run:
        work = Trainer(tiny.rl_config(tmp_path, value_init="ridge", rewards=rewards, max_new_tokens=18), run)
        episodes, plain = sampled(work, work.ridge_values), sampled(work, None)
        left = otherwise(work, episodes)
    rows = episodes.rows
    assert plain.states is None and plain.rows == rows and torch.allclose(plain.scores, episodes.scores, atol=1e-5)
    assert sum(read_alone) == len(left) and 0 < len(left) < COUNT, "some are read again, some are not"
    assert {True, False} == {bool(episodes.ended[i]) for i in range(COUNT) if i not in left}
    reader: Any = load_reward(tiny.reward, load_tokenizer(tiny.reward))
    for row, found in zip(rows, by_row(episodes), strict=True):
        with torch.no_grad():
            whole = reader.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        assert sorted(found) == list(range(row.prompt_length, len(row.ids)))
        for place, state in found.items():
            assert torch.allclose(state, whole[place - 1], atol=1e-4)
            assert not torch.allclose(state, whole[place], atol=1e-2), "of the token itself, which nobody has chosen yet"


def test_an_update_reads_no_more_than_it_must(tiny: Fixture, tmp_path: Path, read_alone: list[int]) -> None:
    with tiny.run(tmp_path, "sft", "reward") as run:
        work = Trainer(tiny.rl_config(tmp_path, value_init="ridge"), run)
        work.step(0)
    assert sum(read_alone) < work.rl.batch_size
    scorer: Any = work.scorer
    assert scorer._captured_states is None, "an evaluation would fill the memory with states that nobody reads"


def test_nothing_is_captured_after_an_error_and_capturing_costs_no_pass(tiny: Fixture) -> None:
    scorer, passes = RewardScorer.load(tiny.reward), list[int]()
    asked = [prompt_of("one"), prompt_of("another, longer one")], ["yes", "no, and more than that"]
    scorer.raw(*asked)  # the first time the network is tried
    scorer.model.base_model.register_forward_hook(lambda *_: passes.append(1))
    scorer.raw(*asked)
    count = len(passes)
    with scorer.captured_states() as captured:
        scorer.raw(*asked)
    assert len(passes) == 2 * count and len(captured) == 2
    with pytest.raises(KeyError), scorer.captured_states():
        raise KeyError
    scorer.raw(*asked)
    assert len(captured) == 2 and scorer._captured_states is None


def test_an_ensemble_is_heard_by_its_first_member(tiny: Fixture) -> None:
    one, other = (load_reward(tiny.reward, load_tokenizer(tiny.reward)) for _ in range(2))
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.5 * torch.randn(weight.shape, generator=generator(1, "other")))
    prompts, texts = [prompt_of("one"), prompt_of("two"), prompt_of("three")], ["yes", "no, and more than that", ""]
    prompt_encoder: Any = RewardScorer.load(tiny.reward).prompt_encoder
    both = RewardScorer(
        prompt_encoder=prompt_encoder, members=[Member(model=one), Member(model=other), Member(model=one, shift=1.0)]
    )
    with both.captured_states() as captured:
        scores = both.raw(prompts, texts)
    assert torch.allclose(scores, both.raw(prompts, texts), atol=1e-5)
    assert torch.equal(scores[0], scores[2]) and not torch.allclose(scores[0], scores[1], atol=1e-3)
    trunk: Any = one.base_model
    for prompt, text in zip(prompts, texts, strict=True):
        row = prompt_encoder.answer(prompt, text)
        with torch.no_grad():
            expected = trunk(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        found = captured[row]
        assert found is not None and torch.allclose(found, expected[row.prompt_length - 1 : -1], atol=1e-4)


def of_two(monkeypatch: pytest.MonkeyPatch, scorer: RewardScorer, hand: int) -> None:
    """This is one of two processes; what the other finds is 0."""

    def deal(sizes: Sequence[float]) -> list[int]:
        return [place for place in range(len(sizes)) if place % 2 == hand]

    def shared_rows(sizes: Sequence[float], read: Callable[[list[int]], Tensor]) -> Tensor:
        part = read(deal(sizes))
        return part.new_zeros(len(sizes), *part.shape[1:]).index_copy(0, torch.tensor(deal(sizes)), part)

    monkeypatch.setattr(distributed, "shard_indices", deal)
    scorer.map_rows = shared_rows  # type: ignore[assignment]


def test_of_two_processes_each_has_its_share(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny.run(tmp_path, "sft", "reward") as run:
        work = Trainer(tiny.rl_config(tmp_path, value_init="ridge"), run)
        whole = sampled(work, work.ridge_values)
        monkeypatch.setattr(rollout, "sample", lambda *_, **__: whole.completions)
        shares = []
        for hand in range(2):
            assert work.ridge_values is not None and work.ridge_values.scorer is not None
            of_two(monkeypatch, work.ridge_values.scorer, hand)
            shares.append(sampled(work, work.ridge_values))
    places = [{(row, column) for row, column in share.state_index.tolist()} for share in shares]  # type: ignore[union-attr]
    assert whole.state_index is not None and all(places) and not places[0] & places[1]
    assert places[0] | places[1] == {(row, column) for row, column in whole.state_index.tolist()}


def test_answers_that_encode_alike_are_read_by_one_process(tiny: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = RewardScorer.load(tiny.reward)
    prompt_encoder = scorer.prompt_encoder

    class Lower:
        """A tokenizer that does not tell capitals."""

        context, pad_id = prompt_encoder.context, prompt_encoder.pad_id

        def answer(self, prompt: Prompt, response: str) -> Row:
            return prompt_encoder.answer(prompt, response.lower())

    scorer.prompt_encoder = Lower()
    told = []
    for hand in range(2):
        of_two(monkeypatch, scorer, hand)
        with scorer.captured_states() as captured:
            scores = scorer.raw([prompt_of("one")] * 3, ["Yes", "yes", "no"])
        assert scores[0, 0] == scores[0, 1] != scores[0, 2]
        told.append({row: states is not None for row, states in captured.items()})
    assert len(told[0]) == 2 and all(told[0][row] != told[1][row] for row in told[0])
