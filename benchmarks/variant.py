"""What a measurement sets otherwise than the config: the batch, and how many processes share it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sawyer.config import Config
from sawyer.errors import ConfigError

STAGES = ("sft", "reward", "rl", "sampling")
BATCH = 32  # prompts answered at once where `sampling` is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """None: as the config says."""

    batch: int | None = None  # rows, prompts or episodes an optimizer step, of all processes together
    processes: int | None = None  # that share each batch; None: one

    @property
    def label(self) -> str:
        """`batch 16`, or nothing."""
        values = {"batch": self.batch, "processes": self.processes}
        return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """Which optimizer batches are done: of each `of` in a row, the one with this number. `of` parts, each with an `of`-th of
    the batch, then do what one process does with whole batches."""

    number: int = 0
    of: int = 1

    def index(self, step: int) -> int:
        """The batch of step 0, 1, ...: never one of the first `of`, since RL's first step has more to do than the others."""
        return self.of * (step + 1) + self.number

    def batches(self, steps: int) -> int:
        """How many batches there must be for so many steps."""
        return self.of * (steps + 1)


WHOLE = BatchPart()


def batch_of(config: Config, stage: str) -> int:
    """Rows, prompts or episodes a step, as the config has them."""
    batch_size: int = BATCH if stage == "sampling" else getattr(config, stage).batch_size
    return batch_size


def batch_part(config: Config, stage: str, parts: int) -> int:
    """The size of one of `parts` equal parts of a batch. Raises ConfigError where it does not divide evenly."""
    divisor = math.lcm(config.rl.num_minibatches, config.rl.group_size) if stage == "rl" and config.rl else 1
    batch, whole = batch_of(config, stage), parts * divisor
    if batch % whole:
        raise ConfigError(
            f"a batch of {batch} ({stage}) cannot be cut into {parts} equal parts",
            expected=f"a multiple of {whole}",
            why="each part is measured by itself, and together they are the whole",
            todo=f"give {stage} another batch size",
        )
    return batch // parts
