"""Values fitted to a frozen network's states: against the regression written out, and what must not change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sawyer.models import RidgeValues, before_trained
from sawyer.models.ridge_values import DECAY, LEAST
from sawyer.text import Row, pad_right

Speakers = Callable[[str], Any]
ROWS = [[50, 60, 70, 80, 90], [51, 61], [52, 62, 72, 82, 92, 53, 63], [54, 64, 74], [55, 65, 75, 85]]


def made(speaker: Speakers) -> RidgeValues:
    model = speaker("gpt2").model
    return RidgeValues(model, model.config.n_embd, torch.Generator().manual_seed(5))


def seen(values: RidgeValues) -> Tensor:
    """At every token of the rows: each is before a trained one."""
    rows = [Row(ids=(*ids, 0), loss_mask=(False, *[True] * len(ids)), prompt_length=1, cut=False) for ids in ROWS]
    batch = pad_right(rows, 1)
    return values.states(batch)[before_trained(batch)]


def worth(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) + 2


def test_states_are_the_network_s(speaker: Speakers) -> None:
    values = made(speaker)
    states, start = seen(values), 0
    for ids in ROWS:
        expected = values.reader.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert torch.allclose(states[start : start + len(ids)], expected, atol=1e-5)
        start += len(ids)
    assert not states.requires_grad


def test_fitted_is_the_regression_written_out(speaker: Speakers) -> None:
    values = made(speaker)
    states = seen(values)
    assert not bool(values.of_states(states).any()), "nothing is known before the first batch"
    first, second = worth(len(states)), worth(len(states), 1)
    values.fit(states, first)
    values.fit(states[:9], second[:9])
    spread = states.std(0, correction=0)
    x = (states - states.mean(0)) / spread.clamp(min=LEAST * spread.square().mean().sqrt())  # where the first batch lies
    x = torch.cat([x, (x @ values.projection).relu()], 1).double()
    x, y = torch.cat([x, x[:9]]), torch.cat([first, second[:9]]).double()
    share = torch.cat([torch.full((len(states),), DECAY), torch.ones(9)]).double()
    mean = share @ x / share.sum()
    variance = (share @ (x - mean).square() / share.sum()).mean()
    there = x - mean
    penalty = x.shape[1] * variance * torch.eye(x.shape[1])
    w = torch.linalg.solve(there.T @ (share.unsqueeze(1) * there) + penalty, there.T @ (share * (y - share @ y / share.sum())))
    expected = (x - mean) @ w + share @ y / share.sum()
    assert torch.allclose(values.of_states(states).double(), expected[: len(states)], atol=1e-4)
    assert float(expected.std()) > 1e-2
    unfaded = made(speaker)
    unfaded.fit(states, first)
    unfaded.sums = unfaded.sums / DECAY  # type: ignore[operator]
    unfaded.fit(states[:9], second[:9])
    assert not torch.allclose(unfaded.of_states(states), values.of_states(states), atol=1e-3)


def test_order_changes_nothing_but_rounding(speaker: Speakers) -> None:
    one, other = made(speaker), made(speaker)
    states = seen(one)
    returns, order = worth(len(states)), torch.randperm(len(states), generator=torch.Generator().manual_seed(2))
    one.fit(states, returns)
    other.fit(states[order], returns[order])
    assert torch.allclose(one.weights, other.weights, atol=1e-5)


def test_what_nobody_trains_stays(speaker: Speakers) -> None:
    values = made(speaker)
    before = [weight.clone() for weight in values.reader.parameters()]
    states = seen(values)
    values.fit(states, worth(len(states)))
    assert all(torch.equal(a, b) for a, b in zip(before, values.reader.parameters(), strict=True))
    assert all(weight.grad is None for weight in values.reader.parameters())


@pytest.mark.parametrize("batches", [0, 2])
def test_it_goes_on_where_its_state_was_taken(speaker: Speakers, batches: int, tmp_path: Any) -> None:
    straight, again = made(speaker), made(speaker)
    states = seen(straight)
    for number in range(batches):
        straight.fit(states, worth(len(states), number))
    torch.save(straight.state(), tmp_path / "state.pt")
    again.fit(states[:4], worth(4, 9))  # what it had before is gone
    again.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.of_states(states), straight.of_states(states))
    for values in (straight, again):
        values.fit(states + 1, worth(len(states), 7))
    assert torch.equal(again.weights, straight.weights) and torch.equal(again.centre, straight.centre)


@pytest.mark.parametrize("value", [4.0, 87.3213])
def test_a_state_that_never_changed_stays_quiet(speaker: Speakers, value: float) -> None:
    values = made(speaker)
    states = seen(values)
    states[:, 0] = value
    values.fit(states, worth(len(states)))
    states[:, 0] += 1e-2
    assert bool(values.of_states(states).abs().max() < 10)


def test_a_first_batch_of_two_tokens_does_not_set_the_scale_to_nothing(speaker: Speakers) -> None:
    values = made(speaker)
    states = seen(values)
    two = states[:2] * torch.linspace(0, 1, states.shape[1]) ** 8  # some hardly move between the two
    values.fit(two, worth(2))
    spread = two.std(0, correction=0)
    least = LEAST * spread.square().mean().sqrt()
    assert float(spread.min()) < 1e-3 * float(least)
    assert torch.allclose(values.spread, torch.where(spread < least, least, spread), rtol=1e-5)
    values = made(speaker)
    values.fit(states[:1], worth(1))
    assert values.spread.tolist() == [1.0] * states.shape[1]
    assert values.of_states(states[:1]).tolist() == pytest.approx(worth(1).tolist(), abs=1e-4)


def test_in_parts_as_at_once(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (4096, 5):
        monkeypatch.setattr("sawyer.models.ridge_values.AT_ONCE", size)
        values = made(speaker)
        values.fit(seen(values), worth(21))
        found.append(values.of_states(seen(values)))
    assert torch.allclose(found[0], found[1], atol=1e-5) and len(found[1]) == 21


def test_a_process_may_have_no_rows(speaker: Speakers) -> None:
    """What the other one's sums are is added to nothing."""
    told, empty = made(speaker), made(speaker)
    states = seen(told)
    sent: list[Tensor] = []
    told.fit(states, worth(len(states)), lambda tensor: sent.append(tensor.clone()))
    empty.fit(states[:0], worth(0), lambda tensor: tensor.add_(sent.pop(0)))
    assert not sent and torch.equal(empty.weights, told.weights)
    assert empty.of_states(states[:0]).tolist() == []
