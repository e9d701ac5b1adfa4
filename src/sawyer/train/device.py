"""Where the arithmetic happens and in which precision: one decision, with the reason that is shown to the user."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from sawyer.errors import ConfigError
from sawyer.models import multiplies_bf16
from sawyer.train import distributed

# Below this width a product is too small for bf16's faster multiplication to pay for the conversions around it, unless most of
# the products are the projection to a vocabulary of at least so many tokens (lab/speed.md#bf16-of-narrow-models).
BF16_WIDTH = 512
BF16_VOCABULARY = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A device and the precision of its products. Weights, optimizer state and losses are fp32 whatever it says."""

    device: torch.device
    precision: Literal["fp32", "bf16"]
    reason: str

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which networks run forward."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def choose_device(device: str, precision: str, *, width: int, vocabulary: int = 0) -> Placement:
    """Resolve "auto" for a model of `width` hidden units that predicts `vocabulary` tokens (0: it predicts none). Each process
    of a machine gets its own card.

    Raises ConfigError for a device that does not exist.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: cuda, but PyTorch sees no CUDA device",
            expected="device: auto, or a machine and a PyTorch build with CUDA",
            todo="set `device: cpu`, or install a CUDA build of PyTorch",
        )
    name = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    chosen, reason = _precision(name, precision, width, vocabulary)
    several = f"{distributed.count()} processes, " if distributed.count() > 1 else ""
    return Placement(device=_device(name), precision=chosen, reason=f"{several}{name}, {chosen}: {reason}")


def _device(name: str) -> torch.device:
    if name != "cuda" or distributed.count() == 1:
        return torch.device(name)
    index, cards = distributed.local_rank(), torch.cuda.device_count()
    if index >= cards:
        raise ConfigError(
            f"process {index + 1} of this machine has no card: there {'is' if cards == 1 else 'are'} {cards}",
            expected="at most one process a card",
            why="two processes on one GPU take turns and share its memory",
            todo=f"start {cards} with --nproc-per-node or --num_processes, or set `device: cpu`",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _precision(device: str, setting: str, width: int, vocabulary: int) -> tuple[Literal["fp32", "bf16"], str]:
    if setting == "fp32":
        return "fp32", "as configured"
    if setting == "bf16":
        return "bf16", "as configured"
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the card multiplies bf16 faster"
        return "fp32", "the card has no bf16 units"
    if not multiplies_bf16():
        return "fp32", "this processor has no bf16 products"
    if width < BF16_WIDTH and vocabulary < BF16_VOCABULARY:
        or_vocabulary = f", or with a vocabulary from {BF16_VOCABULARY:,} on," if vocabulary else ""
        return "fp32", f"a model {width} wide gains nothing from bf16 (from {BF16_WIDTH} on{or_vocabulary} it does)"
    return "bf16", "this processor multiplies bf16 faster"
