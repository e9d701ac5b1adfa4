"""Every figure of docs/metrics.md that a training step or an evaluation writes, again by loops over single tokens in float64.

Nothing of the package's mathematics is used here: models are copied to float64 and read one row at a time, without padding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.engine import Learner, batch_indices, generator
from sawyer.models import RewardScorer, ValueNetwork
from sawyer.runs import read_rows
from sawyer.stages.rl.train import RlWork
from sawyer.worlds import gold

Fixture = Any
stage, watched = import_module("sawyer.stages.rl.train"), import_module("sawyer.stages.rl.work")
CLOSE = {"rel": 2e-4, "abs": 2e-5}  # fp32 against float64


def logits_of(model: Any, ids: Sequence[int], temperature: float = 1.0) -> list[list[float]]:
    """One row of plain numbers a token, of a float64 model."""
    return (model(input_ids=torch.tensor([list(ids)])).logits[0] / temperature).tolist()


def logprob(row: Sequence[float], token: int) -> float:
    top = max(row)
    return row[token] - top - math.log(math.fsum(math.exp(x - top) for x in row))


def entropy(row: Sequence[float]) -> float:
    shares = [math.exp(logprob(row, token)) for token in range(len(row))]
    return -math.fsum(p * math.log(p) for p in shares if p > 0)


def of_response(model: Any, row: Any, temperature: float) -> list[float]:
    """log pi of each token of the response."""
    logits = logits_of(model, row.ids, temperature)
    return [logprob(logits[t - 1], row.ids[t]) for t in range(row.prompt_length, len(row.ids))]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def pearson(xs: Sequence[float], ys: Sequence[float]) -> float:
    mx, my = mean(xs), mean(ys)
    across = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return across / math.sqrt(sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys))


def distinct(answers: Sequence[Sequence[int]], n: int) -> float:
    grams = []
    for ids in answers:
        for i in range(len(ids) - n + 1):
            grams.append(tuple(ids[i : i + n]))
    different: list[Any] = []
    for gram in grams:
        if gram not in different:
            different.append(gram)
    return len(different) / len(grams)


def alike(prompts: Sequence[Any], texts: Sequence[str]) -> float:
    most = 0
    for text in texts:
        given = {prompt.messages for prompt, other in zip(prompts, texts, strict=True) if other == text}
        most = max(most, len(given))
    return most / len({prompt.messages for prompt in prompts}) if most >= 4 else 0.0


def double(model: Any) -> Any:
    return copy.deepcopy(model).double().eval()


def of_answers(episodes: Any, scorer: RewardScorer) -> dict[str, float]:
    """What batches and evaluations have in common."""
    answers = [list(completion.ids) for completion in episodes.completions]
    eos = scorer.codec.eos_id  # type: ignore[union-attr]
    return {
        "score": mean([scorer([p], [t])[0] for p, t in zip(episodes.prompts, episodes.texts, strict=True)]),
        "length": sum(len(ids) for ids in answers) / len(answers),
        "eos_share": sum(ids[-1] == eos for ids in answers) / len(answers),
        "distinct_1": distinct(answers, 1),
        "distinct_2": distinct(answers, 2),
        "same_answer": alike(episodes.prompts, episodes.texts),
    }


class Seen:
    """What two steps of RL had before them: the batch, and each network before each of its optimizer steps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.batches: list[Any] = []
        self.policies: list[Any] = []
        self.values: list[Any] = []
        self.grads: dict[str, list[float]] = {"rl policy": [], "rl value": []}
        self.held_out: Any = None
        estimate, measures, real = stage.estimate, watched.held_out_measures, Learner.accumulate

        def noted(episodes: Any, policy: Any, reference: Any, value: Any, coefficient: float, *more: Any) -> Any:
            found = estimate(episodes, policy, reference, value, coefficient, *more)
            self.batches.append((episodes, found, double(policy), double(reference), double(value), coefficient))
            return found

        def evaluated(found: Any, penalty: float) -> Any:
            self.held_out = found
            return measures(found, penalty)

        def accumulate(learner: Learner, parts: Any, loss: Any, count: float) -> Any:
            (self.policies if learner.name == "rl policy" else self.values).append(double(learner.model))
            total, norm = real(learner, parts, loss, count)
            self.grads[learner.name].append(norm)
            return total, norm

        patch.setattr(stage, "estimate", noted)
        patch.setattr(watched, "held_out_measures", evaluated)
        patch.setattr(Learner, "accumulate", accumulate)


TAU, PENALTY, CLIP, VALUE_CLIP, GAMMA, LAM = 0.8, 0.7, 0.05, 0.02, 0.98, 0.9


def batch_by_hand(seen: Seen, scorer: RewardScorer, number: int, asked: Any) -> dict[str, float]:
    """The figures of batch `number` and of its update."""
    episodes, _, policy, reference, value, coefficient = seen.batches[number]
    rows = episodes.rows
    old = [of_response(policy, row, TAU) for row in rows]
    ref = [of_response(reference, row, TAU) for row in rows]
    values = [of_states(value, row) for row in rows]
    scores = [scorer([p], [t])[0] for p, t in zip(episodes.prompts, episodes.texts, strict=True)]
    rewards, advantages, returns = [], [], []
    for i in range(len(rows)):
        paid = [-coefficient * (a - b) for a, b in zip(old[i], ref[i], strict=True)]
        paid[-1] += scores[i] - (0.0 if episodes.ended[i] else PENALTY)
        rewards.append(paid)
        after, row_advantages = 0.0, [0.0] * len(paid)
        for t in reversed(range(len(paid))):
            following = values[i][t + 1] if t + 1 < len(paid) else 0.0
            after = paid[t] + GAMMA * following - values[i][t] + GAMMA * LAM * after
            row_advantages[t] = after
        advantages.append(row_advantages)
        returns.append([a + v for a, v in zip(row_advantages, values[i], strict=True)])
    everything = [a for row in advantages for a in row]
    middle = mean(everything)
    spread = math.sqrt(mean([(a - middle) ** 2 for a in everything]) + 1e-8)
    advantages = [[(a - middle) / spread for a in row] for row in advantages]
    errors = [r - v for i in range(len(rows)) for r, v in zip(returns[i], values[i], strict=True)]
    flat = [r for row in returns for r in row]
    found = {
        "kl_coefficient": coefficient,
        "rollbacks": 0.0,
        **of_answers(episodes, scorer),
        "reward": mean([math.fsum(row) for row in rewards]),
        "kl": mean([math.fsum(a - b for a, b in zip(old[i], ref[i], strict=True)) for i in range(len(rows))]),
        "sampled_entropy": -mean([x for row in old for x in row]),
        "length_correlation": pearson(scores, [math.log(len(c.ids)) for c in episodes.completions]),
        "explained_variance": 1 - variance(errors) / variance(flat),
    }
    return found | update_by_hand(seen, rows, old, values, advantages, returns, number, asked)


def variance(values: Sequence[float]) -> float:
    middle = mean(values)
    return mean([(x - middle) ** 2 for x in values])


def of_states(value: Any, row: Any) -> list[float]:
    """V of the state before each token of the response."""
    found = value(torch.tensor([list(row.ids)]))[0].tolist()
    return [found[t - 1] for t in range(row.prompt_length, len(row.ids))]


def update_by_hand(
    seen: Seen, rows: Any, old: Any, values: Any, advantages: Any, returns: Any, number: int, asked: Any
) -> dict[str, float]:
    sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "approx_kl", "ratio"), 0.0)
    tokens, steps = 0, asked.epochs * asked.minibatches
    first = number * steps
    for epoch in range(asked.epochs):
        order = torch.randperm(len(rows), generator=generator(0, "rl", "epoch", number, epoch)).tolist()
        size = len(rows) // asked.minibatches
        for start in range(0, len(rows), size):
            step = first + epoch * asked.minibatches + start // size
            for i in order[start : start + size]:
                new, now = of_response(seen.policies[step], rows[i], TAU), of_states(seen.values[step], rows[i])
                for t in range(len(new)):
                    rho = math.exp(new[t] - old[i][t])
                    within = min(max(rho, 1 - CLIP), 1 + CLIP)
                    sums["policy_loss"] += max(-advantages[i][t] * rho, -advantages[i][t] * within)
                    sums["clip_fraction"] += -advantages[i][t] * within > -advantages[i][t] * rho
                    sums["approx_kl"] += rho - 1 - (new[t] - old[i][t])
                    sums["ratio"] += rho
                    near = values[i][t] + min(max(now[t] - values[i][t], -VALUE_CLIP), VALUE_CLIP)
                    sums["value_loss"] += 0.5 * max((now[t] - returns[i][t]) ** 2, (near - returns[i][t]) ** 2)
                    tokens += 1
    made = slice(first, first + steps)
    total = asked.episodes // asked.batch_size * steps
    return {name: value / tokens for name, value in sums.items()} | {
        "grad_norm": mean(seen.grads["rl policy"][made]),
        "value_grad_norm": mean(seen.grads["rl value"][made]),
        "learning_rate": 1e-2 * (1 - (first + steps - 1) / total),
    }


def held_out_by_hand(seen: Seen, work: RlWork, scorer: RewardScorer, policy: Any, reference: Any) -> dict[str, float]:
    episodes = seen.held_out.episodes
    rows = episodes.rows
    new, ref = ([of_response(model, row, TAU) for row in rows] for model in (policy, reference))
    entropies = []
    for row in rows:
        logits = logits_of(policy, row.ids, TAU)
        entropies += [entropy(logits[t - 1]) for t in range(row.prompt_length, len(row.ids))]
    common = of_answers(episodes, scorer)
    found = common | {
        "reward": common["score"] - PENALTY * (1 - common["eos_share"]),
        "kl": mean([math.fsum(a) - math.fsum(b) for a, b in zip(new, ref, strict=True)]),
        "entropy": mean(entropies),
        "reference_perplexity": math.exp(-mean([x for row in ref for x in row])),
        "gold": mean([gold(p.text, t).score for p, t in zip(episodes.prompts, episodes.texts, strict=True)]),
    }
    return {f"held_out_{name}": value for name, value in found.items()}


def test_every_figure_of_rl(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates of PPO with all that it may have but an ensemble and parts; the second starts from a policy that moved."""
    config = tiny.rl_config(
        tmp_path / "run",
        episodes=24,
        epochs=2,
        eval_every=1,
        learning_rate=1e-2,
        temperature=TAU,
        missing_eos_penalty=PENALTY,
        clip=CLIP,
        value_clip=VALUE_CLIP,
        gamma=GAMMA,
        lam=LAM,
        kl={"coefficient": 0.3, "budget": 1e6},
        guards="off",
        rl__world={"rater": "honest"},
        rl__micro_batch_tokens=200,
    )
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        seen, scorer = Seen(monkeypatch), RewardScorer.load(tiny.reward)
        work = RlWork(config, run)
        assert isinstance(work.critic, ValueNetwork)
        for number in range(2):
            policy = double(work.policy_speaker.model)
            row = work.step(number)
            assert row is not None
            by_hand = batch_by_hand(seen, scorer, number, config.rl)
            by_hand |= held_out_by_hand(seen, work, scorer, policy, double(work.reference))
            assert row.keys() == by_hand.keys()
            for name, value in by_hand.items():
                assert row[name] == pytest.approx(value, **CLOSE), (name, number)
    assert 0 < row["clip_fraction"] < 1 and row["kl"] > 0.01, "the second update has something to tell"
    # The mistakes of other implementations are not within the tolerance: padding counted, or another denominator.
    experience = seen.batches[1][1]
    assert row["sampled_entropy"] != pytest.approx(-float(experience.old_logprobs.mean()), **CLOSE)
    assert row["kl"] != pytest.approx(row["kl"] / row["length"], **CLOSE)


def test_an_ensemble_and_parts(tiny: Fixture, tmp_path: Path) -> None:
    """Of three answers two parts and a disagreement: their plain means, in batches and in evaluations."""
    from dataclasses import replace

    from sawyer.engine import choose_place
    from sawyer.stages.rl.measures import HeldOut, batch_measures, held_out_measures
    from sawyer.stages.rl.rollout import collect, estimate

    config = tiny.rl_config(tmp_path / "run")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = RlWork(config, run)
        place = choose_place("cpu", "fp32", width=16)
        found = collect(work.policy_speaker, work.prompts[:3], work.scorer, config, place, generator(0, "x"))
        found = replace(
            found,
            parts={"a": torch.tensor([1.0, 2.0, 6.0]), "b": torch.tensor([-1.0, 0.0, 4.0])},
            disagreement=torch.tensor([0.5, 0.25, 0.75]),
        )
        experience = estimate(found, work.policy.model, work.reference, work.critic, 0.1, config, place)
        batch = batch_measures(found, experience, 0.1)
        zeros = experience.old_logprobs * 0
        held = held_out_measures(
            HeldOut(episodes=found, logprobs=zeros, ref_logprobs=zeros, entropies=zeros, golds=[1.0, 2.0, 6.0]), 1.0
        )
    for told, prefix in ((batch, ""), (held, "held_out_")):
        expected = {"score_a": 3.0, "score_b": 1.0, "disagreement": 0.5}
        assert {name: told[f"{prefix}{name}"] for name in expected} == pytest.approx(expected)
    assert held["held_out_gold"] == 3.0 and held["held_out_reference_perplexity"] == 1.0


# Base, SFT: next-token training


def stepped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[Any]]]:
    """Each optimizer step's network before it, and the parts that it learns from."""
    seen: list[tuple[Any, list[Any]]] = []
    real = Learner.update

    def update(self: Learner, parts: Any, loss: Callable[[Any], Any], count: float) -> Any:
        listed = list(parts)
        seen.append((double(self.model), listed))
        return real(self, listed, loss, count)

    monkeypatch.setattr(Learner, "update", update)
    return seen


def norm_of(loss: torch.Tensor, model: Any) -> float:
    grads = torch.autograd.grad(loss, [w for w in model.parameters() if w.requires_grad], allow_unused=True)
    return math.sqrt(math.fsum(float((g**2).sum()) for g in grads if g is not None))


def test_every_figure_of_sft(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sawyer.models import open_speaker
    from sawyer.records import read, split
    from sawyer.stages.sft import train

    asked = {"data": [str(tiny.instructions)], "batch_size": 64, "epochs": 0.5, "learning_rate": 1e-2, "warmup": 0.4}
    asked |= {"max_new_tokens": 16, "eval_prompts": 5}
    config = tiny.config(tmp_path / "run", sft=asked, micro_batch_tokens=600)
    seen = stepped(monkeypatch)
    with tiny.run(tmp_path / "run") as run:
        figures = train(config, run)
        rows = run.journal.rows("sft")
        samples = read_rows(run.layout.samples)
        after = double(open_speaker(run.layout.model("sft")).model)
    speaker = open_speaker(tiny.base, "question")
    records, held = split(read([str(tiny.instructions)], want="demonstrations").records, 0.1)
    encoded = [speaker.codec.demonstration(record) for record in records]
    total = round(0.5 * len(encoded))
    steps, rising = math.ceil(total / 64), math.ceil(0.4 * math.ceil(total / 64))
    assert len(seen) == steps == len(rows) - 1
    losses = []
    for index, (model, _) in enumerate(seen):
        chosen = batch_indices(len(encoded), 64, index, total=total, seed=0, stage="sft")
        loss, tokens = torch.zeros((), dtype=torch.float64), 0
        for i in chosen:
            row = encoded[i]
            logits = model(input_ids=torch.tensor([list(row.ids)])).logits[0]
            for t in range(1, len(row.ids)):
                if row.trained[t]:
                    loss = loss - torch.log_softmax(logits[t - 1], 0)[row.ids[t]]
                    tokens += 1
        losses.append(float(loss.detach()) / tokens)
        rate = 1e-2 * ((index + 1) / rising if index < rising else (steps - index) / (steps - rising))
        by_hand = {"loss": losses[-1], "tokens": tokens, "learning_rate": rate, "grad_norm": norm_of(loss / tokens, model)}
        assert rows[index].keys() == {"stage", "step", *by_hand}
        assert {name: rows[index][name] for name in by_hand} == pytest.approx(by_hand, rel=1e-3)
    assert (figures["loss_first"], figures["loss_last"]) == pytest.approx((losses[0], losses[-1]), rel=1e-4)
    held_rows = [speaker.codec.demonstration(record) for record in held]
    found = {}
    for name, model in (("held_out_loss", after), ("base_held_out_loss", double(speaker.model))):
        each = []
        for row in held_rows:
            logits = logits_of(model, row.ids)
            each += [-logprob(logits[t - 1], row.ids[t]) for t in range(1, len(row.ids)) if row.trained[t]]
        found[name] = mean(each)
    found["held_out_perplexity"] = math.exp(found["held_out_loss"])
    found["eos_share"] = sum(row["ended"] for row in samples) / len(samples)
    assert rows[-1].keys() == {"stage", "step", *found}
    assert {name: rows[-1][name] for name in found} == pytest.approx(found, rel=1e-4)
