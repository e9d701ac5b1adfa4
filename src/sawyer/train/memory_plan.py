"""What networks take of memory before anything runs: weights, each counted once, and what training adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sawyer.train.allocator import MB

MOMENTS = 2  # AdamW keeps two numbers a trained weight


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMemory:
    """One network's share, in MiB."""

    name: str
    frozen: float  # weights that stay as they are
    trained: float  # weights that are trained
    learning: float  # their gradients and the optimizer's state

    @property
    def whole(self) -> float:
        """All of it."""
        return self.frozen + self.trained + self.learning

    @property
    def told(self) -> str:
        """In words."""
        if not self.trained:
            return f"{self.name} {_mb(self.frozen)} MB"
        apart = [f"{_mb(self.frozen)} frozen"] if self.frozen else []
        apart += [f"{_mb(self.trained)} trained", f"{_mb(self.learning)} of gradients and optimizer state"]
        return f"{self.name} {_mb(self.whole)} MB ({', '.join(apart)})"


def plan_memory(networks: Mapping[str, nn.Module], trained: Iterable[Tensor]) -> list[NetworkMemory]:
    """Each network's share by its name, where `trained` are the weights that optimizers have; a weight that several networks
    have counts for the first of them."""
    seen: set[int] = set()
    learns = {id(weight) for weight in trained}
    found: list[NetworkMemory] = []
    for name, network in networks.items():
        sizes = {False: 0.0, True: 0.0}
        for weight in network.parameters():
            if id(weight) not in seen:
                seen.add(id(weight))
                sizes[id(weight) in learns] += weight.numel() * weight.element_size() / MB
        learning = sizes[True] * (1 + MOMENTS)
        found.append(NetworkMemory(name=name, frozen=sizes[False], trained=sizes[True], learning=learning))
    return found


def memory_plan_summary(plan: list[NetworkMemory]) -> str:
    """The plan as a sentence."""
    shares = "; ".join(held.told for held in plan if held.whole)
    return f"{shares}; {_mb(sum(held.whole for held in plan))} MB in all, before a batch runs"


def _mb(size: float) -> str:
    return f"{size:,.0f}" if size >= 10 else f"{size:.2g}"
