"""The stage: updates, evaluation on fixed held-out prompts, the best model within the KL budget, gates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from sawyer.config import Config, required_section
from sawyer.maths import AdaptiveKL, FixedKL, linear_schedule
from sawyer.models import PolicyWithValue, RidgeValues
from sawyer.records import Prompt
from sawyer.runs import Run
from sawyer.stages.rl.batch_metrics import batch_measures
from sawyer.stages.rl.best_checkpoint import Best
from sawyer.stages.rl.best_of_n import best_of_n
from sawyer.stages.rl.dpo_updates import DpoLoop
from sawyer.stages.rl.guards import raised
from sawyer.stages.rl.networks import open_value_network, ridge_values
from sawyer.stages.rl.ppo_updates import fit_ridge_values, update
from sawyer.stages.rl.reward_sources import tell_cut
from sawyer.stages.rl.rl_gates import final_gates
from sawyer.stages.rl.rollout import Episodes, Experience, collect, estimate, finite
from sawyer.stages.rl.trainer import ADAM_EPS, STAGE, PolicyTrainer
from sawyer.train import OptimizerStep, batch_indices, generator, run_steps, stop_if_asked, write_folder


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train the policy against the reward model, or on the pairs that it was trained on; save the best one; returns the key
    figures. Best-of-n trains nothing and is measured alone."""
    rl = required_section(config.rl, "rl")
    if rl.algorithm == "best_of_n":
        return best_of_n(config, run)
    work = DpoLoop(config, run) if rl.algorithm == "dpo" else RlLoop(config, run)
    run.journal.event(STAGE, "plan", message=f"{work.plan}{_paid(config)}; written with {work.policy_speaker.reads}")
    run.journal.event(STAGE, "plan", message=work.memory)
    work.tell_verdict()
    done = run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds, show=work.shown)
    stop_if_asked(run, STAGE)
    # Saved before the last evaluation, which may fail (it asks the user's functions); again where that finds a better one.
    best = work.best
    before = best.found
    _save(run, best, done)
    last = work.close(done)
    run.journal.metrics(STAGE, done, last)
    tell_cut(run, work.scorer)
    if best.found is not before:
        _save(run, best, done)
    run.journal.event(STAGE, "best_checkpoint", step=int(best.found["step"]), message=best.why(done))
    first, found = best.start["reward"], best.found["reward"]
    told = (
        {"pair_loss_first": -first, "pair_loss_best": -found} if best.of_pairs else {"reward_sft": first, "reward_best": found}
    )
    figures: dict[str, Any] = {
        "algorithm": rl.algorithm,
        **told,
        "best_step": int(best.found["step"]),
        "kl": best.found["kl"],
        "kl_last": last["eval_kl"],
        "best_checkpoint": best.why(done),
        "updates": done,
        "rollbacks": work.rollbacks,
        "stopped": work.stopped or "",
    }
    outcome = work.outcome()
    figures |= outcome.figures(of_pairs=best.of_pairs)
    for gate in final_gates(figures, rl, outcome, best.budget):
        run.journal.gate(gate)
    return figures


def _save(run: Run, best: Best, done: int) -> None:
    if best.found:
        extra = {"best_step": int(best.found["step"]), "of_steps": done}
        write_folder(run.layout.model(STAGE), lambda new: best.give(new, extra))


class RlLoop(PolicyTrainer):
    """PPO, RLOO or GRPO: one step is one batch of sampled answers and what is learnt from it."""

    def __init__(self, config: Config, run: Run) -> None:
        super().__init__(config, run)
        asked = self.asked
        self.steps = asked.episodes // asked.batch_size
        factor = partial(linear_schedule, steps=self.steps * asked.epochs * asked.num_minibatches, warmup_steps=0)
        # What estimates values, and who trains it: nobody of its own where it is a head on the policy's trunk, or is fitted.
        self.critic: nn.Module | RidgeValues | None = None
        self.value: OptimizerStep | None = None
        self.fitted: RidgeValues | None = None
        trained: nn.Module = self.policy_speaker.model
        if asked.algorithm == "ppo" and asked.value_init == "shared":
            self.critic = trained = PolicyWithValue(trained).to(self.place.device)
        elif asked.algorithm == "ppo" and asked.value_init == "ridge":
            self.critic = self.fitted = ridge_values(config, run, self.networks)
        elif asked.algorithm == "ppo":
            self.critic = network = open_value_network(config, run, self.networks).to(self.place.device)
            rate = asked.learning_rate if asked.value_learning_rate is None else asked.value_learning_rate
            self.value = OptimizerStep(network, name="rl value", learning_rate=rate, factor=factor, eps=ADAM_EPS)
        self.policy = OptimizerStep(trained, name="rl policy", learning_rate=asked.learning_rate, factor=factor, eps=ADAM_EPS)
        self.kl: AdaptiveKL | FixedKL = (
            FixedKL(coefficient=asked.kl.coefficient)
            if asked.kl.target is None
            else AdaptiveKL(coefficient=asked.kl.coefficient, target=asked.kl.target, horizon=asked.kl.horizon)
        )

    @property
    def plan(self) -> str:
        asked, beside = self.asked, "policy and reference"
        if asked.algorithm == "ppo":
            if self.value is not None:
                beside = "policy, reference and value network"
            elif self.fitted is not None:
                beside = "values fitted, policy and reference"
            else:
                beside = "policy with value head, and reference"
        each = f", {asked.group_size} to each" if asked.group_size > 1 else ""
        return (
            f"{asked.algorithm}: {self.steps:,} updates of {asked.batch_size} answers to {len(self.prompts):,} prompts{each}, "
            f"{len(self.held_out):,} prompts held out, {beside} of {self.policy_speaker.parameters / 1e6:.1f} M parameters, "
            f"{self.place.reason}"
        )

    @property
    def controls(self) -> dict[str, float]:
        """What a nat of KL costs in this step."""
        return {"kl_coefficient": self.kl.coefficient}

    def _learn(self, index: int) -> dict[str, float]:
        draw = generator(self.config.seed, STAGE, "rollout", index)
        prompts = self.asked_at(index)
        episodes = collect(self.policy_speaker, prompts, self.scorer, self.config, self.place, draw, self.fitted)
        self.step_tokens += episodes.tokens
        finite(episodes)
        policy, coefficient = self.policy_speaker.model, self.kl.coefficient
        # The first batch that is learnt from is read as training reads it: the gates see whether sampling says the same.
        first = self.policy.steps_done == 0
        sampled = not first and self.place.precision == "fp32"
        experience = estimate(episodes, policy, self.reference, self.critic, coefficient, self.config, self.place, sampled)
        metrics = self.measure(episodes, experience)
        if self._apply_guard(index, self.guards.look(metrics)):
            return metrics
        again = self._reread(episodes) if first else None
        report = update(experience, self.policy, self.value, self.config, self.place, index)
        if self.fitted is not None:
            fit_ridge_values(self.fitted, experience)
        if again is not None:
            self._step_zero(episodes, experience, again, report.first_ratio_error, report.first_clip_fraction)
        self.kl = self.kl.update(metrics["kl"], len(episodes.prompts))
        return metrics | report.metrics

    def asked_at(self, index: int) -> list[Prompt]:
        """The prompts of update `index`, each as often as it is answered, one after the other."""
        group = self.asked.group_size
        chosen = batch_indices(
            len(self.prompts),
            self.asked.batch_size // group,
            index,
            total=self.asked.episodes // group,
            seed=self.config.seed,
            stage=STAGE,
        )
        return [self.prompts[i] for i in chosen for _ in range(group)]

    def measure(self, episodes: Episodes, experience: Experience) -> dict[str, float]:
        """Figures of the batch before its update."""
        return batch_measures(episodes, experience, self.kl.coefficient, self.asked)

    @property
    def learners(self) -> dict[str, OptimizerStep]:
        """Who is trained."""
        return super().learners | ({} if self.value is None else {"value": self.value})

    def learnt(self) -> dict[str, Any]:
        """What is learnt, fitted and steered."""
        values = {} if self.fitted is None else {"values": self.fitted.state()}
        return super().learnt() | {"kl": self.kl.coefficient} | values

    def _put_back(self) -> dict[str, Any]:
        kept = super()._put_back()
        if self.fitted is not None:
            self.fitted.load(kept["values"])
        return kept

    def make_dearer(self, kept: Mapping[str, Any]) -> str:
        """A nat of KL costs twice as much as it did, or as it did when the best model was kept."""
        self.kl = self.kl.at(raised(max(self.kl.coefficient, kept["kl"])))
        return f"; the KL coefficient is {self.kl.coefficient:g} from now on"

    @property
    def price(self) -> str:
        """What a nat of KL costs now, in words."""
        return f", the last with a KL coefficient of {self.kl.coefficient:g}"

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().load(state)
        self.kl = self.kl.at(state["kl"])
        if self.fitted is not None:
            self.fitted.load(state["values"])


def _paid(config: Config) -> str:
    """What is paid for, where it is not the run's reward model alone."""
    rl = required_section(config.rl, "rl")
    return "".join(f"{'; paid for: ' if i == 0 else ' + '}{p.weight:g} x {p.name}" for i, p in enumerate(rl.rewards))
