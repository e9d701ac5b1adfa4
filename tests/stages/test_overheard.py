"""With `value_start: frozen` the states that values are fitted to are those in which the reward model scored the answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.engine import generator
from sawyer.models import FittedValues, Member, RewardScorer, load_reward, load_tokenizer
from sawyer.stages.rl.rollout import Episodes, Seen, collect, frozen_states
from sawyer.stages.rl.train import RlWork
from sawyer.text import Batch

Fixture = Any
PARTS = [{"name": "own", "weight": 0.5, "model": "stage"}, {"name": "good", "function": "sawyer.worlds:golds"}]


def sampled(work: RlWork, values: FittedValues | None, count: int = 8) -> Episodes:
    """Answers to prompts of which some come twice; `values`: who asks for states."""
    prompts = [prompt for prompt in work.prompts[: count // 2] for _ in range(2)]
    return collect(work.policy_speaker, prompts, work.scorer, work.config, work.place, generator(0, "draw"), values)


def by_row(seen: Seen, count: int) -> list[dict[int, torch.Tensor]]:
    """Each row's states by the place of the token that is chosen in them; every place at most once."""
    found: list[dict[int, torch.Tensor]] = [{} for _ in range(count)]
    for (row, column), state in zip(seen.places.tolist(), seen.states, strict=True):
        assert column not in found[row]
        found[row][column] = state
    return found


@pytest.mark.parametrize("rewards", [[], PARTS])
def test_states_are_those_of_the_sampled_tokens(tiny: Fixture, tmp_path: Path, rewards: list[Any]) -> None:
    with tiny.run(tmp_path, "sft", "reward") as run:
        work = RlWork(tiny.rl_config(tmp_path, value_start="frozen", rewards=rewards, max_new_tokens=18), run)
        episodes = sampled(work, work.fitted, 24)
        plain = sampled(work, None, 24)
        seen = frozen_states(work.fitted, episodes, work.config, work.place)
    rows = episodes.rows
    assert episodes.seen is not None and plain.seen is None
    assert 0 < len(episodes.seen.missing) < len(rows) - 3, (
        "some answers are written otherwise than they were sampled, most are not"
    )
    assert {True, False} == {bool(episodes.ended[i]) for i in range(len(rows)) if i not in episodes.seen.missing}
    assert plain.rows == rows and torch.allclose(plain.scores, episodes.scores, atol=1e-5)
    reader: Any = load_reward(tiny.reward, load_tokenizer(tiny.reward))
    for row, found in zip(rows, by_row(seen, len(rows)), strict=True):
        with torch.no_grad():
            whole = reader.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        assert sorted(found) == list(range(row.prompt_length, len(row.ids)))
        for place, state in found.items():
            assert torch.allclose(state, whole[place - 1], atol=1e-4)
            assert not torch.allclose(state, whole[place], atol=1e-2), "of the token itself, which nobody has chosen yet"


def test_what_was_heard_is_not_read_again(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    states = FittedValues.states

    def counted(self: FittedValues, batch: Batch) -> torch.Tensor:
        read.append(len(batch.ids))
        return states(self, batch)

    monkeypatch.setattr(FittedValues, "states", counted)
    with tiny.run(tmp_path, "sft", "reward") as run:
        work = RlWork(tiny.rl_config(tmp_path, value_start="frozen"), run)
        heard = sampled(work, work.fitted, 24)
        frozen_states(work.fitted, heard, work.config, work.place)
        assert heard.seen is not None and sum(read) == len(heard.seen.missing) < 24
        read.clear()
        frozen_states(work.fitted, replace(heard, seen=None), work.config, work.place)
        assert sum(read) == 24
        read.clear()
        work.step(0)
        assert sum(read) < work.asked.batch_size
        # Nobody listens once the answers are scored: an evaluation would fill the memory with states that nobody reads.
        assert work.scorer._heard is None


def test_an_ensemble_is_heard_by_its_first_member(tiny: Fixture, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.reward)
    one, other = (load_reward(tiny.reward, tokenizer) for _ in range(2))
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.5 * torch.randn(weight.shape, generator=generator(1, "other")))
    with tiny.run(tmp_path, "sft", "reward") as run:
        work = RlWork(tiny.rl_config(tmp_path, value_start="frozen"), run)
        prompts, texts = work.prompts[:3], ["yes", "no, and more than that", ""]
        codec = work.scorer.codec
        both = RewardScorer(codec=codec, members=[Member(model=one), Member(model=other)])
        with both.overheard() as heard:
            scores = both.raw(prompts, texts)
    assert torch.allclose(scores, both.raw(prompts, texts), atol=1e-5)
    assert not torch.allclose(scores[0], scores[1], atol=1e-3)
    for prompt, text in zip(prompts, texts, strict=True):
        row = codec.answer(prompt, text)
        found = heard[row.prompt_length, row.ids]
        with torch.no_grad():
            expected = one.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        assert found is not None and torch.allclose(found, expected[row.prompt_length - 1 : -1], atol=1e-4)
