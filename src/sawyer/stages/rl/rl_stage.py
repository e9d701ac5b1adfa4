"""The stage: train by `rl.algorithm`, save the best model within the KL budget, evaluate, check the gates."""

from __future__ import annotations

from typing import Any

from sawyer.config import Config, required_section
from sawyer.runs import Run
from sawyer.stages.rl.best_checkpoint import BestCheckpoint
from sawyer.stages.rl.best_of_n import best_of_n
from sawyer.stages.rl.reward_sources import warn_of_cut_answers
from sawyer.stages.rl.rl_algorithms import ALGORITHMS
from sawyer.stages.rl.rl_gates import final_gates
from sawyer.stages.rl.trainer import STAGE, Trainer
from sawyer.train import run_steps, stop_if_requested, write_folder


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train the policy against the scorer or on judged pairs and save the best model; returns the key figures.

    Best-of-n trains nothing: its answers are measured instead.
    """
    rl = required_section(config.rl, "rl")
    if ALGORITHMS[rl.algorithm].learns_from == "nothing":
        return best_of_n(config, run)
    trainer = Trainer(config, run)
    message = f"{trainer.plan}{_reward_summary(config)}; written with {trainer.language_model.reads}"
    run.journal.event(STAGE, "plan", message=message)
    run.journal.event(STAGE, "plan", message=trainer.memory)
    trainer.log_verdict()
    done = run_steps(run, STAGE, trainer, save_every_seconds=config.save_every_seconds, show=trainer.progress_metric)
    stop_if_requested(run, STAGE)
    # Saved before the last evaluation, which may fail (it calls the user's functions); again where that finds a better one.
    best = trainer.best
    before = best.best
    _save_best(run, best, done)
    last = trainer.close(done)
    run.journal.metrics(STAGE, done, last)
    warn_of_cut_answers(run, trainer.scorer)
    if best.best is not before:
        _save_best(run, best, done)
    run.journal.event(STAGE, "best_checkpoint", step=best.step, message=best.summary(done))
    first, highest = best.start["reward"], best.best["reward"]
    change = (
        {"pair_loss_first": -first, "pair_loss_best": -highest}
        if best.of_pairs
        else {"reward_sft": first, "reward_best": highest}
    )
    outcome = trainer.outcome()
    figures: dict[str, Any] = {
        "algorithm": rl.algorithm,
        **change,
        "best_step": best.step,
        "kl": best.best["kl"],
        "kl_last": last["eval_kl"],
        "best_checkpoint": best.summary(done),
        "updates": done,
        "rollbacks": trainer.rollbacks,
        "stopped": trainer.stop_message or "",
        **outcome.figures(of_pairs=best.of_pairs),
    }
    for gate in final_gates(figures, rl, outcome, best.kl_budget):
        run.journal.gate(gate)
    return figures


def _save_best(run: Run, best: BestCheckpoint, done: int) -> None:
    if best.best:
        extra = {"best_step": best.step, "of_steps": done}
        write_folder(run.layout.model(STAGE), lambda new: best.copy_model_to(new, extra))


def _reward_summary(config: Config) -> str:
    """The reward's parts and weights, where it is not the run's reward model alone."""
    parts = required_section(config.rl, "rl").rewards
    return f"; reward: {' + '.join(f'{part.weight:g} x {part.name}' for part in parts)}" if parts else ""
