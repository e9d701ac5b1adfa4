"""`sawyer init --from`: each file loads as it stands, and its run works once models and files are named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from encoders import write
from typer.testing import CliRunner

from sawyer import pipeline
from sawyer.cli.main import app
from sawyer.config import Config, load_config, template_file
from sawyer.config.load_config import STARTS
from sawyer.errors import ConfigError

Fixture = Any
STAGES = {
    "base": {"sft", "reward", "rl", "compare"},
    "instruct": {"reward", "rl", "compare"},
    "reward": {"reward"},
    "rl": {"rl", "compare"},
    "dpo": {"rl", "compare"},
}


@pytest.mark.parametrize("start", STARTS)
def test_each_file_loads_as_it_stands(tmp_path: Path, start: str) -> None:
    path = tmp_path / "sawyer.yaml"
    said = CliRunner().invoke(app, ["init", "--from", start, str(path)])
    assert said.exit_code == 0 and path.read_text() == template_file(start)
    config = load_config(path)
    assert {stage for stage in pipeline.STAGES if getattr(config, stage) is not None} == STAGES[start]
    # What is commented out are settings as well: each line, taken by itself, is known.
    assert template_file() == template_file("base")
    with pytest.raises(ConfigError, match="there is no start 'nowhere'"):
        template_file("nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("start", [start for start in STARTS if start != "base"])
def test_its_run_works(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    (tmp_path / "my_rewards.py").write_text("def right(prompts, responses):\n    return [float(len(r)) for r in responses]\n")
    pairs = [{"prompt": f"Why {i}?", "chosen": "a" * (i % 5 + 2), "rejected": "b"} for i in range(30)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (tmp_path / "sawyer.yaml").write_text(template_file(start))
    model = write(tmp_path / "encoder", "bert") if start == "reward" else tiny.sft
    named = {
        "out": tmp_path / "run",
        "device": "cpu",
        "precision": "fp32",
        **({"reward.model": model} if start == "reward" else {"model": model}),
        **({"reward.data": f"[{tiny.comparisons}]"} if "reward" in STAGES[start] else {}),
        **({"rl.data": "[pairs.jsonl]"} if start == "dpo" else {}),
    }
    if "rl" in STAGES[start]:
        small = {"max_new_tokens": 6, "eval_prompts": 4, "batch_size": 8}
        small |= {} if start == "dpo" else {"prompts": f"[{tiny.prompts}]", "episodes": 16, "num_minibatches": 2}
        named |= {f"rl.{name}": value for name, value in small.items()} | {"compare.max_new_tokens": 4}
    config: Config = load_config("sawyer.yaml", [f"{name}={value}" for name, value in named.items()])
    assert [problem for plan in pipeline.preflight(config) for problem in plan.problems] == []
    summary = pipeline.run(config)
    assert STAGES[start] <= set(summary["seconds"]) and (tmp_path / "run" / "report.html").exists()
