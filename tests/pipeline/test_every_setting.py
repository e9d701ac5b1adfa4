"""No setting is decoration: each field of the config tree, changed, changes something that a user can see.

A new field fails here until the table says what its change changes: a row (or the plan's words, or the refusal) that is the
same with and without it is no proof.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from recorded import metric_rows

from sawyer import pipeline
from sawyer.config import Config
from sawyer.config.error_messages import setting_fields
from sawyer.errors import SawyerError
from sawyer.runs import Layout, read_manifest, read_rows
from sawyer.runs.atomic_files import hash_folder
from sawyer.train import OptimizerStep
from sawyer.train.micro_batches import MicroBatches

STAGES = pipeline.STAGES
SECTIONS = {name for name, default, _ in setting_fields() if default == "a section"}


@dataclass(frozen=True)
class Change:
    """The changed value, the stage that shows it, what must differ, and what else is set with and without the change."""

    value: Any
    differs: str  # metrics | samples | product | figures | compared | plan | saves | refused | accepted | parts | judge WHAT
    stage: str = ""
    also: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """A value that is a file of the tiny data: its name, and what its columns are called instead."""

    name: str
    renamed: Mapping[str, str] = field(default_factory=dict)


MODEL = {"base": None}
HEADS = {"reward.ensemble.by": "heads"}
# An `rl` section that best_of_n and dpo know all of.
OFFLINE = {
    "rl": {"max_new_tokens": 8, "eval_prompts": 6, "eval_fraction": 0.3, "algorithm": "best_of_n"},
    "rl.prompts": [Data("prompts.jsonl")],
}
PAIRS = {**OFFLINE, "rl.algorithm": "dpo", "rl.batch_size": 16, "rl.learning_rate": 1e-3}
OTHER_NAMES = {
    "classify": Data("moved.tsv"),
    "sft": Data("instructions.json", {"instruction": "order", "output": "reply"}),
    "collect": Data("prompts.jsonl", {"prompt": "order"}),
    "reward": Data("comparisons.json", {"user_input": "order"}),
    "rl": Data("prompts.jsonl", {"prompt": "order"}),
    "compare": Data("held_out.jsonl", {"prompt": "order"}),
}

# field -> its change; a list where one change does not show all that the field does.
TABLE: dict[str, Change | list[Change]] = {
    "out": Change("elsewhere", "product", "base"),
    "seed": [Change(1, "metrics", stage) for stage in ("base", "classify", "sft", "reward", "rl")]
    + [Change(1, "compared", "compare")],
    "model": Change("sft/model", "metrics", "sft", {**MODEL, "model": "base/model"}),
    "template": Change("chatml", "metrics", "base"),
    "precision": [Change("bf16", "metrics", stage) for stage in ("base", "classify", "sft", "reward", "rl")],
    "device": Change("cuda", "refused", "base"),
    "micro_batch_tokens": [Change(100, "parts", stage) for stage in ("base", "classify", "sft", "reward", "rl")],
    "max_bad_rows": Change(0.0, "refused", "sft", {"sft.data": [Data("one_bad.json")]}),
    "trust_remote_code": Change(True, "accepted", "sft", {**MODEL, "model": "coded/model"}),
    "save_every_seconds": Change(0.0, "saves", "sft"),
    "world.rater": Change("flipper", "product", "collect"),
    "lora.rank": [Change(2, "metrics", stage, {"lora.alpha": 4.0}) for stage in ("classify", "sft", "reward", "rl")],
    "lora.alpha": Change(40.0, "metrics", "sft", {"lora.rank": 2}),
    "lora.targets": Change(["c_attn"], "metrics", "sft", {"lora.rank": 2}),
    "base.text": Change([Data("dev.txt")], "metrics"),
    "base.vocab_size": Change(350, "metrics"),
    "base.layers": Change(2, "metrics"),
    "base.width": Change(16, "metrics"),
    "base.heads": Change(4, "metrics"),
    "base.context": Change(64, "metrics"),
    "base.window": Change(48, "metrics"),
    "base.tokens": Change(96 * 40, "metrics"),
    "base.batch_size": Change(4, "metrics"),
    "base.learning_rate": Change(1e-3, "metrics"),
    "classify.data": Change([Data("half.tsv")], "metrics"),
    "classify.columns": Change({"1": "label", "3": "text"}, "accepted"),
    "classify.model": Change("sft/model", "product"),
    "classify.freeze": [Change(1, "product"), Change("all_but_head", "product")],
    "classify.dedup_threshold": Change(0.9, "metrics"),
    "classify.epochs": Change(0.5, "metrics"),
    "classify.batch_size": Change(6, "metrics"),
    "classify.learning_rate": Change(1e-3, "metrics"),
    "classify.warmup_fraction": Change(0.7, "metrics"),
    "classify.eval_fraction": Change(0.4, "metrics"),
    "sft.data": Change([Data("other.json")], "metrics"),
    "sft.columns": Change({"order": "instruction", "reply": "output"}, "accepted"),
    "sft.epochs": Change(0.5, "metrics"),
    "sft.batch_size": Change(8, "metrics"),
    "sft.learning_rate": Change(1e-3, "metrics"),
    "sft.warmup_fraction": Change(0.5, "metrics"),
    "sft.eval_fraction": Change(0.3, "metrics"),
    "sft.eval_prompts": Change(2, "samples"),
    "sft.max_new_tokens": Change(3, "samples"),
    "sft.freeze": Change(1, "metrics"),
    "sft.max_tokens": Change(48, "metrics"),
    "collect.prompts": Change([Data("held_out.jsonl")], "product"),
    "collect.columns": Change({"order": "prompt"}, "accepted"),
    "collect.limit": Change(5, "product"),
    "collect.answers": Change(3, "product"),
    "collect.temperature": Change(0.3, "product"),
    "collect.max_new_tokens": Change(3, "product"),
    "collect.judge.url": Change("http://127.0.0.1:9/v1", "judge refused", "collect"),
    "collect.judge.model": Change("other", "judge bodies", "collect"),
    "collect.judge.rubric": Change("Count the words, please.", "judge bodies", "collect"),
    "collect.judge.method": [Change("pair", "judge bodies", "collect"), Change("both", "judge bodies", "collect")],
    "collect.judge.temperature": Change(0.5, "judge bodies", "collect"),
    "collect.judge.max_tokens": Change(99, "judge bodies", "collect"),
    "collect.judge.concurrency": Change(1, "judge at once", "collect"),
    "collect.judge.timeout": Change(0.02, "judge refused", "collect"),
    "collect.judge.retries": Change(0, "judge refused", "collect"),
    "collect.judge.key_env": Change("MY_JUDGE_KEY", "judge keys", "collect"),
    "collect.judge.price_per_million": Change([1.0, 2.0], "judge plan", "collect"),
    "reward.data": Change([Data("other_judged.json")], "metrics"),
    "reward.columns": Change({"order": "user_input"}, "accepted"),
    "reward.raters": Change({"anna": 0.5}, "plan"),
    "reward.loss": [Change(loss, "metrics") for loss in ("bradley_terry", "margin", "scaled", "listwise", "regression")],
    "reward.normalize_by": Change("prompt", "metrics"),
    "reward.centering_coefficient": Change(0.1, "metrics"),
    "reward.epochs": Change(0.5, "metrics"),
    "reward.batch_size": Change(4, "metrics"),
    "reward.learning_rate": Change(1e-4, "metrics"),
    "reward.warmup_fraction": Change(0.5, "metrics"),
    "reward.eval_fraction": Change(0.4, "metrics"),
    "reward.dedup_threshold": Change(0.8, "metrics"),
    "reward.max_tokens": Change(48, "metrics"),
    "reward.calibration_prompts": Change(4, "figures"),
    "reward.model": Change("base/model", "metrics"),
    "reward.freeze": [Change(1, "metrics"), Change("all_but_head", "metrics")],
    "reward.ensemble.members": Change(4, "metrics", "reward", HEADS),
    "reward.ensemble.by": Change("heads", "metrics", "reward", {"reward.ensemble.members": 2}),
    "reward.ensemble.reward": Change("min", "figures", "reward", HEADS),
    "reward.ensemble.penalty": Change(20.0, "figures", "reward", {**HEADS, "reward.ensemble.reward": "mean_minus_variance"}),
    "rl.rewards": Change([{"name": "gold", "function": "sawyer.worlds:golds"}], "metrics"),
    "rl.prompts": Change([Data("held_out.jsonl")], "metrics"),
    "rl.columns": Change({"order": "prompt"}, "accepted"),
    "rl.algorithm": [
        Change("rloo", "metrics"),
        Change("grpo", "metrics"),
        Change("dpo", "metrics", "rl", OFFLINE),
        Change("best_of_n", "metrics", "rl", {**OFFLINE, "rl.algorithm": "dpo"}),
        Change("reinforce-of-1992", "refused"),
    ],
    "rl.group_size": [
        Change(2, "metrics"),
        Change(2, "metrics", "rl", {"rl.algorithm": "grpo"}),
        Change(3, "metrics", "rl", OFFLINE),
    ],
    "rl.data": Change([Data("comparisons.json")], "metrics", "rl", PAIRS),
    "rl.beta": Change(1.0, "metrics", "rl", PAIRS),
    "rl.episodes": Change(24, "metrics"),
    "rl.batch_size": Change(4, "metrics"),
    "rl.num_minibatches": Change(4, "metrics"),
    "rl.epochs": Change(1, "metrics"),
    "rl.learning_rate": Change(1e-3, "metrics"),
    "rl.value_learning_rate": Change(1e-4, "metrics"),
    "rl.temperature": Change(1.0, "metrics"),
    "rl.max_new_tokens": Change(4, "metrics"),
    "rl.max_prompt_tokens": Change(40, "metrics"),
    "rl.max_tokens": Change(40, "metrics", "rl", PAIRS),
    "rl.kl.coefficient": Change(0.5, "metrics"),
    "rl.kl.target": Change(3.0, "metrics"),
    "rl.kl.horizon": Change(100.0, "metrics", "rl", {"rl.kl.target": 3.0}),
    "rl.kl.budget": Change(1e-6, "metrics"),
    "rl.gamma": Change(0.5, "metrics"),
    "rl.gae_lambda": Change(0.5, "metrics"),
    "rl.clip_range": Change(0.01, "metrics"),
    "rl.value_clip_range": Change(0.01, "metrics"),
    "rl.reward_clip": Change(0.5, "metrics"),
    "rl.missing_eos_penalty": Change(0.0, "metrics"),
    "rl.value_init": [Change("policy", "metrics"), Change("shared", "metrics"), Change("ridge", "metrics")],
    "rl.guards": Change(
        {
            "score_length_correlation": {"action": "stop", "patience": 1, "threshold": 0.0},
            "kl_budget": {"threshold": 0.0, "patience": 1},
        },
        "metrics",
    ),
    "rl.max_rollbacks": Change(0, "metrics", "rl", {"rl.guards": {"kl_budget": {"threshold": 0.0, "patience": 1}}}),
    "rl.eval_every": Change(1, "metrics"),
    "rl.eval_fraction": Change(0.1, "metrics"),
    "rl.eval_prompts": Change(3, "metrics"),
    "compare.prompts": Change([Data("dev.jsonl")], "compared"),
    "compare.columns": Change({"order": "prompt"}, "accepted"),
    "compare.models": Change({"theirs": "base/model"}, "compared"),
    "compare.reward": Change("classify/model", "refused"),
    "compare.limit": Change(3, "compared"),
    "compare.deliberate_limit": Change(1, "compared"),
    "compare.max_new_tokens": Change(3, "compared"),
}
CASES = [
    pytest.param(name, change, id=f"{name}-{change.stage}-{change.value}"[:60])
    for name, changes in TABLE.items()
    for change in (changes if isinstance(changes, list) else [changes])
]


def missing(known: Mapping[str, Any]) -> set[str]:
    """The settings that the table does not know, and what it knows that is no setting."""
    return {name for name, _, _ in setting_fields()} - SECTIONS ^ set(known)


def test_the_table_knows_every_setting() -> None:
    assert missing(TABLE) == set()
    assert SECTIONS == {"world", "lora", "rl.kl", "reward.ensemble", "collect.judge", *STAGES}, (
        "a new section: say below what leaving it out changes"
    )


def test_a_setting_without_an_entry_would_be_seen() -> None:
    without = {name: change for name, change in TABLE.items() if name != "rl.kl.coefficient"}
    assert missing(without) == {"rl.kl.coefficient"}
    assert missing({**TABLE, "rl.moon": 1}) == {"rl.moon"}


def test_every_value_is_a_change(tiny: Any, tmp_path: Path) -> None:
    tree = tiny.tree(tmp_path)
    for name, changes in TABLE.items():
        now: Any = {**tree, **{"model": None}}
        for part in name.split("."):
            now = now.get(part) if isinstance(now, dict) else None
        for change in changes if isinstance(changes, list) else [changes]:
            assert change.value != now, name
            *section, _ = name.split(".")
            assert change.stage or section, f"{name}: name the stage that shows it"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change"), CASES)
def test_a_changed_setting_changes_something(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Change
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # what `device: cuda` asks for is then not there
    if change.differs == "parts":
        check_parts(tiny, tmp_path, monkeypatch, name, change)
        return
    if change.differs.startswith("judge "):
        check_judge(tiny, tmp_path, monkeypatch, name, change)
        return
    stage = change.stage or name.split(".")[0]
    also = dict(change.also)
    if name.endswith(".columns"):
        also[f"{stage}.{'data' if stage in ('classify', 'sft', 'reward') else 'prompts'}"] = [OTHER_NAMES[stage]]
    without = seen(tiny, tmp_path / "without", stage, also) if also else known(tiny, stage)
    with_it = seen(tiny, tmp_path / "with", stage, {**also, name: change.value})
    if change.differs == "refused":
        assert with_it["refused"] and not without["refused"]
        assert name.split(".")[-1] in with_it["refused"]
    elif change.differs == "accepted":
        # Read under its own names the file is the one that the straight run read.
        assert without["refused"] and not with_it["refused"]
        assert with_it["metrics"] == known(tiny, stage)["metrics"]
    else:
        assert not with_it["refused"] and not without["refused"], with_it["refused"] or without["refused"]
        assert with_it[change.differs] != without[change.differs], f"{name} changed nothing of {change.differs}"


def check_parts(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Change) -> None:
    """More parts, and the same numbers up to rounding."""
    counts: list[int] = []
    accumulate = OptimizerStep.accumulate

    def counted(self: OptimizerStep, batch: Any, *arguments: Any, **options: Any) -> Any:
        parts = batch.parts if isinstance(batch, MicroBatches) else list(batch)
        counts.append(len(parts))
        return accumulate(self, batch if isinstance(batch, MicroBatches) else parts, *arguments, **options)

    monkeypatch.setattr(OptimizerStep, "accumulate", counted)
    found, parts = [], []
    for folder, changes in (("without", {}), ("with", {name: change.value})):
        found.append(seen(tiny, tmp_path / folder, change.stage, changes))
        parts.append(list(counts))
        counts.clear()
    assert len(parts[0]) == len(parts[1]) > 0
    assert all(few < many for few, many in zip(*parts, strict=True))
    without, with_it = ([dict(row) for row in one["metrics"]] for one in found)
    assert [row.keys() for row in with_it] == [row.keys() for row in without]
    # The first step's figures differ by rounding alone; Adam makes more of it with every later one.
    first, split = without[0], with_it[0]
    assert first.pop("stage") == split.pop("stage")
    assert split == pytest.approx(first, rel=1e-4, abs=1e-5)


def check_judge(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Change) -> None:
    """What the judge's server saw, or the plan, or the refusal differs."""
    from judge_stub import Call, Raw, Reply, honest, serving

    monkeypatch.setenv("MY_JUDGE_KEY", "sk-canary")
    monkeypatch.delenv("SAWYER_JUDGE_KEY", raising=False)
    monkeypatch.setattr("sawyer.judges.model_judge.Judge._sleep", lambda *_: None)  # between two tries
    outcomes = []
    for folder, changes in (("without", {}), ("with", {name: change.value})):
        at_once, most = [0], [0]

        def behave(call: Call, at_once: list[int] = at_once, most: list[int] = most) -> Reply:
            is_first = len(stub.calls) == 1
            with stub.lock:
                at_once[0] += 1
                most[0] = max(*most, *at_once)
            stub.released.wait(0.1)  # the calls of several threads are there together, and a short timeout is over
            with stub.lock:
                at_once[0] -= 1
            return Raw(status=500) if is_first else honest(call)

        with serving(behave) as stub:
            judge = {"world.rater": "people", "collect.judge": {"url": stub.url, "model": "stub"}}
            shown = seen(tiny, tmp_path / folder, "collect", {**judge, **changes})
        told = [row for row in read_rows(Layout(tmp_path / folder).events) if row["kind"] == "judge"]
        outcomes.append(
            {
                "bodies": {json.dumps(call.body, sort_keys=True) for call in stub.calls},
                "keys": {call.headers.get("Authorization") for call in stub.calls},
                "at once": most[0],
                "plan": [row["price"] for row in told if "price" in row],
                "refused": shown["refused"],
            }
        )
    without, with_it = outcomes
    what = change.differs.removeprefix("judge ")
    assert not without["refused"] and without[what] != with_it[what]
    assert bool(with_it["refused"]) == (what == "refused")


@pytest.mark.slow
def test_out_is_where_it_goes(tiny: Any, tmp_path: Path) -> None:
    tiny.run(tmp_path / "here", only="base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


@pytest.mark.parametrize("section", sorted(SECTIONS & {*STAGES}))
def test_a_stage_left_out_is_not_done(tiny: Any, tmp_path: Path, section: str) -> None:
    with pytest.raises(SawyerError, match=rf"{section}|neither `model` nor `base`"):
        tiny.run(tmp_path / "run", {section: None}, only=section)
    assert not (tmp_path / "run").exists()


def test_the_judge_left_out_leaves_the_answers_to_people(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny.run(out, {"world.rater": "people", "reward": None, "rl": None, "compare": None})
    assert read_manifest(Layout(out).manifest)["stages"]["collect"]["status"] == "waiting"
    assert not Layout(out).ratings.exists()


def test_the_world_left_out_leaves_the_answers_to_people(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny.run(out, {"world": None, "reward": None, "rl": None, "compare": None})
    assert read_manifest(Layout(out).manifest)["stages"]["collect"]["status"] == "waiting"


# What there is to see.


def known(tiny: Any, stage: str) -> dict[str, Any]:
    """What the straight run showed of a stage."""
    return look(tiny.straight(stage), stage)


def seen(tiny: Any, out: Path, stage: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Do one stage with these changes on top of what was done before it, and look."""
    changes = {name: resolved(tiny, out, value) for name, value in changes.items()}
    out = Path(changes.pop("out", out))
    before = STAGES[: STAGES.index(stage)]
    if "model" in changes:
        out.mkdir()
        before = ()
    else:
        tiny.prefix(stage, out)
        tiny.as_begun(out, changes, before)
    try:
        tiny.run(out, changes, only=stage)
    except SawyerError as error:
        return {"refused": str(error)}
    return look(out, stage)


def resolved(tiny: Any, out: Path, value: Any) -> Any:
    """Files and models by their paths, files with other columns written first."""
    if isinstance(value, list):
        return [resolved(tiny, out, item) for item in value]
    if isinstance(value, Mapping):
        return {name: resolved(tiny, out, inside) for name, inside in value.items()}
    if isinstance(value, Data):
        return str(written(tiny, out, value))
    if value == "coded/model":
        return str(coded(tiny.straight() / "base/model", out.parent / f"{out.name}-coded"))
    if value == "elsewhere":
        return str(out.parent / "elsewhere")
    if isinstance(value, str) and value.endswith("/model"):
        return str(tiny.straight() / value)
    return value


def coded(model: Path, folder: Path) -> Path:
    """A copy of a model of a family that only the code in its folder knows."""
    shutil.copytree(model, folder)
    (folder / "own.py").write_text(
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        "class OwnConfig(GPT2Config):\n    model_type = 'own'\n"
        "class Own(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
    )
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own", "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def written(tiny: Any, out: Path, data: Data) -> Path:
    """A file of the tiny data, or one made from it."""
    path: Path = tiny.data / data.name
    made = out.parent / f"{out.name}-{data.name}"
    if data.name == "dev.txt":
        made.write_text((tiny.data / "statements.txt").read_text()[5000:])
    elif data.name in ("half.tsv", "moved.tsv"):
        lines = (tiny.data / "labelled.tsv").read_text().splitlines(keepends=True)
        made.write_text("".join(lines[:40] if data.name == "half.tsv" else [line.partition("\t")[2] for line in lines]))
    elif data.name == "one_bad.json":
        rows = json.loads((tiny.data / "instructions.json").read_text())
        made.write_text(json.dumps([{**rows[0], "output": None}, *rows[1:]]))
    elif data.name.startswith("other"):
        rows = json.loads((tiny.data / {"other.json": "instructions.json"}.get(data.name, "comparisons.json")).read_text())
        made.write_text(json.dumps(rows[20:]))
    elif data.renamed:
        text = path.read_text()
        for ours, theirs in data.renamed.items():
            text = text.replace(f'"{ours}":', f'"{theirs}":')
        made.write_text(text)
    else:
        return path
    return made


def look(out: Path, stage: str) -> dict[str, Any]:
    layout = Layout(out)
    product = pipeline.product(layout, stage)
    told = [row for row in read_rows(layout.events) if row["stage"] == stage]
    return {
        "refused": "",
        "metrics": [row for row in metric_rows(layout.metrics) if row["stage"] == stage],
        "samples": [row for row in read_rows(layout.samples) if row["stage"] == stage],
        "product": (str(product) if "elsewhere" in product.parts else "", hash_folder(product)),
        "figures": read_manifest(layout.manifest)["stages"][stage]["figures"],
        "compared": read_rows(layout.compare) if stage == "compare" else [],
        "plan": [row["message"] for row in told if row["kind"] in ("plan", "warning")],
        "saves": sum(row["kind"] == "save" for row in told),
    }


def test_looking_twice_sees_the_same(tiny: Any, tmp_path: Path) -> None:
    # Otherwise every change would seem to change something.
    for stage in ("sft", "reward"):
        assert seen(tiny, tmp_path / stage, stage, {"save_every_seconds": 3600}) == known(tiny, stage)


def test_fields_are_the_schema_s() -> None:
    top = {name for name, _, _ in setting_fields() if "." not in name}
    assert top == set(Config.model_fields)
