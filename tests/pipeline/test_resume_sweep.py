"""The long sweep: every word of the journal is a moment at which a run may die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cuts import Cut, go_on, same, words_of

from sawyer import pipeline

STAGES = pipeline.STAGES
WORDS_AT_MOST = 90


@pytest.mark.slow
@pytest.mark.parametrize("save", [0.0, 3600.0], ids=["often saved", "never saved"])
@pytest.mark.parametrize("how", ["kill", "signal", "twice"])
@pytest.mark.parametrize("stage", STAGES)
def test_cut_off_at_every_word(tiny: Any, tmp_path: Path, stage: str, how: str, save: float) -> None:
    words = words_of(tiny, stage, tmp_path / "count", save)
    assert 5 < words < WORDS_AT_MOST
    step = 1 if how == "kill" and save == 0 else 7
    for at in range(1, words + 1, step):
        cut = Cut(stage, at, how)
        out = tiny.prefix(stage, tmp_path / str(at))
        done = go_on(tiny, out, save, only=stage, listeners=[cut])
        assert cut.happened
        assert done or go_on(tiny, out, save, only=stage), f"word {at}"
        try:
            same(tiny, out, stage)
        except AssertionError as error:
            raise AssertionError(f"{stage} cut off at word {at} of {words} ({how}): {error}") from error
