"""The one loop of RL: sample, score, estimate, update, record, guard, save. What a step learns from is the `Algorithm`'s."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from sawyer.config import Config, left_out, required_section
from sawyer.errors import NotFiniteError
from sawyer.maths import AdaptiveKL, FixedKL, linear_schedule
from sawyer.models import PolicyWithValue, RidgeValues, ValueNetwork, hold_in_bf16, network_of
from sawyer.records import Prompt
from sawyer.runs import Run
from sawyer.stages.rl.batch_metrics import (
    Evaluation,
    batch_metrics,
    eval_metrics,
    eval_rewards,
    eval_samples,
    length_correlation,
    pair_losses,
    pair_metrics,
)
from sawyer.stages.rl.best_checkpoint import BestCheckpoint
from sawyer.stages.rl.dpo_pairs import load_eval_pairs, load_pairs
from sawyer.stages.rl.dpo_updates import PairNetworks, eval_margins, update_on_pairs
from sawyer.stages.rl.guards import GuardEvent, Guards, guard_advice, guard_rules, kl_budget, raised_coefficient, stop_summary
from sawyer.stages.rl.networks import alone_mb, open_critic, open_networks
from sawyer.stages.rl.ppo_updates import fit_ridge_values, update_on_rollout
from sawyer.stages.rl.reward_sources import has_only_models, reward_networks, sft_disagreement
from sawyer.stages.rl.rl_algorithms import ALGORITHMS, UpdateReport
from sawyer.stages.rl.rl_gates import RlOutcome, step_zero_gates, stop_if_failed
from sawyer.stages.rl.rl_prompts import STAGE, load_prompts
from sawyer.stages.rl.rollout import (
    Rollout,
    RolloutSettings,
    check_scores_finite,
    collect_rollout,
    estimate_advantages,
    logprobs_and_entropies,
    logprobs_of,
)
from sawyer.stages.rl.step_zero_checks import SecondPass, saved_reward_models, second_pass, step_zero_measures
from sawyer.stages.rl.trust_guards import reward_verdict, verdict_summary
from sawyer.train import OptimizerStep, batch_indices, distributed, generator, memory_plan_summary, plan_memory
from sawyer.worlds import gold

BEST_METRICS = ("eval_reward", "eval_pair_loss", "eval_kl")  # by which the best model is chosen
ADAM_EPS = 1e-5  # as in Huang et al. 2024: at 1e-8 the first updates of rarely moved weights are too large


class Trainer:
    """A policy in training, its reference, the scorer, and the guards. `rl.algorithm` says what a step learns from."""

    def __init__(self, config: Config, run: Run) -> None:
        self.config, self.rl, self.run = config, required_section(config.rl, "rl"), run
        self.algorithm = ALGORITHMS[self.rl.algorithm]
        self.networks = open_networks(config, run)
        self.language_model, self.placement = self.networks.policy, self.networks.placement
        self.reference, self.scorer = self.networks.reference, self.networks.scorer
        self.settings = RolloutSettings.of(config, self.placement)
        if self.placement.precision == "bf16":
            for network in (self.reference, *reward_networks(self.scorer)):
                if network_of(network) is network:  # the gates of step zero read a shared one in fp32 as well
                    hold_in_bf16(network)
        self.prompts, self.eval_prompts = load_prompts(config, run, self.language_model, self.scorer)
        self._open_guards()
        self._open_training()
        self.evaluation: Evaluation | None = None  # the last one
        self.eval_rewards: list[float] = []  # its rewards by prompt, less the penalty of answers that did not end
        self.eval_scores: dict[str, list[float]] = {}  # its scores by prompt, and gold scores where the truth is known
        self.rollbacks = 0
        self.step_tokens = 0  # that the step's answers and pairs have, prompts included
        self.stop_message: str | None = None
        self.is_ruined = False  # by the last update: no answer of the policy's can be read

    def _open_guards(self) -> None:
        """The guards, as strict as the reward model's trust report asks, and the best model so far."""
        rl = self.rl
        self.verdict = reward_verdict(rl, self.run)
        self.rules = guard_rules(rl, self.verdict.guards if self.verdict is not None else ())
        self.guards = Guards(
            self.rules,
            max_new_tokens=rl.max_new_tokens,
            batch_size=rl.batch_size if rl.is_online else len(self.eval_prompts),
            advice=guard_advice(rl),
            disagreement=sft_disagreement(self.scorer),
            learned_reward=has_only_models(self.scorer),
        )
        mode_rate = self.rules["mode_response_rate"]
        self.best = BestCheckpoint(
            self.run.layout,
            STAGE,
            kl_budget=kl_budget(self.rules, rl),
            mode_rate_limit=1.0 if mode_rate.action == "off" else mode_rate.threshold,
            of_pairs=not self.config.is_scored,
        )

    def _open_training(self) -> None:
        """The data of the steps, what is trained on it, and the tie to the reference."""
        rl, config, run = self.rl, self.config, self.run
        self.critic = open_critic(config, run, self.networks) if self.algorithm.has_values else None
        self.ridge_values = self.critic if isinstance(self.critic, RidgeValues) else None
        encoder = self.language_model.prompt_encoder
        if self.algorithm.learns_from == "answers":
            self.steps = rl.episodes // rl.batch_size
            optimizer_steps, coefficient = self.steps * rl.epochs * rl.num_minibatches, rl.kl.coefficient
        else:
            self.pairs = load_pairs(config, run, encoder, self.eval_prompts)
            self.eval_pairs = () if config.is_scored else load_eval_pairs(config, run, encoder)
            self.pair_networks = PairNetworks(
                policy=self.language_model.model,
                reference=self.reference,
                placement=self.placement,
                pad_id=encoder.pad_id,
                token_budget=config.micro_batch_tokens,
            )
            self.steps = optimizer_steps = math.ceil(rl.epochs * len(self.pairs) / rl.batch_size)
            coefficient = rl.beta
        factor = partial(linear_schedule, steps=optimizer_steps, warmup_steps=0)
        policy_model: nn.Module = self.critic if isinstance(self.critic, PolicyWithValue) else self.language_model.model
        self.policy = OptimizerStep(policy_model, name="rl policy", learning_rate=rl.learning_rate, factor=factor, eps=ADAM_EPS)
        self.optimizers = {"policy": self.policy}
        self.value: OptimizerStep | None = None
        if isinstance(self.critic, ValueNetwork):
            rate = rl.learning_rate if rl.value_learning_rate is None else rl.value_learning_rate
            self.value = OptimizerStep(self.critic, name="rl value", learning_rate=rate, factor=factor, eps=ADAM_EPS)
            self.optimizers["value"] = self.value
        self.kl: AdaptiveKL | FixedKL = (
            FixedKL(coefficient=coefficient)
            if rl.kl.target is None
            else AdaptiveKL(coefficient=coefficient, target=rl.kl.target, horizon=rl.kl.horizon)
        )

    @property
    def progress_metric(self) -> str:
        """The metric beside the progress bar."""
        return "score" if self.algorithm.learns_from == "answers" else "loss"

    @property
    def plan(self) -> str:
        """The run's plan, in words."""
        rl, beside = self.rl, "policy and reference"
        if isinstance(self.critic, RidgeValues):
            beside = "values fitted, policy and reference"
        elif self.critic is not None:
            beside = "policy with value head, and reference" if self.value is None else "policy, reference and value network"
        if self.algorithm.learns_from == "answers":
            each = f", {rl.group_size} to each" if rl.group_size > 1 else ""
            data = f"{rl.batch_size} answers to {len(self.prompts):,} prompts{each}"
            updates = f"{self.steps:,} updates of {data}"
        else:
            pairs = sum(len(prompt.pairs) for prompt in self.pairs)
            updates = f"{self.steps:,} updates on {pairs:,} pairs of answers to {len(self.pairs):,} prompts"
        return (
            f"{rl.algorithm}: {updates}, {len(self.eval_prompts):,} prompts held out, {beside} of "
            f"{self.language_model.parameters / 1e6:.1f} M parameters, {self.placement.reason}"
        )

    @property
    def memory(self) -> str:
        """The memory of the networks, in words."""
        networks = self.networks.by_name(None if self.value is None else self.value.model)
        if self.policy.model is not self.language_model.model:  # a policy with a value head is trained as one
            networks = {"policy with value head": self.policy.model} | {k: v for k, v in networks.items() if k != "policy"}
        weights = [weight for optimizer in self.optimizers.values() for weight in optimizer.parameters]
        more = alone_mb(self.scorer)
        once = f"; before the first update {more:,.0f} MB more, while the saved reward model is loaded a second time"
        return f"memory: {memory_plan_summary(plan_memory(networks, weights))}{once if more else ''}"

    def log_verdict(self) -> None:
        """Log the guards that the trust report recommends, if any."""
        if self.verdict is not None and self.verdict.kind in ("guarded", "refuse"):
            kind = "warning" if self.verdict.kind == "refuse" else "plan"
            self.run.journal.event(STAGE, kind, message=verdict_summary(self.verdict, self.rl, self.guards))

    def step(self, index: int) -> Mapping[str, float] | None:
        """Evaluate if it is due, then learn from batch `index` unless a guard refuses it. None once a guard stopped the run."""
        if self.stop_message is not None:
            return None
        self.step_tokens = 0
        row = {self.algorithm.coefficient: self.kl.coefficient, "rollbacks": float(self.rollbacks)}
        try:
            if index % self.rl.eval_every == 0:
                row |= self.evaluate(index)
                self._guard_evaluation(index, row)
            if self.stop_message is None:
                row |= self.learn(index)
        except NotFiniteError as error:
            # Before anything is learnt the models or the data are at fault: there is no better model to go back to.
            if index == 0 or self.rules["non_finite"].action == "off":
                raise
            self._apply_guards(index, self.guards.count_non_finite(), error.given)
            row["refused"] = 1.0
        return row

    def learn(self, index: int) -> dict[str, float]:
        """Learn from batch `index`; its metrics."""
        return self._learn_from_answers(index) if self.algorithm.learns_from == "answers" else self._learn_from_pairs(index)

    def _learn_from_answers(self, index: int) -> dict[str, float]:
        rollout = self.sample(index)
        # The first batch is read as training reads it: the gates compare that with the sampler's log-probs.
        is_first = self.policy.steps_done == 0
        rollout = estimate_advantages(
            rollout,
            self.language_model.model,
            self.reference,
            self.critic,
            self.settings,
            self.rl,
            kl_coefficient=self.kl.coefficient,
            use_sampled_logprobs=not is_first and self.placement.precision == "fp32",
        )
        metrics = self.measure(rollout)
        if self._apply_guards(index, self.guards.check_batch(metrics)):
            return metrics
        second = self._read_again(rollout) if is_first else None
        report = update_on_rollout(
            rollout, self.policy, self.value, self.settings, self.rl, seed=self.config.seed, number=index
        )
        if self.ridge_values is not None:
            fit_ridge_values(self.ridge_values, rollout)
        if second is not None:
            self._check_step_zero(rollout, second, report)
        self.kl = self.kl.update(metrics["kl"], len(rollout.prompts))
        return metrics | report.metrics

    def _learn_from_pairs(self, index: int) -> dict[str, float]:
        pair_loss, total = self.algorithm.pair_loss, self.rl.epochs * len(self.pairs)
        assert pair_loss is not None
        prompts = [self.pairs[i] for i in self._batch_indices(len(self.pairs), self.rl.batch_size, index, total)]
        self.step_tokens += sum(prompt.tokens for prompt in prompts)
        # DPO samples nothing to learn from: the gates of step zero look at the answers of the evaluation just before. A resumed
        # run has no evaluation until the next one is due.
        rollout = self.evaluation.rollout if index == 0 and self.evaluation is not None else None
        second = None if rollout is None else self._read_again(rollout)
        report = update_on_pairs(prompts, self.policy, self.pair_networks, pair_loss, self.kl.coefficient)
        if rollout is not None and second is not None:
            self._check_step_zero(rollout, second, report)
        return report.metrics

    def sample(self, index: int) -> Rollout:
        """Answers to the prompts of update `index`, and their scores."""
        draws = generator(self.config.seed, STAGE, "rollout", index)
        prompts = self.prompts_at(index)
        rollout = collect_rollout(self.language_model, prompts, self.scorer, self.settings, draws, self.ridge_values)
        self.step_tokens += rollout.tokens
        return check_scores_finite(rollout)

    def prompts_at(self, index: int) -> list[Prompt]:
        """The prompts of update `index`, each as often as it is answered, one after the other."""
        group = self.rl.group_size
        chosen = self._batch_indices(len(self.prompts), self.rl.batch_size // group, index, self.rl.episodes // group)
        return [self.prompts[i] for i in chosen for _ in range(group)]

    def _batch_indices(self, count: int, batch_size: int, index: int, total: int) -> list[int]:
        return batch_indices(count, batch_size, index, total=total, seed=self.config.seed, stage=STAGE)

    def measure(self, rollout: Rollout) -> dict[str, float]:
        """Metrics of the batch before its update."""
        return batch_metrics(rollout, self.kl.coefficient, self.rl)

    def evaluate(self, step: int) -> dict[str, float]:
        """Answer the held-out prompts with the policy as it is after `step` updates; save it if it is the best so far.

        The best by the scores less the penalty of answers that do not end: else a policy that forgot how to end could win. A
        policy that gives a quarter of the prompts the same answer is never the best: the guard of that name is about to act.
        Every evaluation has the same draws, so that two differ by the policy alone.
        """
        draws = generator(self.config.seed, STAGE, "evaluate")
        rollout = collect_rollout(self.language_model, self.eval_prompts, self.scorer, self.settings, draws)
        self.step_tokens += rollout.tokens
        golds = None
        self.eval_scores = {"score": rollout.scores.tolist()}
        if self.config.world is not None:
            golds = [gold(p.text, t).score for p, t in zip(rollout.prompts, rollout.texts, strict=True)]
            self.eval_scores["gold"] = golds
        logprobs, entropies = logprobs_and_entropies(self.language_model.model, rollout.rows, self.settings)
        ref_logprobs = logprobs_of(self.reference, rollout.rows, self.settings)
        self.evaluation = Evaluation.of(rollout, logprobs, ref_logprobs, entropies=entropies, golds=golds)
        metrics = eval_metrics(self.evaluation, self.rl.missing_eos_penalty)
        self.eval_rewards = eval_rewards(rollout, self.rl.missing_eos_penalty).tolist()
        if not self.config.is_scored:  # dpo from pairs alone: its held-out pairs stand for the reward
            # At the configured beta: with one that a rollback has raised, two evaluations could not be compared.
            margins = eval_margins(self.eval_pairs, self.pair_networks, self.rl.beta)
            metrics = {name: value for name, value in metrics.items() if not name.endswith(("_reward", "_score"))}
            metrics, self.eval_rewards = metrics | pair_metrics(margins), [-loss for loss in pair_losses(margins)]
        self.run.journal.samples(STAGE, step, eval_samples(self.evaluation, is_scored=self.config.is_scored))
        self._warn_if_not_finite(step, metrics)
        if self.best.offer_evaluation(step, metrics, self.eval_rewards):
            self.best.save_policy(self.language_model, self.training_state())
        return metrics

    def _warn_if_not_finite(self, step: int, metrics: Mapping[str, float]) -> None:
        wrong = [name for name in BEST_METRICS if not math.isfinite(metrics.get(name, 0.0))]
        if wrong:
            figures = ", ".join(f"{name} {metrics[name]:g}" for name in wrong)
            message = f"the evaluation after {step} updates is not finite ({figures}): such a model is never the best one"
            self.run.journal.event(STAGE, "warning", message=f"{message}; look at the RL reward")

    def _guard_evaluation(self, index: int, row: Mapping[str, float]) -> None:
        """Let the guards look at the evaluation; with DPO also as at a batch: between evaluations it has no answers."""
        if self.algorithm.learns_from == "pairs" and self.evaluation is not None:
            batch = {name.removeprefix("eval_"): value for name, value in row.items() if name.startswith("eval_")}
            batch["length_correlation"] = length_correlation(self.evaluation.rollout)
            batch.setdefault("score", 0.0)  # without a scorer no guard that looks at scores can trip
            self._apply_guards(index, self.guards.check_batch(batch))
        self._apply_guards(index, self.guards.check_evaluation(self.eval_scores))

    def close(self, steps_done: int) -> dict[str, float]:
        """The last evaluation; where the last update has ruined the policy, of the best model."""
        try:
            return self.evaluate(steps_done)
        except NotFiniteError as error:
            message = f"the last model is of no use: {error.given}; the best one is kept"
            self.run.journal.event(STAGE, "warning", message=message)
            self.is_ruined = True
            self._restore_best()
            return self.evaluate(steps_done)

    def outcome(self) -> RlOutcome:
        """The run's evaluations, after the last one."""
        rows = distributed.on_rank_zero(lambda: self.run.journal.rows(STAGE))
        shares = [row["zero_variance_groups"] for row in rows if "zero_variance_groups" in row]
        return RlOutcome(
            start=tuple(self.best.rewards["start"]),
            best=tuple(self.best.rewards["best"]),
            last=tuple(self.eval_rewards),
            evaluations=self.best.evaluations,
            is_ruined=self.is_ruined,
            eos_rate=None if self.evaluation is None else float(self.evaluation.rollout.ended.float().mean()),
            zero_variance=sum(shares) / len(shares) if shares else None,
        )

    def _read_again(self, rollout: Rollout) -> SecondPass:
        """The first batch as the gates of step zero read it, before it is learnt from."""
        saved_models = saved_reward_models(self.scorer, self.rl.rewards, str(self.run.layout.model("reward")))
        return second_pass(rollout, self.language_model.model, self.settings, saved_models, self.config.template)

    def _check_step_zero(self, rollout: Rollout, second: SecondPass, report: UpdateReport) -> None:
        gates = step_zero_gates(step_zero_measures(rollout, second, report, self.rl.clip_range))
        if words := left_out(self.config, STAGE):
            self.run.journal.event(STAGE, "left_out", message=words)
        for gate in gates:
            self.run.journal.gate(gate)
        stop_if_failed(gates)

    def _apply_guards(self, updates: int, events: Sequence[GuardEvent], detail: str = "") -> bool:
        """Do what the guards ask for after so many updates; whether the policy must not learn from this batch."""
        for event in sorted(events, key=lambda event: event.action != "stop"):  # a stop comes before what would go on
            message = f"{event.message(updates)}{f' ({detail})' if detail else ''}"
            action = event.action
            if action == "rollback" and self.rollbacks >= self.rl.max_rollbacks:
                action = "stop"
            if action == "stop":
                message = stop_summary(message, event, self.rollbacks, self._kl_coefficient_summary())
                self.stop_message = message
            if action == "warn":
                message = f"{message}; what to try: {event.advice}"
            self.run.journal.event(STAGE, "guard", guard=event.guard, step=updates, action=action, message=message)
            if action == "rollback":
                self._roll_back(updates)
            if action != "warn":
                return True
        return False

    def _roll_back(self, updates: int) -> None:
        """Restore the best model and its optimizers, and double the larger of the KL coefficients of now and then."""
        state = self._restore_best()
        self.kl = replace(self.kl, coefficient=raised_coefficient(max(self.kl.coefficient, state["kl_coefficient"])))
        self.rollbacks += 1
        self.guards.reset_streaks()
        best, name = self.best.step, "beta" if self.algorithm.coefficient == "beta" else "the KL coefficient"
        message = f"put back to the model after update {best}, rollback {self.rollbacks} of {self.rl.max_rollbacks}"
        message += f"; {name} is {self.kl.coefficient:g} from now on"
        self.run.journal.event(STAGE, "rollback", step=updates, to=best, message=message)

    def _kl_coefficient_summary(self) -> str:
        name = "beta" if self.algorithm.coefficient == "beta" else "KL coefficient"
        return f"{name} of {self.kl.coefficient:g}"

    def _restore_best(self) -> dict[str, Any]:
        """Load the best model's weights, optimizers and ridge values; the learning rate goes on falling as the run does."""
        state = self.best.load_training_state()
        for name, optimizer in self.optimizers.items():
            steps_done = optimizer.steps_done
            optimizer.load(state[name])
            optimizer.steps_done = steps_done
        if self.ridge_values is not None:
            self.ridge_values.load(state["ridge_values"])
        return state

    def training_state(self) -> dict[str, Any]:
        """What is trained, fitted and controlled: what a rollback restores."""
        state: dict[str, Any] = {name: optimizer.state() for name, optimizer in self.optimizers.items()}
        state |= {} if self.ridge_values is None else {"ridge_values": self.ridge_values.state()}
        return state | {"kl_coefficient": self.kl.coefficient}

    def state(self) -> dict[str, Any]:
        """All that the run needs to be resumed."""
        return {
            **self.training_state(),
            "guards": self.guards.state(),
            "best": self.best.state(),
            "rollbacks": self.rollbacks,
            "stop_message": self.stop_message,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        for name, optimizer in self.optimizers.items():
            optimizer.load(state[name])
        if self.ridge_values is not None:
            self.ridge_values.load(state["ridge_values"])
        self.kl = replace(self.kl, coefficient=state["kl_coefficient"])
        self.guards.load(state["guards"])
        self.best.load(state["best"])
        self.rollbacks, self.stop_message = state["rollbacks"], state["stop_message"]
