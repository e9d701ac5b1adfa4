"""A run of RL whose evaluations are written beforehand, and whether two folders hold the same model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.models import open_language_model
from sawyer.runs import Run
from sawyer.stages.rl.rollout import RolloutSettings
from sawyer.stages.rl.trainer import Trainer
from sawyer.train import choose_device

watched = import_module("sawyer.stages.rl.trainer")


def on_cpu(config: Any) -> RolloutSettings:
    """What answers are sampled and read with, in fp32."""
    return RolloutSettings.of(config, choose_device("cpu", "fp32", width=16))


def weights(folder: Path) -> list[torch.Tensor]:
    return list(open_language_model(folder).model.state_dict().values())


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def scripted(monkeypatch: pytest.MonkeyPatch, evaluations: Sequence[tuple[float, float]], endless: Sequence[int] = ()) -> None:
    """Held-out (score, KL) of each evaluation in turn, whatever the policy; in those of `endless` no answer ends."""
    found = iter((*given, number not in endless) for number, given in enumerate(evaluations))
    plain = watched.collect_rollout

    def collect(policy: Any, prompts: Any, *more: Any) -> Any:
        episodes = plain(policy, prompts, *more)
        if tuple(prompts) == collect.held_out:  # type: ignore[attr-defined]
            reward, collect.kl, ended = next(found)  # type: ignore[attr-defined]
            episodes.scores.fill_(reward)
            episodes.ended.fill_(ended)
        return episodes

    def of_policy(model: Any, rows: Any, settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
        # The KL at the first place; the reference's log-probs are 0.
        return torch.full((len(rows), 1), collect.kl), torch.zeros(len(rows), 1)  # type: ignore[attr-defined]

    init = Trainer.__init__

    def start(self: Trainer, config: Any, run: Run) -> None:
        init(self, config, run)
        collect.held_out = self.eval_prompts  # type: ignore[attr-defined]

    monkeypatch.setattr(watched, "collect_rollout", collect)
    monkeypatch.setattr(watched, "logprobs_and_entropies", of_policy)
    monkeypatch.setattr(watched, "logprobs_of", lambda model, rows, settings: torch.zeros(len(rows), 1))
    monkeypatch.setattr(Trainer, "__init__", start)
