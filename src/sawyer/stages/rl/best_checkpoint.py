"""The best model so far, on disk with the whole state that it was in, so that a guard can put the run back to it.

Each best model has a folder of its own, that is never overwritten: which of them counts is told by the stage's checkpoint
alone. So a run that is lost between a newer best model and the next save goes on with the one that the checkpoint knows.
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


class Best:
    """Among the evaluations whose KL is within `budget` and that give at most `alike` of the prompts one answer, the one with
    the highest held-out reward; until there is one the first evaluation, of the model that RL starts from, whatever it is.

    Where nobody scores answers (`of_pairs`) the lowest loss of the held-out pairs stands for the reward, as its negative.
    Figures that are not finite are never the best, and anything finite is better than a first evaluation that is not.
    """

    def __init__(self, layout: Layout, stage: str, *, budget: float, alike: float, of_pairs: bool = False) -> None:
        self.layout, self.stage = layout, stage
        self.budget, self.alike, self.of_pairs = budget, alike, of_pairs
        self.start: dict[str, float] = {}  # step, reward and kl of the first evaluation
        self.found: dict[str, float] = {}  # of the best one
        self.rewards: dict[str, list[float]] = {}  # by prompt: of the first evaluation (`start`) and of the best one (`best`)
        self.evaluations = 0
        self.saved: Path | None = None  # the folder that the last checkpoint goes on with

    @property
    def folder(self) -> Path:
        """Where the best model so far lies."""
        return self.layout.best(self.stage, int(self.found["step"]))

    def offer(self, step: int, held_out: Mapping[str, float], rewards: Sequence[float]) -> bool:
        """Take an evaluation's figures and its rewards by prompt; whether it is the best so far, and so must be kept."""
        self.evaluations += 1
        worth = -held_out["eval_pair_loss"] if self.of_pairs else held_out["eval_reward"]
        now = {"step": float(step), "reward": worth, "kl": held_out["eval_kl"]}
        if not self.start:
            self.start = self.found = now
            self.rewards = {"start": list(rewards), "best": list(rewards)}
            return True
        within = _finite(now) and now["kl"] <= self.budget and held_out["eval_mode_response_rate"] <= self.alike
        if within and (now["reward"] > self.found["reward"] or not _finite(self.found)):
            self.found = now
            self.rewards["best"] = list(rewards)
            return True
        return False

    def keep(self, speaker: LanguageModel, state: dict[str, Any]) -> None:
        """Write the policy as it is now, with the state from which all of the run goes on."""

        # A save that failed would have ended the run: what `state` was last asked for is on the disk by now.
        def write(new: Path) -> None:
            for folder in self.layout.bests(self.stage):
                if folder != self.saved:
                    remove_folder(folder)
            save_model(new, speaker.model, speaker.tokenizer)
            write_state(new, state)

        write_folder(self.folder, write)

    def kept(self) -> dict[str, Any]:
        """The state that was kept. Raises RunError where it is gone or damaged."""
        state = load_checkpoint(self.folder)
        if state is None:
            raise RunError(
                f"{self.folder} is gone",
                why="the run cannot be put back to its best model",
                todo=f"delete {self.layout.folder(self.stage)} to do {self.stage} again",
            )
        return state

    def give(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """The policy that was kept into an existing folder, told `extra`. Raises RunError where it is gone or damaged."""
        check_sealed(self.folder, f"delete {self.layout.folder(self.stage)} to do {self.stage} again")
        copy_model(self.folder, folder, extra, besides=(STATE,))

    def why(self, of: int) -> str:
        """Which step is kept and for what reason, in words; `of` is the number of steps done."""
        worth = self.found["reward"]
        judged = f"loss of the held-out pairs {-worth:.3f}" if self.of_pairs else f"held-out reward {worth:.3f}"
        return (
            f"kept the model after update {int(self.found['step'])} of {of}: {judged}, the "
            f"best of {self.evaluations} evaluations whose KL ({self.found['kl']:.2f} nats) is within {self.budget:g} "
            f"and that give at most {self.alike:.0%} of the prompts one and the same answer"
        )

    def state(self) -> dict[str, Any]:
        """Its figures, as plain values, for the checkpoint that is about to be saved."""
        self.saved = self.folder if self.found else None
        return {"start": self.start, "found": self.found, "evaluations": self.evaluations, "rewards": dict(self.rewards)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.start, self.found = dict(state["start"]), dict(state["found"])
        self.evaluations = int(state["evaluations"])
        self.rewards = {name: list(values) for name, values in state["rewards"].items()}
        self.saved = self.folder if self.found else None


def _finite(figures: Mapping[str, float]) -> bool:
    return all(map(math.isfinite, figures.values()))
