"""What RL writes into the journal, by every algorithm, again by naive loops in float64; no documented figure lacks a loop."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import naive_reward
import naive_rl
import naive_training
import pytest
import torch
from fp64 import double_precision
from naive import LOOPS, double, same, stepped
from recorded import is_clock_or_memory

from sawyer.models import RewardScorer, open_language_model
from sawyer.records import read, split
from sawyer.stages.rl.batch_metrics import Evaluation, batch_metrics, eval_metrics
from sawyer.stages.rl.rl_stage import train
from sawyer.stages.rl.rollout import collect_rollout, estimate_advantages
from sawyer.stages.rl.trainer import Trainer
from sawyer.train import OptimizerStep, batch_indices, generator
from sawyer.worlds import gold

Fixture = Any
watched = import_module("sawyer.stages.rl.trainer")
best = import_module("sawyer.stages.rl.best_of_n")
BETA, RATE = 0.3, 1e-2
ASKED = naive_rl.Asked(
    algorithm="ppo",
    temperature=0.8,
    penalty=0.7,
    bound=0.15,
    clip_range=0.05,
    value_clip_range=0.02,
    gamma=0.98,
    gae_lambda=0.9,
)
# What summary.json says in words, and the clock.
WORDS = (
    "out",
    "waiting",
    "gates.NAME",
    "seconds.STAGE",
    "rl.(algorithm|best_checkpoint|stopped)",
    "reward.verdict",
    r"compare\..*\.judge",
)
WORDS += (r"classify\.(labels|many|baseline_label)",)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with double_precision():
        yield


class Seen:
    """What steps of RL had before them: the batch, and each network before each of its optimizer steps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.batches: list[Any] = []
        self.networks: dict[str, list[Any]] = {"rl policy": [], "rl value": []}
        self.evaluation: Any = None
        estimate, measures, real = watched.estimate_advantages, watched.eval_metrics, OptimizerStep.update

        def noted(episodes: Any, policy: Any, reference: Any, value: Any, *more: Any, **named: Any) -> Any:
            found = estimate(episodes, policy, reference, value, *more, **named)
            self.batches.append(
                (episodes, found, *(None if net is None else double(net) for net in (policy, reference, value)))
            )
            return found

        def evaluated(found: Any, penalty: float) -> Any:
            self.evaluation = found
            return measures(found, penalty)

        def update(learner: OptimizerStep, *given: Any, **more: Any) -> Any:
            self.networks[learner.name].append(double(learner.model))
            return real(learner, *given, **more)

        patch.setattr(watched, "estimate_advantages", noted)
        patch.setattr(watched, "eval_metrics", evaluated)
        patch.setattr(OptimizerStep, "update", update)


def answers_of(episodes: Any, scorer: RewardScorer) -> naive_rl.Answers:
    """Scored again, one by one."""
    scores = [scorer([p], [t])[0] for p, t in zip(episodes.prompts, episodes.texts, strict=True)]
    eos: int = scorer.prompt_encoder.eos_id  # type: ignore[union-attr]
    return naive_rl.Answers(prompts=episodes.prompts, texts=episodes.texts, rows=episodes.rows, scores=scores, eos=eos)


def golds_of(episodes: Any) -> list[float]:
    return [gold(prompt.text, text).score for prompt, text in zip(episodes.prompts, episodes.texts, strict=True)]


def rl_config(tiny: Fixture, out: Path, asked: naive_rl.Asked, **more: Any) -> Any:
    own: dict[str, Any] = {"algorithm": asked.algorithm, "episodes": 24, "epochs": 2, "eval_every": 1, "learning_rate": RATE}
    own |= {
        "temperature": asked.temperature,
        "missing_eos_penalty": asked.penalty,
        "reward_clip": asked.bound,
        "clip_range": asked.clip_range,
    }
    own |= {"max_new_tokens": 8, "kl": {"coefficient": BETA, "budget": 1e6}, "guards": "off"}
    if asked.algorithm == "ppo":
        own |= {"value_clip_range": asked.value_clip_range, "gamma": asked.gamma, "gae_lambda": asked.gae_lambda}
    else:
        own["group_size"] = asked.group_size
    return tiny.rl_config(out, **own, **more, rl__world={"rater": "honest"}, rl__micro_batch_tokens=200)


def by_hand(seen: Seen, number: int, scorer: RewardScorer, asked: naive_rl.Asked) -> dict[str, float]:
    """The figures of batch `number` of three and of its update: two epochs of two minibatches of four answers."""
    episodes, _, policy, reference, value = seen.batches[number]
    answers = answers_of(episodes, scorer)
    found = naive_rl.estimated(answers, policy, reference, value, BETA, asked)
    chosen = []
    for epoch in range(2):
        order = torch.randperm(8, generator=generator(0, "rl", "epoch", number, epoch)).tolist()
        chosen += [order[:4], order[4:]]
    made = slice(4 * number, 4 * number + 4)
    in_loss = BETA if asked.algorithm == "grpo" else 0.0
    of = naive_rl.of_policy(
        list(zip(seen.networks["rl policy"][made], chosen, strict=True)), answers.rows, found, in_loss, asked
    )
    figures = naive_rl.batch(answers, found, BETA, 0) | naive_rl.update(of, 4 * number + 3, 12, RATE)
    if asked.algorithm == "grpo":
        figures |= naive_rl.update_of_grpo(of)
    if value is not None:
        minibatches = list(zip(seen.networks["rl value"][made], chosen, strict=True))
        figures |= naive_rl.update_of_values(minibatches, answers.rows, found, asked)
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_two_updates(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    """The second starts from a policy that moved."""
    asked = ASKED if algorithm == "ppo" else replace(ASKED, algorithm=algorithm, group_size=4, bound=0.22)
    config = rl_config(tiny64, tmp_path / "run", asked)
    with tiny64.run(tmp_path / "run", "sft", "reward") as run:
        seen, scorer = Seen(monkeypatch), RewardScorer.load(tiny64.reward)
        work = Trainer(config, run)
        for number in range(2):
            policy = double(work.language_model.model)
            row = work.step(number)
            assert row is not None
            run.journal.metrics("rl", number, row)
            if number == 0 and algorithm != "ppo":
                continue  # once is enough where nothing has moved yet
            answers, golds = answers_of(seen.evaluation.rollout, scorer), golds_of(seen.evaluation.rollout)
            evaluated = naive_rl.held_out(answers, golds, policy, double(work.reference), asked)
            same(row, by_hand(seen, number, scorer, asked) | evaluated)
            told_of_summary(
                {"zero_variance_groups": work.outcome().zero_variance}, naive_rl.summary_of_groups(run.journal.rows("rl"))
            )
    assert row["clip_fraction"] < 1 and row["kl"] > 0.01, "the second update has something to tell"
    clipped = [abs(score) > asked.bound for score in answers_of(seen.batches[1][0], scorer).scores]
    assert any(clipped) and not all(clipped), "some scores are beyond the bound: set another"
    # The mistakes of other implementations are not within the tolerance: padding counted, or another denominator.
    experience = seen.batches[1][1]
    assert row["sampled_entropy"] != pytest.approx(-float(experience.old_logprobs.mean()), rel=1e-3)
    assert row["kl"] != pytest.approx(row["kl"] / row["length"], rel=1e-3)


def test_an_ensemble_and_parts(tiny64: Fixture, tmp_path: Path) -> None:
    """Of three answers two parts and two members: their means, in batches and in evaluations."""
    config = tiny64.rl_config(tmp_path / "run")
    scores, members = {"a": [1.0, 2.0, 6.0], "b": [-1.0, 0.0, 4.0]}, [[0.5, 1.0, -2.0], [1.5, 0.5, -0.5]]
    with tiny64.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config, run)
        found = collect_rollout(work.language_model, work.prompts[:3], work.scorer, work.settings, generator(0, "x"))
        found = replace(
            found,
            parts={name: tuple(values) for name, values in scores.items()},
            disagreement=torch.tensor([0.5, 0.25, 0.75]),
        )
        experience = estimate_advantages(
            found, work.policy.model, work.reference, work.critic, work.settings, config.rl, kl_coefficient=0.1
        )
        zeros = experience.old_logprobs * 0
        told = batch_metrics(experience, 0.1, config.rl) | eval_metrics(
            Evaluation.of(experience, zeros, zeros, entropies=zeros, golds=[1.0, 2.0, 6.0]), 1.0
        )
        some: dict[str, list[float | None]] = {"a": [1.0, None, 6.0], "b": [None, None, 4.0]}
        partly = replace(experience, parts={name: tuple(values) for name, values in some.items()})
        of_some = batch_metrics(partly, 0.1, config.rl) | eval_metrics(
            Evaluation.of(partly, zeros, zeros, entropies=zeros, golds=None), 1.0
        )
    expected = naive_rl.partly(some)
    assert {name: of_some[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    expected = naive_rl.parts(scores, members) | naive_rl.eval_parts(scores, members)
    assert not any("applies_" in name for name in told)
    assert {name: told[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert told["eval_gold"] == 3.0 and told["eval_reference_perplexity"] == 1.0


def test_a_refused_batch(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny64.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(tiny64.rl_config(tmp_path / "run", eval_every=100), run)
        real, rows = watched.collect_rollout, [work.step(0)]

        def broken(*given: Any) -> Any:
            episodes = real(*given)
            episodes.scores[3] = math.nan
            return episodes

        monkeypatch.setattr(watched, "collect_rollout", broken)
        rows.append(work.step(1))
    assert rows[0] is not None and "refused" not in rows[0]
    same(rows[1] or {}, {"kl_coefficient": 0.05, "rollbacks": 0.0} | naive_rl.refused([0.0, math.nan]))


@pytest.mark.slow
def test_dpo(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = json.loads(tiny64.comparisons.read_text())
    data = str(tmp_path / "judged.json")
    Path(data).write_text(json.dumps([row | {"judgement_weight": 0.5 + n % 3} for n, row in enumerate(judged)]))
    asked: dict[str, Any] = {"algorithm": "dpo", "beta": BETA, "batch_size": 4, "epochs": 1, "learning_rate": RATE}
    asked |= {"prompts": [str(tiny64.prompts)], "max_new_tokens": 8, "eval_prompts": 4, "eval_fraction": 0.2, "eval_every": 100}
    stages = {"sft": {"data": [str(tiny64.instructions)]}, "reward": {"data": [data]}}
    config = tiny64.config(tmp_path / "run", **stages, rl=asked, micro_batch_tokens=400)
    seen = stepped(monkeypatch)
    paid: list[list[float]] = []
    plain = watched.eval_rewards
    monkeypatch.setattr(watched, "eval_rewards", lambda *given: paid.append(plain(*given).tolist()) or plain(*given))
    with tiny64.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        rows = run.journal.rows("rl")
    assert [sum(one) / 4 for one in paid] == pytest.approx([row["eval_reward"] for row in (rows[0], rows[-1])])
    change = naive_rl.summary_of_change(paid, kept=1 if figures["best_step"] else 0)
    for name, value in change.items():  # the quantile of so few prompts is right to 1 %
        assert figures.pop(name.removeprefix("rl.")) == pytest.approx(value, rel=1e-2, abs=1e-9), name
    told_of_summary(figures, naive_rl.summary(rows, 20.0))
    speaker = open_language_model(tiny64.sft)
    reference, prompt_encoder = double(speaker.model), speaker.prompt_encoder
    # The last prompts of RL are held out and their judgements are not learnt from; here no judged prompt is among them.
    groups = []
    for record in split(read([data], want="comparisons").records, 0.1)[0]:
        pairs = [
            (prompt_encoder.answer(record.prompt, a.response), prompt_encoder.answer(record.prompt, b.response))
            for place, one in enumerate(record.answers)
            for other in record.answers[place + 1 :]
            if one.score != other.score and one.response != other.response
            for a, b in [(one, other) if one.score > other.score else (other, one)]
        ]
        groups += [[(pair, record.weight) for pair in pairs]] if pairs else []
    total = config.rl.epochs * len(groups)
    steps = math.ceil(total / 4)
    assert len(seen) == steps == len(rows) - 1
    for step in (0, 1):
        chosen = batch_indices(len(groups), 4, step, total=total, seed=0, stage="rl")
        told = {name: value for name, value in rows[step].items() if not name.startswith("eval_")}
        pairs, weights = zip(*(pair for i in chosen for pair in groups[i]), strict=True)
        same(told, naive_rl.dpo_step(seen[step], reference, pairs, weights, BETA, step, steps, RATE))
        ones = naive_rl.dpo_step(seen[step], reference, pairs, [1.0] * len(pairs), BETA, step, steps, RATE)
        assert told["grad_norm"] != pytest.approx(ones["grad_norm"], rel=1e-3), "or the weights could be left out"
    assert rows[0]["margin"] == 0 and 0 < rows[1]["accuracy"] < 1


def told_of_summary(figures: dict[str, Any], expected: dict[str, float]) -> None:
    """What summary.json says of the stage, its words apart."""
    told = {f"rl.{name}": value for name, value in figures.items() if not isinstance(value, str)}
    assert told == pytest.approx(expected, rel=1e-9)


def test_best_of_n(tiny64: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(ASKED, algorithm="best_of_n", group_size=4, temperature=1.0)
    own: dict[str, Any] = {"algorithm": "best_of_n", "group_size": 4, "temperature": 1.0, "missing_eos_penalty": asked.penalty}
    own |= {"prompts": [str(tiny64.prompts)], "max_new_tokens": 12, "eval_prompts": 6, "eval_fraction": 0.2}
    stages = {"sft": {"data": [str(tiny64.instructions)]}, "reward": {"data": [str(tiny64.comparisons)]}}
    config = tiny64.config(tmp_path / "run", **stages, rl=own, world={"rater": "honest"})
    drawn: list[Any] = []
    plain = best.collect_rollout
    monkeypatch.setattr(best, "PROMPTS_A_STEP", 4)
    monkeypatch.setattr(best, "collect_rollout", lambda *given: drawn.append(plain(*given)) or drawn[-1])
    with tiny64.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        rows = run.journal.rows("rl")
    told_of_summary(figures, naive_rl.summary_of_best(rows, 4))
    scorer = RewardScorer.load(tiny64.reward)
    found = [answers_of(episodes, scorer) for episodes in drawn]
    assert len(rows) == 3 and len(found) == 2
    for row, answers in zip(rows, found, strict=False):
        same(row, naive_rl.best_of_step(answers, asked))
    first, second = found
    together = replace(
        first,
        prompts=[*first.prompts, *second.prompts],
        texts=[*first.texts, *second.texts],
        rows=[*first.rows, *second.rows],
        scores=[*first.scores, *second.scores],
    )
    same(rows[-1], naive_rl.best_of_all(together, [value for one in drawn for value in golds_of(one)], asked))


def test_every_documented_figure_has_a_loop() -> None:
    """A new line of docs/metrics.md without a loop is seen, and so is a loop of a figure that nobody documents."""
    documented: dict[str, set[str]] = {}
    section = ""
    for line in (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines():
        section = line[3:].strip() if line.startswith("## ") else section
        if named := re.match(r"\| `([^`]+)` \|", line):
            documented.setdefault(section, set()).add(named[1])
    assert all(map(is_clock_or_memory, documented.pop("every step")))
    for section, names in documented.items():
        figures = {name for name in names if not any(re.fullmatch(words, name) for words in WORDS)}
        assert figures == LOOPS[section], section
    assert documented.keys() == LOOPS.keys()
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_metrics_*.py"))
    for module in (naive_training, naive_reward, naive_rl):
        for name, loop in vars(module).items():
            if hasattr(loop, "__wrapped__"):
                assert re.search(rf"\b{name}\b", tests), f"nobody calls {name}"
