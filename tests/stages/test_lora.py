"""LoRA in the stages: what is trained, what is shared, and that sharing changes no number."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from fp64 import double_precision
from torch import nn

from sawyer.config import Config, parse_config
from sawyer.errors import ConfigError
from sawyer.models import (
    AdapterView,
    RewardScorer,
    ValueNetwork,
    before_trained,
    load_reward,
    load_tokenizer,
    new_reward,
    new_reward_model,
    open_language_model,
    save_model,
    trunk_states,
)
from sawyer.records import prompt_of
from sawyer.runs import Run, base_of, is_adapter, open_run, read_rows, replace_folder
from sawyer.stages.reward import train as train_reward
from sawyer.stages.rl import train as train_rl
from sawyer.stages.rl.networks import Networks, open_networks, open_value_network
from sawyer.stages.rl.rl_gates import Drift
from sawyer.stages.rl.trainer import Trainer
from sawyer.stages.sft import train as train_sft
from sawyer.text import pad_right
from sawyer.train import choose_device, plan_memory

pytest.importorskip("peft", reason="an environment from before PEFT was a dependency: install the package again")

Tiny = Any
Shape = Callable[..., Config]
working, networks_module, zero = (
    import_module(f"sawyer.stages.rl.{name}") for name in ("trainer", "networks", "step_zero_checks")
)
LORA = {"rank": 2}


@pytest.fixture(scope="module")
def shape(tiny: Tiny) -> Shape:
    """`shape(out, algorithm="rloo")`: RL with LoRA, from adapters on the fine-tuned model as their base."""

    def made(out: Path, **rl: Any) -> Config:
        asked = {"rl__model": str(tiny.sft), "rl__lora": LORA, "learning_rate": 2e-2, "eval_every": 1, **rl}
        sft = {"data": [str(tiny.instructions)], "epochs": 0.2, "batch_size": 12, "learning_rate": 5e-3, "max_new_tokens": 8}
        reward = {"data": [str(tiny.comparisons)], "learning_rate": 1e-2, "calibration_prompts": 8, "batch_size": 8}
        found: Config = tiny.rl_config(out, **{"rl__sft": sft, "rl__reward": reward, **asked})
        return found

    return made


@pytest.fixture(scope="module")
def done(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose SFT and reward model are adapters."""
    out = tmp_path_factory.mktemp("lora") / "run"
    config = shape(out)
    with open_run(out) as run:
        train_sft(config, run)
        train_reward(config, run)
    return out


@contextmanager
def opened(done: Path, out: Path) -> Iterator[Run]:
    """A run in `out` that builds on the models of `done`."""
    for stage in ("sft", "reward"):
        shutil.copytree(done / stage / "model", out / stage / "model")
    with open_run(out) as run:
        yield run


@pytest.mark.slow
def test_sft_and_reward_leave_adapters_on_one_base(tiny: Tiny, done: Path) -> None:
    for stage in ("sft", "reward"):
        folder = done / stage / "model"
        assert is_adapter(folder) and base_of(folder) == str(tiny.sft)
        assert not list(folder.glob("model*.safetensors"))
    events = read_rows(done / "events.jsonl")
    plans = {row["stage"]: row["message"] for row in events if row["kind"] == "plan"}
    # c_attn 16 -> 48, c_proj 16 -> 16, c_fc 16 -> 64, c_proj 64 -> 16, of rank 2, in one layer.
    assert "LoRA of rank 2: 512 of" in plans["sft"]
    assert f"LoRA of rank 2: {512 + 16:,} of" in plans["reward"], "the head too"
    losses = {row["stage"]: row for row in read_rows(done / "metrics.jsonl") if "base_eval_loss" in row}
    base = open_language_model(tiny.sft)
    moved = open_language_model(done / "sft" / "model")
    assert losses["sft"]["eval_loss"] != losses["sft"]["base_eval_loss"]
    assert any(not torch.equal(a, b) for a, b in zip(base.model.parameters(), moved.model.parameters(), strict=True))


@pytest.mark.slow
def test_ppo_on_one_network(shape: Shape, done: Path, tmp_path: Path) -> None:
    """All gates of step zero, adapters in rl/model, adapters alone in what is trained."""
    config = shape(tmp_path / "run")
    with opened(done, tmp_path / "run") as run:
        work = Trainer(config, run)
        shared = work.networks.multi_adapter
        assert shared is not None and set(shared.configs) == {"reference", "policy", "reward-1", "value"}
        assert {id(p) for p in work.policy.parameters}.isdisjoint(id(p) for p in work.optimizers["value"].parameters)
        names = {name for name, weight in shared.network.named_parameters() if weight.requires_grad}
        assert names and {name.split(".")[-2] for name in names} == {"policy", "value"}
        for learner in work.optimizers.values():
            work_state = learner.state()["model"]
            assert all("adapter" in name or name.startswith("head.") for name in work_state)
            assert sum(weight.numel() for weight in work_state.values()) < 600
        figures = train_rl(config, run)
        gates = {row["name"]: row["verdict"] for row in read_rows(run.layout.events) if row["kind"] == "gate"}
        assert {verdict for name, verdict in gates.items() if name.startswith("step0")} == {"ok"}
        assert is_adapter(run.layout.model("rl")) and base_of(run.layout.model("rl")) == config.model
        plans = [row["message"] for row in read_rows(run.layout.events) if row["kind"] == "plan"]
    assert figures["updates"] == 2
    assert any("memory: policy" in plan and "the frozen network that they share" in plan for plan in plans)


def asked(shape: Shape, tiny: Tiny, out: Path, algorithm: str) -> Config:
    """RL by this algorithm; dpo knows few of the others' settings."""
    if algorithm != "dpo":
        return shape(out, algorithm=algorithm)
    rl = {"prompts": [str(tiny.prompts)], "algorithm": "dpo", "batch_size": 24, "learning_rate": 2e-2, "max_new_tokens": 8}
    rl |= {"eval_every": 1, "eval_prompts": 6, "eval_fraction": 0.2, "temperature": 1.0}
    return parse_config(shape(out).model_dump(mode="json") | {"rl": rl})


def separate(config: Config, run: Run) -> Networks:
    """The same adapters, each on a copy of the network of its own."""
    sft = run.layout.model("sft")

    def unmerged(source: Any, tokenizer: Any) -> Any:
        return new_reward_model(source, seed=0, lora=config.lora).model

    return Networks(
        placement=choose_device("cpu", "fp32", width=16),
        policy=open_language_model(sft, lora=config.lora),
        reference=open_language_model(sft, lora=config.lora).model,
        scorer=RewardScorer.load(run.layout.model("reward"), load=unmerged),
    )


def own_value(config: Config, run: Run, networks: Networks) -> ValueNetwork:
    judge: Any = new_reward_model(run.layout.model("reward"), seed=0, lora=config.lora)
    return ValueNetwork(judge.model.base_model, 16)


def updates(work: Any, run: Run) -> list[dict[str, float]]:
    return [{**(work.step(index) or {})} for index in range(work.steps)] + [work.evaluate(work.steps)]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "dpo"])
def test_sharing_changes_no_number(
    shape: Shape, tiny: Tiny, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """In float64, over all updates: one network for all against a copy for each."""
    found = {}
    for way in ("shared", "separate"):
        config = asked(shape, tiny, tmp_path / way, algorithm)
        with monkeypatch.context() as patch, opened(done, tmp_path / way) as run:
            if way == "separate":
                patch.setattr(working, "open_networks", separate)
                patch.setattr(networks_module, "open_value_network", own_value)
            work = Trainer(config, run)
            assert (work.networks.multi_adapter is None) == (way == "separate")
            patch.setattr(zero, "_score_drift", lambda *_: (None, Drift(mean=0.0, most=0.0)))  # it reads a file, in fp32
            with double_precision():
                value = work.optimizers["value"].model if "value" in work.optimizers else None
                for network in work.networks.by_name(value).values():
                    network.double()
                found[way] = updates(work, run)
    assert len(found["shared"]) == len(found["separate"]) >= 3
    assert found["shared"][-1]["eval_kl"] != 0.0
    for mine, theirs in zip(found["shared"], found["separate"], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-7, abs=1e-9), name


def reads_the_policy(config: Config, run: Run) -> Networks:
    """The known mistake: the reference is asked without switching adapters."""
    found = open_networks(config, run)
    assert found.multi_adapter is not None
    return replace(found, reference=AdapterView(found.multi_adapter, "policy"))


@pytest.mark.slow
def test_the_reference_stays_where_it_was(shape: Shape, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that follows the policy tells a KL of zero for ever."""
    kls = {}
    for way, opening in (("right", open_networks), ("wrong", reads_the_policy)):
        monkeypatch.setattr(working, "open_networks", opening)
        with opened(done, tmp_path / way) as run:
            work = Trainer(shape(tmp_path / way), run)
            before = [weight.clone() for weight in work.networks.multi_adapter.weights("reference")]  # type: ignore[union-attr]
            kls[way] = [row["eval_kl"] for row in updates(work, run)]
            after = work.networks.multi_adapter.weights("reference")  # type: ignore[union-attr]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            own = {id(weight) for weight in work.networks.multi_adapter.weights("policy")}  # type: ignore[union-attr]
            assert {id(weight) for weight in work.policy.optimizer.state} == own, "nothing else has moments"
    assert kls["right"][0] == pytest.approx(0.0, abs=1e-6) and abs(kls["right"][-1]) > 1e-2
    assert kls["wrong"] == pytest.approx([0.0] * 3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
def test_what_goes_on_from_a_state_goes_on_exactly(
    shape: Shape, tiny: Tiny, done: Path, tmp_path: Path, algorithm: str
) -> None:
    config = asked(shape, tiny, tmp_path / "run", algorithm)
    with opened(done, tmp_path / "run") as run:
        straight: Any = Trainer(config, run)
        rows = [straight.step(0), straight.step(1)]
        first: Any = Trainer(config, run)
        assert first.step(0) == rows[0]
        again: Any = Trainer(config, run)
        again.load({key: value for key, value in first.state().items()})
        assert again.step(1) == rows[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "rl", [{"algorithm": "rloo"}, {"value_init": "shared"}, {"value_init": "policy"}, {"value_init": "ridge"}]
)
def test_other_ways_to_learn(shape: Shape, done: Path, tmp_path: Path, rl: dict[str, str]) -> None:
    config = shape(tmp_path / "run", **rl)
    with opened(done, tmp_path / "run") as run:
        figures = train_rl(config, run)
        assert is_adapter(run.layout.model("rl")) and figures["updates"] == 2
        open_language_model(run.layout.model("rl"))


def test_best_of_n_gives_the_adapter_on(shape: Shape, tiny: Tiny, done: Path, tmp_path: Path) -> None:
    asked = {
        "prompts": [str(tiny.prompts)],
        "algorithm": "best_of_n",
        "group_size": 2,
        "max_new_tokens": 6,
        "eval_fraction": 0.2,
    }
    config = shape(tmp_path / "run").model_dump(mode="json") | {"rl": asked}
    with opened(done, tmp_path / "run") as run:
        train_rl(parse_config(config), run)
        sft, rl = run.layout.model("sft"), run.layout.model("rl")
        assert (sft / "adapter_model.safetensors").read_bytes() == (rl / "adapter_model.safetensors").read_bytes()


def test_from_a_whole_sft_model_the_reference_is_the_network_itself(shape: Shape, tiny: Tiny, tmp_path: Path) -> None:
    """No adapter speaks for it; a reward model that is a whole model stays one, and no value network begins from it."""
    config = shape(tmp_path / "run")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        shared = work.networks.multi_adapter
        assert shared is not None and set(shared.configs) == {"policy", "value"}
        kls = [row["eval_kl"] for row in updates(work, run)]
        assert kls[0] == 0.0 and abs(kls[-1]) > 1e-3
        told = " ".join(row["message"] for row in read_rows(run.layout.events) if row["kind"] == "warning")
        assert "the value network starts from the SFT model: the reward model was not trained on the network" in told
        assert base_of(run.layout.bests("rl")[0]) == str(run.layout.model("sft").resolve())
        asked = config.model_copy(update={"rl": config.rl.model_copy(update={"value_init": "reward"})})  # type: ignore[union-attr]
        with pytest.raises(ConfigError, match="was not trained on the network"):
            open_value_network(asked, run, work.networks)


@pytest.mark.slow
def test_full_fine_tuning_goes_on_from_adapters(shape: Shape, done: Path, tmp_path: Path) -> None:
    """Without `lora` the merged weights are trained, all of them."""
    config = shape(tmp_path / "run", rl__lora=None)
    with opened(done, tmp_path / "run") as run:
        work = Trainer(config, run)
        assert all(weight.requires_grad for weight in work.language_model.model.parameters())
        train_rl(config, run)
        assert not is_adapter(run.layout.model("rl"))


def test_fitted_values_are_read_from_the_reward_model_s_adapter(shape: Shape, done: Path, tiny: Tiny, tmp_path: Path) -> None:
    """Whoever spoke last on the shared network; from a whole SFT model the reward model is a network of its own."""
    with opened(done, tmp_path / "run") as run:
        work = Trainer(shape(tmp_path / "run", value_init="ridge"), run)
        batch = pad_right([work.language_model.prompt_encoder.answer_ids((5, 6, 7), (8, 9))], 0)
        before = before_trained(batch)
        alone: Any = load_reward(run.layout.model("reward"), work.language_model.tokenizer)
        expected = alone.base_model(input_ids=batch.ids).last_hidden_state
        for network in (work.language_model.model, work.reference):
            trunk_states(network, batch)
            assert work.ridge_values is not None and work.ridge_values.reader.name == "reward-1"
            assert torch.allclose(work.ridge_values.states(batch)[before], expected[before], atol=1e-5)
            scorer: Any = work.ridge_values.scorer
            with scorer.captured_states() as heard:
                scorer.raw([prompt_of("up or down?")], ["down"])
            row, states = heard.popitem()
            judged = alone.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
            assert torch.allclose(states, judged[row.prompt_length - 1 : -1], atol=1e-5)
        assert not torch.allclose(trunk_states(work.reference, batch), expected, atol=1e-5)
    with tiny.run(tmp_path / "whole", "sft", "reward") as run:
        work = Trainer(shape(tmp_path / "whole", value_init="ridge"), run)
        assert work.ridge_values is not None and not hasattr(work.ridge_values.reader, "shared")
        assert "explained_variance" in (work.step(0) or {})


@pytest.mark.slow
def test_ensembles(shape: Shape, tiny: Tiny, done: Path, tmp_path: Path) -> None:
    """Seeds: an adapter each on the one network. Heads: one adapter."""
    for by, adapters in (("seeds", {"reward-1", "reward-2"}), ("heads", {"reward-1"})):
        out = tmp_path / by
        reward = {
            "data": [str(tiny.comparisons)],
            "learning_rate": 1e-2,
            "calibration_prompts": 8,
            "batch_size": 16,
            "ensemble": {"members": 2, "by": by},
        }
        config = shape(out, rl__reward=reward)
        with opened(done, out) as run:
            train_reward(config, run)
            networks = open_networks(config, run)
            assert (
                networks.multi_adapter is not None and {n for n in networks.multi_adapter.configs if "reward" in n} == adapters
            )
            alone = RewardScorer.load(run.layout.model("reward"))
            prompts, texts = _asked(tiny)
            assert networks.scorer(prompts, texts) == pytest.approx(alone(prompts, texts), abs=1e-4)
            assert isinstance(networks.scorer, RewardScorer) and len(networks.scorer.members) == 2


def _asked(tiny: Tiny) -> tuple[list[Any], list[str]]:
    return [prompt_of("What is the opposite of up?")] * 2, ["Down.", "A banana is a fruit."]


def test_a_reward_model_of_another_kind_is_a_network_of_its_own(shape: Shape, tiny: Tiny, done: Path, tmp_path: Path) -> None:
    """Its head may be any, its base another: it is frozen and asked as ever."""
    with opened(done, tmp_path / "run") as run:
        tokenizer = load_tokenizer(tiny.base)
        with replace_folder(run.layout.model("reward")) as folder:
            reward = new_reward(tiny.base, tokenizer, seed=5, lora=shape(tmp_path / "run").lora)
            save_model(folder, reward, tokenizer, {"reward_shift": 0.5, "reward_scale": 2.0})
        networks = open_networks(shape(tmp_path / "run"), run)
        assert isinstance(networks.scorer, RewardScorer)
        assert not isinstance(networks.scorer.model, AdapterView)
        held = {share.name: share for share in plan_memory(networks.by_name(None), ())}
    assert held["the reward model"].frozen_weights > 0.02


def test_the_plan_counts_each_weight_once(shape: Shape, done: Path, tmp_path: Path) -> None:
    """Against hand arithmetic: 512 weights an adapter, a head of 16 weights and one bias for values, one network."""
    mb = 2**20
    with opened(done, tmp_path / "run") as run:
        work = Trainer(shape(tmp_path / "run"), run)
        network: nn.Module = work.networks.multi_adapter.network  # type: ignore[union-attr]
        value = work.optimizers["value"]
        trained = [*work.policy.parameters, *value.parameters]
        base = sum(w.numel() for name, w in network.named_parameters() if ".lora_" not in name)
        held = {share.name: share for share in plan_memory(work.networks.by_name(value.model), trained)}
    assert held["policy"].total == pytest.approx(4 * 4 * 512 / mb)
    assert held["value network"].total == pytest.approx(4 * 4 * (512 + 17) / mb)
    assert held["reference"].total == pytest.approx(4 * 512 / mb)
    assert held["the reward model"].total == pytest.approx(4 * (512 + 16) / mb)
    assert held["the frozen network that they share"].total == pytest.approx(4 * base / mb)


def test_the_plan_of_full_fine_tuning(tiny: Tiny, tmp_path: Path) -> None:
    """Policy and value network are trained, reference and reward model are not, whatever could be."""
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(tiny.rl_config(tmp_path / "run"), run)
        size = sum(weight.numel() for weight in open_language_model(tiny.sft).model.parameters()) * 4 / 2**20
        told = work.memory
    each, four = (f"{share:.2g}" for share in (size, 4 * size))
    assert f"policy {four} MB ({each} trained" in told and f"; reference {each} MB;" in told
    assert f"value network {four} MB ({each} trained" in told and f"the reward model {each} MB;" in told
