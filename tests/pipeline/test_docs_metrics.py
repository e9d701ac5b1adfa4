"""docs/metrics.md lists exactly what runs write down: every figure has its definition, and no definition is of nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from sawyer import pipeline
from sawyer.config import GuardName
from sawyer.runs import Layout, read_rows
from sawyer.stages.rl.guards import GUARDS

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parent.parent.parent / "docs"
# What no healthy tiny run has; other tests show where each is written.
ELSEWHERE = {
    "classify": {"micro_f1"},  # tests/stages/test_classify.py
    "reward": {"accuracy_ceiling"},  # tests/stages/test_trust.py
    "rl": {"refused", "applies_NAME", "eval_applies_NAME"},  # tests/stages/test_rl_run.py, test_rl_scorers.py
    "summary.json": {
        *("classify.micro_f1", "reward.accuracy_ceiling", "waiting"),
        # tests/stages/test_round_change.py
        *(
            f"reward.round_change.{name}"
            for name in ("before", "after", "value", "low", "high", "detectable", "prompts", "pairs")
        ),
    },
}


def documented() -> dict[str, list[str]]:
    """The names in each section's tables."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (DOCS / "metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        named = re.match(r"\| `([^`]+)` \|", line)
        if named:
            found.setdefault(section, []).append(named[1])
    return found


def pattern(name: str) -> re.Pattern[str]:
    """A documented name: words in capitals stand for anything."""
    return re.compile(
        "".join(".+?" if re.fullmatch("[A-Z]+", part) else re.escape(part) for part in re.split("([A-Z]+)", name))
    )


def leaves(tree: Any, path: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path


def metrics(out: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in read_rows(Layout(out).metrics):
        found.setdefault(row["stage"], set()).update(row.keys() - {"stage", "step"})
    return found


def undocumented(names: set[str], known: list[str]) -> set[str]:
    return {name for name in names if not any(pattern(one).fullmatch(name) for one in known)}


def unseen(names: set[str], known: list[str]) -> set[str]:
    """Definitions of nothing: a name in full must be there, one with capitals must match something that no other name does."""
    exact = {one for one in known if not re.search("[A-Z]", one)}
    return {
        one for one in known if not any(pattern(one).fullmatch(name) for name in (names if one in exact else names - exact))
    }


@pytest.fixture(scope="module")
def written(tiny: Any, tmp_path_factory: pytest.TempPathFactory, shrinking: Any) -> dict[str, set[str]]:
    """What the straight run wrote, a run with an ensemble that is paid for in parts, and the other algorithms."""
    found = metrics(tiny.straight())
    found["summary.json"] = set(leaves(json.loads(Layout(tiny.straight()).summary.read_text(encoding="utf-8"))))
    out = tiny.prefix("reward", tmp_path_factory.mktemp("parts") / "run")
    parts = [{"name": "judges", "model": "stage"}, {"name": "truth", "function": "sawyer.worlds:golds"}]
    with pytest.MonkeyPatch.context() as patch:
        shrinking(patch)
        for stage in ("reward", "rl"):
            tiny.run(out, {"reward.ensemble": {"members": 2, "by": "heads"}, "rl.rewards": parts, "rl.episodes": 8}, only=stage)
        group = tiny.prefix("rl", tmp_path_factory.mktemp("grpo") / "run")
        tiny.run(group, {"rl.algorithm": "grpo", "rl.episodes": 8}, only="rl")
    others = [out, group]
    for name, more in (("dpo", {"batch_size": 16}), ("best_of_n", {"group_size": 2})):
        others.append(tiny.prefix("rl", tmp_path_factory.mktemp(name) / "run"))
        asked = {"algorithm": name, "prompts": [str(tiny.data / "prompts.jsonl")], "max_new_tokens": 8, "eval_prompts": 6}
        tiny.run(others[-1], {"rl": {**asked, "eval_fraction": 0.3, **more}, "compare": None}, only="rl")
    for other in others:
        for stage, names in metrics(other).items():
            found[stage] |= names
        found["summary.json"] |= set(leaves(json.loads(Layout(other).summary.read_text(encoding="utf-8"))))
    return found


@pytest.mark.parametrize("section", [*pipeline.STAGES, "summary.json"])
def test_every_figure_is_defined_and_every_definition_is_of_a_figure(written: dict[str, set[str]], section: str) -> None:
    known = [*documented()[section], *(documented()["every step"] if section in pipeline.STAGES else ())]
    assert len(known) == len(set(known)), "a name is defined twice"
    assert undocumented(written[section], known) == set()
    assert unseen(written[section], known) - ELSEWHERE.get(section, set()) == set()


def test_a_figure_without_a_definition_would_be_seen() -> None:
    known = documented()["rl"]
    assert undocumented({"score", "score_merry", "eval_score_merry", "moon"}, known) == {"moon"}
    assert "moon" in unseen({"score"}, [*known, "moon"]) and "score_NAME" in unseen({"score"}, known)


def test_every_guard_is_documented_with_what_holds_by_default() -> None:
    rows = {}
    for line in (DOCS / "guards.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 6 and cells[0].strip("| ").startswith("`"):
            rows[cells[0].strip("| `")] = cells[3:]
    assert set(rows) == set(get_args(GuardName)) == set(GUARDS)
    for name, (threshold, streak, action) in rows.items():
        rule = GUARDS[name].rule
        assert (int(streak), action.strip("| ")) == (rule.patience, rule.action), name
        if name not in ("non_finite", "kl_budget"):
            assert float(threshold) == rule.threshold, name
