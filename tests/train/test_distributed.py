"""Several processes on one batch: who does what, one gradient from all, and what happens when one of them is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import ProcessError
from sawyer.train import distributed

PATIENCE = 120.0  # seconds; only a broken program waits so long
SOURCE = str(Path(__file__).parents[2] / "src")


# Quick: shares, and one process by itself.


@pytest.mark.parametrize(
    "said",
    [
        {"RANK": "abc", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "two"},
        {"RANK": "5", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"RANK": "9" * 5000, "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "\u0663x"},
    ],
)
def test_a_launcher_that_says_no_numbers_is_refused(monkeypatch: pytest.MonkeyPatch, said: dict[str, str]) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match="the environment says RANK='") as refused, distributed.process_group():
        pass
    assert refused.value.silent and "unset them" in refused.value.todo and len(str(refused.value)) < 500
    assert distributed.rank() >= 0 and distributed.local_rank() >= 0  # whoever tells of the error asks who it is


def hands(monkeypatch: pytest.MonkeyPatch, sizes: list[float], number: int) -> list[list[int]]:
    """What each of so many processes does."""
    monkeypatch.setattr(distributed, "count", lambda: number)
    found = []
    for rank in range(number):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        found.append(distributed.shard_indices(sizes))
    return found


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [[], [7.0], [3.0, 9.0, 1.0, 4.0], [5.0] * 12, [float(i % 7 + 1) for i in range(40)]])
def test_each_thing_is_somebody_s_once_and_the_shares_are_even(
    monkeypatch: pytest.MonkeyPatch, sizes: list[float], number: int
) -> None:
    found = hands(monkeypatch, sizes, number)
    assert sorted(place for share in found for place in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in found)
    # Largest first, to whoever has least: nobody has more than the least plus one thing.
    totals = [sum(sizes[place] for place in share) for share in found]
    assert max(totals) - min(totals) <= max(sizes, default=0.0)


def test_shares_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # 9 to the first, 4 to the second, 3 to the second (4 < 9), 1 to the second (7 < 9): 9 against 8.
    assert hands(monkeypatch, [3.0, 9.0, 1.0, 4.0], 2) == [[1], [0, 2, 3]]


def test_one_process_does_all_itself_and_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert (distributed.world_size(), distributed.rank(), distributed.is_rank_zero()) == (1, 0, True)
    with distributed.process_group():
        assert distributed.count() == 1
        assert distributed.map_sharded([5.0, 1.0, 2.0], lambda mine: [f"row {place}" for place in mine]) == [
            "row 0",
            "row 1",
            "row 2",
        ]
        assert distributed.on_rank_zero(lambda: 7) == 7
        assert distributed.all_gather("x") == ["x"]
        assert distributed.all_reduce_sum(1.5, 2.0) == [1.5, 2.0] and distributed.all_reduce_max(True, False) == [True, False]


def test_a_launcher_s_process_is_alone_until_a_run_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    # A script under torchrun may ask a reward model on its first process alone: nobody must wait for the second.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (distributed.world_size(), distributed.rank(), distributed.is_rank_zero()) == (2, 1, False)
    assert distributed.count() == 1
    assert distributed.map_sharded([1.0, 1.0], lambda mine: mine) == [0, 1]


# Slow: real processes.


def start(program: str, number: int, *arguments: object) -> list[tuple[int, str]]:
    """(exit code, what was said) of each of so many processes with one program."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    told = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(number)}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**told, "RANK": str(rank), "LOCAL_RANK": str(rank)} if number > 1 else told,
        )
        for rank in range(number)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in started[:1]]
        # One that was stopped waits for ever: the first one's end is the test's.
        for process in started[1:]:
            if "stopped" in arguments:
                process.kill()
            said.append(process.communicate(timeout=PATIENCE)[0])
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, words) for process, words in zip(started, said, strict=True)]


# Rows of 1 to 9 tokens: a loss a token, the mean over all of them. Each way to add gradients up is tried on a new network in
# the same processes: `small`, all in one message; `large`, the first layer's 80 weights in place and the others together.
# `naive` is the known mistake: each process takes the mean over its own tokens, and the means are averaged.
LEARN = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from sawyer.train import distributed
from sawyer.train import OptimizerStep
from sawyer.errors import NotFiniteError, TrainingError

torch.manual_seed(1)
rows = [torch.randn(length, 5) for length in (1, 9, 2, 7, 3, 3, 8)]
count = sum(map(len, rows))

def learnt(naive=False):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
    unused = nn.Parameter(torch.ones(3))
    net.register_parameter("unused", unused)
    learner = OptimizerStep(net, name="test", learning_rate=0.1, factor=lambda step: 1.0, max_norm=1e9)
    seen = {}
    mine = distributed.shard(rows, len)
    divisor = count if not naive else sum(map(len, mine)) * distributed.count()
    seen["own"] = len(mine)
    total, norm = learner.accumulate(mine, lambda row: (net(row) - row.sum(1, keepdim=True)).pow(2).sum(), divisor)
    seen["loss"], seen["norm"] = total, norm
    grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in net.parameters()]
    seen["gradient"] = torch.cat([grad.flatten() for grad in grads]).tolist()
    learner.optimizer.zero_grad(set_to_none=True)
    one = [rows[0]]  # a batch with fewer rows than processes
    for _ in range(3):
        learner.update(distributed.shard(one, len), lambda row: net(row).pow(2).sum(), 1)
    before = seen["weights"] = torch.cat([w.flatten() for w in net.parameters()]).tolist()
    try:  # one process's part alone is not finite: all refuse
        learner.update(mine, lambda row: net(row).sum() * (float("nan") if len(row) == 9 else 1.0), count)
    except NotFiniteError:
        seen["refused"] = torch.cat([w.flatten() for w in net.parameters()]).tolist() == before
    return seen

def by(large, naive=False):
    distributed.LARGE = large
    return learnt(naive)

def fails(places):
    if distributed.rank() == distributed.world_size() - 1:
        raise TrainingError("only here", todo="mend it")
    return places

seen = {}
with distributed.process_group():
    seen["small"] = by(distributed.LARGE)
    seen["large"] = by(80)
    seen["naive"] = by(2**18, naive=True)
    seen["shared"] = distributed.map_sharded([len(row) for row in rows], lambda places: [(p, p * p) for p in places])
    numbers = distributed.map_sharded([1.0, 5.0, 2.0], lambda places: torch.tensor([[p, p + 0.5] for p in places]))
    seen["rows"] = numbers.tolist()
    seen["first"] = distributed.on_rank_zero(lambda: f"by {distributed.rank()}")
    try:
        distributed.map_sharded([1.0] * 4, fails)
    except TrainingError as error:
        seen["told"] = [error.given, error.todo]
    if distributed.rank() == 0:
        open(sys.argv[1], "w").write(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def learn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """`learn(number)`: what the first of so many processes found."""
    root = tmp_path_factory.mktemp("learn")

    def found(number: int) -> dict[str, Any]:
        path = root / f"{number}.json"
        if not path.exists():
            for code, said in start(LEARN, number, path):
                assert code == 0, said
        seen: dict[str, Any] = json.loads(path.read_text())
        return seen

    return found


def apart(one: list[float], other: list[float]) -> float:
    """The largest difference, as a share of the largest number."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) / max(map(abs, one))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["small", "large"])
@pytest.mark.parametrize("number", [2, 3])
def test_the_gradient_is_that_of_one_process(learn: Callable[[int], dict[str, Any]], number: int, how: str) -> None:
    one, several = learn(1)[how], learn(number)[how]
    assert 0 < several["own"] < one["own"] == 7
    assert apart(one["gradient"], several["gradient"]) < 1e-6
    assert several["loss"] == pytest.approx(one["loss"], rel=1e-6) and several["norm"] == pytest.approx(one["norm"], rel=1e-6)
    assert apart(one["weights"], several["weights"]) < 1e-5, "also after batches of fewer rows than processes"
    assert one["refused"] is several["refused"] is True


@pytest.mark.slow
def test_the_mean_of_each_process_s_mean_is_another_gradient(learn: Callable[[int], dict[str, Any]]) -> None:
    assert apart(learn(1)["naive"]["gradient"], learn(2)["naive"]["gradient"]) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3])
def test_all_have_all_of_it_in_order_and_one_s_error_is_everybody_s(
    learn: Callable[[int], dict[str, Any]], number: int
) -> None:
    seen = learn(number)
    assert seen["shared"] == [[place, place * place] for place in range(7)]
    assert seen["rows"] == [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]
    assert seen["first"] == "by 0"
    assert seen["told"] == ["only here", "mend it"]


GONE = """
import os, signal, sys
from datetime import timedelta
from sawyer.train import distributed
from sawyer.cli.console import show_error
from sawyer.errors import SawyerError, TrainingError

how = sys.argv[1]
if how == "stopped":
    distributed.TIMEOUT = timedelta(seconds=3)
try:
    with distributed.process_group():
        distributed.all_gather("here")
        if distributed.rank() == 1 and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if distributed.rank() == 1 and how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if distributed.rank() == 1 and how == "fails":
            raise TrainingError("memory ran out")
        distributed.all_reduce_sum(1.0)
        distributed.all_reduce_sum(1.0)
except SawyerError as error:
    print(type(error).__name__)
    show_error(error)
    sys.exit(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("killed", "process 0 of 2 has lost another one"),
        ("stopped", "process 0 of 2 has lost another one"),
        ("fails", "process 1 ended: memory ran out"),
    ],
)
def test_one_that_is_gone_is_told_of_and_nobody_waits_for_ever(how: str, words: str) -> None:
    """`start` gives up after PATIENCE: a process that waits for ever fails the test."""
    (code, said), _ = start(GONE, 2, how)
    assert code == 1 and "ProcessError" in said, said
    assert words in said and "what to do:" in said and "Traceback" not in said


SLOW = """
import time
from datetime import timedelta
from sawyer.train import distributed
from sawyer.errors import ProcessError

def asked():
    time.sleep(3)  # a reward function that asks a service
    return "scored"

distributed.TIMEOUT = timedelta(seconds=1)
with distributed.process_group():
    print(distributed.on_rank_zero(asked))
    try:
        if distributed.rank() == 0:
            asked()
        distributed.all_reduce_sum(1.0)
        print("summed")
    except ProcessError:
        print("lost")
"""


@pytest.mark.slow
def test_work_of_one_may_take_longer_than_the_others_patience() -> None:
    """What all do alike is waited for with less: there one that does not come has stopped."""
    for code, said in start(SLOW, 2):
        assert code == 0 and said.split()[0] == "scored" and "lost" in said, said


LONELY = """
import sys
from datetime import timedelta
from sawyer.train import distributed
from sawyer.errors import ProcessError

distributed.TIMEOUT = timedelta(seconds=2)
try:
    with distributed.process_group():
        pass
except ProcessError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.slow
def test_others_that_never_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    program = LONELY.replace("distributed.TIMEOUT", "import os; os.environ['WORLD_SIZE'] = '3'; distributed.TIMEOUT")
    (code, said), *_ = start(program, 2)
    assert code == 7 and "does not find the others" in said, said


# What a model's code imports within a run must not hold the group beyond it: its threads would abort the ending process.
LET_GO = """
import atexit, weakref
from sawyer.train import distributed

atexit.register(lambda: print("let go" if group() is None else "held"))  # runs after what `joined` registers
with distributed.process_group():
    import torch.distributed as others
    import torch.distributed.nn.functional

    distributed.all_gather("here")
    group = weakref.ref(others.group.WORLD)
"""


@pytest.mark.slow
def test_the_others_are_let_go_before_the_interpreter_ends() -> None:
    assert start(LET_GO, 2) == [(0, "let go\n")] * 2
