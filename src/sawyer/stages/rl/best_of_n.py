"""Best-of-n: the control that trains nothing. Of n answers by the SFT model, the one with the highest reward is kept.

What `rl/model` then holds is the SFT model, whose config.json says `best_of: n`: the policy is that model together with the
reward and n. It moves from the SFT model by at most log n - (n-1)/n nats (Stiennon et al. 2020), which is logged as a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sawyer.config import Config, required_section
from sawyer.maths import best_of_n_kl, distinct_n, missing_eos
from sawyer.models import copy_model, save_model
from sawyer.records import Prompt
from sawyer.runs import Gate, Run
from sawyer.stages.rl.batch_metrics import SAMPLE_COUNT
from sawyer.stages.rl.guards import mode_response_rate
from sawyer.stages.rl.networks import open_networks, policy_start
from sawyer.stages.rl.reward_sources import warn_of_cut_answers
from sawyer.stages.rl.rl_prompts import STAGE, load_prompts
from sawyer.stages.rl.rollout import Rollout, RolloutSettings, check_scores_finite, collect_rollout
from sawyer.stages.rl.trust_guards import reward_verdict, why_not
from sawyer.stats import paired_interval
from sawyer.train import StepAnswers, answer_in_steps, chunks_of, generator, stop_if_requested, write_folder
from sawyer.worlds import gold

PROMPTS_A_STEP = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BestAnswer:
    """The answer to a prompt with the highest reward of n."""

    response: str
    ids: tuple[int, ...]
    score: float
    reward: float  # the score, less the penalty of an answer that did not end
    reward_sft: float  # the mean of all n
    ended: bool
    parts: Mapping[str, float]  # scores of the reward's parts that apply to the answer
    disagreement: float | None
    gold: float | None


def best_of_n(config: Config, run: Run) -> dict[str, Any]:
    """Answer the held-out prompts n times each and keep the best; returns the key figures."""
    rl = required_section(config.rl, "rl")
    n = rl.group_size
    networks = open_networks(config, run)
    policy, scorer = networks.policy, networks.scorer
    _, prompts = load_prompts(config, run, policy, scorer)
    settings = RolloutSettings.of(config, networks.placement)
    message = f"best_of_n: nothing is trained; {len(prompts):,} held-out prompts are answered {n} times each"
    run.journal.event(STAGE, "plan", message=message)
    verdict = reward_verdict(rl, run)
    if verdict is not None and verdict.kind == "refuse":
        run.journal.event(STAGE, "warning", message=why_not(verdict))

    def answer(index: int, chunk: Sequence[Prompt]) -> StepAnswers:
        n_times = [prompt for prompt in chunk for _ in range(n)]
        draws = generator(config.seed, STAGE, "best_of_n", index)
        rollout = check_scores_finite(collect_rollout(policy, n_times, scorer, settings, draws))
        answers = best_answers(rollout, n, rl.missing_eos_penalty, with_gold=config.world is not None)
        metrics = {name: _mean(answers, name) for name in ("score", "reward", "reward_sft")}
        return StepAnswers(rows=[asdict(one) for one in answers], metrics=metrics, tokens=rollout.tokens)

    chunks = chunks_of(prompts, PROMPTS_A_STEP)
    rows = answer_in_steps(run, STAGE, chunks, answer, save_every_seconds=config.save_every_seconds, show="score")
    best = [BestAnswer(**row) for row in rows]
    stop_if_requested(run, STAGE)
    metrics = best_metrics(prompts, best, n)
    run.journal.samples(STAGE, len(chunks), _best_samples(prompts, best, n))
    run.journal.metrics(STAGE, len(chunks), metrics)
    warn_of_cut_answers(run, scorer)
    start, extra = policy_start(config), {"best_of": n}

    def write_model(new: Path) -> None:
        # A hub id is no folder, and the config's template may not be the one that the start's folder brings.
        if start.stage is None or start.template is not None:
            save_model(new, policy.model, policy.tokenizer, extra)
        else:
            copy_model(run.layout.model(start.stage), new, extra)

    write_folder(run.layout.model(STAGE), write_model)
    run.journal.gate(_gate(best, n))
    return {
        "algorithm": "best_of_n",
        "best_of": n,
        "reward_sft": metrics["eval_reward_sft"],
        "reward_best": metrics["eval_reward"],
        "kl_bound": metrics["kl_bound"],
        "stopped": "",
    }


def best_answers(rollout: Rollout, n: int, missing_eos_penalty: float, *, with_gold: bool) -> list[BestAnswer]:
    """Of each n answers in a row, which are to one prompt, the one with the highest reward, the first of equals."""
    rewards = missing_eos(rollout.scores, rollout.ended, missing_eos_penalty).tolist()
    answers = []
    for group in chunks_of(range(len(rewards)), n):
        best = max(group, key=lambda i: rewards[i])
        answers.append(
            BestAnswer(
                response=rollout.texts[best],
                ids=tuple(rollout.completions[best].ids),
                score=float(rollout.scores[best]),
                reward=rewards[best],
                reward_sft=sum(rewards[i] for i in group) / n,
                ended=bool(rollout.ended[best]),
                parts={name: value for name, values in rollout.parts.items() if (value := values[best]) is not None},
                disagreement=None if rollout.disagreement is None else float(rollout.disagreement[best]),
                gold=gold(rollout.prompts[best].text, rollout.texts[best]).score if with_gold else None,
            )
        )
    return answers


def best_metrics(prompts: Sequence[Prompt], best: Sequence[BestAnswer], n: int) -> dict[str, float]:
    """Of the best answers; `eval_reward_sft` is the mean over all n of a prompt, what the SFT model gets."""
    ids = [one.ids for one in best]
    metrics = {
        "eval_reward": _mean(best, "reward"),
        "eval_reward_sft": _mean(best, "reward_sft"),
        "eval_score": _mean(best, "score"),
        "eval_length": sum(map(len, ids)) / len(ids),
        "eval_eos_rate": _mean(best, "ended"),
        "eval_distinct_2": distinct_n(ids, 2),
        "eval_mode_response_rate": mode_response_rate([p.messages for p in prompts], [one.response for one in best]),
        "kl_bound": best_of_n_kl(n),
    }
    for name in dict.fromkeys(name for one in best for name in one.parts):
        values = [one.parts[name] for one in best if name in one.parts]
        metrics[f"eval_score_{name}"] = sum(values) / len(values)
        if len(values) < len(best):
            metrics[f"eval_applies_{name}"] = len(values) / len(best)
    return metrics | {
        f"eval_{name}": _mean(best, name) for name in ("gold", "disagreement") if getattr(best[0], name) is not None
    }


def _best_samples(prompts: Sequence[Prompt], best: Sequence[BestAnswer], n: int) -> list[dict[str, Any]]:
    """The first best answers as samples.jsonl has them."""
    samples = []
    for prompt, one in list(zip(prompts, best, strict=True))[:SAMPLE_COUNT]:
        sample: dict[str, Any] = {"prompt": prompt.text, "response": one.response, "reward": one.score}
        sample |= {"length": len(one.ids), "ended": one.ended, "best_of": n}
        optional = {"parts": one.parts, "disagreement": one.disagreement, "gold": one.gold}
        samples.append(sample | {name: value for name, value in optional.items() if value not in (None, {})})
    return samples


def _gate(best: Sequence[BestAnswer], n: int) -> Gate:
    gain = paired_interval([one.reward_sft for one in best], [one.reward for one in best])
    return Gate(
        stage=STAGE,
        name="rl_improves",
        verdict="ok" if gain.low > 0 else "warn",
        value=gain.low,
        threshold=0.0,
        message=f"held-out reward {_mean(best, 'reward_sft'):.3f} -> {_mean(best, 'reward'):.3f} by choosing the best of {n}: "
        f"{gain.summary}",
        advice="all of the SFT model's answers to a prompt have the same reward: raise rl.temperature or rl.group_size",
    )


def _mean(answers: Sequence[BestAnswer], name: str) -> float:
    return float(sum(getattr(one, name) for one in answers)) / len(answers)
