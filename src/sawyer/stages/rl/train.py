"""The stage: updates, evaluation on fixed held-out prompts, the best model within the KL budget, gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from sawyer.config import Config
from sawyer.engine import Learner, batch_indices, choose_place, generator, run_steps, stop_if_asked
from sawyer.errors import DataError, TrainingError
from sawyer.maths import (
    AdaptiveKL,
    FixedKL,
    distinct_n,
    kl_k1,
    linear_schedule,
    masked_mean,
    masked_sum,
    missing_eos,
)
from sawyer.models import Speaker, open_speaker, save_model
from sawyer.records import Prompt, read, split
from sawyer.runs import Run, replace_folder
from sawyer.stages.rl.gates import final_gates, step_zero_gates
from sawyer.stages.rl.guards import SAME_ANSWER, Guards, Tripped, same_answer
from sawyer.stages.rl.ppo import update
from sawyer.stages.rl.rollout import Episodes, Experience, collect, estimate, logprobs_of
from sawyer.stages.rl.scorers import open_scorer, open_value, own_disagreement, tell_cut
from sawyer.worlds import gold

STAGE = "rl"
SHOWN = 8  # samples written to the journal at each evaluation
ADAM_EPS = 1e-5  # as in Huang et al. 2024: at 1e-8 the first updates of rarely moved weights are too large


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train the policy against the reward model; save the best one; returns the key figures."""
    asked = config.rl
    assert asked is not None
    work = RlWork(config, run)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{work.steps:,} updates of {asked.batch_size} answers to {len(work.prompts):,} prompts, "
        f"{len(work.held_out):,} prompts held out, policy, reference and value network of "
        f"{work.policy_speaker.parameters / 1e6:.1f} M parameters, {work.place.reason}{_paid(config)}",
    )
    done = run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds, show="score")
    stop_if_asked(run, STAGE)
    last = work.evaluate(done)
    run.journal.metrics(STAGE, done, last)
    tell_cut(run, work.scorer)
    best = work.best
    final = open_speaker(work.best_folder)
    with replace_folder(run.layout.model(STAGE)) as folder:
        save_model(folder, final.model, final.tokenizer, {"best_step": int(best["step"]), "of_steps": done})
    run.journal.event(
        STAGE,
        "kept",
        step=int(best["step"]),
        message=f"kept the model after update {int(best['step'])} of {done}: held-out reward {best['reward']:.3f}, the best "
        f"of {work.evaluations} evaluations whose KL ({best['kl']:.2f} nats) is within {asked.kl.budget:g} "
        f"and that give at most {SAME_ANSWER:.0%} of the prompts one and the same answer",
    )
    figures = {
        "reward_sft": work.start["reward"],
        "reward_best": best["reward"],
        "best_step": int(best["step"]),
        "kl": best["kl"],
        "kl_last": last["held_out_kl"],
        "updates": done,
        "stopped": work.stopped or "",
    }
    for gate in final_gates(figures, asked.kl.budget):
        run.journal.gate(gate)
    return figures


class RlWork:
    """Policy, value network, reference, scorer and controllers; one step is one batch of episodes and its update."""

    def __init__(self, config: Config, run: Run) -> None:
        asked = config.rl
        assert asked is not None
        self.config, self.asked, self.run = config, asked, run
        self.policy_speaker = open_speaker(run.layout.model("sft"))
        self.place = choose_place(config.device, config.precision, width=self.policy_speaker.width)
        self.policy_speaker.model.to(self.place.device)
        self.reference = open_speaker(run.layout.model("sft")).model.to(self.place.device)
        self.scorer = open_scorer(config, run, self.place.device)
        value = open_value(config, run, self.scorer, self.policy_speaker).to(self.place.device)
        self.prompts, self.held_out = prompts_of(config, run, self.policy_speaker)
        self.steps = asked.episodes // asked.batch_size
        factor = partial(linear_schedule, steps=self.steps * asked.epochs * asked.minibatches, warmup=0)
        self.policy = Learner(
            self.policy_speaker.model, name="rl policy", learning_rate=asked.learning_rate, factor=factor, eps=ADAM_EPS
        )
        rate = asked.learning_rate if asked.value_learning_rate is None else asked.value_learning_rate
        self.value = Learner(value, name="rl value", learning_rate=rate, factor=factor, eps=ADAM_EPS)
        self.kl: AdaptiveKL | FixedKL = (
            FixedKL(coefficient=asked.kl.coefficient)
            if asked.kl.target is None
            else AdaptiveKL(coefficient=asked.kl.coefficient, target=asked.kl.target, horizon=asked.kl.horizon)
        )
        self.guards = Guards(asked.kl.budget, asked.max_new_tokens, disagreement=own_disagreement(self.scorer))
        self.best_folder = run.layout.best(STAGE)
        self.best: dict[str, float] = {}
        self.start: dict[str, float] = {}
        self.evaluations = 0
        self.judged: dict[str, list[float]] = {}  # what the last evaluation found, by prompt
        self.stopped: str | None = None

    def step(self, index: int) -> Mapping[str, float] | None:
        if self.stopped is not None:
            return None
        measured = {}
        if index % self.asked.eval_every == 0:
            measured = self.evaluate(index)
            self._heed(index, self.guards.evaluated(self.judged))
        chosen = batch_indices(
            len(self.prompts),
            self.asked.batch_size,
            index,
            total=self.asked.episodes,
            seed=self.config.seed,
            stage=STAGE,
        )
        draw = generator(self.config.seed, STAGE, "rollout", index)
        prompts = [self.prompts[i] for i in chosen]
        episodes = collect(self.policy_speaker, prompts, self.scorer, self.config, self.place, draw)
        experience = estimate(
            episodes, self.policy.model, self.reference, self.value.model, self.kl.coefficient, self.config, self.place
        )
        report = update(experience, self.policy, self.value, self.config, self.place, index)
        metrics = self.measure(episodes, experience)
        metrics |= {name: getattr(report, name) for name in report.__slots__ if name != "first_ratio_error"}
        if index == 0:
            self._step_zero(episodes, experience, report.first_ratio_error)
        self.kl = self.kl.update(metrics["kl"], len(prompts))
        self._heed(index + 1, self.guards.look(metrics))
        return metrics | measured

    def measure(self, episodes: Episodes, experience: Experience) -> dict[str, float]:
        """Figures of the batch before its update. Per response: reward, score, kl, length; per counted token: entropy."""
        kl = masked_sum(kl_k1(experience.old_logprobs, experience.ref_logprobs), experience.mask, dim=1)
        ids = [completion.ids for completion in episodes.completions]
        return {
            "reward": float(experience.rewards.sum(1).mean()),
            "score": float(episodes.scores.mean()),
            "kl": float(kl.mean()),
            "kl_coefficient": self.kl.coefficient,
            "length": sum(map(len, ids)) / len(ids),
            "eos_share": float(episodes.ended.float().mean()),
            "distinct_2": distinct_n(ids, 2),
            "same_answer": same_answer([prompt.messages for prompt in episodes.prompts], episodes.texts),
            "entropy": -float(masked_mean(experience.old_logprobs, experience.mask)),
            **_parts_measured(episodes),
        }

    def evaluate(self, step: int) -> dict[str, float]:
        """Answer the held-out prompts with the policy as it is after `step` updates; keep it if it is the best so far.

        The best by the scores less the penalty of answers that do not end: else a policy that forgot how to end could win. One
        that gives a quarter of the prompts the same answer is never the best: the guard of that name is about to stop the run.
        The same draws every time, so that two evaluations differ by the policy alone.
        """
        self.evaluations += 1
        draw = generator(self.config.seed, STAGE, "evaluate")
        episodes = collect(self.policy_speaker, self.held_out, self.scorer, self.config, self.place, draw)
        old = logprobs_of(self.policy.model, episodes.rows, self.config, self.place)
        ref = logprobs_of(self.reference, episodes.rows, self.config, self.place)
        kls = (old - ref).sum(1)
        lengths = [len(completion.ids) for completion in episodes.completions]
        rewards = missing_eos(episodes.scores, episodes.ended, self.asked.missing_eos_penalty)
        now = {"step": float(step), "reward": float(rewards.mean()), "kl": float(kls.mean())}
        metrics = {
            "held_out_reward": now["reward"],
            "held_out_score": float(episodes.scores.mean()),
            "held_out_kl": now["kl"],
            "held_out_length": sum(lengths) / len(lengths),
            "held_out_eos_share": float(episodes.ended.float().mean()),
            **{f"held_out_{name}": value for name, value in _parts_measured(episodes).items()},
        }
        alike = same_answer([prompt.messages for prompt in episodes.prompts], episodes.texts)
        metrics["held_out_same_answer"] = alike
        golds = None
        self.judged = {"score": episodes.scores.tolist()}
        if self.config.world is not None:
            golds = [gold(p.text, t).score for p, t in zip(episodes.prompts, episodes.texts, strict=True)]
            metrics["held_out_gold"] = sum(golds) / len(golds)
            self.judged["gold"] = golds
        self.run.journal.samples(STAGE, step, _shown(episodes, kls.tolist(), golds))
        if not self.start:
            self.start = now
        fit = now["kl"] <= self.asked.kl.budget and alike <= SAME_ANSWER
        if not self.best or (fit and now["reward"] > self.best["reward"]):
            self.best = now
            with replace_folder(self.best_folder) as folder:
                save_model(folder, self.policy_speaker.model, self.policy_speaker.tokenizer)
        return metrics

    def _step_zero(self, episodes: Episodes, experience: Experience, ratio_error: float) -> None:
        sampled = [value for completion in episodes.completions for value in completion.logprobs]
        trained = experience.old_logprobs[experience.mask]
        apart = float((torch.tensor(sampled) - trained).abs().max())
        kl = masked_sum(kl_k1(experience.old_logprobs, experience.ref_logprobs).abs(), experience.mask, dim=1)
        gates = step_zero_gates(
            kl=float(kl.max()), ratio_error=ratio_error, sampler_error=apart, precision=self.place.precision
        )
        for gate in gates:
            self.run.journal.gate(gate)
        failed = [gate for gate in gates if gate.verdict == "fail"]
        if failed:
            raise TrainingError(
                f"rl: before its first update, {failed[0].message}",
                expected=f"at most {failed[0].threshold:g}",
                why="policy, reference and sampler are the same model then; every later figure would be wrong",
                todo=failed[0].advice,
            )

    def _heed(self, updates: int, tripped: Tripped | None) -> None:
        """Stop after this step if a guard says so; the first one's reason counts."""
        if tripped is None or self.stopped is not None:
            return
        self.stopped = (
            f"{tripped.guard} is {tripped.value:.3g} (threshold {tripped.threshold:.3g}) after update {updates}: "
            f"{tripped.message}"
        )
        self.run.journal.event(STAGE, "guard", guard=tripped.guard, step=updates, message=self.stopped)

    def state(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state(),
            "value": self.value.state(),
            "kl": self.kl.coefficient,
            "guards": self.guards.state(),
            "best": self.best,
            "start": self.start,
            "evaluations": self.evaluations,
            "stopped": self.stopped,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.policy.load(state["policy"])
        self.value.load(state["value"])
        self.kl = self.kl.at(state["kl"])
        self.guards.load(state["guards"])
        self.best, self.start = dict(state["best"]), dict(state["start"])
        self.evaluations, self.stopped = state["evaluations"], state["stopped"]


def prompts_of(config: Config, run: Run, speaker: Speaker) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The prompts to train on and those to evaluate on; what is left out is told. Raises DataError where none is left."""
    asked = config.rl
    assert asked is not None
    read_in = read(asked.prompts, want="prompts", columns=asked.columns)
    if read_in.skipped:
        run.journal.event(STAGE, "warning", message=read_in.told_skipped)
    found = read_in.records
    fitting = [p for p in found if isinstance(p, Prompt) and speaker.codec.fits(p, room=asked.max_new_tokens)]
    if len(fitting) < len(found):
        run.journal.event(
            STAGE,
            "warning",
            message=f"{len(found) - len(fitting)} of {len(found)} prompts leave no room for {asked.max_new_tokens} new tokens "
            f"in the model's {speaker.codec.context} and are left out",
        )
    prompts, held_out = split(fitting, asked.held_out)
    if not prompts:
        raise DataError(
            "rl.prompts has no prompt to train on",
            expected="prompts that fit the model beside their answer",
            todo="give shorter prompts, lower rl.max_new_tokens, or lower rl.held_out",
        )
    if not held_out:
        run.journal.event(STAGE, "warning", message="no prompt is held out: the best model is chosen on training prompts")
    return tuple(prompts), tuple((held_out or prompts)[: asked.eval_prompts])


def _parts_measured(episodes: Episodes) -> dict[str, float]:
    """Means over the answers: `score_NAME` of each part of a composed score, and an ensemble's `disagreement`."""
    found = {f"score_{name}": float(values.mean()) for name, values in episodes.parts.items()}
    return found | ({} if episodes.disagreement is None else {"disagreement": float(episodes.disagreement.mean())})


def _paid(config: Config) -> str:
    """What is paid for, where it is not the run's reward model alone."""
    asked = config.rl
    assert asked is not None
    return "".join(f"{'; paid for: ' if i == 0 else ' + '}{p.weight:g} x {p.name}" for i, p in enumerate(asked.rewards))


def _shown(episodes: Episodes, kls: Sequence[float], golds: Sequence[float] | None) -> list[dict[str, Any]]:
    rows = []
    for i in range(min(SHOWN, len(episodes.prompts))):
        row: dict[str, Any] = {
            "prompt": episodes.prompts[i].text,
            "response": episodes.texts[i],
            "reward": float(episodes.scores[i]),
            "kl": kls[i],
            "length": len(episodes.completions[i].ids),
            "ended": bool(episodes.ended[i]),
        }
        row |= {"parts": {name: float(values[i]) for name, values in episodes.parts.items()}} if episodes.parts else {}
        row |= {} if episodes.disagreement is None else {"disagreement": float(episodes.disagreement[i])}
        rows.append(row | ({"gold": golds[i]} if golds is not None else {}))
    return rows
