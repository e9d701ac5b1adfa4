"""Which model a stage starts from: one that the file names, or one that an earlier stage of the run leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sawyer.config.schema import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One model to start from.

    Examples: RL after SFT has `Start(stage="sft")`, RL from an instruct model `Start(source="owner/name", template="auto")`.
    """

    stage: str | None = None  # whose model it is; None: `source`
    source: str = ""  # a folder or hub id, where no stage's model is meant
    template: str | None = None  # to put on its tokenizer; None: the one that was saved with it

    def path(self, model_of: Callable[[str], Path]) -> str | Path:
        """Its folder or hub id; `model_of` tells where a stage leaves its model (`Layout.model`)."""
        return self.source if self.stage is None else model_of(self.stage)


def start_of(config: Config, stage: str) -> Start | None:
    """What a stage (`classify`, `sft`, `collect`, `reward`, `rl`) starts from; None for one that starts from nothing (`base`).

    A stage needs what it reads, not its predecessor: without an SFT stage collect, reward and RL start from the run's model.
    """
    if stage in ("base", "compare"):
        return None
    own = getattr(getattr(config, stage), "model", None) if stage in ("classify", "reward") else None
    if own is not None:
        return Start(source=own)
    if config.sft is not None and stage not in ("classify", "sft"):
        return Start(stage="sft")
    if config.model is None:
        return Start(stage="base", template=config.template)
    return Start(source=config.model, template=config.template)
