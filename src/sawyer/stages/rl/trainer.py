"""What every algorithm that trains a policy has in common: networks, what pays, evaluation, guards, the best model so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.config import Config, left_out, required_section
from sawyer.errors import DataError, NotFiniteError
from sawyer.models import LanguageModel, RewardScorer, Scorer, hold_in_bf16, network_of
from sawyer.records import Prompt, leave_out, once_each, prompt_in, read, split
from sawyer.runs import Run
from sawyer.stages.rl.batch_metrics import HeldOut, eval_measures, eval_rewards, pair_losses, pair_measures, shown
from sawyer.stages.rl.best_checkpoint import Best
from sawyer.stages.rl.guards import GuardEvent, Guards, advice_for, kl_budget, rules_of, stop_words
from sawyer.stages.rl.networks import alone_mb, open_networks
from sawyer.stages.rl.reward_sources import all_learned, judges_of, own_disagreement, parts_of
from sawyer.stages.rl.rl_gates import Outcome, step_zero_gates, stop_if_failed
from sawyer.stages.rl.rollout import Episodes, Experience, collect, logprobs_and_entropies, logprobs_of
from sawyer.stages.rl.step_zero_checks import Reread, measured, reread
from sawyer.stages.rl.trust_guards import reward_verdict, verdict_summary
from sawyer.text import find_unrenderable
from sawyer.train import (
    OptimizerStep,
    distributed,
    generator,
    memory_plan_summary,
    plan_memory,
    read_data,
    readable,
    report_remarks,
)
from sawyer.worlds import gold

STAGE = "rl"
DECIDING = ("eval_reward", "eval_pair_loss", "eval_kl")  # by which the best model is chosen
ADAM_EPS = 1e-5  # as in Huang et al. 2024: at 1e-8 the first updates of rarely moved weights are too large


class PolicyTrainer:
    """A policy that is trained, its reference, what pays, and what watches over it. Subclasses say what is learnt in a step."""

    policy: OptimizerStep
    steps: int
    shown = "score"  # the figure beside the progress bar

    def __init__(self, config: Config, run: Run) -> None:
        self.config, self.asked, self.run = config, required_section(config.rl, "rl"), run
        self.networks = open_networks(config, run)
        self.policy_speaker, self.place = self.networks.speaker, self.networks.place
        self.reference, self.scorer = self.networks.reference, self.networks.scorer
        if self.place.precision == "bf16":
            for network in (self.reference, *judges_of(self.scorer)):
                if network_of(network) is network:  # a shared one is read in fp32 as well, by the gates of step zero
                    hold_in_bf16(network)
        self.prompts, self.held_out = prompts_of(config, run, self.policy_speaker, self.scorer)
        self.step_tokens = 0
        self.verdict = reward_verdict(self.asked, run)
        self.rules = rules_of(self.asked, self.verdict.guards if self.verdict is not None else ())
        self.guards = Guards(
            self.rules,
            longest=self.asked.max_new_tokens,
            answers=self.asked.batch_size if self.asked.is_online else len(self.held_out),
            advice=advice_for(self.asked),
            disagreement=own_disagreement(self.scorer),
            learned=all_learned(self.scorer),
        )
        alike = self.rules["mode_response_rate"]
        self.best = Best(
            run.layout,
            STAGE,
            budget=kl_budget(self.rules, self.asked),
            alike=1.0 if alike.action == "off" else alike.threshold,
            of_pairs=not config.is_scored,
        )
        self.found: HeldOut | None = None  # the last evaluation's answers
        self.judged: dict[str, list[float]] = {}  # and what they are worth, by prompt
        self.rewards: list[float] = []  # and their rewards, less the penalty of those that did not end
        self.rollbacks = 0
        self.stopped: str | None = None
        self.ruined = False  # by the last update: no answer of the policy's can be read

    @property
    def plan(self) -> str:
        """What is about to be done, in words."""
        raise NotImplementedError

    def tell_verdict(self) -> None:
        """What the trust report asks for, in the journal; a verdict that asks for nothing is not told again."""
        if self.verdict is not None and self.verdict.kind in ("guarded", "refuse"):
            kind = "warning" if self.verdict.kind == "refuse" else "plan"
            self.run.journal.event(STAGE, kind, message=verdict_summary(self.verdict, self.asked, self.guards))

    @property
    def memory(self) -> str:
        """What the networks take of memory, in words."""
        value = self.learners["value"].model if "value" in self.learners else None
        held = self.networks.held(value)
        if self.policy.model is not self.policy_speaker.model:  # a policy with a value head is trained as one
            held = {"policy with value head": self.policy.model} | {k: v for k, v in held.items() if k != "policy"}
        trained = [weight for learner in self.learners.values() for weight in learner.parameters]
        more = alone_mb(self.scorer)
        once = f"; before the first update {more:,.0f} MB more for a moment, where the saved reward model is asked alone"
        return f"memory: {memory_plan_summary(plan_memory(held, trained))}{once if more else ''}"

    @property
    def controls(self) -> dict[str, float]:
        """What ties the policy to its reference in this step, by the name that the journal has for it."""
        raise NotImplementedError

    def step(self, index: int) -> Mapping[str, float] | None:
        """Evaluate if it is time to, then learn from one batch; a batch that a guard refuses is not learnt from. None once a
        guard has stopped the run."""
        if self.stopped is not None:
            return None
        self.step_tokens = 0
        row = {**self.controls, "rollbacks": float(self.rollbacks)}
        try:
            if index % self.asked.eval_every == 0:
                row |= self._evaluated(index)
            return row if self.stopped is not None else row | self._learn(index)
        except NotFiniteError as error:
            if index == 0 or self.rules["non_finite"].action == "off":
                raise
            self._apply_guard(index, self.guards.not_finite(), error.given)
            return row | {"refused": 1.0}

    def _evaluated(self, index: int) -> dict[str, float]:
        """Evaluate, and let the guards look at what was found."""
        found = self.evaluate(index)
        self._apply_guard(index, self.guards.evaluated(self.judged))
        return found

    def _learn(self, index: int) -> dict[str, float]:
        """Learn once; what is told of it."""
        raise NotImplementedError

    def evaluate(self, step: int) -> dict[str, float]:
        """Answer the held-out prompts with the policy as it is after `step` updates; keep it if it is the best so far.

        The best by the scores less the penalty of answers that do not end: else a policy that forgot how to end could win. One
        that gives a quarter of the prompts the same answer is never the best: the guard of that name is about to act.
        The same draws every time, so that two evaluations differ by the policy alone.
        """
        draw = generator(self.config.seed, STAGE, "evaluate")
        episodes = collect(self.policy_speaker, self.held_out, self.scorer, self.config, self.place, draw)
        self.step_tokens += episodes.tokens
        golds = None
        self.judged = {"score": episodes.scores.tolist()}
        if self.config.world is not None:
            golds = [gold(p.text, t).score for p, t in zip(episodes.prompts, episodes.texts, strict=True)]
            self.judged["gold"] = golds
        logprobs, entropies = logprobs_and_entropies(self.policy_speaker.model, episodes.rows, self.config, self.place)
        found = self.found = HeldOut(
            episodes=episodes,
            logprobs=logprobs,
            ref_logprobs=logprobs_of(self.reference, episodes.rows, self.config, self.place),
            entropies=entropies,
            golds=golds,
        )
        metrics = eval_measures(found, self.asked.missing_eos_penalty)
        self.rewards = eval_rewards(found, self.asked.missing_eos_penalty).tolist()
        if not self.config.is_scored:  # dpo alone goes without a scorer, and has pairs
            margins = self.eval_margins()
            metrics = {name: value for name, value in metrics.items() if not name.endswith(("_reward", "_score"))}
            metrics, self.rewards = metrics | pair_measures(margins), [-loss for loss in pair_losses(margins)]
        self.run.journal.samples(STAGE, step, shown(found, scored=self.config.is_scored))
        wrong = [name for name in DECIDING if not math.isfinite(metrics.get(name, 0.0))]
        if wrong:
            figures = ", ".join(f"{name} {metrics[name]:g}" for name in wrong)
            message = f"the evaluation after {step} updates is not finite ({figures}): such a model is never the best one"
            self.run.journal.event(STAGE, "warning", message=f"{message}; look at what rl pays for")
        if self.best.offer(step, metrics, self.rewards):
            self.best.keep(self.policy_speaker, self.learnt())
        return metrics

    def eval_margins(self) -> list[list[float]]:
        """Of held-out pairs, prompt by prompt, by which an algorithm is judged whose answers nobody scores."""
        raise NotImplementedError

    def close(self, done: int) -> dict[str, float]:
        """The last evaluation; where the last update has ruined the policy, of the best model."""
        try:
            return self.evaluate(done)
        except NotFiniteError as error:
            self.run.journal.event(
                STAGE, "warning", message=f"the last model is of no use: {error.given}; the best one is kept"
            )
            self.ruined = True
            self._put_back()
            return self.evaluate(done)

    def outcome(self) -> Outcome:
        """What the run's evaluations found, after the last one."""
        rows = distributed.on_rank_zero(lambda: self.run.journal.rows(STAGE))
        shares = [row["zero_variance_groups"] for row in rows if "zero_variance_groups" in row]
        return Outcome(
            start=tuple(self.best.rewards["start"]),
            best=tuple(self.best.rewards["best"]),
            last=tuple(self.rewards),
            evaluations=self.best.evaluations,
            ruined=self.ruined,
            ended=None if self.found is None else float(self.found.episodes.ended.float().mean()),
            zero_variance=sum(shares) / len(shares) if shares else None,
        )

    def _reread(self, episodes: Episodes) -> Reread:
        """The first batch as the gates of step zero read it, before it is learnt from."""
        return reread(episodes, self.policy_speaker.model, self.scorer, self.config, self.run, self.place)

    def _step_zero(
        self, episodes: Episodes, experience: Experience, again: Reread, ratio_error: float, clip_fraction: float
    ) -> None:
        found = measured(
            episodes, experience, again, ratio_error=ratio_error, clip_fraction=clip_fraction, clip=self.asked.clip_range
        )
        gates = step_zero_gates(found)
        if words := left_out(self.config, STAGE):
            self.run.journal.event(STAGE, "left_out", message=words)
        for gate in gates:
            self.run.journal.gate(gate)
        stop_if_failed(gates)

    def _apply_guard(self, updates: int, tripped: Sequence[GuardEvent], detail: str = "") -> bool:
        """Do what the guards ask for after so many updates; whether the policy must not learn from this batch."""
        for one in sorted(tripped, key=lambda one: one.action != "stop"):  # a stop comes before what would go on
            words = f"{one.told(updates)}{f' ({detail})' if detail else ''}"
            action = one.action
            if action == "rollback" and self.rollbacks >= self.asked.max_rollbacks:
                action = "stop"
            if action == "stop":
                words = self.stopped = stop_words(words, one, self.rollbacks, self.price)
            if action == "warn":
                words = f"{words}; what to try: {one.advice}"
            self.run.journal.event(STAGE, "guard", guard=one.guard, step=updates, action=action, message=words)
            if action == "rollback":
                self._roll_back(updates)
            if action != "warn":
                return True
        return False

    def _roll_back(self, updates: int) -> None:
        """Put all that is learnt and steered back to the best model; its KL gets dearer."""
        dearer = self.make_dearer(self._put_back())
        self.rollbacks += 1
        self.guards.begin_again()
        best = int(self.best.found["step"])
        self.run.journal.event(
            STAGE,
            "rollback",
            step=updates,
            to=best,
            message=f"put back to the model after update {best}, "
            f"rollback {self.rollbacks} of {self.asked.max_rollbacks}{dearer}",
        )

    def _put_back(self) -> dict[str, Any]:
        """The weights and optimizers of the best model; the learning rate goes on falling as the run does."""
        kept = self.best.kept()
        for name, learner in self.learners.items():
            done = learner.steps_done
            learner.load(kept[name])
            learner.steps_done = done
        return kept

    @property
    def learners(self) -> dict[str, OptimizerStep]:
        """Who is trained."""
        return {"policy": self.policy}

    @property
    def price(self) -> str:
        """What a nat of KL costs now, in words; empty where nothing is paid for it."""
        return ""

    def make_dearer(self, kept: Mapping[str, Any]) -> str:
        """After a rollback to `kept`: what else changes, in words."""
        return ""

    def learnt(self) -> dict[str, Any]:
        """What is learnt and steered: what a rollback brings back."""
        return {name: learner.state() for name, learner in self.learners.items()}

    def state(self) -> dict[str, Any]:
        """All that a later sitting needs, streaks and rollbacks included."""
        return {
            **self.learnt(),
            "guards": self.guards.state(),
            "best": self.best.state(),
            "rollbacks": self.rollbacks,
            "stopped": self.stopped,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        for name, learner in self.learners.items():
            learner.load(state[name])
        self.guards.load(state["guards"])
        self.best.load(state["best"])
        self.rollbacks, self.stopped = state["rollbacks"], state["stopped"]


def prompts_of(
    config: Config, run: Run, speaker: LanguageModel, scorer: Scorer
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The prompts to train on and those to evaluate on, which the policy and all that scores its answers can read; what is left
    out is told. Raises DataError where none is left."""
    asked = required_section(config.rl, "rl")
    # DPO may go without prompts of their own: those of its pairs are asked then. What is wrong with the pairs it says itself.
    if asked.prompts:
        read_in = read_data(
            run,
            STAGE,
            asked.prompts,
            want="prompts",
            columns=asked.columns,
            max_bad_rows=config.max_bad_rows,
            prompt_encoder=speaker.prompt_encoder,
        )
        read_in = read_in if asked.has_functions else once_each(read_in)
        report_remarks(run, STAGE, "rl.prompts", read_in)
    else:
        read_in = read(asked.data, want="comparisons", columns=asked.columns, max_bad_rows=config.max_bad_rows)
        read_in = leave_out(read_in, find_unrenderable(speaker.prompt_encoder, read_in.records), config.max_bad_rows)
    judges = {name: part.prompt_encoder for name, part in parts_of(scorer) if isinstance(part, RewardScorer)}
    read_in = readable(run, STAGE, read_in, judges, config.max_bad_rows)
    found = [prompt_in(record) for record in read_in.records]
    if not asked.prompts:  # of which one may have many pairs
        found = list({prompt.messages: prompt for prompt in found}.values())
    if asked.max_prompt_tokens is not None:
        short = [prompt for prompt in found if len(speaker.prompt_encoder.prompt(prompt)) <= asked.max_prompt_tokens]
        if len(short) < len(found):
            message = f"{len(found) - len(short):,} of {len(found):,} prompts are longer than {asked.max_prompt_tokens:,}"
            run.journal.event(STAGE, "data", message=f"rl.max_prompt_tokens: {message} tokens and are left out")
        found = short
    fitting = [prompt for prompt in found if speaker.prompt_encoder.fits(prompt, room=asked.max_new_tokens)]
    if len(fitting) < len(found):
        run.journal.event(
            STAGE,
            "warning",
            message=f"{len(found) - len(fitting)} of {len(found)} prompts leave no room for {asked.max_new_tokens} new tokens "
            f"in the model's {speaker.prompt_encoder.context} and are left out",
        )
    prompts, held_out = split(fitting, asked.eval_fraction)
    if not prompts:
        raise DataError(
            f"rl.{'prompts' if asked.prompts else 'data'} has no prompt to train on",
            expected="prompts that fit the model beside their answer",
            todo="give shorter prompts, lower rl.max_new_tokens, or lower rl.eval_fraction",
        )
    if not held_out:
        run.journal.event(STAGE, "warning", message="no prompt is held out: the best model is chosen on training prompts")
    return tuple(prompts), tuple((held_out or prompts)[: asked.eval_prompts])
