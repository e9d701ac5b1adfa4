"""The memory that networks take before anything runs: weights, each counted once, and what training adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sawyer.train.allocator import MB

MOMENTS = 2  # AdamW keeps two numbers a trained weight


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMemory:
    """One network's memory, in MiB."""

    name: str
    frozen_weights: float
    trained_weights: float
    optimizer_state: float  # of the trained weights, their gradients included

    @property
    def total(self) -> float:
        return self.frozen_weights + self.trained_weights + self.optimizer_state

    def in_words(self) -> str:
        if not self.trained_weights:
            return f"{self.name} {_mb(self.frozen_weights)} MB"
        terms = [f"{_mb(self.frozen_weights)} frozen"] if self.frozen_weights else []
        terms += [f"{_mb(self.trained_weights)} trained", f"{_mb(self.optimizer_state)} of gradients and optimizer state"]
        return f"{self.name} {_mb(self.total)} MB ({', '.join(terms)})"


def plan_memory(networks: Mapping[str, nn.Module], trained_weights: Iterable[Tensor]) -> list[NetworkMemory]:
    """Each network's memory. A weight that several networks share counts for the first of them."""
    seen: set[int] = set()
    trained_ids = {id(weight) for weight in trained_weights}
    plan: list[NetworkMemory] = []
    for name, network in networks.items():
        sizes = {False: 0.0, True: 0.0}
        for weight in network.parameters():
            if id(weight) not in seen:
                seen.add(id(weight))
                sizes[id(weight) in trained_ids] += weight.numel() * weight.element_size() / MB
        state = sizes[True] * (1 + MOMENTS)
        plan.append(NetworkMemory(name=name, frozen_weights=sizes[False], trained_weights=sizes[True], optimizer_state=state))
    return plan


def memory_plan_summary(plan: list[NetworkMemory]) -> str:
    """The plan as a sentence."""
    networks = "; ".join(memory.in_words() for memory in plan if memory.total)
    return f"{networks}; {_mb(sum(memory.total for memory in plan))} MB in all, before a batch runs"


def _mb(size: float) -> str:
    return f"{size:,.0f}" if size >= 10 else f"{size:.2g}"
