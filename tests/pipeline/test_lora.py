"""A whole run with LoRA: every reader opens what it leaves, it resumes exactly, and `merge` makes whole models of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from sawyer.chat import Chat
from sawyer.errors import ConfigError, Interrupted, ModelError, RunError
from sawyer.models import TextScorer, open_language_model
from sawyer.runs import Layout, is_adapter, read_rows

pytestmark = pytest.mark.slow

pytest.importorskip("peft", reason="an environment from before PEFT was a dependency: install the package again")

Tiny = Any
# A base model that is trained whole, then adapters; one with which the value network can begin as the reward model.
LORA: dict[str, Any] = {"lora": {"rank": 3}, "classify.epochs": 0.3, "rl.episodes": 24}
WITH = ("sft", "reward", "rl")


@pytest.fixture(scope="module")
def done(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, shrinking: Callable[[pytest.MonkeyPatch], None]) -> Path:
    out = tiny.prefix("classify", tmp_path_factory.mktemp("lora") / "run")
    with pytest.MonkeyPatch.context() as patch:
        shrinking(patch)
        tiny.run(out, LORA)
    return Path(out)


def test_every_stage_that_learns_leaves_adapters(done: Path) -> None:
    layout = Layout(done)
    assert all(is_adapter(layout.model(stage)) for stage in ("classify", *WITH)) and not is_adapter(layout.model("base"))
    summary = json.loads(layout.summary.read_text())
    assert summary["rl"]["updates"] == 3 and {"base", "sft", "rl"} <= set(summary["gold"])
    whole = sum(path.stat().st_size for path in layout.model("base").glob("*.safetensors"))
    assert all(sum(path.stat().st_size for path in layout.model(stage).glob("*.safetensors")) < whole / 3 for stage in WITH)
    plans = [row["message"] for row in read_rows(layout.events) if row["kind"] == "plan" and row["stage"] == "rl"]
    assert "memory: policy" in plans[1] and "frozen network" in plans[1]


def test_readers_open_what_is_left(tiny: Tiny, done: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    replies = Chat(done).ask("What is the opposite of up?", max_new_tokens=4)
    assert [reply.model for reply in replies] == ["base", "sft", "rl"] and all(reply.reward is not None for reply in replies)
    (tmp_path / "answers.jsonl").write_text('{"prompt": "What is up?", "response": "Not down."}\n')
    assert command("score", done, tmp_path / "answers.jsonl", "--out", tmp_path / "scored.jsonl").code == 0
    reward = json.loads((tmp_path / "scored.jsonl").read_text())["reward"]
    assert reward == pytest.approx(TextScorer(done / "reward" / "model")(["What is up?"], ["Not down."])[0])
    told = command("trust", done / "reward" / "model", "--data", tiny.data / "comparisons.json", "--limit", "20", "--json")
    assert told.code == 0, told.err


def test_merged_models_load_in_plain_transformers(done: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    ids = torch.tensor([[5, 9, 30, 12]])
    run = tmp_path / "run"
    shutil.copytree(done, run)
    assert command("merge", run).code == 0
    merged = hf.AutoModelForCausalLM.from_pretrained(run / "rl" / "merged").eval()
    ours: Any = open_language_model(run / "rl" / "model").model
    assert torch.allclose(merged(ids).logits, ours(ids).logits, atol=2e-5)
    assert len(hf.AutoTokenizer.from_pretrained(run / "rl" / "merged")) == 400
    assert command("merge", run, "--stage", "reward", "--out", tmp_path / "judge").code == 0
    asked = (["What is up?"], ["Not down."])
    assert TextScorer(tmp_path / "judge")(*asked) == pytest.approx(TextScorer(run)(*asked), abs=1e-4)
    assert hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").config.num_labels == 1
    assert command("merge", run / "classify" / "model", "--out", tmp_path / "classes").code == 0
    assert hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "classes").config.num_labels == 2
    command("merge", run).explains("exists already")
    command("merge", tmp_path / "judge").explains("neither a run nor a folder of adapters")
    command("merge", run, "--stage", "base").explains("is a whole model already")


@pytest.mark.parametrize("stage", WITH)
def test_an_interrupted_stage_goes_on_exactly(tiny: Tiny, done: Path, tmp_path: Path, stage: str) -> None:
    """Stopped in the midst of each stage, the journal and the models are those of the straight run."""
    out = tiny.prefix("classify", tmp_path / "run")
    seen: list[int] = []
    from sawyer.runs import Run

    def stop(kind: str, row: Any) -> None:
        if kind == "progress" and row["stage"] == stage and int(row["done"]) == 2 and not seen:
            seen.append(1)
            runs[-1].stop.set("the test")

    runs: list[Run] = []
    from sawyer.pipeline import run_stages

    opened = run_stages.open_shared_run
    with pytest.MonkeyPatch.context() as patch:

        def noted(root: Path) -> Any:
            import contextlib

            @contextlib.contextmanager
            def inside() -> Any:
                with opened(root) as run:
                    runs.append(run)
                    yield run

            return inside()

        patch.setattr(run_stages, "open_shared_run", noted)
        with pytest.raises(Interrupted):
            tiny.run(out, LORA, listeners=[stop])
        state = torch.load(Layout(out).checkpoint(stage) / "state.pt", weights_only=True)["loop"]
        learner = state["policy"] if stage == "rl" else state
        assert all(".adapter." in name or "lora" in name or "score" in name for name in learner["model"])
        tiny.run(out, LORA)
    straight, resumed = tiny.result(done), tiny.result(out)
    assert straight.metrics == resumed.metrics and straight.samples == resumed.samples
    assert straight.figures == resumed.figures and straight.compared == resumed.compared
    for name in WITH:
        one, other = (Layout(run).model(name) / "adapter_model.safetensors" for run in (done, Path(out)))
        assert one.read_bytes() == other.read_bytes()


def test_other_adapters_are_another_run(tiny: Tiny, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "run")
    with pytest.raises(
        RunError, match=r"classify stage was started with another config; changed: these settings: lora\.alpha, lora\.rank"
    ):
        tiny.run(tmp_path / "run", {**LORA, "lora": {"rank": 4}})
    (tmp_path / "run" / "base" / "model" / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"config\.json cannot be read .*by its checksum"):
        tiny.run(tmp_path / "run", LORA, only="rl")


def test_what_cannot_be_asked_together(tiny: Tiny, tmp_path: Path) -> None:
    for stage in ("classify", "sft", "reward"):
        with pytest.raises(ConfigError, match=rf"{stage}\.freeze: with `lora` all weights but the adapters are frozen"):
            tiny.run(tmp_path / "run", {**LORA, f"{stage}.freeze": 1})


def test_a_given_model_may_be_adapters(tiny: Tiny, done: Path, tmp_path: Path) -> None:
    """And a base of theirs that is gone is told before anything is trained."""
    run = tmp_path / "run"
    shutil.copytree(done, run)
    given = {"base": None, "model": str(run / "sft" / "model"), "collect": None, "reward": None, "rl": None, "compare": None}
    given |= {"world": None, "classify": None}
    tiny.run(tmp_path / "next", {**given, "sft.epochs": 0.3})
    assert not is_adapter(tmp_path / "next" / "sft" / "model")
    for path in (run, done):
        assert is_adapter(path / "sft" / "model")
    settings = json.loads((run / "sft" / "model" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "/nowhere/to/be/found"
    (run / "sft" / "model" / "adapter_config.json").write_text(json.dumps(settings))
    shutil.rmtree(run / "base")
    with pytest.raises(ModelError, match="holds adapters for /nowhere/to/be/found"):
        tiny.run(tmp_path / "third", given)
