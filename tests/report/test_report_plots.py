"""Curves: what is drawn is what was measured."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

from report_run import make_run

from sawyer.report.curves import line, panels
from sawyer.report.run_facts import gather
from sawyer.report.svg_plots import COLOURS, Level, Panel, PlotLine, downsample, draw, running_mean

PANEL = Panel(
    title="Loss <of> it",
    note="",
    lines=[PlotLine(name="a", tone="sft", xs=list(range(50)), ys=[1 / (1 + i) for i in range(50)], smooth=True)],
    levels=[Level(name="b", tone="bad", at=0.25)],
    mark=20,
)


def test_the_drawing_is_xml_in_the_pages_colours() -> None:
    svg = draw(PANEL, "p1")
    ElementTree.fromstring(svg)
    assert "var(--sft)" in svg and "var(--bad)" in svg and "var(--good)" in svg
    assert not any(colour in svg for colour in COLOURS.values())
    assert "<style" not in svg and "font-family" not in svg and "http://" not in svg.replace("http://www.w3.org", "")
    assert svg == draw(PANEL, "p1") and "Loss &lt;of&gt; it" in svg


def test_two_drawings_share_no_id() -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', draw(PANEL, ident))) for ident in ("p1", "p2"))
    assert first and not first & second


def test_tick_labels_keep_their_digits() -> None:
    small = Panel(title="t", note="", lines=[PlotLine(name="a", tone="rl", xs=[0, 1, 2], ys=[0.001, 0.004, 0.002])])
    labels = re.findall(r">(0\.\d+)<", draw(small, "p1"))
    assert len(labels) == len(set(labels)) >= 3


def test_running_mean_by_hand() -> None:
    assert running_mean([0.0, 3.0, 6.0, 9.0], 3) == [1.5, 3.0, 6.0, 7.5]


def test_thinning_keeps_means_and_short_lines() -> None:
    assert downsample([0, 1, 2, 3], [4.0, 6.0, 1.0, 3.0], 2) == ([0.5, 2.5], [5.0, 2.0])
    assert downsample([1, 2], [3.0, 4.0], 2) == ([1, 2], [3.0, 4.0])
    xs, ys = downsample(list(range(1001)), [float(i) for i in range(1001)])
    assert len(xs) == 400 and xs == ys  # on a straight line nothing moves off it


def test_a_line_takes_the_rows_that_have_the_figure_and_the_last_of_a_step() -> None:
    rows = [{"step": 0, "loss": 3}, {"step": 1, "other": 1}, {"step": 2, "loss": 2}, {"step": 2, "loss": 1}]
    found = line(rows, "loss", "training", "sft")
    assert (found.xs, found.ys) == ([0, 2], [3.0, 1.0])


def test_rls_captions_name_the_model_it_starts_from(tmp_path: Path) -> None:
    """The SFT model where the run has one, and no SFT model where it has none."""
    facts = gather(make_run(tmp_path / "run"))
    titles = {panel.title: panel.note for panel in panels(facts, "rl")}
    assert "KL to the SFT model" in titles and "standard deviations of the SFT model's answers" in titles["Reward"]
    alone = replace(facts, config={"rl": {**facts.config["rl"], "rewards": [{"name": "a", "function": "m:f"}]}})
    words = [word for panel in panels(alone, "rl") for word in (panel.title, panel.note)]
    assert "KL to the starting model" in words and not any("SFT" in word for word in words)
    assert any(word.startswith("in the components' own units") for word in words)
