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


def left_out(config: Config, stage: str) -> str:
    """What a stage leaves out because nothing in this run gives it, as a sentence; empty where nothing is missing."""
    if stage == "reward" and not config.has_policy:
        return (
            "the run has no model that answers (no sft, collect or rl): the file's own answers set the reward's zero and unit, "
            "and nothing is told of the answers that RL will see"
        )
    if stage == "rl" and config.rl is not None and config.rl.algorithm != "best_of_n" and not _is_judged(config):
        return "the gate step0_score is left out: no reward model is paid for whose scores could be asked for again"
    if stage == "compare" and config.compare is not None and config.world is None:
        if config.reward is None and config.compare.reward is None:
            return (
                "rewards, win rates and the gates on them are left out: nobody judges; `reward:` trains a judge, "
                "`compare.reward` names one"
            )
    return ""


def _is_judged(config: Config) -> bool:
    """Whether a reward model is among what RL pays for."""
    parts = config.rl.rewards if config.rl is not None else []
    if not parts:
        return config.reward is not None
    return any(part.model is not None and part.label is None for part in parts)
