"""Markdown tables that a terminal shows in columns."""

from __future__ import annotations

from sawyer.stats import Interval
from sawyer.studies.tables import figure, spread_of, table, with_interval


def test_a_table_has_columns_of_one_width_the_figures_to_the_right() -> None:
    found = table(["seed", "gold"], [["0", "7.5"], ["12", "10.25 | x"]])
    assert found.split("\n") == [
        "| seed |      gold |",
        "|------|----------:|",
        "| 0    |       7.5 |",
        "| 12   | 10.25 / x |",
    ]


def test_figures() -> None:
    assert (figure(7.126), figure(-0.5, 1), figure(0.5, sign=True), figure(None)) == ("7.13", "−0.5", "+0.50", "–")
    assert with_interval(Interval(value=7.0, low=6.5, high=7.5)) == "7.00 (6.50 to 7.50)"
    assert (
        with_interval(None) == "–" and with_interval(Interval(value=0.5, low=0.25, high=1.0), 0, scale=100) == "50 (25 to 100)"
    )
    assert with_interval(spread_of([1.0, 3.0])) == "2.00 (1.00 to 3.00)"
    assert (spread_of([1.0, 3.0]).deviation, spread_of([1.0]).deviation) == (2**0.5, None)
