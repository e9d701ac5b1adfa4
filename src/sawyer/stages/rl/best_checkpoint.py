"""The best model so far, on disk with its whole training state, so that a guard can put the run back to it.

Each best model has its own folder, which is never overwritten: only the stage's checkpoint says which one counts. So a run that
is lost between a newer best model and the next save goes on with the one that the checkpoint names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.errors import RunError
from sawyer.models import LanguageModel, copy_model, save_model
from sawyer.runs import Layout, check_sealed, remove_folder
from sawyer.train import STATE, load_checkpoint, write_folder, write_state


class BestCheckpoint:
    """The model of the evaluation with the highest held-out reward, among those within `kl_budget` (nats a response) and
    `mode_rate_limit` (of prompts with one and the same answer); until there is one, the model that RL starts from.

    Without a scorer (`of_pairs`) the negative loss of the held-out pairs stands for the reward. Figures that are not finite are
    never the best, and anything finite is better than a first evaluation that is not.
    """

    def __init__(self, layout: Layout, stage: str, *, kl_budget: float, mode_rate_limit: float, of_pairs: bool = False) -> None:
        self.layout, self.stage = layout, stage
        self.kl_budget, self.mode_rate_limit, self.of_pairs = kl_budget, mode_rate_limit, of_pairs
        self.start: dict[str, float] = {}  # step, reward and kl of the first evaluation
        self.best: dict[str, float] = {}  # of the best one
        self.rewards: dict[str, list[float]] = {}  # by prompt: of the first evaluation (`start`) and of the best one (`best`)
        self.evaluations = 0
        self.checkpoint_folder: Path | None = None  # the folder that the last checkpoint names

    @property
    def step(self) -> int:
        """The updates before the best evaluation."""
        return int(self.best["step"])

    @property
    def folder(self) -> Path:
        """The best model's folder."""
        return self.layout.best(self.stage, self.step)

    def offer_evaluation(self, step: int, metrics: Mapping[str, float], rewards: Sequence[float]) -> bool:
        """Take an evaluation's metrics and its rewards by prompt; whether it is the best so far and must be saved."""
        self.evaluations += 1
        reward = -metrics["eval_pair_loss"] if self.of_pairs else metrics["eval_reward"]
        figures = {"step": float(step), "reward": reward, "kl": metrics["eval_kl"]}
        if not self.start:
            self.start = self.best = figures
            self.rewards = {"start": list(rewards), "best": list(rewards)}
            return True
        is_within = figures["kl"] <= self.kl_budget and metrics["eval_mode_response_rate"] <= self.mode_rate_limit
        is_better = figures["reward"] > self.best["reward"] or not _all_finite(self.best)
        if is_within and is_better and _all_finite(figures):
            self.best = figures
            self.rewards["best"] = list(rewards)
            return True
        return False

    def save_policy(self, policy: LanguageModel, training_state: dict[str, Any]) -> None:
        """Write the policy as it is now, with the state from which the run can go on."""

        def write(new: Path) -> None:
            # All but the folder that the last checkpoint names can go: a save that failed would have ended the run.
            for folder in self.layout.bests(self.stage):
                if folder != self.checkpoint_folder:
                    remove_folder(folder)
            save_model(new, policy.model, policy.tokenizer)
            write_state(new, training_state)

        write_folder(self.folder, write)

    def load_training_state(self) -> dict[str, Any]:
        """The best model's state. Raises RunError where its folder is gone or damaged."""
        state = load_checkpoint(self.folder)
        if state is None:
            raise RunError(
                f"{self.folder} is gone",
                why="the run cannot be put back to its best model",
                todo=f"delete {self.layout.folder(self.stage)} to do {self.stage} again",
            )
        return state

    def copy_model_to(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """Copy the policy into an existing folder, with `extra` in its config. Raises RunError where it is gone or damaged."""
        check_sealed(self.folder, f"delete {self.layout.folder(self.stage)} to do {self.stage} again")
        copy_model(self.folder, folder, extra, besides=(STATE,))

    def summary(self, steps_done: int) -> str:
        """Which of `steps_done` updates is the best and why, in words."""
        reward = self.best["reward"]
        figure = f"loss of the held-out pairs {-reward:.3f}" if self.of_pairs else f"held-out reward {reward:.3f}"
        return (
            f"kept the model after update {self.step} of {steps_done}: {figure}, the "
            f"best of {self.evaluations} evaluations whose KL ({self.best['kl']:.2f} nats) is within {self.kl_budget:g} "
            f"and that give at most {self.mode_rate_limit:.0%} of the prompts one and the same answer"
        )

    def state(self) -> dict[str, Any]:
        """Its figures, as plain values, for the checkpoint that is about to be saved."""
        self.checkpoint_folder = self.folder if self.best else None
        return {"start": self.start, "best": self.best, "evaluations": self.evaluations, "rewards": dict(self.rewards)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.start, self.best = dict(state["start"]), dict(state["best"])
        self.evaluations = int(state["evaluations"])
        self.rewards = {name: list(values) for name, values in state["rewards"].items()}
        self.checkpoint_folder = self.folder if self.best else None


def _all_finite(figures: Mapping[str, float]) -> bool:
    return all(map(math.isfinite, figures.values()))
