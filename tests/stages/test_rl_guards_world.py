"""On the built-in world, whose truth is known: a reward model of raters who love length, and no KL to hold the policy back."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from judges import judged

import sawyer.worlds
from sawyer.config import Config, parse_config
from sawyer.records import json_lines, scored_row
from sawyer.runs import open_run
from sawyer.worlds import demonstrations, tasks

BASE = Path(sawyer.worlds.__file__).parent / "base"
FALL = 0.5  # points of gold below the SFT model's that are too many
NO_GOLD = {"eval_gold": {"action": "off"}}  # as on data of one's own, where nobody knows the truth


def asked(root: Path, guards: Any, eval_every: int = 1) -> Config:
    """The demo's rates, small: KL off, 12 updates of 64 answers."""
    rl = {
        "prompts": [str(root / "prompts.jsonl")],
        "episodes": 12 * 64,
        "batch_size": 64,
        "epochs": 1,
        "learning_rate": 3e-4,
        "temperature": 1.0,
        "max_new_tokens": 48,
        "kl": {"coefficient": 0.0, "budget": 20.0},
        "eval_every": eval_every,
        "eval_prompts": 96,
        "eval_fraction": 0.3,
        "guards": guards,
    }
    sft = {"data": [str(root / "instructions.json")], "batch_size": 16, "learning_rate": 2e-3, "eval_prompts": 8}
    reward = {"data": [str(root / "judged.jsonl")], "batch_size": 8, "learning_rate": 8e-4, "calibration_prompts": 48}
    tree = {"out": str(root / "run"), "model": str(BASE), "precision": "fp32", "device": "cpu", "micro_batch_tokens": 512}
    return parse_config({**tree, "world": {"rater": "length_lover"}, "sft": sft, "reward": reward, "rl": rl})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short SFT run and a reward model that loves length."""
    root = tmp_path_factory.mktemp("length")
    shown = demonstrations(900, 0)
    (root / "instructions.json").write_text(json.dumps([{"instruction": d.prompt.text, "output": d.response} for d in shown]))
    (root / "judged.jsonl").write_text(json_lines(scored_row(r) for r in judged("length_lover", 250, split="train")))
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": task.prompt}) + "\n" for task in tasks("train", 500, 0)))
    for stage in ("sft", "reward"):
        import_module(f"sawyer.stages.{stage}")
    with pytest.MonkeyPatch.context() as patch, open_run(root / "run") as run:
        patch.setattr(sys.modules["sawyer.stages.reward.reward_trust"], "WORLD_PROMPTS", 12)
        for stage in ("sft", "reward"):
            import_module(f"sawyer.stages.{stage}").train(asked(root, {}), run)
    return root


def reinforced(root: Path, guards: Any, eval_every: int = 1) -> tuple[dict[str, Any], list[float]]:
    """(figures, held-out gold at each evaluation) of a run begun anew."""
    with open_run(root / "run") as run:
        run.journal.clear("rl")
        figures = import_module("sawyer.stages.rl").train(asked(root, guards, eval_every), run)
        golds = [row["eval_gold"] for row in run.journal.rows("rl") if "eval_gold" in row]
    for folder in ("checkpoint", "best"):
        for path in sorted((root / "run" / "rl" / folder).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    return figures, golds


@pytest.mark.slow
def test_guards_stop_what_loves_length_before_it_costs_the_truth(root: Path) -> None:
    """With the gold hidden from the guards; and without any guard the gold falls."""
    figures, golds = reinforced(root, NO_GOLD)
    assert (
        figures["stopped"].startswith("score_length_correlation is 0.") and "follow the answers' length" in figures["stopped"]
    )
    assert "what to try: see reward/trust.json" in figures["stopped"]
    assert figures["updates"] <= 3
    assert min(golds) > golds[0] - FALL, golds
    free, falling = reinforced(root, "off", eval_every=6)
    assert free["stopped"] == "" and free["updates"] == 12
    assert falling[0] == golds[0]
    assert falling[-1] < golds[0] - 2 * FALL, falling
    assert free["reward_best"] > free["reward_sft"] + 0.5, "the reward rises all the while"
