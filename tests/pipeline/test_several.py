"""The same run on one process and on two: the same journal and answers to rounding, and each goes on with the other's state.

Real processes that a launcher's variables tell who they are; `torchrun` itself starts them in one test.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sawyer.errors import Interrupted
from sawyer.pipeline import STAGES
from sawyer.runs import Layout, Manifest, is_complete, read_rows

pytestmark = pytest.mark.slow

PATIENCE = 900.0  # seconds; only a broken program waits so long
SOURCE = str(Path(__file__).parents[2] / "src")
ROUNDING = 1e-3  # of figures after some updates: sums in another order in fp32, which Adam's division makes larger
# The pairwise loss does not see a constant added to all scores: its gradient is rounding alone, and Adam makes steps of it.
UNSEEN = ("reward_shift",)
# Two processes take these jobs one after another: `stage:config`, `stage@n:config` for one whose last process alone is asked to
# stop at the journal's n-th word, `stage!n:config` where it fails there. The sizes that are no settings are those of the
# straight run (see conftest); the page is left out there too.
JOBS = """
import os, signal, sys
from importlib import import_module
from sawyer.train import distributed
from sawyer.config import load_config
from sawyer.errors import Interrupted, SawyerError
from sawyer.pipeline import run, run_stages
from sawyer.runs.journal import Journal

def small(name):
    module = real(name)
    for owner, size, value in (
        ("sawyer.stages.collect.collect_stage", "ANSWERS_A_STEP", 16),
        ("sawyer.stages.compare.compare_stage", "ANSWERS_A_STEP", 4),
        ("sawyer.stages.reward.reward_trust", "WORLD_PROMPTS", 6),
        ("sawyer.stages.rl.best_of_n", "PROMPTS_A_STEP", 2),
        ("sawyer.models.sampling", "BEAM_PROMPTS", 1),
    ):
        if owner in sys.modules:
            setattr(sys.modules[owner], size, value)
    return module

real, run_stages.import_module = import_module, small
Journal._notify = lambda journal, kind, row: listen(kind, row)  # a listener of its own could not make a stage fail
run_stages.report = lambda run: run.layout.report.write_text("page")

for job in sys.argv[1:]:
    asked, path = job.split(":", 1)
    stage, _, at = asked.replace("!", "@").partition("@")
    words = []

    def listen(kind, row):
        words.append(kind)
        if len(words) == int(at or -1) and distributed.rank() == distributed.world_size() - 1:
            if "!" in asked:
                raise MemoryError("out of memory")
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run(load_config(path, []), only=stage)
        print("done", job)
    except Interrupted as stop:
        print("interrupted", job, stop)
    except SawyerError as error:
        print("failed", job, error)
"""
OFFLINE = {"max_new_tokens": 8, "eval_prompts": 6, "eval_fraction": 0.3}
ONLINE = {**OFFLINE, "episodes": 40, "batch_size": 8, "num_minibatches": 2, "epochs": 2, "learning_rate": 1e-3, "eval_every": 2}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {**ONLINE, "algorithm": "ppo"},
    "ppo shared": {**ONLINE, "algorithm": "ppo", "value_init": "shared"},
    "ppo ridge": {**ONLINE, "algorithm": "ppo", "value_init": "ridge"},
    "rloo": {**ONLINE, "algorithm": "rloo", "group_size": 2},
    "grpo": {**ONLINE, "algorithm": "grpo", "group_size": 2},
    "dpo": {**OFFLINE, "algorithm": "dpo", "epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "eval_every": 2},
    "best_of_n": {**OFFLINE, "algorithm": "best_of_n", "group_size": 3},
}
STOPPED = {"sft": 5, "reward": 4, "rl": 9}  # at which word of the journal; each stage then goes on otherwise


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(rank: int = 0, of: int = 1, port: int = 0) -> dict[str, str]:
    told = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    if of > 1:
        told |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(of)}
        told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return told


def together(*arguments: object, number: int = 2) -> list[str]:
    """What each of so many processes says that take these jobs."""
    port = free_port()
    command = [sys.executable, "-c", JOBS, *map(str, arguments)]
    started = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(rank, number, port)
        )
        for rank in range(number)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * number, "\n".join(said)
    return said


def rl_of(tiny: Any, algorithm: str) -> dict[str, Any]:
    """The changes to the tiny run that take this algorithm."""
    return {"rl": {**ALGORITHMS[algorithm], "prompts": [str(tiny.data / "prompts.jsonl")]}, "compare": None}


def config_of(tiny: Any, out: Path, changes: Mapping[str, Any]) -> Path:
    path = out.with_name(f"{out.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({name: value for name, value in tiny.tree(out, changes).items() if value is not None}))
    return path


def close(found: Any, expected: Any, where: str = "") -> None:
    """Equal, floats to rounding."""
    if isinstance(expected, float) and isinstance(found, float):
        assert math.isclose(found, expected, rel_tol=ROUNDING, abs_tol=ROUNDING), (where, found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected.keys() - {*UNSEEN}:
            close(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            close(found[place], value, f"{where}[{place}]")
    else:
        assert found == expected, (where, found, expected)


def same(tiny: Any, out: Path, expected: Path) -> None:
    one, other = tiny.result(out), tiny.result(expected)
    for name in ("metrics", "samples", "figures", "compared", "states"):
        close(getattr(one, name), getattr(other, name), name)
    assert one.products.keys() == other.products.keys()
    left = [p for p in out.rglob("*") if p.name in ("checkpoint", "best") or (p.name.startswith(".") and "sawyer" in p.name)]
    assert left == [], "the state of a finished stage, or half of something, is left over"


class Asked:
    """A listener that asks this process to stop at the journal's n-th word."""

    def __init__(self, at: int) -> None:
        self.words, self.at = 0, at

    def __call__(self, kind: str, row: Mapping[str, Any]) -> None:
        self.words += 1
        if self.words == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def runs(tiny: Any, tmp_path_factory: pytest.TempPathFactory, shrinking: Callable[[pytest.MonkeyPatch], None]) -> Any:
    """Each stage and algorithm on two processes, of which the words are in `said`; some stopped there, some stopped on one
    process before and done on two. `of(name)` is where a run lies, `alone(name)` the same on one process."""
    root, jobs = tmp_path_factory.mktemp("several"), []
    ways = {stage: (stage, {}) for stage in STAGES} | {name: ("rl", rl_of(tiny, name)) for name in ALGORITHMS}
    with pytest.MonkeyPatch.context() as patch:
        shrinking(patch)
        patch.setattr("sawyer.stages.rl.best_of_n.PROMPTS_A_STEP", 2)
        patch.setattr(importlib.import_module("sawyer.models.sampling"), "BEAM_PROMPTS", 1)
        for name, (stage, changes) in ways.items():
            for kind in ("two", "alone"):
                out = tiny.prefix(stage, root / kind / name) if stage != "base" else root / kind / name
            tiny.run(out, changes, only=stage)
            jobs.append(f"{stage}:{config_of(tiny, root / 'two' / name, changes)}")
        for stage, at in STOPPED.items():
            _, changes = ways["ppo" if stage == "rl" else stage]
            jobs.append(f"{stage}@{at}:{config_of(tiny, tiny.prefix(stage, root / 'two, then one' / stage), changes)}")
            out = tiny.prefix(stage, root / "one, then two" / stage)
            with contextlib.suppress(Interrupted):
                tiny.run(out, changes, only=stage, listeners=[Asked(at)])
            assert Manifest(Layout(out).manifest).stage(stage).status == "interrupted"
            jobs.append(f"{stage}:{config_of(tiny, out, changes)}")
        said = together(*jobs)
        for stage in STOPPED:
            out = root / "two, then one" / stage
            assert Manifest(Layout(out).manifest).stage(stage).status == "interrupted"
            assert is_complete(Layout(out).checkpoint(stage))
            tiny.run(out, ways["ppo" if stage == "rl" else stage][1], only=stage)
    return root, said


@pytest.mark.parametrize("name", [*STAGES, *ALGORITHMS])
def test_two_processes_say_what_one_says(tiny: Any, runs: Any, name: str) -> None:
    root, _ = runs
    if name != "rl":  # with the tiny run's own learning rate rounding grows until a token differs: the algorithms stand for it
        same(tiny, root / "two" / name, root / "alone" / name)
    events = read_rows(Layout(root / "two" / name).events)
    stage = name if name in STAGES else "rl"
    for kind in ("start", "done"):
        assert sum(row["kind"] == kind and row["stage"] == stage for row in events) == 1, "each event is written once"


def test_two_processes_weigh_judgements_as_one_does(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shrinking: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Each judgement has another weight, so that the sums of weights of the two processes' shares differ."""
    shrinking(monkeypatch)
    rows = json.loads((tiny.data / "comparisons.json").read_text())
    path = tmp_path / "weighted.json"
    path.write_text(json.dumps([row | {"rater": "r1", "judgement_weight": 0.25 + i % 5} for i, row in enumerate(rows)]))
    dpo = rl_of(tiny, "dpo")
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "reward": ("reward", {"reward.data": [str(path)], "reward.normalize_by": "prompt"}),
        "dpo": ("rl", dpo | {"rl": dpo["rl"] | {"data": [str(path)]}}),
    }
    jobs = []
    for name, (stage, changes) in ways.items():
        tiny.prefix(stage, tmp_path / "two" / name)
        jobs.append(f"{stage}:{config_of(tiny, tmp_path / 'two' / name, changes)}")
        tiny.run(tiny.prefix(stage, tmp_path / "alone" / name), changes, only=stage)
    together(*jobs)
    for name in ways:
        same(tiny, tmp_path / "two" / name, tmp_path / "alone" / name)


@pytest.mark.parametrize("stage", STOPPED)
@pytest.mark.parametrize("order", ["two, then one", "one, then two"])
def test_a_stage_goes_on_with_other_processes(tiny: Any, runs: Any, order: str, stage: str) -> None:
    root, said = runs
    same(tiny, root / order / stage, root / "alone" / ("ppo" if stage == "rl" else stage))
    (resumed,) = [row for row in read_rows(Layout(root / order / stage).events) if row["kind"] == "resume"]
    assert 0 < resumed["step"] < resumed["steps"]
    for words in said:  # the last process alone was asked, and both stopped
        assert words.count(f"interrupted {stage}@") == 1


def test_one_that_runs_out_of_memory_is_named_and_the_stage_goes_on_later(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("sft", tmp_path / "run")
    first, other = together(f"sft!6:{config_of(tiny, out, {'save_every_seconds': 0.0})}")
    assert "failed sft!6" in other and "sft: memory ran out" in other
    assert "process 1 ended: sft: memory ran out" in first, first
    state = Manifest(Layout(out).manifest).stage("sft")
    assert state.status == "failed" and "process 1 ended" in state.reason
    tiny.run(out, {"save_every_seconds": 0.0}, only="sft")
    same(tiny, out, tiny.straight("sft"))


def test_torchrun_starts_it_and_one_process_speaks(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("sft", tmp_path / "run")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "sawyer", "sft", str(config_of(tiny, out, {}))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes, cpu" in done.stdout
    assert done.stdout.count("training loss") == 1
    close(tiny.result(out).metrics, tiny.result(tiny.straight("sft")).metrics)
    wrong = [*launcher, "-m", "sawyer", "sft", str(config_of(tiny, out, {"sft.batch_size": 9}))]
    done = subprocess.run(wrong, capture_output=True, text=True, env=environment(), timeout=PATIENCE, check=False)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(told) == 1 and "sft.batch_size" in told[0], done.stderr
