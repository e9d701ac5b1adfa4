"""The stage of RL: evaluation and the best model, gates at step zero, guards that stop it, what its settings reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.engine import Learner
from sawyer.errors import NotFiniteError, TrainingError
from sawyer.models import RewardScorer, Scored, ValueNetwork, open_speaker, read_extra
from sawyer.runs import Run, read_rows
from sawyer.stages.rl.train import RlWork, train

Fixture = Any
stage, watched = import_module("sawyer.stages.rl.train"), import_module("sawyer.stages.rl.work")


def weights(folder: Path) -> list[torch.Tensor]:
    return list(open_speaker(folder).model.state_dict().values())


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def scripted(monkeypatch: pytest.MonkeyPatch, evaluations: Sequence[tuple[float, float]], endless: Sequence[int] = ()) -> None:
    """Held-out (score, KL) of each evaluation in turn, whatever the policy; in those of `endless` no answer ends."""
    found = iter((*given, number not in endless) for number, given in enumerate(evaluations))
    plain = stage.collect

    def collect(speaker: Any, prompts: Any, scorer: Any, config: Any, place: Any, draw: Any) -> Any:
        episodes = plain(speaker, prompts, scorer, config, place, draw)
        if tuple(prompts) == collect.held_out:  # type: ignore[attr-defined]
            reward, collect.kl, ended = next(found)  # type: ignore[attr-defined]
            episodes.scores.fill_(reward)
            episodes.ended.fill_(ended)
        return episodes

    def of_policy(model: Any, rows: Any, config: Any, place: Any) -> tuple[torch.Tensor, torch.Tensor]:
        # The KL at the first place; the reference's log-probs are 0.
        return torch.full((len(rows), 1), collect.kl), torch.zeros(len(rows), 1)  # type: ignore[attr-defined]

    init = RlWork.__init__

    def start(self: RlWork, config: Any, run: Run) -> None:
        init(self, config, run)
        collect.held_out = self.held_out  # type: ignore[attr-defined]

    monkeypatch.setattr(watched, "collect", collect)
    monkeypatch.setattr(watched, "logprobs_and_entropies", of_policy)
    monkeypatch.setattr(watched, "logprobs_of", lambda model, rows, config, place: torch.zeros(len(rows), 1))
    monkeypatch.setattr(RlWork, "__init__", start)


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
    ],
)
def test_the_best_held_out_reward_within_the_budget_is_kept(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluations: list[tuple[float, float]], kept: int
) -> None:
    scripted(monkeypatch, evaluations)
    config = tiny.rl_config(tmp_path / "run", episodes=24, eval_every=1, kl={"budget": 6.0, "coefficient": 0.0})
    policies = []
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        evaluate = RlWork.evaluate

        def noted(self: RlWork, step: int) -> dict[str, float]:
            policies.append([w.detach().clone() for w in self.policy.model.state_dict().values()])
            return evaluate(self, step)

        monkeypatch.setattr(RlWork, "evaluate", noted)
        figures = train(config, run)
        folder = run.layout.model("rl")
    assert len(policies) == 4
    assert figures["best_step"] == kept
    assert (figures["reward_best"], figures["kl"]) == pytest.approx(evaluations[kept])
    assert figures["reward_sft"] == evaluations[0][0]
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
        evaluate, shares = RlWork.evaluate, iter((0.0, 0.0, share))

        def scripted_share(self: RlWork, step: int) -> dict[str, float]:
            found = next(shares)
            with monkeypatch.context() as patch:
                patch.setattr(import_module("sawyer.stages.rl.measures"), "same_answer", lambda *_: found)
                return evaluate(self, step)

        monkeypatch.setattr(RlWork, "evaluate", scripted_share)
        figures = train(config, run)
        told = [row["held_out_same_answer"] for row in run.journal.rows("rl") if "held_out_score" in row]
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
        rows = [row for row in run.journal.rows("rl") if "held_out_score" in row]
    assert (figures["best_step"], figures["reward_best"]) == (kept, pytest.approx(reward))
    assert [row["held_out_score"] for row in rows] == [0.0, 1.5, 1.0]
    assert [row["held_out_reward"] for row in rows] == pytest.approx([0.0, 1.5 - penalty, 1.0])


def test_evaluations_are_of_the_same_prompts_and_draws(tiny: Fixture, tmp_path: Path) -> None:
    config = tiny.rl_config(tmp_path / "run", eval_every=1)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = RlWork(config, run)
        once, again = work.evaluate(0), work.evaluate(0)
        texts = [prompt.text for prompt in work.held_out]
        assert not set(texts) & {prompt.text for prompt in work.prompts}
    assert once == again
    shown = read_rows(run.layout.samples)
    assert [row["prompt"] for row in shown] == texts[:8] * 2
    rewards = RewardScorer.load(tiny.reward)(work.held_out[: len(texts)], [row["response"] for row in shown[: len(texts)]])
    assert once["held_out_score"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-5)
    unended = sum(not row["ended"] for row in shown[: len(texts)]) / len(texts)
    assert once["held_out_reward"] == pytest.approx(once["held_out_score"] - unended, abs=1e-5)
    assert once["held_out_kl"] == pytest.approx(0.0, abs=1e-4)
    assert once["held_out_length"] == sum(row["length"] for row in shown[: len(texts)]) / len(texts)


@pytest.mark.slow
def test_a_run_leaves_its_figures(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    config = tiny.rl_config(tmp_path / "run", episodes=32, eval_every=2, rl__world={"rater": "honest"})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
        rows = run.journal.rows("rl")
    assert figures["updates"] == 4
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in rows if "held_out_reward" in row] == [0, 2, 4]
    assert all("held_out_gold" in row for row in rows if "held_out_reward" in row)
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
    monkeypatch.setattr(RlWork, "_step_zero", lambda *_, **__: None)
    config = tiny.rl_config(tmp_path / "run", episodes=8, kl={"budget": 6.0, "coefficient": 0.0})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        train(config, run)
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
    assert gates["rl_kl_budget"] == verdict


def test_answers_scored_without_their_end_are_counted(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    config = tiny.rl_config(tmp_path / "run", eval_every=100, value_start="policy")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(import_module("sawyer.models.judge"), "context_length", lambda model: 4)
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
        init = RlWork.__init__

        def other(self: RlWork, config: Any, run: Run) -> None:
            init(self, config, run)
            self.reference = open_speaker(tiny.base).model

        monkeypatch.setattr(RlWork, "__init__", other)
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
    plain = stage.estimate

    def apart(*given: Any) -> Any:
        found = plain(*given)
        sign = torch.tensor([signs[i % 2] for i in range(len(found.rows))], dtype=torch.float32)[:, None]
        return replace(found, ref_logprobs=found.ref_logprobs + 0.25 * sign / found.mask.sum(1, keepdim=True) * found.mask)

    monkeypatch.setattr(stage, "estimate", apart)
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


@pytest.mark.slow
def test_in_bf16_what_is_frozen_is_held_in_it_and_step_zero_is_what_it_was(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    config = tiny.rl_config(tmp_path / "run", episodes=8).model_copy(update={"precision": "bf16"})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = RlWork(config, run)
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
            RlWork(config, run).step(0)


# Guards


def shrunk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From that many optimizer steps of the policy on, answers seem to have one token."""
    measure = RlWork.measure

    def measured(self: RlWork, episodes: Any, experience: Any) -> dict[str, float]:
        found = measure(self, episodes, experience)
        return found | ({"length": 1.0} if self.policy.steps_done >= after else {})

    monkeypatch.setattr(RlWork, "measure", measured)


@pytest.mark.slow
def test_a_guard_s_stop_ends_the_stage_with_the_best_model(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    """After three updates answers seem to have one token; the third such batch stops the run, and nothing fails.

    Two more updates are made in between; the batch that fills the streak is not learnt from.
    """
    shrunk(monkeypatch, 6)
    config = tiny.rl_config(tmp_path / "run", episodes=80, eval_every=2, kl={"budget": 1e6}, rollbacks=0)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        told = events(run, "guard")
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
        rows = run.journal.rows("rl")
        assert run.layout.model("rl").is_dir()
        assert same(run.layout.model("rl"), run.layout.best("rl"))
    assert figures["updates"] == 6  # batches 3, 4 and 5, counted from 0
    assert "policy_loss" in rows[4] and "policy_loss" not in rows[5]
    assert [(row["guard"], row["step"], row["action"]) for row in told] == [("length", 5, "stop")]
    assert figures["stopped"] == told[0]["message"]
    assert "length is 1" in figures["stopped"] and "what to try: " in figures["stopped"]
    assert gates["rl_unstopped"] == "warn"
    assert rows[-1]["step"] == 6
    assert figures["reward_best"] == max(row["held_out_reward"] for row in rows if "held_out_reward" in row)


def test_a_guard_puts_the_run_back_and_stops_it_in_the_end(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    """After three updates answers seem to have one token. The best model is that before the first update, since no later
    evaluation is better; each time the KL gets dearer, and the third time the run stops."""
    scripted(monkeypatch, [(5.0, 0.0), *[(1.0, 0.0)] * 20])
    shrunk(monkeypatch, 6)
    states: list[tuple[Any, Any]] = []
    back = RlWork._put_back

    def put_back(self: RlWork) -> Any:
        kept = back(self)
        states.append(
            ([w.clone() for w in self.policy.model.state_dict().values()], self.policy.optimizer.state_dict()["state"])
        )
        return kept

    monkeypatch.setattr(RlWork, "_put_back", put_back)
    config = tiny.rl_config(
        tmp_path / "run",
        episodes=160,
        eval_every=4,
        kl={"budget": 1e6, "coefficient": 0.03},
        guards={"held_out_score": {"action": "off"}},
    )
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        told, rolled = events(run, "guard"), events(run, "rollback")
        gates = {row["name"]: row for row in events(run, "gate")}
        rows = run.journal.rows("rl")
    # Batches 3, 4 and 5 fill the first streak, and so on.
    assert [(row["guard"], row["action"]) for row in told] == [
        ("length", "rollback"),
        ("length", "rollback"),
        ("length", "stop"),
    ]
    assert [row["step"] for row in told] == [5, 8, 11]
    assert [(row["step"], row["to"]) for row in rolled] == [(5, 0), (8, 0)]
    assert "rollback 1 of 2; the KL coefficient is 0.06 from now on" in rolled[0]["message"]
    coefficients = [row["kl_coefficient"] for row in rows if "kl_coefficient" in row]
    assert coefficients == pytest.approx([0.03] * 6 + [0.06] * 3 + [0.12] * 3)
    assert [row["rollbacks"] for row in rows if "rollbacks" in row] == [0.0] * 6 + [1.0] * 3 + [2.0] * 3
    start = weights(tiny.sft)
    assert len(states) == 2
    for found, optimizer in states:
        assert all(torch.equal(x, y) for x, y in zip(found, start, strict=True))
        assert optimizer == {}, "the optimizer had made no step then"
    assert (figures["best_step"], figures["rollbacks"], figures["updates"]) == (0, 2, 12)
    assert "2 rollbacks, the last with a KL coefficient of 0.12, did not help" in figures["stopped"]
    assert gates["rl_unstopped"]["verdict"] == "warn" and gates["rl_unstopped"]["value"] == 3.0
    # The learning rate falls with the updates that were made, whatever was put back: two minibatches an update.
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates == pytest.approx([1e-3 * (1 - (2 * update + 1) / 40) for update in range(len(rates))])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["reward", "frozen"])
def test_after_a_rollback_the_run_is_that_of_the_best_model(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """The batch after a rollback is the one that the best model would have drawn, valued as it was then."""
    scripted(monkeypatch, [(0.0, 0.0), (5.0, 0.0), (1.0, 0.0), (1.0, 0.0)])
    config = tiny.rl_config(tmp_path / "run", episodes=80, eval_every=2, kl={"budget": 1e6}, value_start=start)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = RlWork(config, run)
        for index in range(2):
            work.step(index)
        work.evaluate(2)
        torch.save(work.learnt(), tmp_path / "best.pt")
        for index in range(2, 4):
            work._learn(index)
        work._roll_back(4)
        again, state = RlWork(config, run), torch.load(tmp_path / "best.pt", weights_only=True)
        for name, learner in again.learners.items():
            learner.load(state[name])
            learner.steps_done = work.policy.steps_done
        assert (again.fitted is not None) == (start == "frozen")
        if again.fitted is not None:
            again.fitted.load(state["values"])
        again.kl = again.kl.at(work.kl.coefficient)
        assert work.kl.coefficient == 0.1
        assert work._learn(4) == again._learn(4)


@pytest.mark.slow
def test_a_guard_that_warns_lets_the_run_go_on(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    shrunk(monkeypatch, 6)
    config = tiny.rl_config(tmp_path / "run", episodes=80, eval_every=5, kl={"budget": 1e6}, guards="warn")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        told = [row for row in events(run, "guard") if row["guard"] == "length"]
    assert (figures["updates"], figures["rollbacks"], figures["stopped"]) == (10, 0, "")
    assert [(row["step"], row["action"]) for row in told] == [(5, "warn")]
    assert "what to try" in told[0]["message"]


def test_held_out_answers_that_get_worse_stop_a_run_whose_reward_rises(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    """The scores of the batches rise by 1 an update, the held-out prompts' fall: the third evaluation after the first."""
    scripted(monkeypatch, [(5.0, 0.0), (4.0, 0.0), (3.0, 0.0), (2.0, 0.0), (1.0, 0.0)])
    measure = RlWork.measure
    monkeypatch.setattr(RlWork, "measure", lambda self, *of: measure(self, *of) | {"score": float(self.policy.steps_done)})
    monkeypatch.setattr(RlWork, "_step_zero", lambda *_, **__: None)
    config = tiny.rl_config(tmp_path / "run", episodes=80, eval_every=1, kl={"budget": 1e6, "coefficient": 0.0}, rollbacks=0)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        told = events(run, "guard")
        rows = run.journal.rows("rl")
    assert [(row["guard"], row["step"]) for row in told] == [("held_out_score", 3)]
    assert (figures["updates"], figures["best_step"], figures["stopped"]) == (4, 0, told[0]["message"])
    assert "score" not in rows[3], "no batch is drawn once the evaluation has stopped the run"


def test_a_small_batch_alone_stops_nothing(tiny: Fixture, tmp_path: Path) -> None:
    """Two different answers to two prompts are each half of the batch."""
    config = tiny.rl_config(tmp_path / "run", episodes=12, batch_size=2, learning_rate=1e-6)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = RlWork(config, run)
        rows = [work.step(index) for index in range(4)]
    assert [row["same_answer"] for row in rows if row] == [0.0] * 4


def test_scores_that_are_not_finite_are_refused(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first batch the run cannot go on at all: the reward stage is at fault."""
    monkeypatch.setattr(RewardScorer, "detailed", lambda self, _, responses: [Scored(reward=math.nan)] * len(responses))
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = RlWork(tiny.rl_config(tmp_path / "run"), run)
        with pytest.raises(NotFiniteError, match=r"the score of the answer .* is nan \(8 of 8 answers\)") as told:
            work.step(0)
        assert "stage at fault: reward" in str(told.value)
        assert all(torch.equal(a, b) for a, b in zip(work.policy.model.state_dict().values(), weights(tiny.sft), strict=True))


def ruins(monkeypatch: pytest.MonkeyPatch, bad: set[int], what: str) -> None:
    """In the batches of these numbers a score, or the loss of the second minibatch, is not finite."""
    learn, plain, real = RlWork._learn, stage.collect, Learner.update
    now = {"index": -1, "steps": 0}

    def noted(self: RlWork, index: int) -> Any:
        now.update(index=index, steps=0)
        try:
            return learn(self, index)
        finally:
            now["index"] = -1

    def collect(*given: Any) -> Any:
        found = plain(*given)
        if what == "score" and now["index"] in bad:
            found.scores[0] = math.inf
        return found

    def update(self: Learner, parts: Any, loss: Any, count: float) -> Any:
        now["steps"] += self.name == "rl policy"
        ruined = what == "loss" and now["index"] in bad and now["steps"] == 2
        return real(self, parts, (lambda part: loss(part) * math.nan) if ruined else loss, count)

    monkeypatch.setattr(RlWork, "_learn", noted)
    monkeypatch.setattr(stage, "collect", collect)
    monkeypatch.setattr(Learner, "update", update)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["score", "loss"])
@pytest.mark.parametrize("action", ["rollback", "stop", "warn", "off"])
def test_what_is_not_finite_is_not_learnt_from(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any, what: str, action: str
) -> None:
    ruins(monkeypatch, {3}, what)
    asked = {} if action == "rollback" else {"guards": {"non_finite": {"action": action}}}
    config = tiny.rl_config(tmp_path / "run", episodes=48, eval_every=2, kl={"budget": 1e6}, **asked)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        if action == "off":
            with pytest.raises(NotFiniteError):
                train(config, run)
            return
        figures = train(config, run)
        told = events(run, "guard")
        rows = run.journal.rows("rl")
        assert all(bool(torch.isfinite(w).all()) for w in weights(run.layout.model("rl")))
    assert [(row["guard"], row["step"], row["action"]) for row in told] == [("non_finite", 3, action)]
    assert ("is inf" if what == "score" else "update 7 has loss nan") in told[0]["message"]
    assert [row["step"] for row in rows if row.get("refused")] == [3]
    assert "policy_loss" not in rows[3]
    assert figures["rollbacks"] == (action == "rollback")
    assert figures["updates"] == (4 if action == "stop" else 6)


def test_a_last_update_that_ruins_the_policy_costs_that_update_alone(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    evaluate = RlWork.evaluate

    def ruined(self: RlWork, step: int) -> Any:
        if step == 2 and not ruined.done:  # type: ignore[attr-defined]
            ruined.done = True  # type: ignore[attr-defined]
            with torch.no_grad():
                next(self.policy.model.parameters()).fill_(math.nan)
        return evaluate(self, step)

    ruined.done = False  # type: ignore[attr-defined]
    monkeypatch.setattr(RlWork, "evaluate", ruined)
    config = tiny.rl_config(tmp_path / "run", episodes=16, eval_every=100)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        told = [row["message"] for row in events(run, "warning")]
        improves = next(gate for gate in events(run, "gate") if gate["name"] == "rl_improves")
        assert same(run.layout.model("rl"), tiny.sft)
    assert "lower rl.learning_rate" in improves["advice"]
    assert figures["best_step"] == 0 and figures["kl_last"] == pytest.approx(0.0, abs=1e-4)
    assert len(told) == 1 and told[0].startswith("the last model is of no use")


# What the settings reach


def kls(tiny: Fixture, out: Path, monkeypatch: pytest.MonkeyPatch, **kl: Any) -> list[float]:
    """The coefficient of each of four updates whose KL is 12 nats."""
    measure = RlWork.measure
    monkeypatch.setattr(
        RlWork, "measure", lambda self, *given: measure(self, *given) | {"kl": 0.0 if self.policy.steps_done < 2 else 12.0}
    )
    with tiny.run(out, "sft", "reward") as run:
        train(tiny.rl_config(out, episodes=32, kl={"coefficient": 0.1, **kl}), run)
        return [row["kl_coefficient"] for row in run.journal.rows("rl") if "kl_coefficient" in row]


def test_the_coefficient_is_steered_towards_its_target(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Below the target at first: down by 0.2 * 8 answers / 80; then above it: up by as much.
    steered = kls(tiny, tmp_path / "a", monkeypatch, target=6.0, horizon=80.0)
    assert steered == pytest.approx([0.1, 0.1 * 0.98, 0.1 * 0.98 * 1.02, 0.1 * 0.98 * 1.02**2])


def test_without_a_target_the_coefficient_stays(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kls(tiny, tmp_path / "a", monkeypatch) == [0.1] * 4


def test_the_coefficient_prices_the_kl_of_the_next_update(tiny: Fixture, tmp_path: Path) -> None:
    config = tiny.rl_config(tmp_path / "run", kl={"coefficient": 0.1, "target": 6.0, "horizon": 40.0})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = RlWork(config, run)
        first, second = work.step(0), work.step(1)
    assert first is not None
    assert second is not None
    assert first["kl_coefficient"] == 0.1
    assert second["kl_coefficient"] == pytest.approx(0.1 * (1 - 0.2 * 8 / 40))
    penalty = second["reward"] - second["score"]
    ended = second["eos_share"]
    assert penalty == pytest.approx(-second["kl_coefficient"] * second["kl"] - (1 - ended), abs=1e-4)


@pytest.mark.parametrize("start", ["reward", "policy"])
def test_what_the_value_network_starts_from(tiny: Fixture, tmp_path: Path, start: str) -> None:
    config = tiny.rl_config(tmp_path / "run", value_start=start, value_learning_rate=0.25)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with torch.no_grad():  # the two trunks are equal at first
            scorer = RewardScorer.load(tiny.reward)
            scorer.model.base_model.wpe.weight += 1
            scorer.model.save_pretrained(run.layout.model("reward"))
        work = RlWork(config, run)
    value = work.value.model
    assert isinstance(value, ValueNetwork)
    expected = (scorer.model if start == "reward" else open_speaker(tiny.sft).model).base_model
    assert torch.equal(value.trunk.wpe.weight, expected.wpe.weight)
    assert not bool(value.head.weight.any())
    assert (work.policy.learning_rate, work.value.learning_rate) == (1e-3, 0.25)
    assert work.policy.optimizer.defaults["eps"] == work.value.optimizer.defaults["eps"] == 1e-5
    assert not {id(w) for w in value.parameters()} & {id(w) for w in work.policy.model.parameters()}


@pytest.mark.slow
def test_settings_reach_the_estimate(tiny: Fixture, tmp_path: Path) -> None:
    """Clip and penalty change what an update is paid, and only they."""
    paid: dict[str, Mapping[str, float]] = {}
    settings: dict[str, dict[str, float]] = {"plain": {}, "clip": {"score_clip": 0.01}, "free": {"missing_eos_penalty": 0.0}}
    for name, asked in settings.items():
        with tiny.run(tmp_path / name, "sft", "reward") as run:
            found = RlWork(tiny.rl_config(tmp_path / name, **asked), run).step(0)
            assert found is not None
            paid[name] = found
    score, unended = paid["plain"]["score"], 1 - paid["plain"]["eos_share"]
    assert 0 < unended < 1
    assert all(found["score"] == score for found in paid.values())
    assert paid["plain"]["reward"] == pytest.approx(score - unended, abs=1e-3)
    assert paid["free"]["reward"] == pytest.approx(score, abs=1e-3)
    assert abs(paid["clip"]["reward"] + unended) <= 0.01 + 1e-3


def test_prompts_that_leave_no_room_are_counted(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = RlWork(tiny.rl_config(tmp_path / "run", max_new_tokens=130), run)
        told = events(run, "warning")
    assert len(told) == 1
    codec = work.policy_speaker.codec
    kept = len(work.prompts) + sum(prompt not in work.prompts for prompt in work.held_out)
    assert all(len(codec.prompt(prompt)) + 130 <= 160 for prompt in (*work.prompts, *work.held_out))
    assert 0 < kept < 40
    assert told[0]["message"].startswith(f"{sum(not codec.fits(p, room=130) for p in _all(tiny))} of 40 prompts leave no room")


def test_a_prompt_that_comes_twice_is_counted_and_said(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    path = write_rows([{"prompt": prompt.text} for prompt in (*_all(tiny), _all(tiny)[3])])
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        RlWork(tiny.rl_config(tmp_path / "run", prompts=[str(path)]), run)
        assert [row["message"] for row in events(run, "warning")] == [f"1 row: duplicate ({path.name}:1:row)"]


def _all(tiny: Fixture) -> Sequence[Any]:
    from sawyer.records import read

    return read([str(tiny.prompts)], want="prompts").records


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "start"), [("fp32", None), ("bf16", None), ("bf16", "frozen")])
def test_a_state_taken_and_loaded_goes_on_number_for_number(
    tiny: Fixture, tmp_path: Path, precision: str, start: str | None
) -> None:
    config = tiny.rl_config(
        tmp_path / "run", episodes=32, eval_every=2, kl={"coefficient": 0.1, "target": 6.0, "horizon": 40.0}, value_start=start
    ).model_copy(update={"precision": precision})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        straight = RlWork(config, run)
        first = [straight.step(index) for index in range(2)]
        straight.guards.streaks["length"] = 1
        state = straight.state()
        torch.save(state, tmp_path / "state.pt")
        rest = [straight.step(index) for index in range(2, 4)]
        again = RlWork(config, run)
        again.load(torch.load(tmp_path / "state.pt", weights_only=True))
        assert [again.step(index) for index in range(2, 4)] == rest
    assert first[0] is not None
    assert again.kl == straight.kl
    assert again.guards.state() == straight.guards.state()
    assert again.guards.first["length"] == pytest.approx(sum(row["length"] for row in (*first, rest[0]) if row) / 3)
    assert again.best.state() == straight.best.state()
