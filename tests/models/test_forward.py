"""Log-probs, scores and values against transformers' own logits in float64, one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sawyer.models import (
    ValueNetwork,
    mean_loss,
    network_parts,
    policy_logprobs,
    row_cost,
    row_losses,
    splits_exactly,
    token_values,
)
from sawyer.models.fast import packing
from sawyer.models.fast.packing import real_states
from sawyer.models.network_parts import next_logits, trunk_of
from sawyer.text import Batch, Row, batches, pad_left, pad_right

LOGPROBS = import_module("sawyer.maths.logprobs")
SINGLE = 2e-5  # fp32 through two layers, logits up to about 10
Speakers = Callable[[str], Any]
ARCHITECTURES = ["gpt2", "llama", "opt", "gemma2", "granite", "cohere"]


def row(ids: list[int], trained: list[int]) -> Row:
    return Row(ids=tuple(ids), loss_mask=tuple(bool(t) for t in trained), prompt_length=trained.count(0), cut=False)


# Ragged, the pad's id 1 and EOS 0 among real tokens, a trained stretch in the middle, a row with nothing trained.
ROWS = [
    row([50, 60, 70, 80, 90, 0], [0, 0, 0, 1, 1, 1]),
    row([51, 61, 0], [0, 1, 1]),
    row([1, 52, 62, 0, 72, 1, 82, 92, 0], [0, 0, 1, 1, 0, 0, 0, 1, 1]),
    row([53, 63], [0, 0]),
]


def brute_force(model: Any, batch: Batch, *, temperature: float = 1.0, shift: int = 1, inverted: bool = False) -> Tensor:
    """log softmax(logits / temperature) at each trained token, each row alone and whole, in float64."""
    exact = deepcopy(model).double()
    found = torch.zeros(batch.ids.shape, dtype=torch.float64)
    with torch.no_grad():
        for r, length in enumerate(batch.mask.sum(1).tolist()):
            ids = batch.ids[r, :length]
            table = torch.log_softmax(exact(input_ids=ids.unsqueeze(0)).logits[0] / temperature, dim=-1)
            for t in range(1, length):
                if bool(batch.loss_mask[r, t]) is not inverted:
                    found[r, t] = table[t - shift, ids[t]]
    return found


def close(found: Tensor, expected: Tensor, tolerance: float = SINGLE) -> bool:
    return found.shape == expected.shape and bool(((found.double() - expected.double()).abs() <= tolerance).all())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_policy_logprobs(speaker: Speakers, name: str, temperature: float) -> None:
    model, batch = speaker(name).model, pad_right(ROWS, 1)
    found = policy_logprobs(model, batch, temperature=temperature).logprobs
    assert found.dtype == torch.float32
    assert close(found, brute_force(model, batch, temperature=temperature))
    assert bool((found[~batch.loss_mask] == 0).all())


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_the_known_mistakes_differ(speaker: Speakers, name: str) -> None:
    model, batch = speaker(name).model, pad_right(ROWS, 1)
    found = policy_logprobs(model, batch, temperature=0.7).logprobs
    assert not close(found, brute_force(model, batch, temperature=0.7, shift=0), 0.1)
    assert not close(found, brute_force(model, batch, temperature=0.7, shift=2), 0.1)
    assert not close(found, brute_force(model, batch, temperature=0.7, inverted=True), 0.1)
    assert not close(found, brute_force(model, batch, temperature=1 / 0.7), 0.1)
    assert not close(found, brute_force(model, batch), 0.1)


@pytest.mark.parametrize(
    ("name", "splits"),
    [("gpt2", True), ("llama", True), ("qwen2", True), ("neox", True), ("phi", True), ("gemma2", False), ("granite", False)],
)
def test_which_models_run_in_two_parts(speaker: Speakers, name: str, splits: bool) -> None:
    model = speaker(name).model
    assert splits_exactly(model) is splits
    assert not model._modules.get("transformer", model)._forward_hooks  # the trial leaves nothing behind


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite"])
def test_trunk_and_head_alone_are_wrong_for_models_that_scale(speaker: Speakers, name: str) -> None:
    model, batch = speaker(name).model, pad_right(ROWS, 1)
    right = brute_force(model, batch)
    network_parts._splits[model] = True
    assert not close(policy_logprobs(model, batch).logprobs, right, 0.05)
    network_parts._splits[model] = False
    assert close(policy_logprobs(model, batch).logprobs, right)


@pytest.mark.parametrize("chunk", [1, 3 * 288, 5 * 288])
def test_chunks_change_nothing(speaker: Speakers, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    model, batch = speaker("llama").model, pad_right(ROWS, 1)
    weight = torch.linspace(-1, 2, batch.ids.numel()).view(batch.ids.shape)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        found = policy_logprobs(model, batch, temperature=0.7).logprobs
        (found * weight).sum().backward()
        return found.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    whole, gradients = run()
    calls: list[int] = []
    project = LOGPROBS.linear
    monkeypatch.setattr(LOGPROBS, "CHUNK", chunk)
    monkeypatch.setattr(LOGPROBS, "SAVE", 0)
    monkeypatch.setattr(LOGPROBS, "linear", lambda z, *rest: calls.append(len(z)) or project(z, *rest))
    parts, others = run()
    trained = int(batch.loss_mask.sum())
    assert max(calls) == max(1, chunk // 288) < trained
    assert sum(calls) == 2 * trained  # once forward, once more in the backward pass
    assert close(parts, whole, 1e-6)
    assert all(close(others[name], gradients[name], 1e-5) for name in gradients)
    with torch.no_grad():
        assert close(policy_logprobs(model, batch, temperature=0.7).logprobs, whole, 1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gemma2"])
def test_poisoned_padding(speaker: Speakers, name: str) -> None:
    """NaN in the pad's embedding reaches neither values nor gradients; in a token that is read, it does."""
    model = speaker(name).model
    rows = [ROWS[0], ROWS[1]]
    whole = policy_logprobs(model, pad_right(rows, 2)).logprobs.detach()
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = torch.nan
    if name == "llama":  # untied: the poison stays out of the logits
        found = policy_logprobs(model, pad_right(rows, 2)).logprobs
        assert torch.equal(found, whole)
        found.sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        read = pad_right([row([50, 2, 0], [0, 1, 1])], 2)
        assert bool(policy_logprobs(model, read).logprobs.isnan().any())
    for packed in (True, False):
        packing._problems[trunk_of(model)] = "" if packed and name != "gemma2" else "padded"
        assert bool(real_states(trunk_of(model), pad_right(rows, 2)).isfinite().all())


def test_more_padding_and_other_rows_change_nothing(speaker: Speakers) -> None:
    model, batch = speaker("gpt2").model, pad_right(ROWS, 1)
    found = policy_logprobs(model, batch).logprobs
    for r, single in enumerate(ROWS):
        alone = policy_logprobs(model, pad_right([single], 1)).logprobs
        assert close(found[r : r + 1, : len(single.ids)], alone)
    turned = policy_logprobs(model, pad_right(ROWS[::-1], 1)).logprobs
    assert close(turned.flip(0), found)
    for indices, part in batches(ROWS, pad_id=1, token_budget=9):
        assert close(policy_logprobs(model, part).logprobs, found[indices][:, : part.ids.shape[1]])


def test_nothing_trained_and_a_first_token_trained(speaker: Speakers) -> None:
    model = speaker("gpt2").model
    assert policy_logprobs(model, pad_right([ROWS[3]], 1)).logprobs.tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="first token"):
        policy_logprobs(model, pad_right([row([50, 0], [1, 1])], 1))


@pytest.mark.fast_path
def test_projections_too_have_sizes_that_come_again(speaker: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine trained tokens: in bf16 sixteen rows are projected, in fp32 nine."""
    model, batch = speaker("gpt2").model, pad_right(ROWS, 1)
    splits_exactly(model)
    monkeypatch.setattr(packing, "MULTIPLE", 8)
    rows: list[int] = []
    linear = LOGPROBS.linear
    monkeypatch.setattr(LOGPROBS, "linear", lambda x, *more: rows.append(len(x)) or linear(x, *more))

    def told(*, narrow: bool) -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            found = policy_logprobs(model, batch).logprobs
        found.sum().backward()
        return [found.detach(), *(weight.grad for weight in model.parameters())]

    filled, exact = told(narrow=True), told(narrow=False)
    monkeypatch.setattr(packing, "MULTIPLE", 1)
    plain = told(narrow=True)
    assert rows == [16, 9, 9]
    assert torch.allclose(filled[0], exact[0], atol=0.1)
    for mine, theirs in zip(filled, plain, strict=True):
        assert torch.allclose(mine, theirs, atol=0.02 * float(theirs.abs().max()))


@pytest.mark.parametrize(("name", "tied"), [("gpt2", True), ("llama", False)])
def test_what_a_row_costs(speaker: Speakers, name: str, tied: bool) -> None:
    """Nine tokens, four of them trained: each meets the layers, the trained ones the vocabulary; embeddings are looked up."""
    model = speaker(name).model
    table, whole = model.get_input_embeddings().weight.numel(), sum(weight.numel() for weight in model.parameters())
    spoken = model.lm_head.weight.numel()
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    layers = whole - table if tied else whole - table - spoken
    assert row_cost(model)(ROWS[2]) == 9 * layers + 4 * spoken
    assert row_cost(model)(ROWS[3]) == 2 * layers


def test_mean_loss(speaker: Speakers) -> None:
    model, batch = speaker("gpt2").model, pad_right(ROWS, 1)
    expected = -brute_force(model, batch).sum() / 9
    found = mean_loss(model, ROWS, pad_id=1, token_budget=9, device=torch.device("cpu"))
    assert found == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma2"])
def test_next_logits_with_and_without_a_cache(speaker: Speakers, name: str) -> None:
    model = speaker(name).model
    rows = [[50, 60, 70], [51]]
    batch = pad_left(rows, 1)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "position_ids": batch.positions}
    with torch.no_grad():
        first, cache = next_logits(model, None, **inputs)
        grown = torch.cat([batch.mask.long(), torch.ones(2, 1, dtype=torch.long)], 1)
        inputs = {"input_ids": torch.tensor([[80], [81]]), "attention_mask": grown, "position_ids": torch.tensor([[3], [1]])}
        second, _ = next_logits(model, cache, **inputs)
        for r, ids in enumerate(rows):
            table = model(input_ids=torch.tensor([[*ids, 80 + r]])).logits[0]
            assert close(first[r], table[-2]) and close(second[r], table[-1])
            assert not close(first[r], table[-1], 0.1)


def test_token_values(make: Callable[[str], Path]) -> None:
    network = ValueNetwork.from_policy(make("llama"))
    torch.nn.init.normal_(network.head.weight)
    batch = pad_right(ROWS, 1)
    found = token_values(network, batch, batch.mask)
    assert found.dtype == torch.float32
    for r, single in enumerate(ROWS):
        hidden = network.trunk(input_ids=torch.tensor([single.ids])).last_hidden_state[0]
        expected = hidden @ network.head.weight[0] + network.head.bias
        assert close(found[r, : len(single.ids)], expected)


def test_row_losses_add_up_to_the_mean_and_keep_the_rows_order(speaker: Speakers) -> None:
    model, batch = speaker("gpt2").model, pad_right(ROWS, 1)
    found = row_losses(model, ROWS, pad_id=1, token_budget=9, device=torch.device("cpu"))
    assert found == pytest.approx((-brute_force(model, batch).sum(1)).tolist(), abs=1e-5)
