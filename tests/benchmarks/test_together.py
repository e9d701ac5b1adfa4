"""In step over apart: those apart until both have ended, the median of the rounds' ratios, both sides in turn."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from benchmarks import launch, together
from benchmarks.measure import Measurement
from benchmarks.variant import Variant

from sawyer.config import Config

EXAMPLE = Measurement(
    stage="sft",
    variant=Variant(),
    units="tokens",
    per_second=1.0,
    tokens_per_second=1.0,
    seconds=1.0,
    done=1.0,
    took=1.0,
    phases={},
    peak_mb=100.0,
    share=0.5,
    operations=60.0,
    parameters=10,
    precision="fp32",
    gflops=50.0,
)
IN_STEP = (90.0, 240.0, 150.0)  # seconds for 1,200 tokens
# Tokens and seconds of each of the two, for the same.
APART = (((500.0, 81.0), (700.0, 60.0)), ((600.0, 120.0), (600.0, 240.0)), ((600.0, 75.0), (600.0, 60.0)))


def of(done: float, took: float, peak: float = 100.0) -> Measurement:
    return replace(EXAMPLE, done=done, took=took, peak_mb=peak)


def test_the_ratio_is_the_median_of_the_rounds_and_those_apart_have_ended_when_both_have() -> None:
    independent = [(of(*one, 70.0), of(*other, 50.0)) for one, other in APART]
    in_step = [of(1200.0, seconds) for seconds in IN_STEP]
    turns = together.Turns(stage="sft", batch=8, in_step=in_step, independent=independent)
    figures = turns.figures
    assert figures["ratios"] == [0.9, 1.0, 0.5]
    assert figures["times_as_fast"] == 0.9  # by the sum of both's own rates 0.75, 0.67 and 0.44
    assert figures["apart"]["peak_mb"] == 70.0 and figures["apart"]["rounds"] == pytest.approx([1200 / 81, 5, 16], abs=0.01)
    assert figures["in_step"]["per_second"] == 8.0
    assert turns.row.split() == ["sft", "8", "8.0", "14.8", "tokens", "0.90", "0.50", "to", "1.00"]


def arguments(config: Config, *more: str) -> list[str]:
    assert config.sft and config.reward and config.rl
    files = {"--sft": config.sft.data, "--reward": config.reward.data, "--prompts": config.rl.prompts}
    named = [word for name, paths in files.items() for word in (name, str(paths[0]))]
    return ["together", "--model", str(config.model), *named, *more]


def test_both_sides_come_in_turn_and_a_line_of_json_comes_last(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def measured(config: Config, stage: str, variant: Variant, *, steps: int) -> Measurement:
        asked.append((stage, variant.label, steps))
        return replace(of(10.0, 2.0), stage=stage)

    def measure_independent(config: Config, stage: str, *, parts: int, steps: int) -> list[Measurement]:
        asked.append((stage, f"apart {parts}", steps))
        return [of(4.0, 1.0), of(6.0, 1.0)]

    monkeypatch.setattr(launch, "measure_in_processes", measured)
    monkeypatch.setattr(launch, "measure_independent", measure_independent)
    monkeypatch.setattr("sys.argv", arguments(config, "--stages", "sft", "sampling", "--rounds", "2", "--steps", "4"))
    together.main()
    turn = [("processes 2", 4), ("apart 2", 4)]
    assert asked == [(stage, *side) for stage in ("sft", "sampling") for side in turn * 2]
    lines = capsys.readouterr().out.splitlines()
    last = [json.loads(line) for line in lines[-2:]]
    assert [(figures["stage"], figures["batch"], figures["times_as_fast"]) for figures in last] == [
        ("sft", 8, 0.5),
        ("sampling", 32, 0.5),
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--stages", "sampling", "rl", "--episodes", "7"), r"a batch of 7 \(rl\) cannot be cut into 2 equal parts"),
        (("--stages", "stf"), "no stage is called stf"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    config: Config, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr(launch, "measure_in_processes", lambda *_, **__: pytest.fail("something was measured"))
    monkeypatch.setattr("sys.argv", arguments(config, *more))
    with pytest.raises(SystemExit, match=words):
        together.main()
