"""Best-of-n: the control that trains nothing. Of n answers by the SFT model, the one that is paid best is given.

What `rl/model` then holds is the SFT model, whose config.json says `best_of: n`: the policy is that model together with the
reward and n. It moves from the SFT model by at most log n - (n-1)/n nats (Stiennon et al. 2020), which is told as a bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sawyer.config import Config, required_section
from sawyer.maths import best_of_n_kl, distinct_n, missing_eos
from sawyer.models import copy_model, save_model
from sawyer.runs import Gate, Run
from sawyer.stages.rl.batch_metrics import SHOWN
from sawyer.stages.rl.guards import mode_response_rate
from sawyer.stages.rl.networks import open_networks, policy_start
from sawyer.stages.rl.reward_sources import warn_of_cut_answers
from sawyer.stages.rl.rl_prompts import STAGE, load_prompts
from sawyer.stages.rl.rollout import RolloutSettings, check_scores_finite, collect_rollout
from sawyer.stages.rl.trust_guards import reward_verdict, why_not
from sawyer.stats import paired_interval
from sawyer.train import generator, run_steps, stop_if_asked, write_folder
from sawyer.worlds import gold

PROMPTS_A_STEP = 32


def best_of_n(config: Config, run: Run) -> dict[str, Any]:
    """Answer the held-out prompts n times each and keep the best; returns the key figures."""
    n = required_section(config.rl, "rl").group_size
    work = BestOfN(config, run)
    run.journal.event(
        STAGE,
        "plan",
        message=f"best_of_n: nothing is trained; {len(work.eval_prompts):,} held-out prompts are answered {n} times each",
    )
    verdict = reward_verdict(work.asked, run)
    if verdict is not None and verdict.kind == "refuse":
        run.journal.event(STAGE, "warning", message=why_not(verdict))
    run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds, show="score")
    stop_if_asked(run, STAGE)
    last = work.figures()
    run.journal.samples(STAGE, work.steps, work.samples())
    run.journal.metrics(STAGE, work.steps, last)
    warn_of_cut_answers(run, work.scorer)
    start, extra = policy_start(config), {"best_of": n}

    def write_model(new: Path) -> None:
        # A hub id is no folder, and the config's template may not be the one that the start's folder brings.
        if start.stage is None or start.template is not None:
            save_model(new, work.speaker.model, work.speaker.tokenizer, extra)
        else:
            copy_model(run.layout.model(start.stage), new, extra)

    write_folder(run.layout.model(STAGE), write_model)
    figures: dict[str, Any] = {
        "algorithm": "best_of_n",
        "best_of": n,
        "reward_sft": last["eval_reward_sft"],
        "reward_best": last["eval_reward"],
        "kl_bound": last["kl_bound"],
        "stopped": "",
    }
    gained = paired_interval([one["reward_sft"] for one in work.chosen], [one["reward"] for one in work.chosen])
    run.journal.gate(
        Gate(
            stage=STAGE,
            name="rl_improves",
            verdict="ok" if gained.low > 0 else "warn",
            value=gained.low,
            threshold=0.0,
            message=f"held-out reward {figures['reward_sft']:.3f} -> {figures['reward_best']:.3f} by choosing the best of {n}: "
            f"{gained.summary}",
            advice="all of the SFT model's answers to a prompt have the same reward: raise rl.temperature or rl.group_size",
        )
    )
    return figures


class BestOfN:
    """Some held-out prompts a step, n answers each; what a step draws depends on its number alone."""

    def __init__(self, config: Config, run: Run) -> None:
        self.config, self.asked = config, required_section(config.rl, "rl")
        self.networks = open_networks(config, run)
        self.speaker, self.place, self.scorer = self.networks.policy, self.networks.placement, self.networks.scorer
        _, self.eval_prompts = load_prompts(config, run, self.speaker, self.scorer)
        self.steps, self.step_tokens = math.ceil(len(self.eval_prompts) / PROMPTS_A_STEP), 0
        self.settings = RolloutSettings.of(config, self.place)
        self.chosen: list[dict[str, Any]] = []  # one a prompt, in the prompts' order

    def step(self, index: int) -> Mapping[str, float]:
        n = self.asked.group_size
        prompts = self.eval_prompts[index * PROMPTS_A_STEP : (index + 1) * PROMPTS_A_STEP]
        draw = generator(self.config.seed, STAGE, "best_of_n", index)
        asked = [prompt for prompt in prompts for _ in range(n)]
        episodes = check_scores_finite(collect_rollout(self.speaker, asked, self.scorer, self.settings, draw))
        self.step_tokens = episodes.tokens
        rewards = missing_eos(episodes.scores, episodes.ended, self.asked.missing_eos_penalty).tolist()
        for place, prompt in enumerate(prompts):
            mine = range(place * n, (place + 1) * n)
            best = max(mine, key=lambda i: rewards[i])  # the first of equals
            self.chosen.append(
                {
                    "response": episodes.texts[best],
                    "ids": list(episodes.completions[best].ids),
                    "score": float(episodes.scores[best]),
                    "reward": rewards[best],
                    "reward_sft": sum(rewards[i] for i in mine) / n,
                    "ended": bool(episodes.ended[best]),
                    "parts": {name: values[best] for name, values in episodes.parts.items() if values[best] is not None},
                    "disagreement": None if episodes.disagreement is None else float(episodes.disagreement[best]),
                    "gold": None if self.config.world is None else gold(prompt.text, episodes.texts[best]).score,
                }
            )
        here = self.chosen[-len(prompts) :]
        return {"score": _mean(here, "score"), "reward": _mean(here, "reward"), "reward_sft": _mean(here, "reward_sft")}

    def figures(self) -> dict[str, float]:
        """Of all chosen answers; `eval_reward_sft` is the mean over all n of a prompt, what the SFT model gets."""
        found, ids = self.chosen, [one["ids"] for one in self.chosen]
        texts = [one["response"] for one in found]
        told = {
            "eval_reward": _mean(found, "reward"),
            "eval_reward_sft": _mean(found, "reward_sft"),
            "eval_score": _mean(found, "score"),
            "eval_length": sum(map(len, ids)) / len(ids),
            "eval_eos_rate": _mean(found, "ended"),
            "eval_distinct_2": distinct_n(ids, 2),
            "eval_mode_response_rate": mode_response_rate([prompt.messages for prompt in self.eval_prompts], texts),
            "kl_bound": best_of_n_kl(self.asked.group_size),
        }
        for name in dict.fromkeys(name for one in found for name in one["parts"]):
            values = [one["parts"][name] for one in found if name in one["parts"]]
            told[f"eval_score_{name}"] = sum(values) / len(values)
            told |= {f"eval_applies_{name}": len(values) / len(found)} if len(values) < len(found) else {}
        for name in ("gold", "disagreement"):
            told |= {} if found[0][name] is None else {f"eval_{name}": _mean(found, name)}
        return told

    def samples(self) -> list[dict[str, Any]]:
        """The first chosen answers as samples.jsonl shows them."""
        rows = []
        for prompt, one in list(zip(self.eval_prompts, self.chosen, strict=True))[:SHOWN]:
            row = {"prompt": prompt.text, "response": one["response"], "reward": one["score"], "length": len(one["ids"])}
            row |= {"ended": one["ended"], "best_of": self.asked.group_size}
            row |= {name: one[name] for name in ("parts", "disagreement", "gold") if one[name] not in (None, {})}
            rows.append(row)
        return rows

    def state(self) -> dict[str, Any]:
        return {"chosen": self.chosen}

    def load(self, state: Mapping[str, Any]) -> None:
        self.chosen = [dict(one) for one in state["chosen"]]


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows)) / len(rows)
