"""What is measured adds up: units, tokens, phases, the share of the rate; the table and the lines say it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sawyer import models
from sawyer.bench import GROWTH, HEADER, MEASURED, Measured, Variant, bench, ceiling, line, measure, sitting, table
from sawyer.bench.phases import CALLS, PHASES, phases
from sawyer.config import Config, checked
from sawyer.errors import ConfigError
from sawyer.models import new_policy, open_speaker, save_model, train_tokenizer
from sawyer.records import read
from sawyer.text import set_template

CPU = torch.device("cpu")
ANSWERS = ("The opposite of up is down.", "Down.", "I am sorry.", "Up is up, and so it is.")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("bench")
    tokenizer = train_tokenizer(ANSWERS * 3, 300, 64)
    set_template(tokenizer, "question")
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    save_model(folder / "m", new_policy(vocab_size=302, layers=1, width=16, heads=2, context=64, seed=0, **ids), tokenizer)
    questions = [f"What is {name}?" for name in ("up", "down", "left", "right", "here", "there")]
    shown = [{"instruction": q, "input": "", "output": ANSWERS[i % 4]} for i, q in enumerate(questions)]
    scored = [
        {"user_input": q, "responses_and_scores": [{"response": a, "score": i, "source": "x"} for i, a in enumerate(ANSWERS)]}
        for q in questions
    ]
    (folder / "sft.json").write_text(json.dumps(shown))
    (folder / "scored.json").write_text(json.dumps(scored))
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": q}) for q in questions))
    return checked(
        {
            "model": str(folder / "m"),
            "sft": {"data": [str(folder / "sft.json")], "batch_size": 3},
            "reward": {"data": [str(folder / "scored.json")], "batch_size": 2},
            "rl": {
                "prompts": [str(folder / "prompts.jsonl")],
                "batch_size": 4,
                "episodes": 4,
                "minibatches": 2,
                "epochs": 1,
                "max_new_tokens": 4,
            },
        }
    )


@pytest.fixture(autouse=True)
def quick_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("importlib").import_module("sawyer.bench.ceiling")
    monkeypatch.setattr(module, "SHAPES", ((8, 16, 16),))
    monkeypatch.setattr(module, "COPIED", 1024)


@pytest.mark.parametrize(
    ("stage", "phase"), [("sft", "backward"), ("reward", "backward"), ("rl", "score"), ("sampling", "generate")]
)
def test_a_stage_is_measured(config: Config, stage: str, phase: str) -> None:
    found = measure(config, stage, steps=2)
    assert found.per_second > 0 and found.tokens_per_second > 0 and found.peak_mb > 0
    assert found.phases[phase] > 0 and set(found.phases) == {*PHASES, "else"}
    assert (found.phases["optimizer"] == 0) == (stage == "sampling")
    assert found.share == pytest.approx(found.tokens_per_second * found.operations / (found.gflops * 1e9))
    assert found.operations / found.parameters == {"sft": 6, "reward": 6, "rl": 22, "sampling": 2}[stage]


def test_units_are_counted_as_the_data_has_them(config: Config) -> None:
    """Six rows in one batch: tokens a second times its seconds are the rows' tokens, cut or not; so with pairs."""
    assert config.sft is not None and config.model is not None
    codec = open_speaker(config.model).codec
    lengths = [len(codec.demonstration(record).ids) for record in read(config.sft.data, want="demonstrations").records]
    whole = measure(config, "sft", Variant(batch=6), steps=1)
    assert whole.per_second * whole.seconds == pytest.approx(sum(lengths))
    cut = measure(config, "sft", Variant(batch=6, length=min(lengths) + 1), steps=1)
    assert cut.per_second * cut.seconds == pytest.approx(sum(min(length, min(lengths) + 1) for length in lengths))
    pairs = measure(config, "reward", steps=1)
    assert pairs.per_second * pairs.seconds == pytest.approx(2 * 6)  # two prompts, four answers each
    fewer = measure(config, "reward", Variant(answers=2), steps=1)
    assert fewer.per_second * fewer.seconds == pytest.approx(2 * 1)


def test_phases_leave_everything_as_it_was() -> None:
    before = torch.Tensor.backward, torch.optim.AdamW.step, [getattr(models, name) for name in CALLS]
    with phases(CPU) as clock:
        assert torch.Tensor.backward is not before[0]
        torch.ones(2, requires_grad=True).sum().backward()
    assert clock.seconds["backward"] > 0 == clock.seconds["forward"]
    assert (torch.Tensor.backward, torch.optim.AdamW.step, [getattr(models, name) for name in CALLS]) == before


def test_a_phase_in_a_phase_counts_once() -> None:
    with phases(CPU) as clock:
        inner = clock.timed("forward", lambda: sum(range(20_000)))
        clock.timed("score", inner)()
    assert clock.seconds["score"] > 0 == clock.seconds["forward"]


def test_a_sitting_writes_lines_and_a_plot(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Measured(
        stage="sft",
        variant=Variant(),
        units="tokens",
        per_second=1234.5678,
        tokens_per_second=1234.5678,
        seconds=2.0,
        phases={**dict.fromkeys(PHASES, 0.0), "forward": 0.5, "else": 1.5},
        peak_mb=100.0,
        share=0.5,
        operations=60.0,
        parameters=10,
        precision="fp32",
        gflops=50.0,
    )

    class Here:
        """A pool that works in this process and measures nothing."""

        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, _call: object, _config: object, stage: str, variant: Variant, **__: object) -> Here:
            self.found = replace(example, stage=stage, variant=variant)
            return self

        def result(self) -> Measured:
            return self.found

    monkeypatch.setattr(sitting, "ProcessPoolExecutor", Here)
    found = bench(config, stages=["sft", "rl"], grow=["batch"], out=tmp_path / "new")
    assert [(m.stage, m.variant.batch) for m in found] == [
        *(("sft", batch) for batch in (None, 1, 2, 3, 6)),
        *(("rl", batch) for batch in (None, 2, 4, 8)),  # whole minibatches
    ]
    lines = [json.loads(text) for text in (tmp_path / "new" / "bench.jsonl").read_text().splitlines()]
    assert len(lines) == len(found) and lines[0] == json.loads(line(found[0]))
    assert lines[0]["per_second"] == 1235.0 and lines[1]["variant"]["batch"] == 1
    assert (tmp_path / "new" / "bench.png").stat().st_size > 1000
    row = table(found)[1]
    assert len(row) == len(HEADER) and row[:4] == ("sft batch 1", "1,235 tokens", "50%", "100") and row[-1] == "75%"


@pytest.mark.parametrize(("named", "words"), [({"stages": ["stf"]}, "no stage is called stf"), ({"grow": ["x"]}, "no growth")])
def test_unknown_names_are_refused(config: Config, named: dict[str, list[str]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bench(config, **named)  # type: ignore[arg-type]


def test_a_stage_the_config_does_not_name(config: Config) -> None:
    with pytest.raises(ConfigError, match="no section `sft`"):
        measure(config.model_copy(update={"sft": None}), "sft")
    assert set(GROWTH["batch"]) == set(MEASURED)


def test_the_ceiling_is_the_best_shape() -> None:
    found = ceiling(CPU, repeats=1)
    assert found.fp32_gflops > 0 and found.bf16_gflops > 0 and found.copy_gb_per_second > 0
