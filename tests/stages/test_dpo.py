"""DPO: the pairs it learns from, its loss against a plain loop in float64, its place beside the others."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fp64 import double_precision
from torch import Tensor, nn

from sawyer.config import Config, parse_config
from sawyer.errors import DataError, TrainingError
from sawyer.maths import dpo_loss
from sawyer.models import open_language_model
from sawyer.records import Prompt, read, split
from sawyer.stages.rl import dpo_updates
from sawyer.stages.rl.dpo_pairs import load_pairs
from sawyer.stages.rl.dpo_updates import DpoSums, minibatch_loss, update_on_pairs
from sawyer.stages.rl.rl_stage import train
from sawyer.stages.rl.trainer import Trainer

Fixture = Any
CLOSE, BETA = 1e-6, 0.3


def config_of(tiny: Fixture, out: Path, tokens: int = 400, reward: Any = None, **rl: Any) -> Config:
    asked = {"algorithm": "dpo", "beta": BETA, "batch_size": 10, "learning_rate": 1e-3, "prompts": [str(tiny.prompts)]}
    asked |= {"max_new_tokens": 12, "temperature": 0.8, "eval_prompts": 6, "eval_fraction": 0.2, "eval_every": 2}
    stages = {"sft": {"data": [str(tiny.instructions)]}, "reward": reward or {"data": [str(tiny.comparisons)]}}
    return tiny.config(out, **stages, rl={**asked, **rl}, micro_batch_tokens=tokens)


# The pairs


def test_pairs_are_the_reward_model_s_training_pairs(tiny: Fixture, tmp_path: Path) -> None:
    config = config_of(tiny, tmp_path / "run")
    prompt_encoder = open_language_model(tiny.sft).prompt_encoder
    records = read([str(tiny.comparisons)], want="comparisons").records
    learnt, kept_back = split(records, 0.1)
    asked_of_rl = [record.prompt for record in learnt[:2]]
    with tiny.run(tmp_path / "run", "sft") as run:
        groups = load_pairs(config, run, prompt_encoder, asked_of_rl)
    assert kept_back
    expected = [record for record in learnt[2:] if record.pairs().preferences]
    assert len(groups) == len(expected)
    for group, record in zip(groups, expected, strict=True):
        required_section = [(record.answers[j].response, record.answers[k].response) for j, k, _ in record.pairs().preferences]
        required_section = [(a, b) for a, b in required_section if a != b]
        rows = {a.response: prompt_encoder.answer(record.prompt, a.response) for a in record.answers}
        assert [(group.rows[j], group.rows[k]) for j, k, _ in group.pairs] == [(rows[a], rows[b]) for a, b in required_section]


def written(tmp_path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path = tmp_path / "judged.json"
    path.write_text(json.dumps(list(rows)))
    return str(path)


def loaded(tiny: Fixture, tmp_path: Path, rows: Sequence[dict[str, Any]], held_out: Sequence[Prompt] = ()) -> Any:
    reward = {"data": [written(tmp_path, rows)], "eval_fraction": 0.0}
    with tiny.run(tmp_path / "run", "sft") as run:
        prompt_encoder = open_language_model(tiny.sft).prompt_encoder
        found = load_pairs(config_of(tiny, tmp_path / "run", reward=reward), run, prompt_encoder, held_out)
        from sawyer.runs import read_rows

        told = [row["message"] for row in read_rows(run.layout.events) if row["kind"] in ("warning", "data")]
    return found, told


def test_what_cannot_teach_is_counted(tiny: Fixture, tmp_path: Path) -> None:
    def scored(prompt: str, *answers: tuple[str, float | None]) -> dict[str, Any]:
        return {"user_input": prompt, "responses_and_scores": [{"response": r, "score": s} for r, s in answers]}

    rows = [
        scored("One?", ("a", 6), ("b", 2), ("c", 2), ("d", None)),
        scored("Two?", ("a", 1), ("b", 1)),  # a tie, and so a prompt without a pair
        scored("Three?", ("a", 1), ("a", 5)),  # one text with two scores
    ]
    found, told = loaded(tiny, tmp_path, rows)
    assert [group.pairs for group in found] == [((0, 1, 4.0), (0, 2, 4.0))]
    assert len(found[0].rows) == 3
    assert len(told) == 1
    assert "2 tied pairs" in told[0] and "1 pairs of one and the same text" in told[0] and "2 prompts without a pair" in told[0]


def test_ready_made_pairs(tiny: Fixture, tmp_path: Path) -> None:
    rows = [{"prompt": "One?", "chosen": "yes", "rejected": "no"}, {"prompt": "Two?", "chosen": "a", "rejected": "b"}]
    found, told = loaded(tiny, tmp_path, rows)
    prompt_encoder = open_language_model(tiny.sft).prompt_encoder
    assert [group.pairs for group in found] == [((0, 1, 1.0),), ((0, 1, 1.0),)]
    assert prompt_encoder.decode(found[0].rows[0].ids[found[0].rows[0].prompt_length :]) == "yes"
    assert told == []


def test_prompts_of_the_evaluation_are_left_out(tiny: Fixture, tmp_path: Path) -> None:
    from sawyer.records import prompt_of

    rows = [{"prompt": "One?", "chosen": "yes", "rejected": "no"}, {"prompt": "Two?", "chosen": "a", "rejected": "b"}]
    found, told = loaded(tiny, tmp_path, rows, [prompt_of("One?")])
    assert len(found) == 1
    assert told == ["pairs: left out 1 prompts that the policy is evaluated on"]


def test_nothing_to_learn_is_refused(tiny: Fixture, tmp_path: Path) -> None:
    rows = [{"user_input": "One?", "responses_and_scores": [{"response": r, "score": 3} for r in "ab"]}]
    with pytest.raises(DataError, match="dpo has nothing to learn"):
        loaded(tiny, tmp_path, rows)


# The loss


def log_ratio(policy: Any, reference: Any, row: Any) -> Tensor:
    """log pi/pi_ref of the response, from the models' own whole logits, at temperature 1."""
    total = torch.zeros((), dtype=torch.float64)
    for model, sign in ((policy, 1), (reference, -1)):
        logits = model(input_ids=torch.tensor([row.ids])).logits[0].double()
        for t in range(row.prompt_length, len(row.ids)):
            total = total + sign * (logits[t - 1][row.ids[t]] - torch.logsumexp(logits[t - 1], 0))
    return total


def by_hand(work: Trainer, groups: Any, wrong: str = "") -> Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for group in groups:
        for j, k, _ in group.pairs:
            chosen = log_ratio(work.language_model.model, work.reference, group.rows[j])
            rejected = log_ratio(work.language_model.model, work.reference, group.rows[k])
            if wrong == "means":
                lengths = [len(group.rows[i].ids) - group.rows[i].prompt_length for i in (j, k)]
                chosen, rejected = chosen / lengths[0], rejected / lengths[1]
            margin = BETA * (rejected - chosen if wrong == "sign" else chosen - rejected)
            total, count = total + torch.log1p(torch.exp(-margin)), count + 1
    return total / (len(groups) if wrong == "by prompt" else count)


def moved(tiny: Fixture, out: Path, capture: Fixture, tokens: int, wrong: str = "") -> tuple[Tensor, Tensor, float, float]:
    """(gradient of the stage, by hand, loss of the stage, by hand) of one batch, away from the reference."""
    with tiny.run(out, "sft", "reward") as run:
        work = Trainer(config_of(tiny, out, tokens=tokens), run)
        model: Any = work.language_model.model
        for net in (model, work.reference):
            net.double()
        with torch.no_grad():
            for number, weight in enumerate(model.parameters()):
                generator = torch.Generator().manual_seed(number)
                weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        groups = work.pairs[:7]
        loss = by_hand(work, groups, wrong)
        loss.backward()
        expected = torch.cat([w.grad.flatten() for w in model.parameters()])
        found = capture(work.policy)
        count = sum(len(group.pairs) for group in groups)
        with double_precision():
            parts = work.pair_networks.minibatches(groups)
            work.policy.update(parts, lambda part: minibatch_loss(part, work.pair_networks, dpo_loss, BETA, DpoSums()), count)
    assert (found.parts[0] > 1) == (tokens < 5000)
    return found.gradients[0], expected, found.losses[0], float(loss.detach())


@pytest.mark.parametrize("tokens", [200, 100_000])
def test_the_loss_and_its_gradient_are_the_formula_s(tiny: Fixture, tmp_path: Path, capture: Fixture, tokens: int) -> None:
    ours, expected, loss, required_section = moved(tiny, tmp_path / "run", capture, tokens)
    assert abs(loss - required_section) < CLOSE and abs(required_section - math.log(2)) > 0.05
    assert float((ours - expected).abs().max()) < CLOSE < 1e-2 < float(expected.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["sign", "means", "by prompt"])
def test_a_known_mistake_is_seen(tiny: Fixture, tmp_path: Path, capture: Fixture, wrong: str) -> None:
    ours, expected, _, _ = moved(tiny, tmp_path / "run", capture, 200, wrong)
    assert float((ours - expected).abs().max()) > 1e-3


def test_a_judgement_of_weight_two_is_the_row_given_twice(tiny: Fixture, tmp_path: Path) -> None:
    """And the loss with the weights in its sum alone is another."""
    rows = json.loads(tiny.comparisons.read_text())[:8]
    first = rows[0] | {"rater": "r1"}
    figures = []
    for name, judged in (("twice", [first, first, *rows[1:]]), ("weighted", [first | {"judgement_weight": 2}, *rows[1:]])):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in judged))
        config = config_of(tiny, tmp_path / name, reward={"data": [str(data)], "eval_fraction": 0}, batch_size=len(judged))
        with tiny.run(tmp_path / name, "sft", "reward") as run:
            work = Trainer(config, run)
            with torch.no_grad():
                for weight in work.language_model.model.parameters():
                    weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
            figures.append(update_on_pairs(work.pairs, work.policy, work.pair_networks, dpo_loss, BETA).metrics)
    for figure in ("loss", "margin", "accuracy", "grad_norm"):
        assert figures[0][figure] == pytest.approx(figures[1][figure], rel=1e-3), figure
    count, weight = figures[1]["pairs"], figures[0]["pairs"]
    assert count < weight and figures[1]["loss"] * weight / count != pytest.approx(figures[0]["loss"], rel=1e-2)


def test_each_answer_goes_through_each_network_once(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool, bool]] = []
    plain = dpo_updates.policy_logprobs

    def counted(model: nn.Module, batch: Any, **more: Any) -> Any:
        seen.append((len(batch.ids), model is work.reference, torch.is_grad_enabled()))
        return plain(model, batch, **more)

    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        work = Trainer(config_of(tiny, tmp_path / "run", batch_size=1000, eval_every=100), run)
        monkeypatch.setattr(dpo_updates, "policy_logprobs", counted)
        work.step(0)
    answers, pairs_in_all = sum(len(g.rows) for g in work.pairs), sum(len(g.pairs) for g in work.pairs)
    assert pairs_in_all > answers  # so that a pair at a time would be more
    for of_reference in (False, True):
        assert sum(count for count, reference, _ in seen if reference == of_reference) == answers
    assert all(graph != reference for _, reference, graph in seen)


# The stage


@pytest.mark.slow
def test_a_run_is_evaluated_as_the_others_are(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    config = config_of(tiny, tmp_path / "run", epochs=2)
    config = parse_config({**config.model_dump(), "world": {"rater": "honest"}})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
        rows = run.journal.rows("rl")
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
        plan = events(run, "plan")[0]["message"]
        assert run.layout.model("rl").is_dir()
    assert figures["algorithm"] == "dpo" and plan.startswith(f"dpo: {figures['updates']} updates on ")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["margin"] == pytest.approx(0.0, abs=1e-4)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] and rows[figures["updates"] - 1]["margin"] > 0
    assert {name for name in gates if name.startswith("step0")} and all(
        verdict == "ok" for name, verdict in gates.items() if name.startswith("step0")
    )
    told = [row for row in rows if "eval_reward" in row]
    assert len(told) >= 3
    assert all({"eval_kl", "eval_gold", "eval_length"} <= row.keys() for row in told)
    assert told[0]["eval_kl"] == pytest.approx(0.0, abs=1e-4) != pytest.approx(told[-1]["eval_kl"], abs=1e-4)


def test_another_reference_fails_before_anything_is_kept(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = Trainer.__init__

    def other(self: Trainer, *given: Any) -> None:
        init(self, *given)
        self.reference = open_language_model(tiny.base).model

    monkeypatch.setattr(Trainer, "__init__", other)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with pytest.raises(TrainingError, match="before its first update"):
            train(config_of(tiny, tmp_path / "run"), run)


@pytest.mark.slow
def test_a_state_taken_and_loaded_goes_on_number_for_number(tiny: Fixture, tmp_path: Path) -> None:
    config = config_of(tiny, tmp_path / "run")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        straight = Trainer(config, run)
        straight.step(0)
        straight.step(1)
        torch.save(straight.state(), tmp_path / "state.pt")
        rest = [straight.step(index) for index in range(2, 4)]
        again = Trainer(config, run)
        again.load(torch.load(tmp_path / "state.pt", weights_only=True))
        assert [again.step(index) for index in range(2, 4)] == rest
    assert again.guards.state() == straight.guards.state()
