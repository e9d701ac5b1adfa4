"""A user's own loss in a whole run: refused before hours of training, and part of what the stage was begun with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import ConfigError, RunError
from sawyer.runs import Layout, read_manifest
from sawyer.train import OptimizerStep

FIT = "from torch.nn.functional import softplus\n\n\ndef loss(r_j, r_k, d):\n    return softplus(r_k - r_j)\n"
NAME = "loss_in_a_run"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop(NAME, None)


def test_it_is_refused_before_the_stages_that_come_before_it(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(f"{NAME}.py").write_text(FIT.replace("r_k - r_j", "r_j - r_k"))
    monkeypatch.setattr(OptimizerStep, "update", lambda *_: pytest.fail("something was trained"))
    with pytest.raises(ConfigError, match=r"is refused: falling: .* \(at r_j = -8, r_k = -1.3, d = 0.25\)"):
        tiny.run(tmp_path / "run", {"reward.loss": f"{NAME}:loss"})
    stages = read_manifest(Layout(tmp_path / "run").manifest).get("stages", {})
    assert all(state["status"] == "pending" for state in stages.values())


@pytest.mark.slow
def test_its_file_is_part_of_what_the_stage_was_begun_with(tiny: Any, tmp_path: Path) -> None:
    Path(f"{NAME}.py").write_text(FIT)
    changes = {"reward.loss": f"{NAME}:loss"}
    out = tiny.prefix("reward", tmp_path / "run")
    tiny.run(out, changes, only="reward")
    tiny.run(out, changes, only="reward")  # done already
    Path(f"{NAME}.py").write_text(FIT.replace("return ", "return 2 * "))
    with pytest.raises(RunError, match=f"changed: the content of its data files or of {NAME}.py"):
        tiny.run(out, changes, only="reward")
