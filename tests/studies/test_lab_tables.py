"""Markdown tables that a terminal shows in columns."""

from __future__ import annotations

from sawyer.stats import Interval
from sawyer.studies.markdown_tables import figure, in_all, table, with_interval


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
    assert (with_interval(None), in_all(9, 10)) == ("–", "9 of 10")
