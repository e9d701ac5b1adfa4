"""Which fast path a model takes, or why none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sawyer.models.fast.kv_cache import static_cache_problem
from sawyer.models.fast.packing import packing_problem
from sawyer.models.network_parts import head_of, score_head, splits_exactly, trunk_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPath:
    """What is faster than padded rows and transformers' own cache.

    Example: `FastPath(name="none", reason="its config names sliding_window: 4096")`
    """

    name: Literal["packing and static cache", "packing", "none"]
    reason: str = ""  # why not the next better one; empty where there is none


def fast_path(model: Any) -> FastPath:
    """How a language model, a reward model or a value network is run.

    Prepacked weights are not part of it: they depend on the CPU and the precision of each call.
    """
    values = hasattr(model, "trunk")  # a value network: a head at every token of a trunk
    trunk = model.trunk if values else trunk_of(model)
    if values or (score_head(model) is not None and trunk is not model):
        problem = packing_problem(trunk)
        return FastPath(name="none" if problem else "packing", reason=problem)
    if head_of(model) is not None:
        # Whole models run padded: only a trunk can be packed.
        problem = static_cache_problem(model)
        packs = splits_exactly(model) and not packing_problem(trunk)
        if not problem:
            return FastPath(name="packing and static cache")
        return FastPath(name="packing" if packs else "none", reason=problem)
    return FastPath(name="none", reason="it is no decoder whose score is read from its last hidden state")
