"""RL against any scorer: named parts that add up, an encoder, an ensemble whose members come to disagree, a user's function."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoders import write

from sawyer import pipeline
from sawyer.config import parse_config
from sawyer.errors import ConfigError, TrainingError
from sawyer.models import RewardScorer, RidgeValues, ValueNetwork, load_reward, load_tokenizer, open_language_model
from sawyer.pipeline.model_checks import try_functions
from sawyer.records import Prompt, prompt_of, read
from sawyer.runs import read_rows, replace_folder
from sawyer.stages.rl.guards import GUARDS
from sawyer.stages.rl.rl_stage import train
from sawyer.stages.rl.trainer import Trainer

Fixture = Any
LENGTHS = "def short(prompts, responses):\n    return [-len(r) / 10 for r in responses]\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """`own("my_rewards", text)`: a module in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_module(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return write_module


def classifier(folder: Path) -> Path:
    labels = {0: "calm", 1: "merry"}
    return write(folder, "bert", num_labels=2, id2label=labels, label2id={v: k for k, v in labels.items()})


@pytest.mark.slow
def test_parts_add_up_and_are_told_by_name(tiny: Fixture, tmp_path: Path, own: Any, events: Any) -> None:
    own("my_lengths", LENGTHS)
    encoder, judge = write(tmp_path / "encoder", "roberta", num_labels=1), classifier(tmp_path / "classifier")
    rewards = [
        {"name": "judges", "model": "stage"},
        {"name": "second", "weight": 0.5, "model": str(encoder)},
        {"name": "merry", "weight": 0.25, "model": str(judge), "label": "merry"},
        {"name": "short", "weight": 2.0, "function": "my_lengths:short"},
    ]
    config = tiny.rl_config(tmp_path / "run", rewards=rewards, eval_every=1)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        train(config, run)
        plan = events(run, "plan")[0]["message"]
        rows = run.journal.rows("rl")
    assert "reward: 1 x judges + 0.5 x second + 0.25 x merry + 2 x short" in plan
    weights = {"judges": 1.0, "second": 0.5, "merry": 0.25, "short": 2.0}
    for prefix in ("", "eval_"):
        told = [row for row in rows if f"{prefix}score" in row]
        assert len(told) >= 2
        for row in told:
            assert row[f"{prefix}score"] == pytest.approx(
                sum(weight * row[f"{prefix}score_{name}"] for name, weight in weights.items()), abs=1e-5
            )
    sample = read_rows(run.layout.samples)[0]
    assert sample["reward"] == pytest.approx(sum(weights[name] * value for name, value in sample["parts"].items()), abs=1e-5)
    assert sample["parts"]["short"] == pytest.approx(-len(sample["response"]) / 10)
    scorer = RewardScorer.load(tiny.reward)
    assert sample["parts"]["judges"] == pytest.approx(scorer([prompt_of(sample["prompt"])], [sample["response"]])[0], abs=1e-5)
    assert sample["parts"]["merry"] < 0


def test_a_reward_from_plain_transformers_alone(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    """No reward stage at all: the value network starts from the policy, and that is said."""
    encoder = write(tmp_path / "encoder", "bert", num_labels=1)
    config = tiny.rl_config(tmp_path / "run", rewards=[{"name": "given", "model": str(encoder)}])
    config = parse_config({**config.model_dump(), "reward": None})
    with tiny.run(tmp_path / "run", "sft") as run:
        train(config, run)
        told = [row["message"] for row in events(run, "warning")]
    assert told[0] == "the value network starts from the SFT model: no part of rl.rewards is the run's own reward model"
    assert "did not fit the reward model `given`'s 24 tokens beside their prompts" in told[1]


def test_a_decoder_from_plain_transformers_beside_the_run_s_own(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    """Without a chat template: it is read as `question`, and that is said."""
    own: Any = load_reward(tiny.reward, load_tokenizer(tiny.reward))
    tokenizer = load_tokenizer(tiny.reward)
    model = hf.GPT2ForSequenceClassification(hf.GPT2Config.from_dict({**own.config.to_dict(), "num_labels": 1}))
    del model.config.sawyer
    model.save_pretrained(tmp_path / "given")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "given")
    rewards = [{"name": "own", "model": "stage"}, {"name": "given", "weight": 3.0, "model": str(tmp_path / "given")}]
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        train(tiny.rl_config(tmp_path / "run", rewards=rewards), run)
        told = [row["message"] for row in events(run, "warning")]
        rows = [row for row in run.journal.rows("rl") if "score_given" in row]
    assert any("rl.rewards" in message and "is read by the template `question`" in message for message in told)
    assert rows and all(row["score"] == pytest.approx(row["score_own"] + 3 * row["score_given"], abs=1e-5) for row in rows)
    sample = read_rows(run.layout.samples)[0]
    ids = [*tokenizer(f"Question: {sample['prompt']}\nResponse:").input_ids]
    ids += [*tokenizer(f" {sample['response']}").input_ids, tokenizer.eos_token_id]
    with torch.no_grad():
        expected = float(model.eval()(torch.tensor([ids])).logits[0, 0])
    assert sample["parts"]["given"] == pytest.approx(expected, abs=1e-4)


def use_encoder(tiny: Fixture, run: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "encoder", "bert", num_labels=1)
    with replace_folder(run.layout.model("reward")) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def test_values_are_fitted_to_the_reference_where_an_encoder_judges(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    config = tiny.rl_config(tmp_path / "run", value_init="ridge")
    with tiny.run(tmp_path / "run", "sft") as run:
        use_encoder(tiny, run, tmp_path)
        work = Trainer(config, run)
        told = [row["message"] for row in events(run, "warning")]
        assert isinstance(work.critic, RidgeValues) and work.critic.reader is work.reference
        assert "explained_variance" in (work.step(0) or {})
    assert told == [
        "values are read from the states of the SFT model: the reward model is an encoder, which has no state for what is "
        "written so far"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("start", [None, "policy", "reward"])
def test_an_encoder_as_the_run_s_reward_model(tiny: Fixture, tmp_path: Path, events: Any, start: Any) -> None:
    config = tiny.rl_config(tmp_path / "run", value_init=start)
    with tiny.run(tmp_path / "run", "sft") as run:
        use_encoder(tiny, run, tmp_path)
        if start == "reward":
            with pytest.raises(ConfigError, match=r"rl\.value_init: reward, but the reward model is an encoder"):
                Trainer(config, run)
            return
        value = Trainer(config, run).value.model
        told = [row["message"] for row in events(run, "warning")]
    assert isinstance(value, ValueNetwork)
    sft: Any = open_language_model(tiny.sft).model
    assert torch.equal(value.trunk.wpe.weight, sft.base_model.wpe.weight)  # type: ignore[union-attr, arg-type]
    assert len(told) == (1 if start is None else 0)
    assert all("the reward model is an encoder" in message for message in told)


def test_a_reward_model_of_other_tokens(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        scorer = RewardScorer.load(tiny.reward)
        tokenizer: Any = scorer.prompt_encoder.tokenizer  # type: ignore[attr-defined]
        tokenizer.add_tokens(["another"])
        tokenizer.save_pretrained(run.layout.model("reward"))
        Trainer(tiny.rl_config(tmp_path / "run"), run)
        told = [row["message"] for row in events(run, "warning")]
        with pytest.raises(ConfigError, match="other tokens than the policy"):
            Trainer(tiny.rl_config(tmp_path / "run", value_init="reward"), run)
    assert told == ["the value network starts from the SFT model: the reward model has other tokens than the policy"]


# Ensembles


@pytest.mark.slow
def test_disagreement_is_journalled_and_guarded(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    from sawyer.stages.reward import train as train_reward

    asked = {"data": [str(tiny.comparisons)], "eval_fraction": 0.2, "batch_size": 16, "calibration_prompts": 12}
    ensemble = {"members": 2, "by": "heads", "reward": "mean_minus_variance"}
    base = tiny.rl_config(tmp_path / "run", episodes=48, eval_every=3, max_rollbacks=0)
    config = parse_config({**base.model_dump(), "reward": {**asked, "ensemble": ensemble}})
    with tiny.run(tmp_path / "run", "sft") as run:
        apart = train_reward(config, run)["own_disagreement"]
        work = Trainer(config, run)
        assert work.guards.disagreement == apart > 0
        first = work.step(0)
        assert first is not None
        assert first["disagreement"] > 0 and first["eval_disagreement"] > 0
        assert read_rows(run.layout.samples)[0]["disagreement"] >= 0
        measure = Trainer.measure
        monkeypatch.setattr(Trainer, "measure", lambda self, *of: measure(self, *of) | {"disagreement": 2.01 * apart})
        figures = train(config, run)
        told = events(run, "guard")
    assert figures["updates"] == GUARDS["disagreement"].rule.patience
    assert [row["guard"] for row in told] == ["disagreement"] and "no longer agree" in told[0]["message"]


# Users' functions


def test_a_function_that_returns_too_few_stops_the_run(tiny: Fixture, tmp_path: Path, own: Any) -> None:
    own("my_few", "def few(prompts, responses):\n    return [0.0]\n")
    config = tiny.rl_config(tmp_path / "run", rewards=[{"name": "few", "function": "my_few:few"}], value_init="policy")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with pytest.raises(TrainingError, match="my_few:few returned 1 scores for 6 answers"):
            train(config, run)


GRADES = """
def right(prompts, responses, rows):
    assert all(row["sum"] in prompt for prompt, row in zip(prompts, rows))
    return [float(row["answer"][-1] in response) for response, row in zip(responses, rows)]


def maths(prompts, responses, rows):
    return [2.0 if row["kind"] == "maths" else None for row in rows]
"""


def test_rows_reach_functions_in_groups_and_evaluations(tiny: Fixture, tmp_path: Path, own: Any, events: Any) -> None:
    """GRPO with the gold answers in the prompts' file, and a part that applies to some rows alone."""
    own("my_grades", GRADES)
    rows = [
        {"prompt": f"What is {i}?", "sum": f"{i}?", "answer": f"#### {i % 10}", "kind": "maths" if i % 2 else "x"}
        for i in range(24)
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewards = [{"name": name, "function": f"my_grades:{name}"} for name in ("right", "maths")]
    rl: dict[str, Any] = {
        "algorithm": "grpo",
        "group_size": 4,
        "batch_size": 8,
        "num_minibatches": 1,
        "episodes": 16,
        "eval_every": 1,
    }
    config = tiny.rl_config(tmp_path / "run", prompts=[str(tmp_path / "asked.jsonl")], rewards=rewards, **rl)
    with tiny.run(tmp_path / "run", "sft") as run:
        figures = train(config, run)
        told = run.journal.rows("rl")
    for row in told:
        for prefix in ("", "eval_") if "score" in row else ("eval_",):
            applies = row.get(f"{prefix}applies_maths", 1.0)
            assert row[f"{prefix}score"] == pytest.approx(
                row[f"{prefix}score_right"] + applies * 2.0 * (f"{prefix}score_maths" in row)
            )
            assert row.get(f"{prefix}score_maths", 2.0) == 2.0 and f"{prefix}applies_right" not in row
    assert any(0 < row.get("eval_applies_maths", 1.0) < 1 for row in told)
    assert 0 <= figures["zero_variance_groups"] <= 1
    samples = read_rows(run.layout.samples)
    assert {tuple(sample["parts"]) for sample in samples} == {("right",), ("right", "maths")}


def test_rewards_that_are_all_the_same_are_told(tiny: Fixture, tmp_path: Path, own: Any, events: Any) -> None:
    own("my_flat", "def flat(prompts, responses):\n    return [0.0] * len(responses)\n")
    rl: dict[str, Any] = {
        "algorithm": "grpo",
        "group_size": 4,
        "batch_size": 8,
        "num_minibatches": 1,
        "episodes": 16,
        "eval_every": 2,
    }
    config = tiny.rl_config(
        tmp_path / "run", rewards=[{"name": "flat", "function": "my_flat:flat"}], missing_eos_penalty=0.0, **rl
    )
    with tiny.run(tmp_path / "run", "sft") as run:
        figures = train(config, run)
        (guard,) = events(run, "guard")
        improves = next(gate for gate in events(run, "gate") if gate["name"] == "rl_improves")
        rows = run.journal.rows("rl")
    assert [row["zero_variance_groups"] for row in rows if "score" in row] == [1.0, 1.0] and figures[
        "zero_variance_groups"
    ] == 1
    assert (guard["guard"], guard["action"]) == ("zero_variance_groups", "warn") and "rl.group_size" in guard["message"]
    assert improves["verdict"] == "warn" and "not one of" in improves["message"] and "100% of the groups" in improves["message"]
    assert "reward model" not in improves["advice"]


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("def short(p, r): return [0] * len(r)\n", "my_checked:long", "has no function long"),
        ("", "my_missing:short", "there is no module my_missing"),
        ("def short(:\n", "my_broken:short", "SyntaxError"),
    ],
)
def test_functions_are_looked_for_before_anything_is_trained(
    tiny: Fixture, tmp_path: Path, own: Any, text: str, name: str, told: str
) -> None:
    own("my_broken" if "(:" in text else "my_checked", text)
    config = tiny.rl_config(tmp_path / "run", rewards=[{"name": "mine", "function": name}])
    with pytest.raises(ConfigError, match=told):
        pipeline.run(config)
    assert not (tmp_path / "run" / "sft").exists()


def test_the_trial_before_training_gives_rows_too(tiny: Fixture, tmp_path: Path, own: Any) -> None:
    own("my_rows", "def keys(prompts, responses, rows):\n    return [float(row['worth']) for row in rows]\n")
    config = tiny.rl_config(
        tmp_path / "run", prompts=[str(tmp_path / "asked.jsonl")], rewards=[{"name": "k", "function": "my_rows:keys"}]
    )
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": f"{i}?", "worth": i}) + "\n" for i in range(3)))
    try_functions(config, [one for one in read(config.rl.prompts, want="prompts").records if isinstance(one, Prompt)])
    with pytest.raises(TrainingError, match=r"my_rows:keys raised KeyError: 'worth', tried on two prompts"):
        try_functions(config, [prompt_of("1?")])


def test_an_answer_without_any_reward_is_refused_before_anything_is_trained(tiny: Fixture, tmp_path: Path, own: Any) -> None:
    own("my_none", "def never(prompts, responses):\n    return [None] * len(responses)\n")
    config = tiny.rl_config(tmp_path / "run", rewards=[{"name": "never", "function": "my_none:never"}])
    with pytest.raises(TrainingError, match="no part of rl\\.rewards applies to the answer 'An answer"):
        pipeline.run(config)
    assert not (tmp_path / "run" / "sft").exists()


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"name": "a"}, "the component `a` names neither `model` nor `function`"),
        ({"name": "a", "model": "stage", "function": "m:f"}, "both `model` and `function`"),
        ({"name": "a", "function": "m:f", "label": "x"}, "names a label"),
        ({"name": "a", "model": "stage", "label": "x"}, "names a label"),
        ({"name": "a", "function": "m.f"}, "expected: module:function"),
        ({"name": "A b", "model": "stage"}, "`rl.rewards.0.name` is 'A b'"),
        ({"name": "a", "model": "stage", "measure": "probability"}, "no `label` to measure it of"),
        (
            {"name": "a", "model": "stage", "wieght": 2},
            r"unknown setting `rl\.rewards\.0\.wieght`; did you mean `rl\.rewards\.0\.weight`",
        ),
        ({"name": "a", "model": "stage", "weight": "much"}, r"`rl\.rewards\.0\.weight` is 'much'; expected: a number"),
        ({"model": "stage"}, r"`rl\.rewards\.0\.name` is missing"),
    ],
)
def test_parts_that_cannot_be(tiny: Fixture, tmp_path: Path, part: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        tiny.rl_config(tmp_path / "run", rewards=[part])


def test_what_the_config_refuses(tiny: Fixture, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two components are called `a`"):
        tiny.rl_config(tmp_path, rewards=[{"name": "a", "model": "stage"}, {"name": "a", "function": "m:f"}])
    with pytest.raises(ConfigError, match=r"rl\.value_init: reward, but no component"):
        tiny.rl_config(tmp_path, rewards=[{"name": "a", "function": "m:f"}], value_init="reward")
    tree = tiny.rl_config(tmp_path).model_dump()
    with pytest.raises(ConfigError, match=r"rl\.rewards: none are named and the file has no section"):
        parse_config({**tree, "reward": None})
    with pytest.raises(ConfigError, match=r"`freeze` is 'all'; expected: how many layers"):
        parse_config({**tree, "reward": {**tree["reward"], "freeze": "all"}})
    with pytest.raises(ConfigError, match=r"`reward\.ensemble\.members` is 1; expected: at least 2"):
        parse_config({**tree, "reward": {**tree["reward"], "ensemble": {"members": 1}}})
