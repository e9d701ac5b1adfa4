"""Fresh processes: in step they share the same batch, apart they begin together, and one that fails ends the others."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import windows
from benchmarks import launch
from benchmarks.launch import measure_in_processes, measure_independent
from benchmarks.measure import Measurement
from benchmarks.variant import STAGES, BatchPart, Variant

from sawyer.config import Config
from sawyer.errors import ConfigError, ProcessError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_ceiling_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "measure", windows.quickly)


def test_in_step_each_knows_who_it_is_and_has_its_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ((number, known, threads),) = launch.run_in_step(windows.who, 1)
    assert (number, known) == (0, [0])
    share = max(1, threads // 2)
    assert launch.run_in_step(windows.who, 2) == [(0, [0, 1], share), (1, [0, 1], share)]


def test_apart_none_begins_before_all_have_loaded() -> None:
    found = launch.run_at_once([windows.window] * 2)
    assert max(loaded for loaded, _ in found) <= min(begun for _, begun in found)


def even(config: Config) -> Config:
    """With batches that two can share."""
    assert config.sft is not None
    return config.model_copy(update={"sft": config.sft.model_copy(update={"batch_size": 4})})


def check(stage: str, alone: Measurement, two: Measurement, halves: Sequence[Measurement]) -> None:
    """What a step counts is the whole batch's whoever does it; of sampled answers this needs the same answers."""
    assert two.per_second * two.seconds == pytest.approx(alone.per_second * alone.seconds)
    assert two.tokens_per_second * two.seconds == pytest.approx(alone.tokens_per_second * alone.seconds)
    assert len({half.variant for half in halves}) == 1
    if stage != "sampling":  # another batch draws other answers
        units = [half.per_second * half.seconds for half in halves]
        assert sum(units) == pytest.approx(alone.per_second * alone.seconds)


def test_two_in_step_do_the_batch_and_two_apart_a_half_each(config: Config, tmp_path: Path) -> None:
    """Of every stage, in processes that take one after another: to start one takes longer than to measure."""
    work = partial(windows.one_after_another, even(config), STAGES)
    (alone,) = launch.run_in_step(partial(work, tmp_path / "alone"), 1)
    two, _ = launch.run_in_step(partial(work, tmp_path / "two"), 2)
    halves = launch.run_at_once([partial(work, tmp_path / "halves", part=BatchPart(number=number, of=2)) for number in (0, 1)])
    for stage, *found in zip(STAGES, alone, two, zip(*halves, strict=True), strict=True):
        check(stage, *found)


def test_measured_and_measured_apart(config: Config) -> None:
    config = even(config)
    alone, two = (measure_in_processes(config, "sft", Variant(processes=number), steps=1) for number in (1, 2))
    assert two.variant.processes == 2
    check("sft", alone, two, measure_independent(config, "sft", parts=2, steps=1))


def test_an_error_comes_back_as_it_was_raised(config: Config) -> None:
    with pytest.raises(ConfigError, match="no section `sft`"):
        measure_in_processes(config.model_copy(update={"sft": None}), "sft", Variant(processes=2), steps=1)
    with pytest.raises(LookupError, match="no such rows") as raised:
        launch.run_at_once([windows.fail, windows.window])  # the other waits for it, and would for minutes
    assert "windows.py" in raised.value.__notes__[0]


def test_one_that_is_killed_ends_the_others() -> None:
    began = time.monotonic()
    with pytest.raises(ProcessError, match=r"has ended \(3\) and found nothing"):
        launch._run_processes([(partial(time.sleep, 500), {}), (partial(os._exit, 3), {})])
    assert time.monotonic() - began < 250
