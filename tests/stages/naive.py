"""Figures by loops over single tokens, rows and pairs, with which docs/metrics.md is held to what runs write down.

Nothing of the package's mathematics is used: a network is read one row at a time, without padding, and what it says becomes
plain numbers. Each loop is marked with the documented names that it gives, all of them and no others; `LOOPS` has them by
section.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

import pytest
import torch
from recorded import is_clock_or_memory

from sawyer.train import OptimizerStep

CLOSE = {"rel": 1e-6, "abs": 1e-9}  # float64 against float64
LOOPS: dict[str, set[str]] = {}
Loop = Callable[..., dict[str, float]]


def tells(section: str, *names: str) -> Callable[[Loop], Loop]:
    """The loop gives these figures of a section of docs/metrics.md; capitals in a name stand for anything."""
    LOOPS.setdefault(section, set()).update(names)

    def mark(loop: Loop) -> Loop:
        @wraps(loop)
        def marked(*given: Any, **named: Any) -> dict[str, float]:
            found = loop(*given, **named)
            assert set(found) == names_among(found, names), f"{loop.__name__} gives more than it is marked with"
            assert all(names_among(found, [name]) for name in names), f"{loop.__name__} gives less than it is marked with"
            return found

        return marked

    return mark


def names_among(found: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """The keys that a documented name stands for."""
    patterns = [
        "".join(".+" if re.fullmatch("[A-Z]+", part) else re.escape(part) for part in re.split("([A-Z]+)", name))
        for name in names
    ]
    return {key for key in found if any(re.fullmatch(pattern, key) for pattern in patterns)}


def same(told: Mapping[str, Any], by_hand: Mapping[str, float], **close: float) -> None:
    """A row of the journal holds these figures and no others."""
    assert {name for name in told if not is_clock_or_memory(name)} - {"stage", "step"} == set(by_hand)
    for name, value in by_hand.items():
        assert told[name] == pytest.approx(value, **(close or CLOSE)), name


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of all that is in a tree."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


# Networks, one row at a time.


def double(model: Any) -> Any:
    return copy.deepcopy(model).double().eval()


def logits_of(model: Any, ids: Sequence[int], temperature: float = 1.0) -> list[list[float]]:
    """One row of plain numbers a token, of a float64 model."""
    return (model(input_ids=torch.tensor([list(ids)])).logits[0] / temperature).tolist()


def logprob(row: Sequence[float], token: int) -> float:
    top = max(row)
    return row[token] - top - math.log(math.fsum(math.exp(x - top) for x in row))


def entropy(row: Sequence[float]) -> float:
    whole = math.fsum(math.exp(x) for x in row)
    shares = [math.exp(x) / whole for x in row]
    return -math.fsum(p * math.log(p) for p in shares if p > 0)


def of_response(model: Any, row: Any, temperature: float) -> list[float]:
    """log pi of each token of the response."""
    logits = logits_of(model, row.ids, temperature)
    return [logprob(logits[t - 1], row.ids[t]) for t in range(row.prompt_length, len(row.ids))]


def of_trained(model: Any, row: Any) -> list[torch.Tensor]:
    """log pi of each token that is trained on, with its gradient."""
    logits = model(input_ids=torch.tensor([list(row.ids)])).logits[0]
    return [torch.log_softmax(logits[t - 1], 0)[row.ids[t]] for t in range(1, len(row.ids)) if row.loss_mask[t]]


def norm_of(loss: torch.Tensor, model: Any) -> float:
    grads = torch.autograd.grad(loss, [w for w in model.parameters() if w.requires_grad], allow_unused=True)
    return math.sqrt(math.fsum(float((g**2).sum()) for g in grads if g is not None))


def rate_of(step: int, steps: int, highest: float, warmup: float) -> float:
    """The learning rate of a step: rising in equal steps over the warm-up, then falling in equal steps, never 0."""
    rising = math.ceil(warmup * steps)
    return highest * ((step + 1) / rising if step < rising else (steps - step) / (steps - rising))


def stepped(patch: pytest.MonkeyPatch) -> list[Any]:
    """From now on: each optimizer step's network as it was before it."""
    seen: list[Any] = []
    real = OptimizerStep.update

    def update(self: OptimizerStep, parts: Any, loss: Callable[[Any], Any], count: float, **more: Any) -> Any:
        seen.append(double(self.model))
        return real(self, parts, loss, count, **more)

    patch.setattr(OptimizerStep, "update", update)
    return seen


# Numbers.


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    middle = mean(values)
    return mean([(x - middle) ** 2 for x in values])


def pearson(xs: Sequence[float], ys: Sequence[float]) -> float:
    mx, my = mean(xs), mean(ys)
    across = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return across / math.sqrt(sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    """log(1 + exp x) = -log sigmoid(-x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def wilson(share: float, trials: int) -> tuple[float, float]:
    """The shares that lie 1.96 standard errors of their own from the one seen, found by halving."""

    def beyond(p: float) -> bool:
        return abs(share - p) > 1.959963984540054 * math.sqrt(p * (1 - p) / trials)

    ends = []
    for outside in (0.0, 1.0):
        inside = share
        if not beyond(outside):
            ends.append(outside)
            continue
        for _ in range(80):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
        ends.append(inside)
    return ends[0], ends[1]


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of draws."""
    ordered = sorted(values)
    return ordered[math.floor(0.025 * len(ordered))], ordered[math.ceil(0.975 * len(ordered)) - 1]


def distinct(answers: Sequence[Sequence[int]], n: int) -> float:
    grams = []
    for ids in answers:
        for i in range(len(ids) - n + 1):
            grams.append(tuple(ids[i : i + n]))
    different: list[Any] = []
    for gram in grams:
        if gram not in different:
            different.append(gram)
    return len(different) / len(grams)


def alike(prompts: Sequence[Any], texts: Sequence[str]) -> float:
    most = 0
    for text in texts:
        given = {prompt.messages for prompt, other in zip(prompts, texts, strict=True) if other == text}
        most = max(most, len(given))
    return most / len({prompt.messages for prompt in prompts}) if most >= 4 else 0.0
