"""Ours beside a peer: the medians, the ratio, and a peer whose words surround its figures."""

from __future__ import annotations

import sys

import pytest
from benchmarks import peer
from benchmarks.programs import ProgramFigures


def test_the_ratio_is_of_medians_not_of_means_or_of_the_best() -> None:
    ours = ProgramFigures(name="ours", per_second=[10.0, 30.0, 11.0], peak_mb=[100.0, 300.0, 100.0])
    theirs = ProgramFigures(name="theirs", per_second=[5.0, 1.0, 5.5], peak_mb=[200.0, 200.0, 50.0])
    found = peer.ratios(ours, theirs)
    assert found["times_as_fast"] == 2.2  # 11 / 5; the means' would be 4.4, the best's 5.5
    assert found["share_of_memory"] == 0.5
    assert found["ours"]["rounds"] == [10.0, 30.0, 11.0]


def test_the_last_line_of_json_counts() -> None:
    assert peer.last_json('{"step": 1}\nwords\n{"per_s": 2.5}\nGoodbye {"x": 1}\n') == {"per_s": 2.5}
    with pytest.raises(SystemExit, match="no line of JSON"):
        peer.last_json("words only")


def test_a_peer_that_lacks_the_figure_or_fails_is_named() -> None:
    say = f'{sys.executable} -c "print(\'{{\\"pairs_per_s\\": 3, \\"peak_mb\\": 7}}\')"'
    assert peer._theirs(say, "pairs_per_s") == {"per_second": 3.0, "peak_mb": 7.0}
    with pytest.raises(SystemExit, match="pairs_per_s, peak_mb, not tokens_per_s"):
        peer._theirs(say, "tokens_per_s")
    with pytest.raises(SystemExit, match="ended with 3"):
        peer._theirs(f'{sys.executable} -c "raise SystemExit(3)"', "x")
    with pytest.raises(SystemExit, match="`no-such-program --fast` cannot be run"):
        peer._theirs("no-such-program --fast", "x")
