"""What every algorithm that trains a policy has in common: networks, what pays, evaluation, guards, the best model so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sawyer.config import Config, wanted
from sawyer.engine import Learner, choose_place, generator
from sawyer.errors import DataError, TrainingError
from sawyer.maths import kl_k1, masked_sum, missing_eos
from sawyer.models import Speaker, open_speaker, save_model
from sawyer.records import Prompt, read, split
from sawyer.runs import Run, replace_folder
from sawyer.stages.rl.gates import step_zero_gates
from sawyer.stages.rl.guards import SAME_ANSWER, Guards, Tripped, same_answer
from sawyer.stages.rl.rollout import Episodes, Experience, collect, logprobs_of
from sawyer.stages.rl.scorers import open_scorer, own_disagreement
from sawyer.worlds import gold

STAGE = "rl"
SHOWN = 8  # samples written to the journal at each evaluation
ADAM_EPS = 1e-5  # as in Huang et al. 2024: at 1e-8 the first updates of rarely moved weights are too large


class PolicyWork:
    """A policy that is trained, its reference, what pays, and what watches over it. Subclasses say what a step is."""

    policy: Learner
    steps: int

    def __init__(self, config: Config, run: Run) -> None:
        self.config, self.asked, self.run = config, wanted(config.rl, "rl"), run
        self.policy_speaker = open_speaker(run.layout.model("sft"))
        self.place = choose_place(config.device, config.precision, width=self.policy_speaker.width)
        self.policy_speaker.model.to(self.place.device)
        self.reference = open_speaker(run.layout.model("sft")).model.to(self.place.device)
        self.scorer = open_scorer(config, run, self.place.device)
        self.prompts, self.held_out = prompts_of(config, run, self.policy_speaker)
        self.guards = Guards(self.asked.kl.budget, self.asked.max_new_tokens, disagreement=own_disagreement(self.scorer))
        self.best_folder = run.layout.best(STAGE)
        self.best: dict[str, float] = {}
        self.start: dict[str, float] = {}
        self.evaluations = 0
        self.judged: dict[str, list[float]] = {}  # what the last evaluation found, by prompt
        self.stopped: str | None = None

    def evaluate(self, step: int) -> dict[str, float]:
        """Answer the held-out prompts with the policy as it is after `step` updates; keep it if it is the best so far.

        The best by the scores less the penalty of answers that do not end: else a policy that forgot how to end could win. One
        that gives a quarter of the prompts the same answer is never the best: the guard of that name is about to stop the run.
        The same draws every time, so that two evaluations differ by the policy alone.
        """
        self.evaluations += 1
        draw = generator(self.config.seed, STAGE, "evaluate")
        episodes = collect(self.policy_speaker, self.held_out, self.scorer, self.config, self.place, draw)
        old = logprobs_of(self.policy_speaker.model, episodes.rows, self.config, self.place)
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
            **{f"held_out_{name}": value for name, value in parts_measured(episodes).items()},
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
            "guards": self.guards.state(),
            "best": self.best,
            "start": self.start,
            "evaluations": self.evaluations,
            "stopped": self.stopped,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.policy.load(state["policy"])
        self.guards.load(state["guards"])
        self.best, self.start = dict(state["best"]), dict(state["start"])
        self.evaluations, self.stopped = state["evaluations"], state["stopped"]


def parts_measured(episodes: Episodes) -> dict[str, float]:
    """Means over the answers: `score_NAME` of each part of a composed score, and an ensemble's `disagreement`."""
    found = {f"score_{name}": float(values.mean()) for name, values in episodes.parts.items()}
    return found | ({} if episodes.disagreement is None else {"disagreement": float(episodes.disagreement.mean())})


def prompts_of(config: Config, run: Run, speaker: Speaker) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The prompts to train on and those to evaluate on; what is left out is told. Raises DataError where none is left."""
    asked = wanted(config.rl, "rl")
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
