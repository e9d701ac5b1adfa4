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
from sawyer.stages.rl.rl_stage import RlLoop

stage, watched = import_module("sawyer.stages.rl.rl_stage"), import_module("sawyer.stages.rl.trainer")


def weights(folder: Path) -> list[torch.Tensor]:
    return list(open_language_model(folder).model.state_dict().values())


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def scripted(monkeypatch: pytest.MonkeyPatch, evaluations: Sequence[tuple[float, float]], endless: Sequence[int] = ()) -> None:
    """Held-out (score, KL) of each evaluation in turn, whatever the policy; in those of `endless` no answer ends."""
    found = iter((*given, number not in endless) for number, given in enumerate(evaluations))
    plain = stage.collect

    def collect(speaker: Any, prompts: Any, scorer: Any, config: Any, place: Any, draw: Any) -> Any:
        episodes = plain(speaker, prompts, scorer, config, place, draw)
        if tuple(prompts) == collect.held_out:  # type: ignore[attr-defined]
            reward, collect.kl, ended = next(found)  # type: ignore[attr-defined]
            episodes.scores.fill_(reward)
            episodes.ended.fill_(ended)
        return episodes

    def of_policy(model: Any, rows: Any, config: Any, place: Any) -> tuple[torch.Tensor, torch.Tensor]:
        # The KL at the first place; the reference's log-probs are 0.
        return torch.full((len(rows), 1), collect.kl), torch.zeros(len(rows), 1)  # type: ignore[attr-defined]

    init = RlLoop.__init__

    def start(self: RlLoop, config: Any, run: Run) -> None:
        init(self, config, run)
        collect.held_out = self.held_out  # type: ignore[attr-defined]

    monkeypatch.setattr(watched, "collect", collect)
    monkeypatch.setattr(watched, "logprobs_and_entropies", of_policy)
    monkeypatch.setattr(watched, "logprobs_of", lambda model, rows, config, place: torch.zeros(len(rows), 1))
    monkeypatch.setattr(RlLoop, "__init__", start)
