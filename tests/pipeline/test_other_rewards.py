"""Runs whose rewards are not the run's own reward model alone: what they build on, and that they end with a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sawyer.config import parse_config
from sawyer.errors import ConfigError, ModelError, RunError, SawyerError, TrainingError
from sawyer.pipeline.fingerprint import check_parents
from sawyer.pipeline.stage_graph import parents_of
from sawyer.runs import Layout, open_run, read_manifest, read_rows

GOLD = [{"name": "gold", "function": "sawyer.worlds:golds"}]


@pytest.mark.slow
def test_without_a_reward_stage(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("reward", tmp_path / "run")
    summary = tiny.run(out, {"reward": None, "rl.rewards": GOLD, "rl.episodes": 8})
    assert "reward" not in summary and summary["rl"]["updates"] == 1
    assert "rl" in summary["gold"] and Layout(out).report.exists()
    rows = [row for row in read_rows(Layout(out).metrics) if "score_gold" in row]
    assert rows and all(row["score_gold"] == pytest.approx(row["score"]) for row in rows)


@pytest.mark.slow
def test_a_given_model_that_changes_is_seen(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("reward", tmp_path / "run")
    given = shutil.copytree(tiny.straight() / "base" / "model", tmp_path / "given")
    changes = {"reward.model": str(given)}
    tiny.run(out, changes, only="reward")
    assert "reward.model" in read_manifest(Layout(out).manifest)["stages"]["reward"]["parents"]
    (given / "note.txt").write_text("another")
    with pytest.raises(RunError, match=r"started with another reward\.model"):
        tiny.run(out, changes, only="reward")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reward.model": "./nowhere"}, r"reward\.model: there is no model folder \./nowhere"),
        ({"rl.rewards": [{"name": "far", "model": "/no/such/model"}]}, r"rl\.rewards\.far: there is no model folder"),
        ({"classify.model": "/no/such/model"}, r"classify\.model: there is no model folder"),
        ({"reward.model": str(Path(__file__).parent)}, r"reward\.model: .* has no config\.json"),
    ],
)
def test_models_are_looked_for_before_anything_is_trained(tiny: Any, tmp_path: Path, changes: Any, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        tiny.run(tmp_path / "run", changes)
    assert not Layout(tmp_path / "run").folder("base").exists()


# What config.json tells without loading the model: (its content, the part or setting that names it, what is said)
TOLD: list[tuple[dict[str, Any], dict[str, Any], type[SawyerError], str]] = [
    ({"architectures": ["GPT2LMHeadModel"]}, {}, ModelError, r"is a language model \(GPT2LMHeadModel\)"),
    ({"architectures": ["BertForMaskedLM"]}, {"label": "yes"}, ModelError, r"is a language model \(BertForMaskedLM\)"),
    ({"architectures": ["BertForSequenceClassification"]}, {}, ModelError, "has 2 labels"),
    ({"id2label": {"0": "no", "1": "yes"}}, {}, ModelError, "has 2 labels"),
    ({"id2label": {"0": "no", "1": "yes"}}, {"label": "Yes"}, ModelError, "has no label 'Yes'"),
    ({"id2label": {"0": "LABEL_0"}}, {"label": "yes"}, ModelError, "has one label"),
]


@pytest.mark.parametrize(("settings", "part", "kind", "told"), TOLD)
def test_a_model_that_cannot_judge_is_found_before_anything_is_trained(
    tiny: Any, tmp_path: Path, settings: dict[str, Any], part: dict[str, Any], kind: type[SawyerError], told: str
) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(kind, match=told):
        tiny.run(tmp_path / "run", {"rl.rewards": [{"name": "far", "model": str(tmp_path / "given"), **part}]})
    assert not Layout(tmp_path / "run").folder("base").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"architectures": ["GPT2LMHeadModel"]}, r"is a language model \(GPT2LMHeadModel\)"), ({}, "has 2 labels")],
)
def test_what_cannot_judge_a_comparison_is_found_before_anything_is_trained(
    tiny: Any, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text(json.dumps({"model_type": "gpt2", **settings}))
    with pytest.raises(ModelError, match=rf"compare\.reward: .* {told}") as caught:
        tiny.run(tmp_path / "run", {"compare.reward": str(tmp_path / "given")})
    assert "label:" not in caught.value.todo  # a comparison has no such setting
    assert not Layout(tmp_path / "run").folder("base").exists()


@pytest.mark.parametrize("settings", [{"num_hidden_layers": 3}, {"n_layer": 3}, {"text_config": {"num_hidden_layers": 3}}])
@pytest.mark.parametrize("stage", ["reward", "classify"])
def test_too_many_frozen_layers_are_found_too(tiny: Any, tmp_path: Path, settings: dict[str, Any], stage: str) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=rf"{stage}\.freeze: 4 layers, but the model has 3"):
        tiny.run(tmp_path / "run", {f"{stage}.model": str(tmp_path / "given"), f"{stage}.freeze": 4})
    with pytest.raises(ConfigError, match=r"sft\.freeze: 2 layers, but the model has 1"):  # the base of the same config
        tiny.run(tmp_path / "run", {"sft.freeze": 2})
    assert not Layout(tmp_path / "run").folder("base").exists()


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("few", "[1.0]", "returned 1 scores for 2 answers"),
        ("ends", "[1 / len(r) for r in responses]", "raised ZeroDivisionError"),  # the empty answer
        ("nan", "[float('nan')] * 2", "scored the answer 'An answer"),
        ("nothing", "None", "returned NoneType"),
    ],
)
def test_a_user_s_reward_is_tried_before_anything_is_trained(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"my_tried_{name}.py").write_text(f"def f(prompts, responses):\n    return {body}\n")
    with pytest.raises(
        TrainingError, match=rf"rl\.rewards, mine: my_tried_{name}:f {told}.*tried on two prompts of rl\.prompts"
    ):
        tiny.run(tmp_path / "run", {"rl.rewards": [{"name": "mine", "function": f"my_tried_{name}:f"}]})
    assert not Layout(tmp_path / "run").folder("base").exists()


def test_code_is_named_before_it_is_run(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_marked.py").write_text("from pathlib import Path\nPath('ran').touch()\ndef f(p, r): return None\n")
    seen: list[tuple[str, bool]] = []

    def listen(kind: str, row: dict[str, Any]) -> None:
        if row.get("kind") == "code":
            seen.append((row["message"], (tmp_path / "ran").exists()))

    rewards = [{"name": "gold", "function": "sawyer.worlds:golds"}, {"name": "mine", "function": "my_marked:f"}]
    with pytest.raises(TrainingError, match="returned NoneType"):
        tiny.run(tmp_path / "run", {"rl.rewards": rewards}, listeners=[listen])
    assert seen == [("rl runs Python that the config names: my_marked:f (my_marked.py)", False)]
    assert (tmp_path / "ran").exists()
    seen.clear()
    with pytest.raises(ConfigError, match="there is no module pty"):
        tiny.run(tmp_path / "run", {"rl.rewards": [{"name": "mine", "function": "pty:spawn"}]}, listeners=[listen])
    assert [words for words, _ in seen] == ["rl runs Python that the config names: pty:spawn (not there)"]


def test_a_module_beside_a_user_s_reward_counts(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sawyer import pipeline

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_words.py").write_text("from my_list import WORDS\ndef f(p, r): return [0.0] * len(r)\n")
    (tmp_path / "my_list.py").write_text("WORDS = ['thanks']\n")
    config = parse_config(tiny.tree(tmp_path / "run", {"rl.rewards": [{"name": "mine", "function": "my_words:f"}]}))
    before = pipeline.fingerprint(config, "rl")
    assert pipeline.fingerprint(config, "rl") == before
    (tmp_path / "my_list.py").write_text("WORDS = []\n")
    assert pipeline.fingerprint(config, "rl") != before


def test_a_hub_id_is_pinned_to_its_commit(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache is asked, as the stage that loads it will; before it was ever loaded nothing is known."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    reference = tmp_path / "hub" / "models--owner--base" / "refs" / "main"
    other = tmp_path / "hub" / "models--owner--judge" / "refs" / "main"
    tree = tiny.tree(tmp_path / "run", {"model": "owner/base", "reward.model": "owner/judge"})
    del tree["base"]
    config = parse_config(tree)
    with open_run(tmp_path / "run") as run:
        assert parents_of(config, run, "sft") == {}
        run.manifest.update("sft", status="interrupted", parents={})
        for path, commit in ((reference, "a" * 40), (other, "b" * 40)):
            path.parent.mkdir(parents=True)
            path.write_text(commit)
        pinned = parents_of(config, run, "sft")
        assert pinned == {"base": f"commit {'a' * 40}"}
        assert parents_of(config, run, "reward") == {"reward.model": f"commit {'b' * 40}"}
        check_parents(run, "sft", pinned)  # it was not known before
        run.manifest.update("sft", parents=pinned)
        check_parents(run, "sft", pinned)
        reference.write_text("c" * 40)
        with pytest.raises(RunError, match="sft was started with another base model"):
            check_parents(run, "sft", parents_of(config, run, "sft"))


@pytest.mark.slow
def test_the_run_s_own_classifier_is_a_reward(tiny: Any, tmp_path: Path) -> None:
    """It is not there at the start, and its labels are looked at as soon as it is."""
    out = tmp_path / "run"
    part = {"name": "asks", "model": str(Layout(out).model("classify")), "label": "nonsense"}
    tiny.prefix("classify", out)
    rewards = [{"name": "judges", "model": "stage"}, {**part}]
    with pytest.raises(ModelError, match=r"rl\.rewards, asks: .* has no label 'nonsense'"):
        tiny.run(out, {"rl.rewards": rewards})
    assert Layout(out).model("classify").exists() and not Layout(out).folder("sft").exists()
    summary = tiny.run(out, {"rl.rewards": [rewards[0], {**part, "label": "question"}], "rl.episodes": 8, "compare": None})
    assert summary["rl"]["updates"] == 1
    rows = [row for row in read_rows(Layout(out).metrics) if "score_asks" in row]
    assert rows and all(row["score"] == pytest.approx(row["score_judges"] + row["score_asks"], abs=1e-5) for row in rows)
    samples = [row for row in read_rows(Layout(out).samples) if row["stage"] == "rl"]
    assert samples and all(set(row["parts"]) == {"judges", "asks"} for row in samples)
