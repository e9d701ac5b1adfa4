"""Values by least squares: nothing is trained by a gradient, and no network is added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sawyer import processes
from sawyer.maths import moments, ridge
from sawyer.models.forward import trunk_states
from sawyer.text import Batch

RANDOM = 640  # random features beside the states themselves
KEPT = 0.85  # of what earlier batches count, once a batch has come since


class FittedValues(nn.Module):
    """V at every token, a linear function of the states that a network which nobody trains has there, and of random features of
    them, relu(x R) (Rahimi and Recht 2008), fitted to the returns of the batches so far by ridge regression.

    As with `ValueNetwork` V = 0 everywhere at first. `reader` belongs to whoever lent it, and is asked for its states alone.
    """

    centre: Tensor
    spread: Tensor
    mixing: Tensor
    weights: Tensor

    def __init__(self, reader: Any, width: int, draw: torch.Generator) -> None:
        super().__init__()
        self.reader = reader
        self.register_buffer("mixing", torch.randn(width, RANDOM, generator=draw) / width**0.5)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("weights", torch.zeros(width + RANDOM + 1))
        self.moments: Tensor | None = None  # of all batches so far; None before the first

    def states(self, batch: Batch) -> Tensor:
        """(B, T, d) fp32, at every token of a right-padded batch."""
        with torch.no_grad():
            return trunk_states(self.reader, batch).float()

    def of_states(self, states: Tensor) -> Tensor:
        """(N, d) -> (N,)."""
        return self._features(states) @ self.weights[:-1] + self.weights[-1]

    def fit(self, states: Tensor, returns: Tensor) -> None:
        """After a batch: this process's share of its states (n, d), and what they were worth, (n,). Those of the others are
        added. What earlier batches said fades: the policy that they were sampled from has moved since.
        """
        if self.moments is None:
            self._measure(states)
        found = moments(self._features(states), returns)
        processes.add_up(found)
        self.moments = found if self.moments is None else KEPT * self.moments + found
        self.weights.copy_(ridge(self.moments, strength=len(self.weights) - 1))

    def _features(self, states: Tensor) -> Tensor:
        """(N, d) -> (N, d + RANDOM)."""
        standard = (states - self.centre) / self.spread
        return torch.cat([standard, (standard @ self.mixing).relu()], 1)

    def _measure(self, states: Tensor) -> None:
        """Where the states lie and how far they spread, from the first batch, for good."""
        sums = torch.stack([states.double().sum(0), states.double().square().sum(0), torch.full_like(states[0], len(states))])
        sums = sums.cpu()
        processes.add_up(sums)
        mean = sums[0] / sums[2]
        variance = sums[1] / sums[2] - mean.square()
        self.centre.copy_(mean)
        self.spread.copy_(torch.where(variance > 1e-12, variance, 1.0).sqrt())  # 1 for a state that never changes

    def state(self) -> dict[str, Any]:
        """All that is fitted."""
        return {"centre": self.centre, "spread": self.spread, "weights": self.weights, "moments": self.moments}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        for name in ("centre", "spread", "weights"):
            getattr(self, name).copy_(state[name])
        self.moments = None if state["moments"] is None else state["moments"].clone()
