"""Fresh processes: in step they share the same batch, apart they begin together, and one that fails ends the others."""

from __future__ import annotations

import os
import time
from functools import partial

import pytest
import windows

from sawyer.bench import MEASURED, Variant, launch, measured, measured_apart
from sawyer.config import Config
from sawyer.errors import ConfigError, ProcessError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_ceiling_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "measure", windows.quickly)


def test_in_step_each_knows_who_it_is_and_has_its_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ((number, known, threads),) = launch.in_step(windows.who, 1)
    assert (number, known) == (0, [0])
    share = max(1, threads // 2)
    assert launch.in_step(windows.who, 2) == [(0, [0, 1], share), (1, [0, 1], share)]


def test_apart_none_begins_before_all_have_loaded() -> None:
    found = launch.at_once([windows.window] * 2)
    assert max(loaded for loaded, _ in found) <= min(begun for _, begun in found)


@pytest.mark.parametrize("stage", MEASURED)
def test_two_in_step_do_the_batch_and_two_apart_a_half_each(config: Config, stage: str) -> None:
    """What a step counts is the whole batch's whoever does it; of sampled answers this needs the same answers."""
    assert config.sft is not None
    config = config.model_copy(update={"sft": config.sft.model_copy(update={"batch_size": 4})})
    alone, two = (measured(config, stage, Variant(processes=number), steps=1) for number in (1, 2))
    assert two.variant.processes == 2
    assert two.per_second * two.seconds == pytest.approx(alone.per_second * alone.seconds)
    assert two.tokens_per_second * two.seconds == pytest.approx(alone.tokens_per_second * alone.seconds)
    halves = measured_apart(config, stage, parts=2, steps=1)
    assert len({half.variant for half in halves}) == 1
    if stage != "sampling":  # another batch draws other answers
        units = [half.per_second * half.seconds for half in halves]
        assert sum(units) == pytest.approx(alone.per_second * alone.seconds)


def test_an_error_comes_back_as_it_was_raised(config: Config) -> None:
    with pytest.raises(ConfigError, match="no section `sft`"):
        measured(config.model_copy(update={"sft": None}), "sft", Variant(processes=2), steps=1)
    with pytest.raises(LookupError, match="no such rows") as raised:
        launch.at_once([windows.fail, windows.window])  # the other waits for it, and would for minutes
    assert "windows.py" in raised.value.__notes__[0]


def test_one_that_is_killed_ends_the_others() -> None:
    began = time.monotonic()
    with pytest.raises(ProcessError, match=r"has ended \(3\) and found nothing"):
        launch._started([(partial(time.sleep, 500), {}), (partial(os._exit, 3), {})])
    assert time.monotonic() - began < 250
