"""The reward model: pairs, their loss, and the unit its scores are told in."""

from __future__ import annotations

import json
import math
import statistics
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.config.sections import World
from sawyer.errors import DataError
from sawyer.models import (
    Member,
    RewardScorer,
    load_reward,
    load_tokenizer,
    new_policy,
    open_language_model,
    read_extra,
    save_model,
)
from sawyer.models.fast.packing import packs_exactly
from sawyer.records import Answer, JudgedPrompt, json_lines, prompt_of, scored_row
from sawyer.runs import Layout, Run, read_rows
from sawyer.stages.reward.reward_data import load_reward_data
from sawyer.stages.reward.reward_stage import RewardLoop, sample_answers, train
from sawyer.train import EncodedPrompt, batch_indices, choose_device, generator, judged_minibatches
from sawyer.worlds import tasks

Fixture = Any


def config_of(tiny: Fixture, out: Path, data: Path | None, *, micro: int = 8192, **asked: Any) -> Any:
    sections = {"data": [str(data)] if data else [], "eval_fraction": 0, **asked}
    stages: dict[str, Any] = {"sft": {"data": ["d"]}, "reward": sections, "micro_batch_tokens": micro}
    return tiny.config(out, **stages | ({} if data else {"collect": {"prompts": ["p"]}}))


def scored(*scores: float | None, prompt: str = "Which is best?") -> dict[str, Any]:
    """A row of answers that differ in length as well as in score."""
    answers = [{"response": "word " * (i + 1), "score": score} for i, score in enumerate(scores)]
    return {"user_input": prompt, "responses_and_scores": answers}


def groups_of(tiny: Fixture, out: Path, run: Run, data: Path, **asked: Any) -> tuple[EncodedPrompt, ...]:
    return load_reward_data(config_of(tiny, out, data, **asked), run, open_language_model(tiny.sft)).train_prompts


def work_of(tiny: Fixture, out: Path, groups: Any, **asked: Any) -> RewardLoop:
    model = load_reward(tiny.reward, load_tokenizer(tiny.reward))
    config = config_of(tiny, out, tiny.comparisons, **asked)
    return RewardLoop(
        config, choose_device("cpu", "fp32", width=16), model, open_language_model(tiny.sft).prompt_encoder.pad_id, groups
    )


# Data


def test_all_pairs_of_a_prompt_ties_left_out_and_counted(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    rows = [scored(6, 2, 2, prompt="a"), scored(5, None, 7, prompt="b"), scored(4, 4, prompt="c"), scored(9, prompt="d")]
    with tiny.run(tmp_path / "run") as run:
        found = load_reward_data(config_of(tiny, tmp_path, write_rows(rows)), run, open_language_model(tiny.sft))
        groups = found.train_prompts
        warned = events(run, "warning")
    assert [group.record.prompt.text for group in groups] == ["a", "b"] and not warned
    assert groups[0].pairs == ((0, 1, 4.0), (0, 2, 4.0))
    # The answer nobody scored is not there: the pair's numbers count the scored ones.
    assert groups[1].pairs == ((1, 0, 2.0),)
    assert groups[1].record.responses == ("word", "word word word")
    # Of the first prompt's three pairs one is tied, as are the third's: any large file has such, so that the plan counts them.
    assert found.remarks == (
        "; 1 prompt is left out: all scores are equal; "
        "1 prompt is left out: a single scored answer has nothing to compare with; 1 tied pair is left out"
    )


def test_answers_that_are_cut_and_prompts_without_room_are_counted(
    tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any
) -> None:
    long = scored(1, 2, prompt="cut")
    long["responses_and_scores"][0]["response"] = "qz " * 200
    rows = [long, scored(1, 2, prompt="qz " * 200), scored(1, 2, prompt="fits")]
    with tiny.run(tmp_path / "run") as run:
        groups = groups_of(tiny, tmp_path, run, write_rows(rows))
        told = events(run, "warning")[-1]["message"]
    assert [group.record.prompt.text for group in groups] == ["cut", "fits"]
    assert [row.cut for row in groups[0].rows] == [True, False]
    assert "1 answer is cut" in told
    assert "1 prompt is left out: the prompt leaves no room for an answer (rows.json:2)" in told


def test_pairs_files_keep_their_margin(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    rows = [
        {"prompt": "a", "chosen": "good", "rejected": "bad", "margin": 2.5},
        {"prompt": "b", "chosen": "fine", "rejected": "poor"},
    ]
    with tiny.run(tmp_path / "run") as run:
        groups = groups_of(tiny, tmp_path, run, write_rows(rows), loss="margin")
    assert [group.pairs for group in groups] == [((0, 1, 2.5),), ((0, 1, 1.0),)]
    assert groups[0].record.responses == ("good", "bad")
    work = work_of(tiny, tmp_path, groups, loss="margin", batch_size=2)
    (part,) = judged_minibatches(groups, 0, 10_000)
    scores = RewardScorer(prompt_encoder=open_language_model(tiny.sft).prompt_encoder, members=[Member(model=work.model)])(
        [g.record.prompt for g in groups for _ in "ab"], ["good", "bad", "fine", "poor"]
    )
    expected = [minus_log_sigmoid(scores[0] - scores[1] - 2.5), minus_log_sigmoid(scores[2] - scores[3] - 1.0)]
    assert work.loss(part, []).item() == pytest.approx(sum(expected), rel=1e-5)


@pytest.mark.parametrize("score", [8, None])
def test_a_lazy_rater_teaches_nothing_and_is_told_so(
    tiny: Fixture, tmp_path: Path, write_rows: Any, score: float | None
) -> None:
    path = write_rows([scored(score, score, score, prompt=str(i)) for i in range(5)])
    with tiny.run(tmp_path / "run", "sft") as run, pytest.raises(DataError, match="two answers with different scores"):
        train(config_of(tiny, tmp_path, path), run)


def test_a_held_out_share_that_leaves_nothing_is_told(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = write_rows([scored(1, 2, prompt=str(i)) for i in range(3)])
    with tiny.run(tmp_path / "run") as run, pytest.raises(DataError, match="all 3 rows of"):
        groups_of(tiny, tmp_path, run, path, eval_fraction=0.99)


def test_collected_answers_join_the_file(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    own = JudgedPrompt(prompt=prompt_of("mine"), answers=(Answer(response="x", score=1.0), Answer(response="y", score=3.0)))
    path = write_rows([scored(1, 2, prompt="theirs")])
    with tiny.run(tmp_path / "run") as run:
        run.layout.answers.parent.mkdir()
        run.layout.answers.write_text(json_lines([scored_row(own)]))
        both = config_of(tiny, tmp_path, path).model_copy(update={"collect": config_of(tiny, tmp_path, None).collect})
        assert [
            group.record.prompt.text for group in load_reward_data(both, run, open_language_model(tiny.sft)).train_prompts
        ] == ["theirs", "mine"]
        alone = load_reward_data(config_of(tiny, tmp_path, None), run, open_language_model(tiny.sft)).train_prompts
    assert [(group.record.prompt.text, group.pairs) for group in alone] == [("mine", ((1, 0, 2.0),))]


# Loss


def minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x)) if x > 0 else -x + math.log1p(math.exp(x))


BY_HAND = {
    "bradley_terry": lambda gap, d: minus_log_sigmoid(gap),
    "squared": lambda gap, d: minus_log_sigmoid(gap * d * d),
    "margin": lambda gap, d: minus_log_sigmoid(gap - d),
    "scaled": lambda gap, d: d * minus_log_sigmoid(gap),
}


@pytest.mark.parametrize("loss", list(BY_HAND))
@pytest.mark.parametrize("center", [0.0, 0.01])
def test_a_batch_s_loss_is_the_mean_over_its_pairs(tiny: Fixture, tmp_path: Path, loss: str, center: float) -> None:
    with tiny.run(tmp_path / "run") as run:
        groups = groups_of(tiny, tmp_path, run, tiny.comparisons)
    work = work_of(tiny, tmp_path, groups, loss=loss, centering_coefficient=center, batch_size=9, micro=400)
    chosen = [groups[i] for i in batch_indices(len(groups), 9, 0, total=len(groups), seed=0, stage="reward")]
    scorer = RewardScorer(prompt_encoder=open_language_model(tiny.sft).prompt_encoder, members=[Member(model=work.model)])
    total, right, count = 0.0, 0, 0
    for group in chosen:
        scores = [scorer([group.record.prompt], [response])[0] for response in group.record.responses]
        for j, k, d in group.pairs:
            total += BY_HAND[loss](scores[j] - scores[k], d) + center * (scores[j] + scores[k]) ** 2
            right += scores[j] > scores[k]
            count += 1
    found = work.step(0)
    assert found["pairs"] == count
    assert found["loss"] == pytest.approx(total / count, rel=1e-4)
    assert found["accuracy"] == right / count
    assert 0 < right < count


@pytest.mark.fast_path
def test_each_answer_runs_through_the_network_once(tiny: Fixture, tmp_path: Path) -> None:
    with tiny.run(tmp_path / "run") as run:
        groups = groups_of(tiny, tmp_path, run, tiny.comparisons)
    work = work_of(tiny, tmp_path, groups, batch_size=9, micro=400)
    seen: list[int] = []
    assert packs_exactly(work.model.base_model)  # found out by three rows of its own
    work.model.base_model.register_forward_pre_hook(
        lambda _, __, n: seen.append(sum(len(group.suffixes) for group in n["layout"].groups)), with_kwargs=True
    )
    found = work.step(0)
    chosen = [groups[i] for i in batch_indices(len(groups), 9, 0, total=len(groups), seed=0, stage="reward")]
    answers = sum(len(group.rows) for group in chosen)
    assert len(seen) > 1
    assert sum(seen) == answers
    assert found["pairs"] > answers


def test_the_parts_of_a_batch_hold_every_answer_and_pair_once(tiny: Fixture, tmp_path: Path) -> None:
    with tiny.run(tmp_path / "run") as run:
        groups = groups_of(tiny, tmp_path, run, tiny.comparisons)
    budget = max(len(group.rows) * max(len(row.ids) for row in group.rows) for group in groups)  # what one prompt takes
    parts = list(judged_minibatches(groups, 0, budget))
    assert 5 < len(parts) < len(groups)
    assert all(part.batch.ids.numel() <= budget for part in parts)
    rows = [tuple(ids[mask].tolist()) for part in parts for ids, mask in zip(part.batch.ids, part.batch.mask, strict=True)]
    assert sorted(rows) == sorted(row.ids for group in groups for row in group.rows)
    found = sorted(
        (tuple(part.batch.ids[j][part.batch.mask[j]].tolist()), tuple(part.batch.ids[k][part.batch.mask[k]].tolist()), d)
        for part in parts
        for said in [part.judgements]
        for j, k, d in zip(*(pair.tolist() for pair in (said.better, said.worse, said.difference)), strict=True)
    )
    assert found == sorted((g.rows[j].ids, g.rows[k].ids, d) for g in groups for j, k, d in g.pairs)


def test_a_prompt_longer_than_the_budget_is_still_one_part(tiny: Fixture, tmp_path: Path) -> None:
    with tiny.run(tmp_path / "run") as run:
        groups = groups_of(tiny, tmp_path, run, tiny.comparisons)
    assert len(list(judged_minibatches(groups, 0, 16))) == len(groups)


# Unit


@pytest.fixture(scope="module")
def done(tiny: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(config, figures, root) of a reward model that was trained a little."""
    out = tmp_path_factory.mktemp("reward") / "run"
    config = config_of(
        tiny, out, tiny.comparisons, epochs=2, learning_rate=3e-3, eval_fraction=0.25, calibration_prompts=30, batch_size=8
    )
    with tiny.run(out, "sft") as run:
        return config, train(config, run), out


@pytest.mark.slow
def test_the_sft_model_s_own_answers_have_mean_0_and_deviation_1(tiny: Fixture, done: Any) -> None:
    config, figures, out = done
    scorer = RewardScorer.load(out / "reward" / "model")
    assert (scorer.shift, scorer.scale) == (figures["reward_shift"], figures["reward_scale"])
    assert read_extra(out / "reward" / "model")["loss"] == "squared"
    assert scorer.scale != 1.0
    speaker = open_language_model(tiny.sft)
    with tiny.run(out.parent / "again") as run:
        prompts = [group.record.prompt for group in load_reward_data(config, run, speaker).train_prompts][:30]
    own = sample_answers(config, choose_device("cpu", "fp32", width=16), speaker, prompts)
    assert len(own[1]) == 30
    scores = scorer(*own)
    assert statistics.fmean(scores) == pytest.approx(0.0, abs=1e-5)
    assert statistics.pstdev(scores) == pytest.approx(1.0, abs=1e-5)
    others = scorer([prompts[0]] * 2, ["Yes.", "Something else altogether."])
    raw = RewardScorer(prompt_encoder=scorer.prompt_encoder, members=[Member(model=scorer.model)])(
        [prompts[0]] * 2, ["Yes.", "Something else altogether."]
    )
    assert others == pytest.approx([(score - scorer.shift) / scorer.scale for score in raw])


def test_the_unit_is_that_of_the_answers_rl_begins_from(tiny: Fixture, tmp_path: Path) -> None:
    """Sampled as RL samples them; without RL, plainly."""
    from sawyer.models import sample

    speaker, place = open_language_model(tiny.sft), choose_device("cpu", "fp32", width=16)
    prompts = [prompt_of(f"Say {word}.") for word in ("one", "two", "three")]
    hot = tiny.rl_config(tmp_path, temperature=0.3, max_new_tokens=9)
    for config, most, temperature in ((hot, 9, 0.3), (config_of(tiny, tmp_path, tiny.comparisons), 128, 1.0)):
        expected = sample(
            speaker.model,
            [speaker.prompt_encoder.prompt(prompt) for prompt in prompts],
            prompt_encoder=speaker.prompt_encoder,
            max_new_tokens=most,
            temperature=temperature,
            generator=generator(0, "reward", "own", 1),
        )
        found = sample_answers(config, place, speaker, prompts)
        assert found == (prompts, [speaker.prompt_encoder.decode(completion.ids) for completion in expected])


def test_the_held_out_loss_is_the_training_loss_on_other_prompts(tiny: Fixture, done: Any) -> None:
    """In the unit the model was trained in: dividing by the scale first would give another loss."""
    config, figures, out = done
    trained = RewardScorer.load(out / "reward" / "model")
    scorer = RewardScorer(prompt_encoder=trained.prompt_encoder, members=[Member(model=trained.model)])
    with tiny.run(out.parent / "again") as run:
        held_out = load_reward_data(config, run, open_language_model(tiny.sft)).eval_prompts
    losses, outcomes = [], []
    for group in held_out:
        scores = scorer([group.record.prompt] * len(group.record.responses), group.record.responses)
        losses += [BY_HAND["squared"](scores[j] - scores[k], d) for j, k, d in group.pairs]
        outcomes += [scores[j] > scores[k] for j, k, _ in group.pairs]
    assert figures["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert figures["accuracy"] == pytest.approx(sum(outcomes) / len(outcomes))
    assert figures["eval_prompts"] == len(held_out)


def test_what_is_told_of_the_stage(tiny: Fixture, done: Any) -> None:
    config, figures, out = done
    with tiny.run(out.parent / "again") as run:
        prompts = len(load_reward_data(config, run, open_language_model(tiny.sft)).train_prompts)
    rows = read_rows(out / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert figures["loss_first"] == losses[0]
    assert figures["loss_last"] < losses[0]
    assert len(losses) == math.ceil(2 * prompts / 8)
    assert rows[-1]["accuracy"] == figures["accuracy"]
    gates = [row["name"] for row in read_rows(out / "events.jsonl") if row["kind"] == "gate"]
    assert gates == ["reward_beats_baselines", "reward_rejects_damage", "reward_learned"]


def test_the_trust_report_lies_beside_the_model_and_agrees_with_the_figures(done: Any) -> None:
    config, figures, out = done
    report = json.loads(Layout(out).trust.read_text())
    everything = report["sides"][0]
    assert (everything["accuracy"]["value"], everything["accuracy"]["low"]) == (figures["accuracy"], figures["accuracy_low"])
    assert report["verdict"]["kind"] == figures["verdict"]
    assert (report["loss"], report["held_out"]) == (config.reward.loss, figures["eval_prompts"] > 0)
    assert everything["calibration"][-1]["error"]["value"] == figures["ece"]
    assert {probe["name"]: probe["wins"]["value"] for probe in report["probes"]} == figures["probes"]


def test_an_earlier_model_s_report_does_not_outlive_it(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = write_rows([scored(8, 8, prompt=str(i)) for i in range(5)])
    with tiny.run(tmp_path / "run", "sft") as run:
        run.layout.trust.parent.mkdir()
        run.layout.trust.write_text("{}")
        with pytest.raises(DataError, match="there is nothing to learn"):
            train(config_of(tiny, tmp_path, path), run)
        assert json.loads(run.layout.trust.read_text())["verdict"]["kind"] == "refuse"


@pytest.mark.slow
def test_where_the_truth_is_known_it_is_asked(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SFT model's own answers to the world's held-out prompts, four each."""
    trust = import_module("sawyer.stages.reward.reward_trust")
    monkeypatch.setattr(trust, "WORLD_PROMPTS", 5)
    asked: list[str] = []
    plain = trust.gold
    monkeypatch.setattr(trust, "gold", lambda prompt, response: asked.append(prompt) or plain(prompt, response))
    config = config_of(tiny, tmp_path / "run", tiny.comparisons, calibration_prompts=5, batch_size=30)
    known = config.model_copy(update={"world": World(rater="honest")})
    with tiny.run(tmp_path / "run", "sft") as run:
        figures = train(known, run)
    held_out = {task.prompt for task in tasks("held_out", 5, 0)}
    assert [prompt for prompt in asked if prompt in held_out] == [
        task.prompt for task in tasks("held_out", 5, 0) for _ in range(4)
    ]
    assert {"gold_accuracy", "gold_accuracy_low", "gold_pairs", "gold_correlation"} <= set(figures)
    assert figures["gold_pairs"] <= 5 * 6


def test_the_sft_model_is_not_touched(tiny: Fixture, done: Any) -> None:
    trained, sft = load_reward(done[2] / "reward" / "model", load_tokenizer(tiny.sft)), open_language_model(tiny.sft).model
    before = sft.base_model.state_dict()
    assert any(bool((weight != before[name]).any()) for name, weight in trained.base_model.state_dict().items())
    copied = open_language_model(done[2] / "sft" / "model").model.state_dict()
    assert all(torch.equal(weight, copied[name]) for name, weight in sft.state_dict().items())


# The reward's zero and unit


@pytest.mark.slow
@pytest.mark.parametrize("longest", [False, True])
def test_prompts_that_the_sft_model_cannot_answer_set_no_unit(
    tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any, longest: bool
) -> None:
    """The reward model may read more than the SFT model, which has no room to answer such a prompt: it would say nothing."""
    context = open_language_model(tiny.sft).prompt_encoder.context
    asks = [f"{'qz ' * context}{i}" if i % 3 == 0 or longest else f"Say {i}." for i in range(12)]
    data = write_rows([{"prompt": ask, "chosen": "Yes, yes.", "rejected": "No."} for ask in asks])
    tokenizer = load_tokenizer(tiny.sft)
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    wide = new_policy(vocab_size=len(tokenizer), layers=1, width=16, heads=2, context=8 * context, seed=0, **ids)
    (tmp_path / "wide").mkdir()
    save_model(tmp_path / "wide", wide, tokenizer)
    asked = {"data": [str(data)], "model": str(tmp_path / "wide"), "eval_fraction": 0, "calibration_prompts": 6}
    seen: list[tuple[Any, Any]] = []
    stage = import_module("sawyer.stages.reward.reward_stage")
    with tiny.run(tmp_path / "run", "sft") as run, pytest.MonkeyPatch.context() as patch:
        real = stage.sample_answers
        patch.setattr(stage, "sample_answers", lambda *of: seen.append(real(*of)) or seen[-1])
        config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, reward=asked)
        if longest:
            with pytest.raises(DataError, match=r"none of the 12 training prompts of reward\.data fits the SFT model's"):
                train(config, run)
            return
        train(config, run)
        told = [row["message"] for row in events(run, "warning")]
    ((prompts, responses),) = seen
    assert [prompt.text for prompt in prompts] == [ask for ask in asks if ask.startswith("Say")][:6]
    assert len(responses) == 6
    assert told[-1].startswith(f"4 of 12 training prompts leave the SFT model no room for an answer in its {context} tokens")
