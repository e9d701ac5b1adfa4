"""DPO: the policy learns from judged pairs, without sampling and without asking the reward model (arXiv 2305.18290).

-log sigmoid(beta [(log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l)]), the mean over the pairs of the batch; log-probs at
temperature 1, sums over the response's tokens and EOS. The reward model and the world judge the policy at its evaluations,
which are those of the other algorithms: same prompts, same draws, same guards, same choice of the best model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sawyer.config import Config
from sawyer.maths import dpo_loss, linear_schedule, response_log_ratio
from sawyer.models import policy_logprobs
from sawyer.runs import Run
from sawyer.stages.rl.batch_metrics import HeldOut, length_correlation
from sawyer.stages.rl.dpo_pairs import load_eval_pairs, load_pairs
from sawyer.stages.rl.guards import raised
from sawyer.stages.rl.rollout import Experience
from sawyer.stages.rl.step_zero_checks import Reread
from sawyer.stages.rl.trainer import ADAM_EPS, STAGE, PolicyTrainer
from sawyer.text import Batch, pad_right
from sawyer.train import JudgedMinibatch, OptimizerStep, batch_indices, distributed, judged_minibatches


@dataclass(slots=True)
class DpoSums:
    """Running sums over the pairs of one batch."""

    margins: float = 0.0
    right: float = 0.0
    ratio_error: float = 0.0  # the largest |pi / pi_ref - 1| of a token

    def of_all(self) -> DpoSums:
        """Those of all processes, each of which had its share of the prompts."""
        margins, right = distributed.all_reduce_sum(self.margins, self.right)
        return DpoSums(margins=margins, right=right, ratio_error=distributed.all_reduce_max(self.ratio_error)[0])


class DpoLoop(PolicyTrainer):
    """One step is one optimizer step on a batch of prompts with all their pairs."""

    shown = "loss"

    def __init__(self, config: Config, run: Run) -> None:
        super().__init__(config, run)
        asked = self.asked
        self.beta = asked.beta
        self.groups = load_pairs(config, run, self.policy_speaker.prompt_encoder, self.held_out)
        self.groups_aside = () if config.is_scored else load_eval_pairs(config, run, self.policy_speaker.prompt_encoder)
        self.total = asked.epochs * len(self.groups)
        self.steps = math.ceil(self.total / asked.batch_size)
        factor = partial(linear_schedule, steps=self.steps, warmup_steps=0)
        self.policy = OptimizerStep(
            self.policy_speaker.model, name="rl policy", learning_rate=asked.learning_rate, factor=factor, eps=ADAM_EPS
        )

    @property
    def plan(self) -> str:
        pairs = sum(len(group.pairs) for group in self.groups)
        return (
            f"dpo: {self.steps:,} updates on {pairs:,} pairs of answers to {len(self.groups):,} prompts, "
            f"{len(self.held_out):,} prompts held out, policy and reference of "
            f"{self.policy_speaker.parameters / 1e6:.1f} M parameters, {self.place.reason}"
        )

    @property
    def controls(self) -> dict[str, float]:
        """What log-ratios are multiplied by in this step."""
        return {"beta": self.beta}

    def _learn(self, index: int) -> dict[str, float]:
        chosen = batch_indices(
            len(self.groups), self.asked.batch_size, index, total=self.total, seed=self.config.seed, stage=STAGE
        )
        groups = [self.groups[i] for i in chosen]
        count, sums = sum(len(group.pairs) for group in groups), DpoSums()
        self.step_tokens += sum(group.tokens for group in groups)
        mine = distributed.shard(groups, lambda group: group.tokens)
        parts = judged_minibatches(mine, self.policy_speaker.prompt_encoder.pad_id, self.config.micro_batch_tokens)
        again = self._reread(self._first.episodes) if index == 0 else None
        done = self.policy.update(parts, lambda part: self.loss(part, sums), count)
        sums = sums.of_all()
        if again is not None:
            self._check_start(again, sums.ratio_error)
        return {
            "loss": done.loss,
            "margin": sums.margins / count,
            "accuracy": sums.right / count,
            "pairs": float(count),
            "grad_norm": done.grad_norm,
            "learning_rate": done.learning_rate,
        }

    @property
    def _first(self) -> HeldOut:
        """The evaluation before the first update, whose answers the gates of step zero look at: others there are none."""
        assert self.found is not None
        return self.found

    def _check_start(self, again: Reread, ratio_error: float) -> None:
        episodes, old = self._first.episodes, self._first.logprobs
        experience = Experience(
            rows=episodes.rows,
            mask=pad_right(episodes.rows, 0).loss_mask,
            old_logprobs=old,
            ref_logprobs=self._first.ref_logprobs,
            old_values=None,
            advantages=torch.zeros_like(old),
            returns=None,
            rewards=torch.zeros_like(old),
        )
        self._step_zero(episodes, experience, again, ratio_error, 0.0)  # nothing is clipped

    def loss(self, part: JudgedMinibatch, sums: DpoSums) -> Tensor:
        """The sum over the part's pairs; each answer goes through each network once."""
        part = part.to(self.place.device)
        batch = part.batch
        new, ref = self._logprobs(batch)
        ratios = response_log_ratio(new, ref, batch.loss_mask)
        found = dpo_loss(ratios[part.judgements.better], ratios[part.judgements.worse], self.beta)
        sums.margins += float(found.margins)
        sums.right += float(found.accuracies)
        off = (new.detach() - ref)[batch.loss_mask].exp().sub(1).abs().max()
        sums.ratio_error = max(sums.ratio_error, float(off))
        return found.total

    def eval_margins(self) -> list[list[float]]:
        """Each held-out prompt's margins, chosen less rejected, at the config's `beta`: a rollback's would be no measure."""
        groups = self.groups_aside

        def margins(mine: list[int]) -> list[list[float]]:
            order = sorted(mine, key=lambda place: groups[place].longest)
            flat: list[float] = []
            chosen = [groups[place] for place in order]
            for part in judged_minibatches(chosen, self.policy_speaker.prompt_encoder.pad_id, self.config.micro_batch_tokens):
                part = part.to(self.place.device)
                ratios = response_log_ratio(*self._logprobs(part.batch), part.batch.loss_mask)
                flat += (self.asked.beta * (ratios[part.judgements.better] - ratios[part.judgements.worse])).tolist()
            rest = iter(flat)
            found = {place: [next(rest) for _ in groups[place].pairs] for place in order}
            return [found[place] for place in mine]

        with torch.no_grad():
            return distributed.map_sharded([group.tokens for group in groups], margins)

    def _logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(the policy's, the reference's) of each token, (N, T) each; the policy's alone carries a gradient."""
        with self.place.autocast():
            new = policy_logprobs(self.policy_speaker.model, batch).logprobs
            with torch.no_grad():
                ref = policy_logprobs(self.reference, batch).logprobs
        return new, ref

    def _evaluated(self, index: int) -> dict[str, float]:
        """Evaluate, and let the guards look at the answers: between two evaluations there are none to look at."""
        found = self.evaluate(index)
        assert self.found is not None
        batch = {name.removeprefix("eval_"): value for name, value in found.items()}
        batch["length_correlation"] = length_correlation(self.found.episodes)
        batch.setdefault("score", 0.0)  # nobody scores: no guard that looks at scores can trip
        self._apply_guard(index, self.guards.look(batch))
        self._apply_guard(index, self.guards.evaluated(self.judged))
        return found

    def learnt(self) -> dict[str, Any]:
        """What is learnt and steered."""
        return super().learnt() | {"beta": self.beta}

    def make_dearer(self, kept: Mapping[str, Any]) -> str:
        """After a rollback the tie to the reference counts twice as much."""
        self.beta = raised(max(self.beta, kept["beta"]))
        return f"; beta is {self.beta:g} from now on"

    @property
    def price(self) -> str:
        """How much the tie to the reference counts, in words."""
        return f", the last with a beta of {self.beta:g}"

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().load(state)
        self.beta = state["beta"]
