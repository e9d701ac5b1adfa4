"""Each algorithm of RL goes on as if it had never been cut off. What the tiny run's own does stands in test_resume.py."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cuts import Cut, Kept

from sawyer.errors import Interrupted
from sawyer.runs import Listener

pytestmark = pytest.mark.slow

OFFLINE = {"max_new_tokens": 8, "eval_prompts": 6, "eval_fraction": 0.3}
ONLINE = {**OFFLINE, "episodes": 24, "batch_size": 8, "num_minibatches": 2, "epochs": 2, "learning_rate": 1e-2, "eval_every": 2}
PAIRS = {**OFFLINE, "epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "eval_every": 2}
STEERED = {"coefficient": 0.1, "target": 2.0, "horizon": 50.0}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo shared": {**ONLINE, "algorithm": "ppo", "value_init": "shared", "kl": STEERED},
    "ppo ridge": {**ONLINE, "algorithm": "ppo", "value_init": "ridge", "kl": STEERED},
    "rloo": {**ONLINE, "algorithm": "rloo", "kl": STEERED},
    "grpo": {**ONLINE, "algorithm": "grpo", "group_size": 2, "kl": STEERED},
    "dpo": {**PAIRS, "algorithm": "dpo"},
    "best_of_n": {**OFFLINE, "algorithm": "best_of_n", "group_size": 3},
}


def by_algorithm(tiny: Any, name: str, out: Path, save: float, listeners: Sequence[Listener] = ()) -> bool:
    """Take the stage `rl` by one algorithm, on what the straight run had before it; whether it came to its end."""
    if not out.exists():
        tiny.prefix("rl", out)
    prompts = [str(tiny.data / "prompts.jsonl")]
    changes = {"rl": {**ALGORITHMS[name], "prompts": prompts}, "compare": None, "save_every_seconds": save}
    try:
        tiny.run(out, changes, only="rl", listeners=list(listeners))
    except (Interrupted, KeyboardInterrupt, SystemExit):
        return False
    return True


@pytest.fixture(autouse=True)
def several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("sawyer.stages.rl.best_of_n"), "PROMPTS_A_STEP", 2)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_cut_off(tiny: Any, tmp_path: Path, name: str) -> None:
    straight = Cut("rl", -1, "never")
    assert by_algorithm(tiny, name, tmp_path / "straight", 0.0, [straight])
    expected = tiny.result(tmp_path / "straight")
    assert straight.words > 5 and len(expected.metrics) > 3
    for at in range(1, straight.words + 1, 7):
        out, cut = tmp_path / str(at), Cut("rl", at, ("kill", "signal")[at % 2])
        done = by_algorithm(tiny, name, out, 0.0, [cut])
        assert cut.happened
        assert done or by_algorithm(tiny, name, out, 0.0)
        assert tiny.result(out) == expected, f"{name} cut off at word {at} of {straight.words}"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_lost_at_every_word(tiny: Any, tmp_path: Path, name: str) -> None:
    out = tiny.prefix("rl", tmp_path / "straight")
    kept = Kept("rl", out, tmp_path)
    assert by_algorithm(tiny, name, out, 0.0, [kept])
    expected = tiny.result(out)
    assert len(kept.words) > 5 and len(expected.metrics) > 3
    for at in kept.words:
        assert by_algorithm(tiny, name, kept.at(at), 0.0)
        assert tiny.result(kept.at(at)) == expected, f"{name} lost at word {at} of {kept.said}"
