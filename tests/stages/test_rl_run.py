"""The stage of RL: evaluation and the best model, gates at step zero, what its settings reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import same, scripted, weights

from sawyer.errors import TrainingError
from sawyer.models import RewardScorer, ValueNetwork, open_language_model, read_extra
from sawyer.runs import Run, read_rows
from sawyer.stages.rl.reward_sources import zero_scorer
from sawyer.stages.rl.rl_prompts import load_prompts
from sawyer.stages.rl.rl_stage import train
from sawyer.stages.rl.trainer import Trainer

Fixture = Any
watched = import_module("sawyer.stages.rl.trainer")


# Evaluation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evaluations", "kept"),
    [
        ([(0.0, 0.0), (1.0, 2.0), (2.0, 4.0), (1.5, 1.0)], 2),
        ([(0.0, 0.0), (1.0, 2.0), (2.0, 6.1), (1.5, 1.0)], 3),  # the second is beyond the budget of 6 nats
        ([(0.0, 0.0), (1.0, 6.0), (1.0, 1.0), (0.5, 1.0)], 1),  # at the budget; an equal one comes too late
        ([(0.0, 0.0), (-1.0, 1.0), (-2.0, 1.0), (-3.0, 1.0)], 0),
        ([(0.0, 0.0), (math.nan, 1.0), (1.0, math.nan), (0.5, 1.0)], 3),
        (
            [(math.nan, 0.0), (-2.0, 1.0), (-1.0, 1.0), (-3.0, 1.0)],
            2,
        ),  # the first is not finite: the others are judged all the same
        ([(0.0, math.inf), (math.nan, 1.0), (2.0, 6.1), (-3.0, 1.0)], 3),
    ],
)
def test_the_best_held_out_reward_within_the_budget_is_kept(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluations: list[tuple[float, float]], kept: int
) -> None:
    scripted(monkeypatch, evaluations)
    config = tiny.rl_config(tmp_path / "run", episodes=24, eval_every=1, kl={"budget": 6.0, "coefficient": 0.0})
    policies = []
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        evaluate = Trainer.evaluate

        def noted(self: Trainer, step: int) -> dict[str, float]:
            policies.append([w.detach().clone() for w in self.policy.model.state_dict().values()])
            return evaluate(self, step)

        monkeypatch.setattr(Trainer, "evaluate", noted)
        figures = train(config, run)
        folder = run.layout.model("rl")
    assert len(policies) == 4
    assert figures["best_step"] == kept
    assert (figures["reward_best"], figures["kl"]) == pytest.approx(evaluations[kept])
    assert figures["reward_sft"] == pytest.approx(evaluations[0][0], nan_ok=True)
    assert figures["kl_last"] == pytest.approx(evaluations[-1][1])
    assert all(torch.equal(a, b) for a, b in zip(weights(folder), policies[kept], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(policies[kept], policies[(kept + 1) % 4], strict=True))
    assert read_extra(folder) == {"best_step": kept, "of_steps": 3}


@pytest.mark.slow
@pytest.mark.parametrize(("share", "kept"), [(0.25, 2), (0.26, 1)])
def test_a_policy_that_answers_many_prompts_alike_is_not_kept(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, kept: int
) -> None:
    # The guard of that name needs three updates; the reward of what it is about to stop is the best of all.
    scripted(monkeypatch, [(0.0, 0.0), (1.0, 1.0), (2.0, 1.0)])
    config = tiny.rl_config(tmp_path / "run", episodes=16, eval_every=1)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        evaluate, shares = Trainer.evaluate, iter((0.0, 0.0, share))

        def scripted_share(self: Trainer, step: int) -> dict[str, float]:
            found = next(shares)
            with monkeypatch.context() as patch:
                patch.setattr(import_module("sawyer.stages.rl.batch_metrics"), "mode_response_rate", lambda *_: found)
                return evaluate(self, step)

        monkeypatch.setattr(Trainer, "evaluate", scripted_share)
        figures = train(config, run)
        told = [row["eval_mode_response_rate"] for row in run.journal.rows("rl") if "eval_score" in row]
    assert figures["best_step"] == kept
    assert told == [0.0, 0.0, share]


@pytest.mark.slow
@pytest.mark.parametrize(("penalty", "kept", "reward"), [(1.0, 2, 1.0), (0.4, 1, 1.1), (0.0, 1, 1.5)])
def test_answers_that_do_not_end_cost_their_penalty(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, penalty: float, kept: int, reward: float
) -> None:
    scripted(monkeypatch, [(0.0, 0.0), (1.5, 1.0), (1.0, 1.0)], endless=[1])
    config = tiny.rl_config(tmp_path / "run", episodes=16, eval_every=1, missing_eos_penalty=penalty)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        rows = [row for row in run.journal.rows("rl") if "eval_score" in row]
    assert (figures["best_step"], figures["reward_best"]) == (kept, pytest.approx(reward))
    assert [row["eval_score"] for row in rows] == [0.0, 1.5, 1.0]
    assert [row["eval_reward"] for row in rows] == pytest.approx([0.0, 1.5 - penalty, 1.0])


def test_evaluations_are_of_the_same_prompts_and_draws(tiny: Fixture, tmp_path: Path) -> None:
    config = tiny.rl_config(tmp_path / "run", eval_every=1)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        once, again = work.evaluate(0), work.evaluate(0)
        texts = [prompt.text for prompt in work.eval_prompts]
        assert not set(texts) & {prompt.text for prompt in work.prompts}
    assert once == again
    shown = read_rows(run.layout.samples)
    assert [row["prompt"] for row in shown] == texts[:8] * 2
    rewards = RewardScorer.load(tiny.reward)(work.eval_prompts[: len(texts)], [row["response"] for row in shown[: len(texts)]])
    assert once["eval_score"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-5)
    unended = sum(not row["ended"] for row in shown[: len(texts)]) / len(texts)
    assert once["eval_reward"] == pytest.approx(once["eval_score"] - unended, abs=1e-5)
    assert once["eval_kl"] == pytest.approx(0.0, abs=1e-4)
    assert once["eval_length"] == sum(row["length"] for row in shown[: len(texts)]) / len(texts)


@pytest.mark.slow
def test_a_run_leaves_its_figures(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    config = tiny.rl_config(tmp_path / "run", episodes=32, eval_every=2, rl__world={"rater": "honest"})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
        rows = run.journal.rows("rl")
    assert figures["updates"] == 4
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval_reward" in row] == [0, 2, 4]
    assert all("eval_gold" in row for row in rows if "eval_reward" in row)
    zero = {"step0_kl", "step0_ratio", "step0_clip", "step0_sampler", "step0_score"}
    assert set(gates) == {*zero, "rl_improves", "rl_kl_budget", "rl_unstopped"}
    assert all(gates[name] == "ok" for name in zero)
    falling = [1e-3 * (1 - (2 * update + 1) / 8) for update in range(4)]  # two minibatches an update
    assert [row["learning_rate"] for row in rows[:4]] == pytest.approx(falling)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-3)
    assert rows[3]["kl"] != pytest.approx(0.0, abs=1e-3)
    assert not same(run.layout.model("rl"), tiny.sft) or figures["best_step"] == 0
    assert same(run.layout.model("sft"), tiny.sft)


@pytest.mark.parametrize(("last", "verdict"), [(6.0, "ok"), (6.1, "warn")])
def test_a_run_that_ends_beyond_its_budget_says_so(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any, last: float, verdict: str
) -> None:
    scripted(monkeypatch, [(0.0, 0.0), (1.0, last)])
    monkeypatch.setattr(Trainer, "_check_step_zero", lambda *_, **__: None)
    config = tiny.rl_config(tmp_path / "run", episodes=8, kl={"budget": 6.0, "coefficient": 0.0})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        train(config, run)
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
    assert gates["rl_kl_budget"] == verdict


def test_answers_scored_without_their_end_are_counted(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    config = tiny.rl_config(tmp_path / "run", eval_every=100, value_init="policy")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(import_module("sawyer.models.reward_model"), "context_length", lambda model: 4)
            train(config, run)
        told = [row["message"] for row in events(run, "warning")]
    # Two updates of 8 answers; 6 prompts at most are answered before and after them.
    assert len(told) == 1 and told[0].startswith("28 answers did not fit the reward model's 4 tokens")


# Step zero


def test_a_reference_that_differs_fails_before_anything_is_kept(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    config = tiny.rl_config(tmp_path / "run")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        init = Trainer.__init__

        def other(self: Trainer, config: Any, run: Run) -> None:
            init(self, config, run)
            self.reference = open_language_model(tiny.base).model

        monkeypatch.setattr(Trainer, "__init__", other)
        with pytest.raises(TrainingError, match="before its first update, KL to the reference"):
            train(config, run)
        failed = [row["name"] for row in events(run, "gate") if row["verdict"] == "fail"]
        assert failed == ["step0_kl"]
        assert not run.layout.model("rl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signs", [(1, -1), (-1, -1)])
def test_differences_to_the_reference_do_not_cancel(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any, signs: tuple[int, int]
) -> None:
    """Half of the responses seem likelier under the reference, half less likely: on average nothing differs."""
    plain = watched.estimate_advantages

    def apart(*given: Any, **more: Any) -> Any:
        found = plain(*given, **more)
        sign = torch.tensor([signs[i % 2] for i in range(len(found.rows))], dtype=torch.float32)[:, None]
        return replace(found, ref_logprobs=found.ref_logprobs + 0.25 * sign / found.mask.sum(1, keepdim=True) * found.mask)

    monkeypatch.setattr(watched, "estimate_advantages", apart)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with pytest.raises(TrainingError, match=r"KL to the reference is up to 0\.25 nats"):
            train(tiny.rl_config(tmp_path / "run"), run)


def test_a_sampler_of_another_temperature_fails(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = import_module("sawyer.stages.rl.rollout")
    plain = rollout.sample
    monkeypatch.setattr(rollout, "sample", lambda *given, **asked: plain(*given, **{**asked, "temperature": 0.6}))
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with pytest.raises(TrainingError, match="sampling and training log-probs differ"):
            train(tiny.rl_config(tmp_path / "run"), run)


def test_the_saved_reward_model_is_asked_before_training_takes_memory(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the plan says: a second reward model beside gradients and optimizer would be the stage's peak."""
    zero = import_module("sawyer.stages.rl.step_zero_checks")
    plain, trained = zero._score_drift, []
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(tiny.rl_config(tmp_path / "run"), run)
        monkeypatch.setattr(
            zero, "_score_drift", lambda *given: trained.append(len(work.policy.optimizer.state)) or plain(*given)
        )
        work.step(0)
    assert trained == [0] and work.policy.optimizer.state


@pytest.mark.slow
def test_in_bf16_what_is_frozen_is_held_in_it_and_step_zero_is_what_it_was(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    config = tiny.rl_config(tmp_path / "run", episodes=8).model_copy(update={"precision": "bf16"})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        kinds = [{weight.dtype for weight in network.parameters()} for network in (work.reference, work.scorer.model)]
        assert kinds == [{torch.float32, torch.bfloat16}] * 2
        assert {weight.dtype for weight in work.policy.model.parameters()} == {torch.float32}
        told = work.step(0)
        assert told is not None and told["kl"] == 0.0  # not even rounding lies between policy and reference
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
        assert len(gates) == 5 and set(gates.values()) == {"ok"}
        # Embeddings and norms in bf16 as well would move the reference away from where the policy starts.
        monkeypatch.setattr(watched, "hold_in_bf16", lambda network: network.to(torch.bfloat16))
        with pytest.raises(TrainingError, match="before its first update, KL to the reference"):
            Trainer(config, run).step(0)


# What the settings reach


def kls(tiny: Fixture, out: Path, monkeypatch: pytest.MonkeyPatch, **kl: Any) -> list[float]:
    """The coefficient of each of four updates whose KL is 12 nats."""
    measure = Trainer.measure
    monkeypatch.setattr(
        Trainer, "measure", lambda self, *given: measure(self, *given) | {"kl": 0.0 if self.policy.steps_done < 2 else 12.0}
    )
    with tiny.run(out, "sft", "reward") as run:
        train(tiny.rl_config(out, episodes=32, kl={"coefficient": 0.1, **kl}), run)
        return [row["kl_coefficient"] for row in run.journal.rows("rl") if "kl_coefficient" in row]


def test_the_coefficient_is_steered_towards_its_target(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Below the target at first: down by 0.2 * 8 answers / 80; then above it: up by as much.
    controls = kls(tiny, tmp_path / "a", monkeypatch, target=6.0, horizon=80.0)
    assert controls == pytest.approx([0.1, 0.1 * 0.98, 0.1 * 0.98 * 1.02, 0.1 * 0.98 * 1.02**2])


def test_without_a_target_the_coefficient_stays(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kls(tiny, tmp_path / "a", monkeypatch) == [0.1] * 4


def test_the_coefficient_prices_the_kl_of_the_next_update(tiny: Fixture, tmp_path: Path) -> None:
    config = tiny.rl_config(tmp_path / "run", kl={"coefficient": 0.1, "target": 6.0, "horizon": 40.0})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        first, second = work.step(0), work.step(1)
    assert first is not None
    assert second is not None
    assert first["kl_coefficient"] == 0.1
    assert second["kl_coefficient"] == pytest.approx(0.1 * (1 - 0.2 * 8 / 40))
    penalty = second["reward"] - second["score"]
    ended = second["eos_rate"]
    assert penalty == pytest.approx(-second["kl_coefficient"] * second["kl"] - (1 - ended), abs=1e-4)


@pytest.mark.parametrize("start", ["reward", "policy"])
def test_what_the_value_network_starts_from(tiny: Fixture, tmp_path: Path, start: str) -> None:
    config = tiny.rl_config(tmp_path / "run", value_init=start, value_learning_rate=0.25)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with torch.no_grad():  # the two trunks are equal at first
            scorer = RewardScorer.load(tiny.reward)
            scorer.model.base_model.wpe.weight += 1
            scorer.model.save_pretrained(run.layout.model("reward"))
        work = Trainer(config, run)
    value = work.value.model
    assert isinstance(value, ValueNetwork)
    expected = (scorer.model if start == "reward" else open_language_model(tiny.sft).model).base_model
    assert torch.equal(value.trunk.wpe.weight, expected.wpe.weight)
    assert not bool(value.head.weight.any())
    assert (work.policy.learning_rate, work.value.learning_rate) == (1e-3, 0.25)
    assert work.policy.optimizer.defaults["eps"] == work.value.optimizer.defaults["eps"] == 1e-5
    assert not {id(w) for w in value.parameters()} & {id(w) for w in work.policy.model.parameters()}


@pytest.mark.slow
def test_settings_reach_the_estimate(tiny: Fixture, tmp_path: Path) -> None:
    """Clip and penalty change what an update is paid, and only they."""
    paid: dict[str, Mapping[str, float]] = {}
    settings: dict[str, dict[str, float]] = {"plain": {}, "clip": {"reward_clip": 0.01}, "free": {"missing_eos_penalty": 0.0}}
    for name, asked in settings.items():
        with tiny.run(tmp_path / name, "sft", "reward") as run:
            found = Trainer(tiny.rl_config(tmp_path / name, **asked), run).step(0)
            assert found is not None
            paid[name] = found
    score, unended = paid["plain"]["score"], 1 - paid["plain"]["eos_rate"]
    assert 0 < unended < 1
    assert all(found["score"] == score for found in paid.values())
    assert paid["plain"]["reward"] == pytest.approx(score - unended, abs=1e-3)
    assert paid["free"]["reward"] == pytest.approx(score, abs=1e-3)
    assert abs(paid["clip"]["reward"] + unended) <= 0.01 + 1e-3


def test_prompts_that_leave_no_room_are_counted(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(tiny.rl_config(tmp_path / "run", max_new_tokens=130), run)
        told = events(run, "warning")
    assert len(told) == 1
    prompt_encoder = work.language_model.prompt_encoder
    kept = len(work.prompts) + sum(prompt not in work.prompts for prompt in work.eval_prompts)
    assert all(len(prompt_encoder.prompt(prompt)) + 130 <= 160 for prompt in (*work.prompts, *work.eval_prompts))
    assert 0 < kept < 40
    assert told[0]["message"].startswith(
        f"{sum(not prompt_encoder.fits(p, room=130) for p in _all(tiny))} of 40 prompts leave no room"
    )


def test_a_prompt_that_comes_twice_is_counted_and_said(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    path = write_rows([{"prompt": prompt.text} for prompt in (*_all(tiny), _all(tiny)[3])])
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        Trainer(tiny.rl_config(tmp_path / "run", prompts=[str(path)]), run)
        assert [row["message"] for row in events(run, "data")] == ["rl.prompts: 1 duplicate left out"]


def test_rows_of_one_prompt_with_two_gold_answers_stay_two_where_a_function_pays(
    tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any
) -> None:
    """A function that takes rows compares with `answer`; a reward model reads the prompt alone, which then comes once."""
    path = write_rows([{"prompt": prompt.text, "answer": answer} for prompt in _all(tiny) for answer in ("yes", "no")])
    pays: Any
    for pays, count in ([{"name": "gold", "function": "tests_own:gold"}], 2), ([], 1):
        with tiny.run(tmp_path / f"run{count}") as run:
            config = tiny.rl_config(tmp_path / f"run{count}", prompts=[str(path)], rewards=pays, eval_prompts=200)
            prompts, held_out = load_prompts(config, run, open_language_model(tiny.sft), zero_scorer)
            told = [row["message"] for row in events(run, "data")]
        found = [(prompt.text, prompt.fields["answer"]) for prompt in (*prompts, *held_out)]
        assert len(set(found)) == len(found) == 40 * count
        assert {text for text, _ in found[: len(prompts)]}.isdisjoint({text for text, _ in found[len(prompts) :]})
        assert ("40 duplicates left out" in told[0]) is (count == 1)


def _all(tiny: Fixture) -> Sequence[Any]:
    from sawyer.records import read

    return read([str(tiny.prompts)], want="prompts").records


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "start"), [("fp32", None), ("bf16", None), ("bf16", "ridge")])
def test_a_state_taken_and_loaded_goes_on_number_for_number(
    tiny: Fixture, tmp_path: Path, precision: str, start: str | None
) -> None:
    config = tiny.rl_config(
        tmp_path / "run", episodes=32, eval_every=2, kl={"coefficient": 0.1, "target": 6.0, "horizon": 40.0}, value_init=start
    ).model_copy(update={"precision": precision})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        straight = Trainer(config, run)
        first = [straight.step(index) for index in range(2)]
        straight.guards.streaks["length"] = 1
        state = straight.state()
        torch.save(state, tmp_path / "state.pt")
        rest = [straight.step(index) for index in range(2, 4)]
        again = Trainer(config, run)
        again.load(torch.load(tmp_path / "state.pt", weights_only=True))
        assert [again.step(index) for index in range(2, 4)] == rest
    assert first[0] is not None
    assert again.kl == straight.kl
    assert again.guards.state() == straight.guards.state()
    assert again.guards.first["length"] == pytest.approx(sum(row["length"] for row in (*first, rest[0]) if row) / 3)
    assert again.best.state() == straight.best.state()
