"""The model that a stage starts from: one that the config names, or one of an earlier stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sawyer.config.schema import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A model to start from.

    Examples: RL after SFT has `Start(stage="sft")`, RL from an instruct model `Start(source="owner/name", template="auto")`.
    """

    stage: str | None = None  # the stage whose model it is; None: `source`
    source: str = ""  # a folder or hub id, if it is not a stage's model
    template: str | None = None  # for its tokenizer; None: the one saved with it

    def path(self, model_of: Callable[[str], Path]) -> str | Path:
        """Its folder or hub id; `model_of` gives the folder of a stage's model (`Layout.model`)."""
        return self.source if self.stage is None else model_of(self.stage)


def start_of(config: Config, stage: str) -> Start | None:
    """The model that a stage starts from; None for `base` and `compare`.

    A stage does not need its predecessor: without an SFT stage, collect, reward and rl start from the run's model.
    """
    if stage in ("base", "compare"):
        return None
    source = getattr(getattr(config, stage), "model", None) if stage in ("classify", "reward") else None
    if source is not None:
        return Start(source=source)
    if config.sft is not None and stage not in ("classify", "sft"):
        return Start(stage="sft")
    if config.model is None:
        return Start(stage="base", template=config.template)
    return Start(source=config.model, template=config.template)


def left_out(config: Config, stage: str) -> str:
    """What a stage leaves out for lack of something in the run, as a sentence; empty if nothing is missing."""
    if stage == "reward" and not config.has_policy:
        return (
            "the run has no model that answers (no sft, collect or rl): the answers in the files set the mean and scale of the "
            "reward, and the trust report says nothing about a policy's own answers"
        )
    if stage == "rl" and config.rl is not None and config.rl.algorithm != "best_of_n" and not _is_judged(config):
        return "the gate step0_score is left out: no reward component is a reward model whose scores could be compared"
    if stage == "compare" and config.compare is not None and config.world is None:
        if config.reward is None and config.compare.reward is None:
            return (
                "rewards, win rates and the gates on them are left out: there is no judge; `reward:` trains one, "
                "`compare.reward` names one"
            )
    return ""


def _is_judged(config: Config) -> bool:
    """Whether a reward model is among the reward components."""
    if config.rl is None or not config.rl.rewards:
        return config.reward is not None
    return any(part.model is not None and part.label is None for part in config.rl.rewards)
