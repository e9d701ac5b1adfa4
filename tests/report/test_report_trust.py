"""The trust report on the page and as a page: every figure of trust.json finds its place, and nothing else gets in."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_run import examined

from sawyer.report import build, build_trust
from sawyer.report.trust_section import view
from sawyer.runs import Layout
from sawyer.trust import Trust, as_json, decide_verdict


def values(found: Trust | None = None) -> dict[str, Any]:
    found = examined() if found is None else found
    read: dict[str, Any] = json.loads(json.dumps(as_json(found, decide_verdict(found))))
    return read


def test_the_verdict_stands_first_with_the_figures_that_decided() -> None:
    found = view(values())
    verdict = decide_verdict(examined())
    assert (found.kind, found.look, found.chip) == ("guarded", "warn", "! only with guards") and found.words == verdict.words
    assert [line[0] for line in found.reasons] == [why.name.replace("_", " ") for why in (*verdict.reasons, *verdict.doubts)]
    bad = decide_verdict(examined(8))
    refused = view(values(examined(8)))
    assert (refused.look, refused.chip) == ("fail", "✕ no RL on it") and refused.reasons[0][1] == bad.reasons[0].words
    count = bad.reasons[0]  # a number of prompts, which is no 8.00
    assert count.figure == "accuracy.prompts" and refused.reasons[0][2:] == (
        f"accuracy.prompts {count.value}",
        f"{count.threshold}",
    )


def test_the_plots_draw_what_was_measured() -> None:
    found = values()
    calibration, by_gap, length = (panel for panel, _ in view(found).panels)
    side = found["sides"][0]
    assert [line.ys for line in calibration.lines] == [[b["right"]["value"] for b in c["bins"]] for c in side["calibration"]]
    assert calibration.lines[0].lows == [b["right"]["low"] for b in side["calibration"][0]["bins"]]
    assert calibration.diagonal and calibration.x_share
    assert by_gap.x_names == [gap["name"] for gap in side["by_gap"]]
    assert [line.name for line in by_gap.lines] == ["All judged", "The files'", "The policy's"]
    assert by_gap.lines[0].ys == [gap["accuracy"]["value"] for gap in side["by_gap"]]
    assert by_gap.lines[0].highs == [gap["accuracy"]["high"] for gap in side["by_gap"]]
    assert [round(x) for x in by_gap.lines[2].xs] == list(range(len(by_gap.x_names)))
    assert [level.at for level in by_gap.levels][:1] == [side["best_rule_value"]]
    cloud, means = length.lines
    assert cloud.cloud and list(zip(cloud.xs, cloud.ys, strict=True)) == [tuple(point) for point in side["points"]]
    assert sum(means.xs) / 8 == pytest.approx(sum(cloud.xs) / len(cloud.xs))
    for _, svg in view(found).panels:
        ElementTree.fromstring(svg)


def test_every_side_has_its_column_and_every_probe_its_example() -> None:
    found = view(values())
    assert found.sides == ["All judged", "The files'", "The policy's"]
    accuracy = next(row for row in found.rows if row.name == "Accuracy")
    side = examined().everything
    assert accuracy.cells[0] == (
        f"{100 * side.accuracy.value:.0f} %",
        f"{100 * side.accuracy.low:.0f} % to {100 * side.accuracy.high:.0f} %",
    )
    assert all(len(row.cells) == 3 for row in found.rows)
    shares = [probe.whisker.value for probe in found.probes]
    assert shares == sorted(shares, reverse=True)
    assert all(probe.example and len(probe.bars) == 2 for probe in found.probes)


def test_what_is_not_known_is_left_out() -> None:
    found = examined(1)
    tied = replace(found.everything, pairs=0, by_gap=(), calibration=(), points=(), length_controlled=None)
    told_view = view(values(replace(found, sides=(tied,), probes=(), ceiling=None)))
    assert told_view.panels == [] and told_view.probes == [] and told_view.calibration == ""
    assert "unknown" in told_view.ceiling[0] and told_view.ceiling[1] == ""
    assert "Reward with the true score" not in [row.name for row in told_view.rows]


def test_a_page_of_its_own(tmp_path: Path) -> None:
    path = build_trust(values(), tmp_path / "new" / "page.html", "models/<mine>")
    text = path.read_text(encoding="utf-8")
    assert "models/&lt;mine&gt;" in text and "Trust it" in text and "Calibration" in text and "pleasantries around it" in text
    assert "<script" not in text and "<b>rude</b>" not in text and "\x1b" not in text
    assert build_trust(values(), tmp_path / "again.html", "models/<mine>").read_bytes() == path.read_bytes()
    assert len(text) < 400_000


@pytest.mark.slow
def test_a_report_that_is_not_as_it_was_written_is_named(whole_run: Path) -> None:
    path = Layout(whole_run).trust
    content = json.loads(path.read_text())
    del content["sides"][0]["accuracy"]
    path.write_text(json.dumps(content))
    text = build(whole_run).read_text()
    assert '<li>How far the reward model can be trusted <span class="soft">(ValueError: sides[0].accuracy is missing)' in text
    assert "All judged" not in text and "Reward model" in text, "the rest of the page is drawn"
