"""Values by least squares: nothing is trained by a gradient, and no network is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sawyer.maths import moments, ridge
from sawyer.models.forward import before_trained, trunk_states
from sawyer.models.scoring import RewardScorer
from sawyer.text import Batch

Reduce = Callable[[Tensor], None]  # replaces a tensor by its sum over the processes that share a batch
RANDOM = 640  # random features beside the states themselves
DECAY = 0.85  # of what earlier batches count, once another one has come
LEAST = 0.1  # of the states' common spread, the least that one of them is taken to have
AT_ONCE = 4096  # states whose features are made at once


class RidgeValues:
    """V at every token, in the reward's standard unit: a linear function of the states that a frozen network has
    there, and of random features of them, relu(x R) (Rahimi and Recht 2008), fitted to the returns of the batches so far.

    After each batch the sums over observations are S <- DECAY S + S of the batch, and the weights their ridge regression, with
    as many observations against each weight as there are features. As with `ValueNetwork` V = 0 everywhere at first. `reader`
    only gives its states; `scorer` is the reward model whose network it is, None where it is the reference.
    All that is fitted lies on the CPU.
    """

    def __init__(self, reader: Any, width: int, draw: torch.Generator, scorer: RewardScorer | None = None) -> None:
        self.reader, self.scorer = reader, scorer
        self.projection = torch.randn(width, RANDOM, generator=draw) / width**0.5
        self.centre, self.spread = torch.zeros(width), torch.ones(width)
        self.weights = torch.zeros(width + RANDOM + 1)
        self.sums: Tensor | None = None  # of all batches so far; None before the first

    @torch.no_grad()
    def states(self, batch: Batch) -> Tensor:
        """(B, T, d) fp32, at every token of a right-padded batch before a trained one, 0 elsewhere, where the batch lies."""
        return trunk_states(self.reader, batch, before_trained(batch)).float()

    def of_states(self, states: Tensor) -> Tensor:
        """(N, d) -> (N,)."""
        parts = [self._features(part) @ self.weights[:-1] + self.weights[-1] for part in states.split(AT_ONCE)]
        return torch.cat(parts)

    def fit(self, states: Tensor, returns: Tensor, all_reduce_: Reduce = lambda _: None) -> None:
        """After a batch: its states (n, d) and their returns (n,), or this process's share of them, where `all_reduce_` adds
        those of the others. Earlier batches count less and less (`DECAY`): the policy that they were sampled from has changed.
        """
        if self.sums is None:
            self._measure(states, all_reduce_)
        parts = zip(states.split(AT_ONCE), returns.split(AT_ONCE), strict=True)
        sums = torch.zeros(len(self.weights) + 1, len(self.weights) + 1, dtype=torch.float64)
        for x, y in parts:
            sums += moments(self._features(x), y)
        all_reduce_(sums)
        self.sums = sums if self.sums is None else DECAY * self.sums + sums
        self.weights.copy_(ridge(self.sums, strength=len(self.weights) - 1))

    def _features(self, states: Tensor) -> Tensor:
        """(N, d) -> (N, d + RANDOM)."""
        standard = (states - self.centre) / self.spread
        return torch.cat([standard, (standard @ self.projection).relu()], 1)

    def _measure(self, states: Tensor, all_reduce_: Reduce) -> None:
        """Where the states lie and how far they spread, from the first batch, for good. What hardly moves in it may later."""
        whole = torch.cat([states.double().sum(0), torch.tensor([len(states)]).double()])
        all_reduce_(whole)
        mean = whole[:-1] / whole[-1]
        squares = (states.double() - mean).square().sum(0)
        all_reduce_(squares)
        spread = (squares / whole[-1]).sqrt()
        common = float(spread.square().mean().sqrt())
        self.centre.copy_(mean)
        self.spread.copy_(spread.clamp(min=LEAST * common if common > 0 else 1.0))

    def state(self) -> dict[str, Any]:
        """All that is fitted."""
        return {"centre": self.centre, "spread": self.spread, "weights": self.weights, "sums": self.sums}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        for name in ("centre", "spread", "weights"):
            getattr(self, name).copy_(state[name])
        self.sums = None if state["sums"] is None else state["sums"].clone()
