"""The long sweep: every word of the journal is a moment at which a run may die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cuts import Cut, Kept, go_on, same, words_of

from sawyer import pipeline

STAGES = pipeline.STAGES
WORDS_AT_MOST = 100  # of one stage of the smallest run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("save", [0.0, 3600.0], ids=["often saved", "never saved"])
@pytest.mark.parametrize("how", ["kill", "signal", "twice"])
@pytest.mark.parametrize("stage", STAGES)
def test_cut_off(tiny: Any, tmp_path: Path, stage: str, how: str, save: float) -> None:
    words = words_of(tiny, stage, tmp_path / "count", save)
    assert 5 < words < WORDS_AT_MOST
    for at in range(1, words + 1, 7):
        cut = Cut(stage, at, how)
        out = tiny.prefix(stage, tmp_path / str(at))
        done = go_on(tiny, out, save, only=stage, listeners=[cut])
        assert cut.happened
        assert done or go_on(tiny, out, save, only=stage), f"word {at}"
        check(tiny, out, stage, f"word {at} of {words} ({how})")


@pytest.mark.parametrize("stage", STAGES)
def test_lost_at_every_word(tiny: Any, tmp_path: Path, stage: str) -> None:
    out = tiny.prefix(stage, tmp_path / "whole")
    kept = Kept(stage, out, tmp_path)
    assert go_on(tiny, out, 0.0, only=stage, listeners=[kept])
    assert 5 < len(kept.words) <= kept.said < WORDS_AT_MOST
    for at in kept.words:
        assert go_on(tiny, kept.at(at), 0.0, only=stage), f"word {at}"
        check(tiny, kept.at(at), stage, f"word {at} of {kept.said} (lost)")


def check(tiny: Any, out: Path, stage: str, where: str) -> None:
    """It is as if it had never been cut off."""
    try:
        same(tiny, out, stage)
    except AssertionError as error:
        raise AssertionError(f"{stage} cut off at {where}: {error}") from error
