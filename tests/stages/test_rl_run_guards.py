"""Guards in a whole run of RL: what stops it, puts it back, or is not learnt from."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import same, scripted, weights

from sawyer.errors import NotFiniteError
from sawyer.models import RewardScorer
from sawyer.models.scoring import ScoreDetails
from sawyer.stages.rl.rl_stage import train
from sawyer.stages.rl.trainer import Trainer
from sawyer.train import OptimizerStep

Fixture = Any
stage = import_module("sawyer.stages.rl.trainer")


def shrunk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From that many optimizer steps of the policy on, answers seem to have one token."""
    measure = Trainer.measure

    def measured(self: Trainer, rollout: Any) -> dict[str, float]:
        found = measure(self, rollout)
        return found | ({"length": 1.0} if self.policy.steps_done >= after else {})

    monkeypatch.setattr(Trainer, "measure", measured)


@pytest.mark.slow
def test_a_guard_s_stop_ends_the_stage_with_the_best_model(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    """After three updates answers seem to have one token; the third such batch stops the run, and nothing fails.

    Two more updates are made in between; the batch that fills the streak is not learnt from.
    """
    shrunk(monkeypatch, 6)
    config = tiny.rl_config(tmp_path / "run", episodes=80, eval_every=2, kl={"budget": 1e6}, max_rollbacks=0)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        told = events(run, "guard")
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
        rows = run.journal.rows("rl")
        assert run.layout.model("rl").is_dir()
        assert same(run.layout.model("rl"), run.layout.best("rl", figures["best_step"]))
    assert figures["updates"] == 6  # batches 3, 4 and 5, counted from 0
    assert "policy_loss" in rows[4] and "policy_loss" not in rows[5]
    assert [(row["guard"], row["step"], row["action"]) for row in told] == [("length", 5, "stop")]
    assert figures["stopped"] == told[0]["message"]
    assert "length is 1" in figures["stopped"] and "what to try: " in figures["stopped"]
    assert gates["rl_unstopped"] == "warn"
    assert rows[-1]["step"] == 6
    assert figures["reward_best"] == max(row["eval_reward"] for row in rows if "eval_reward" in row)


def test_a_guard_puts_the_run_back_and_stops_it_in_the_end(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    """After three updates answers seem to have one token. The best model is that before the first update, since no later
    evaluation is better; each time the KL gets dearer, and the third time the run stops."""
    scripted(monkeypatch, [(5.0, 0.0), *[(1.0, 0.0)] * 20])
    shrunk(monkeypatch, 6)
    states: list[tuple[Any, Any]] = []
    back = Trainer._restore_best

    def put_back(self: Trainer) -> Any:
        kept = back(self)
        states.append(
            ([w.clone() for w in self.policy.model.state_dict().values()], self.policy.optimizer.state_dict()["state"])
        )
        return kept

    monkeypatch.setattr(Trainer, "_restore_best", put_back)
    config = tiny.rl_config(
        tmp_path / "run",
        episodes=160,
        eval_every=4,
        kl={"budget": 1e6, "coefficient": 0.03},
        guards={"eval_score": {"action": "off"}},
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
@pytest.mark.parametrize("start", ["reward", "ridge"])
def test_after_a_rollback_the_run_is_that_of_the_best_model(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """The batch after a rollback is the one that the best model would have drawn, valued as it was then."""
    scripted(monkeypatch, [(0.0, 0.0), (5.0, 0.0), (1.0, 0.0), (1.0, 0.0)])
    config = tiny.rl_config(tmp_path / "run", episodes=80, eval_every=2, kl={"budget": 1e6}, value_init=start)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        for index in range(2):
            work.step(index)
        work.evaluate(2)
        torch.save(work.training_state(), tmp_path / "best.pt")
        for index in range(2, 4):
            work.learn(index)
        work._roll_back(4)
        again, state = Trainer(config, run), torch.load(tmp_path / "best.pt", weights_only=True)
        for name, learner in again.optimizers.items():
            learner.load(state[name])
            learner.steps_done = work.policy.steps_done
        assert (again.ridge_values is not None) == (start == "ridge")
        if again.ridge_values is not None:
            again.ridge_values.load(state["ridge_values"])
        again.kl = replace(again.kl, coefficient=work.kl.coefficient)
        assert work.kl.coefficient == 0.1
        assert work.learn(4) == again.learn(4)


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
    measure = Trainer.measure
    monkeypatch.setattr(Trainer, "measure", lambda self, *of: measure(self, *of) | {"score": float(self.policy.steps_done)})
    monkeypatch.setattr(Trainer, "_check_step_zero", lambda *_, **__: None)
    config = tiny.rl_config(
        tmp_path / "run", episodes=80, eval_every=1, kl={"budget": 1e6, "coefficient": 0.0}, max_rollbacks=0
    )
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        told = events(run, "guard")
        rows = run.journal.rows("rl")
    assert [(row["guard"], row["step"]) for row in told] == [("eval_score", 3)]
    assert (figures["updates"], figures["best_step"], figures["stopped"]) == (4, 0, told[0]["message"])
    assert "score" not in rows[3], "no batch is drawn once the evaluation has stopped the run"


def test_a_small_batch_alone_stops_nothing(tiny: Fixture, tmp_path: Path) -> None:
    """Two different answers to two prompts are each half of the batch."""
    config = tiny.rl_config(tmp_path / "run", episodes=12, batch_size=2, learning_rate=1e-6)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        rows = [work.step(index) for index in range(4)]
    assert [row["mode_response_rate"] for row in rows if row] == [0.0] * 4


def test_scores_that_are_not_finite_are_refused(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first batch the run cannot go on at all: the reward stage is at fault."""
    monkeypatch.setattr(
        RewardScorer, "score_details", lambda self, _, responses: [ScoreDetails(reward=math.nan)] * len(responses)
    )
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(tiny.rl_config(tmp_path / "run"), run)
        with pytest.raises(NotFiniteError, match=r"the score of the answer .* is nan \(8 of 8 answers\)") as told:
            work.step(0)
        assert "stage at fault: reward" in str(told.value)
        assert all(torch.equal(a, b) for a, b in zip(work.policy.model.state_dict().values(), weights(tiny.sft), strict=True))


def ruins(monkeypatch: pytest.MonkeyPatch, bad: set[int], what: str) -> None:
    """In the batches of these numbers a score, or the loss of the second minibatch, is not finite."""
    learn, plain, real = Trainer.learn, stage.collect_rollout, OptimizerStep.update
    now = {"index": -1, "steps": 0}

    def noted(self: Trainer, index: int) -> Any:
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

    def update(self: OptimizerStep, parts: Any, loss: Any, count: float, **more: Any) -> Any:
        now["steps"] += self.name == "rl policy"
        ruined = what == "loss" and now["index"] in bad and now["steps"] == 2
        return real(self, parts, (lambda part: loss(part) * math.nan) if ruined else loss, count, **more)

    monkeypatch.setattr(Trainer, "learn", noted)
    monkeypatch.setattr(stage, "collect_rollout", collect)
    monkeypatch.setattr(OptimizerStep, "update", update)


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
    evaluate = Trainer.evaluate

    def ruined(self: Trainer, step: int) -> Any:
        if step == 2 and not ruined.done:  # type: ignore[attr-defined]
            ruined.done = True  # type: ignore[attr-defined]
            with torch.no_grad():
                next(self.policy.model.parameters()).fill_(math.nan)
        return evaluate(self, step)

    ruined.done = False  # type: ignore[attr-defined]
    monkeypatch.setattr(Trainer, "evaluate", ruined)
    config = tiny.rl_config(tmp_path / "run", episodes=16, eval_every=100)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        told = [row["message"] for row in events(run, "warning")]
        improves = next(gate for gate in events(run, "gate") if gate["name"] == "rl_improves")
        assert same(run.layout.model("rl"), tiny.sft)
    assert "lower rl.learning_rate" in improves["advice"]
    assert figures["best_step"] == 0 and figures["kl_last"] == pytest.approx(0.0, abs=1e-4)
    assert len(told) == 1 and told[0].startswith("the last model is of no use")
