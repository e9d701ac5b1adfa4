"""Which phase a stage's seconds go into: the functions that do the work are timed where they are called."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from benchmarks.ceiling import finish
from sawyer import models

PHASES = ("generate", "score", "forward", "backward", "optimizer")  # what is in none of them is "else"
# The phase of each function of `sawyer.models`, under whatever name a stage imported it.
CALLS = {
    "sample": "generate",
    "score_details": "score",
    "policy_logprobs": "forward",
    "sequence_logits": "forward",
    "token_values": "forward",
    "trunk_states": "forward",
}


class Clock:
    """Seconds by phase. A phase inside another counts for the outer one: a scorer's forward pass is scoring."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._busy = device, dict.fromkeys(PHASES, 0.0), False

    def time_calls(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted under `phase`."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._busy:
                return function(*args, **kwargs)
            self._busy, start = True, self._now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[phase] += self._now() - start
                self._busy = False

        return call

    def _now(self) -> float:
        finish(self.device)
        return time.perf_counter()


@contextmanager
def phases(device: torch.device) -> Iterator[Clock]:
    """Within it every call of what a phase is made of is timed; afterwards all is as it was."""
    clock = Clock(device)
    put_back: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, phase: str) -> None:
        before = getattr(owner, name)
        put_back.append((owner, name, before))
        setattr(owner, name, clock.time_calls(phase, before))

    rooms = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in ("sawyer", "benchmarks")]
    for function_name, phase in CALLS.items():
        function = getattr(models, function_name)
        for room in rooms:
            for name in [name for name, value in vars(room).items() if value is function]:
                replace(room, name, phase)
    replace(torch.Tensor, "backward", "backward")
    replace(torch.optim.AdamW, "step", "optimizer")
    replace(torch.nn.utils, "clip_grad_norm_", "optimizer")
    try:
        yield clock
    finally:
        for owner, name, before in reversed(put_back):
            setattr(owner, name, before)
