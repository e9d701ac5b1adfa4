"""What a sitting varies: which stages, along which axes, with which values; and a batch cut into parts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from sawyer.config import Config
from sawyer.errors import ConfigError

MEASURED = ("sft", "reward", "rl", "sampling")
GROWTH = {"batch": MEASURED, "length": ("sft", "reward", "sampling"), "answers": ("reward",), "processes": MEASURED}
FACTORS = (0.25, 0.5, 1, 2)  # of the config's batch, to see how the time grows
LENGTHS, ANSWERS, PROCESSES = (64, 128, 256, 512), (2, 3, 4, 6), (1, 2, 4)
BATCH = 32  # prompts answered at once where `sampling` is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is set otherwise than the config says. None: as it says."""

    batch: int | None = None  # rows, prompts or episodes an optimizer step, of all processes together
    length: int | None = None  # tokens to which rows are cut (of sampling: new tokens)
    answers: int | None = None  # of each prompt, the first so many
    processes: int | None = None  # that share each batch; None: one

    @property
    def told(self) -> str:
        """`batch 16`, or nothing."""
        named = ((name, getattr(self, name)) for name in GROWTH)
        return ", ".join(f"{name} {value}" for name, value in named if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which of the optimizer batches are done: of each `of` in a row, the one with this number. So that `of` parts with an
    `of`-th of the batch each do what one does with whole batches."""

    number: int = 0
    of: int = 1

    def index(self, step: int) -> int:
        """The batch of step 0, 1, ...: never one of the first `of`, since RL's first step has more to do than the others."""
        return self.of * (step + 1) + self.number

    def batches(self, steps: int) -> int:
        """How many batches there must be for so many steps."""
        return self.of * (steps + 1)


WHOLE = Part()


def batch_of(config: Config, stage: str) -> int:
    """Rows, prompts or episodes a step, as the config has them."""
    found: int = BATCH if stage == "sampling" else getattr(config, stage).batch_size
    return found


def part_of(config: Config, stage: str, parts: int) -> int:
    """A batch's part where it is cut into so many. Raises ConfigError where they do not come out even."""
    batch, whole = batch_of(config, stage), parts * _divisor(config, stage)
    if batch % whole:
        raise ConfigError(
            f"a batch of {batch} ({stage}) cannot be cut into {parts} equal parts",
            expected=f"a multiple of {whole}",
            why="each part is to be measured by itself, and together they are to be the whole",
            todo=f"give {stage} another batch size",
        )
    return batch // parts


def values(config: Config, stage: str, axis: str) -> list[int]:
    """Which values an axis takes: batches around the config's, processes as far as the machine has cores or cards."""
    if axis == "length":
        return list(LENGTHS)
    if axis == "answers":
        return list(ANSWERS)
    if axis == "processes":
        return [number for number in PROCESSES if number <= _most(config)]
    base, step = batch_of(config, stage), _divisor(config, stage)
    return sorted({max(1, round(base * factor / step)) * step for factor in FACTORS})


def _divisor(config: Config, stage: str) -> int:
    """What must divide a batch."""
    return math.lcm(config.rl.minibatches, config.rl.group) if stage == "rl" and config.rl else 1


def _most(config: Config) -> int:
    """Processes that are worth measuring: one a card; without a card two at least, as many as there are cores."""
    if config.device != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, cores)
