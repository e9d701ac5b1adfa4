"""What is measured adds up: units, tokens, phases, the share of the rate; the table and the lines say it."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks import stage_table
from benchmarks.ceiling import product_rate
from benchmarks.measure import Measurement, measure
from benchmarks.phases import CALLS, PHASES, phases
from benchmarks.stage_table import HEADER, json_line, measure_stages, table
from benchmarks.variant import BatchPart, Variant, batch_part
from benchmarks.work import BUILD, StageWork, Step

from sawyer import models
from sawyer.config import Config
from sawyer.errors import ConfigError, DataError
from sawyer.models import open_language_model
from sawyer.models.pretrained import remote_code_kwargs
from sawyer.records import read
from sawyer.train import choose_device, distributed

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("stage", "phase"), [("sft", "backward"), ("reward", "backward"), ("rl", "score"), ("sampling", "generate")]
)
def test_a_stage_is_measured(config: Config, stage: str, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("benchmarks.measure"), "PACE", float("inf"))  # both steps have one rate beside them
    found = measure(config, stage, tmp_path, steps=2)
    assert found.per_second > 0 and found.tokens_per_second > 0 and found.peak_mb > 0
    assert found.phases[phase] > 0 and set(found.phases) == {*PHASES, "else"}
    assert (found.phases["optimizer"] == 0) == (stage == "sampling")
    assert found.share == pytest.approx(found.tokens_per_second * found.operations / (found.gflops * 1e9))
    assert found.operations / found.parameters == {"sft": 6, "reward": 6, "rl": 22, "sampling": 2}[stage]


def test_units_are_counted_as_the_data_has_them(config: Config, tmp_path: Path) -> None:
    """Six rows in one batch: tokens a second times its seconds are the rows' tokens; so with pairs."""
    assert config.sft is not None and config.model is not None
    prompt_encoder = open_language_model(config.model).prompt_encoder
    rows = [prompt_encoder.demonstration(record) for record in read(config.sft.data, want="demonstrations").records]
    lengths = [len(row.ids) for row in rows]
    whole = measure(config, "sft", tmp_path, Variant(batch=6), steps=1)
    assert whole.per_second * whole.seconds == pytest.approx(sum(lengths))
    pairs = measure(config, "reward", tmp_path, steps=1)
    assert pairs.per_second * pairs.seconds == pytest.approx(2 * 6)  # two prompts, four answers each


def test_parts_of_a_batch_are_together_the_batch(config: Config, tmp_path: Path) -> None:
    """One step on four rows, then each half of two: other rows each, so that only both halves have the whole's tokens."""

    def tokens(batch: int, part: BatchPart) -> int:
        found = measure(config, "sft", tmp_path, Variant(batch=batch), steps=1, part=part)
        return round(found.per_second * found.seconds)

    whole, halves = tokens(4, BatchPart()), [tokens(2, BatchPart(number=number, of=2)) for number in range(2)]
    assert sum(halves) == whole
    assert whole not in [2 * half for half in halves], "the same half twice would be seen"
    assert [BatchPart(number=1, of=2).index(step) for step in range(3)] == [3, 5, 7]
    assert BatchPart(number=1, of=2).batches(3) == 8, "the last of three steps has a batch"


def test_a_batch_that_cannot_be_cut_is_refused(config: Config) -> None:
    assert [batch_part(config, stage, 2) for stage in ("reward", "rl", "sampling")] == [1, 2, 16]
    with pytest.raises(ConfigError, match=r"batch of 3 \(sft\) cannot be cut into 2"):
        batch_part(config, "sft", 2)
    with pytest.raises(ConfigError, match="a multiple of 8"):  # each part in two minibatches
        batch_part(config, "rl", 4)


def test_the_others_are_heard_before_what_counts_and_after_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ready` once, after the step that does not count; the largest peak of any process; the sum of their rates."""
    happened: list[object] = []

    def step(index: int) -> Step:
        happened.append(index)
        return Step(units=1, tokens=1)

    made = StageWork(step=step, units="rows", passes=6, parameters=10, placement=choose_device("cpu", "fp32", width=16))
    monkeypatch.setitem(BUILD, "sft", lambda *_: made)
    monkeypatch.setattr(distributed, "all_reduce_max", lambda peak: [peak + 1e6])
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda rate: [rate + 1e6])
    found = measure(config, "sft", tmp_path, steps=2, ready=lambda: happened.append("ready"))
    assert happened == [1, "ready", 2, 3]
    assert found.peak_mb > 1e6 and found.gflops > 1e6
    assert found.share == pytest.approx(found.tokens_per_second * 60 / (found.gflops * 1e9))


def test_the_share_is_of_the_rate_before_and_after_each_step(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slows down: four steps of 60 tokens, 6 x 10 operations a token. A step of two seconds has rates of its
    own, shorter ones share them; with the rate of the end alone the share would be 4."""
    rates, now = iter([6e-6, 4e-6, 2e-6, 1e-6]), iter([0.0, 2.0, 2.0, 2.9, 2.9, 3.8, 3.8, 4.7])
    made = StageWork(
        step=lambda _: Step(units=60, tokens=60),
        units="rows",
        passes=6,
        parameters=10,
        placement=choose_device("cpu", "fp32", width=16),
    )
    monkeypatch.setitem(BUILD, "sft", lambda *_: made)
    module = import_module("benchmarks.measure")
    monkeypatch.setattr(module, "product_rate", lambda *_: next(rates))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    found = measure(config, "sft", tmp_path, steps=4)
    # GFLOP/s of the steps: 1.8e-6, then 4e-6 thrice; the rates beside them 5e-6, 3e-6 twice, 1.5e-6.
    assert found.share == pytest.approx((4 / 3 + 4 / 3) / 2)
    assert found.gflops == pytest.approx(3e-6)
    assert (found.done, found.took) == (240, pytest.approx(4.7))


def test_phases_leave_everything_as_it_was() -> None:
    before = torch.Tensor.backward, torch.optim.AdamW.step, [getattr(models, name) for name in CALLS]
    with phases(CPU) as clock:
        assert torch.Tensor.backward is not before[0]
        torch.ones(2, requires_grad=True).sum().backward()
    assert clock.seconds["backward"] > 0 == clock.seconds["forward"]
    assert (torch.Tensor.backward, torch.optim.AdamW.step, [getattr(models, name) for name in CALLS]) == before


def test_a_phase_in_a_phase_counts_once() -> None:
    with phases(CPU) as clock:
        inner = clock.time_calls("forward", lambda: sum(range(20_000)))
        clock.time_calls("score", inner)()
    assert clock.seconds["score"] > 0 == clock.seconds["forward"]


def test_a_sitting_writes_lines(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Measurement(
        stage="sft",
        variant=Variant(),
        units="tokens",
        per_second=1234.5678,
        tokens_per_second=1234.5678,
        seconds=2.0,
        done=2469.1356,
        took=2.0,
        phases={**dict.fromkeys(PHASES, 0.0), "forward": 0.5, "else": 1.5},
        peak_mb=100.0,
        share=0.5,
        operations=60.0,
        parameters=10,
        precision="fp32",
        gflops=50.0,
    )

    monkeypatch.setattr(
        stage_table, "measure_in_processes", lambda _, stage, variant, **__: replace(example, stage=stage, variant=variant)
    )
    rows = measure_stages(config, stages=["sft", "rl"], steps=2, out=tmp_path / "new")
    lines = [json.loads(text) for text in (tmp_path / "new" / "bench.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["sft", "rl"] and lines[0] == json.loads(json_line(rows[0]))
    assert lines[0]["per_second"] == 1235.0
    row = table([replace(example, variant=Variant(batch=1))])[0]
    assert len(row) == len(HEADER) and row[:4] == ("sft batch 1", "1,235 tokens", "50%", "100") and row[-1] == "75%"


def test_under_a_launcher_it_is_refused(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a launcher of 2 processes"):
        measure_stages(config, stages=[], steps=1, out=tmp_path)


def test_unknown_stages_are_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no stage is called stf"):
        measure_stages(config, stages=["stf"], steps=1, out=tmp_path)


def test_a_stage_the_config_does_not_name(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no section `sft`"):
        measure(config.model_copy(update={"sft": None}), "sft", tmp_path)


def test_the_rate_is_the_best_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """In milliseconds: 2 m k n operations of the first shape in 2, of the second, twice as many, in 1."""
    ceiling = import_module("benchmarks.ceiling")
    monkeypatch.setattr(ceiling, "SHAPES", ((8, 16, 16), (16, 16, 16)))
    took = iter([2e-3, 1e-3])
    monkeypatch.setattr(ceiling, "_median", lambda *_: next(took))
    assert product_rate(CPU, torch.float32) == pytest.approx(2 * 16**3 / 1e-3 / 1e9)


def test_the_config_decides_on_bad_rows_and_on_code_beside_the_model(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.sft is not None and config.model is not None
    rows = json.loads(Path(config.sft.data[0]).read_text())
    (tmp_path / "sft.json").write_text(json.dumps([*rows, {"instruction": "Why?"}, {"output": "So."}]))
    config = config.model_copy(update={"sft": config.sft.model_copy(update={"data": [str(tmp_path / "sft.json")]})})
    for stage in ("sft", "sampling"):
        only = config.model_copy(update={"rl": None})
        with pytest.raises(DataError, match=r"sft\.json"):
            measure(only, stage, tmp_path / f"{stage}-refused", steps=1)
        assert measure(only.model_copy(update={"max_bad_rows": 0.3}), stage, tmp_path / stage, steps=1).done > 0
    allowed = []
    build = BUILD["sampling"]

    def noted(*given: Any) -> StageWork:
        allowed.append(remote_code_kwargs("some/model")["trust_remote_code"])
        return build(*given)

    monkeypatch.setitem(BUILD, "sampling", noted)
    for trusted in (False, True):
        measure(config.model_copy(update={"trust_remote_code": trusted}), "sampling", tmp_path / str(trusted), steps=1)
    assert allowed == [False, True] and not remote_code_kwargs("some/model")["trust_remote_code"]
