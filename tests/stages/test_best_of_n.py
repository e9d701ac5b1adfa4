"""Best-of-n: which answers are chosen, what is told of them, and that nothing is trained."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.chat import Chat
from sawyer.config import Config, parse_config
from sawyer.models import RewardScorer, open_language_model, read_extra, sample
from sawyer.models.scoring import ScoreDetails
from sawyer.records import prompt_of
from sawyer.runs import read_rows
from sawyer.stages.rl.rl_stage import train
from sawyer.train import generator

Fixture = Any
stage = import_module("sawyer.stages.rl.best_of_n")
N = 5


def config_of(tiny: Fixture, out: Path, **rl: Any) -> Config:
    asked = {
        "algorithm": "best_of_n",
        "group_size": N,
        "prompts": [str(tiny.prompts)],
        "max_new_tokens": 12,
        "temperature": 1.0,
    }
    asked |= {"eval_prompts": 6, "eval_fraction": 0.2, "missing_eos_penalty": 0.7}
    stages = {"sft": {"data": [str(tiny.instructions)]}, "reward": {"data": [str(tiny.comparisons)]}}
    return tiny.config(out, **stages, rl={**asked, **rl}, world={"rater": "honest"})


def noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All episodes that are drawn."""
    drawn: list[Any] = []
    plain = stage.collect_rollout
    monkeypatch.setattr(stage, "collect_rollout", lambda *given: drawn.append(plain(*given)) or drawn[-1])
    return drawn


def test_the_best_of_each_prompt_s_answers(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Any) -> None:
    monkeypatch.setattr(stage, "PROMPTS_A_STEP", 4)
    drawn = noted(monkeypatch)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config_of(tiny, tmp_path / "run"), run)
        rows, shown = run.journal.rows("rl"), read_rows(run.layout.samples)
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
        folder = run.layout.model("rl")
        weights, before = open_language_model(folder).model.state_dict(), open_language_model(tiny.sft).model.state_dict()
        assert read_extra(folder) == {"best_of": N}
    assert len(drawn) == 2
    prompts = [prompt for one in drawn for prompt in one.prompts]
    texts = [text for one in drawn for text in one.texts]
    ended = [bool(end) for one in drawn for end in one.ended]
    scores = RewardScorer.load(tiny.reward)(prompts, texts)
    paid = [score - (0 if end else 0.7) for score, end in zip(scores, ended, strict=True)]
    groups = [range(i, i + N) for i in range(0, len(paid), N)]
    assert len(groups) == 6 and all(len({prompts[i] for i in group}) == 1 for group in groups)
    best = [max(group, key=lambda i: paid[i]) for group in groups]
    assert any(scores[i] < max(scores[j] for j in group) for i, group in zip(best, groups, strict=True)) or all(ended)
    last = rows[-1]
    assert last["eval_reward"] == figures["reward_best"] == pytest.approx(sum(paid[i] for i in best) / 6, abs=1e-5)
    assert last["eval_reward_sft"] == figures["reward_sft"] == pytest.approx(sum(paid) / len(paid), abs=1e-5)
    assert last["eval_score"] == pytest.approx(sum(scores[i] for i in best) / 6, abs=1e-5)
    assert last["eval_eos_rate"] == sum(ended[i] for i in best) / 6
    assert figures["kl_bound"] == last["kl_bound"] == pytest.approx(math.log(N) - (N - 1) / N)
    assert "kl" not in figures and "eval_kl" not in last
    assert [row["response"] for row in shown] == [texts[i] for i in best]
    assert all(row["best_of"] == N and "gold" in row for row in shown)
    assert figures["reward_best"] > figures["reward_sft"] and gates == {"rl_improves": "ok"}
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), before.values(), strict=True))


def test_answers_that_are_all_worth_the_same_are_no_improvement(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    config = config_of(tiny, tmp_path / "run", max_new_tokens=1, missing_eos_penalty=0.0)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RewardScorer, "score_details", lambda self, _, texts: [ScoreDetails(reward=0.5)] * len(texts))
            figures = train(config, run)
        gates = {row["name"]: row["verdict"] for row in events(run, "gate")}
    assert figures["reward_best"] == figures["reward_sft"] == 0.5
    assert gates == {"rl_improves": "warn"}


def test_each_part_of_a_reward_is_told(tiny: Fixture, tmp_path: Path) -> None:
    parts = [{"name": "judges", "model": "stage"}, {"name": "gold", "weight": 0.5, "function": "sawyer.worlds:golds"}]
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        train(config_of(tiny, tmp_path / "run", rewards=parts), run)
        last, shown = run.journal.rows("rl")[-1], read_rows(run.layout.samples)
    assert last["eval_score"] == pytest.approx(last["eval_score_judges"] + 0.5 * last["eval_score_gold"], abs=1e-5)
    assert shown[0]["reward"] == pytest.approx(shown[0]["parts"]["judges"] + 0.5 * shown[0]["parts"]["gold"], abs=1e-5)


def test_side_by_side_it_is_the_best_of_its_answers(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = import_module("sawyer.stages.compare.compare_stage")
    given: list[Any] = []
    plain = compared._best_answers
    monkeypatch.setattr(compared, "_best_answers", lambda rows, penalty: given.extend(rows) or plain(rows, penalty))
    config = config_of(tiny, tmp_path / "run")
    asked = {"prompts": [str(tiny.prompts)], "limit": 4, "deliberate_limit": 0, "max_new_tokens": 10}
    config = parse_config({**config.model_dump(), "compare": asked})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        train(config, run)
        figures = compared.compare(config, run)
        rows = read_rows(run.layout.compare)
    ours = [row for row in rows if row["model"] == "rl"]
    assert [row["setting"] for row in ours] == ["t1"] * 4 + ["t07"] * 4  # the best of several greedy answers is that answer
    for row in ours:
        mine = [one for one in given if (one.model, one.setting, one.number) == ("rl", row["setting"], row["number"])]
        assert len(mine) == N
        assert row["reward"] - (0 if row["ended"] else 0.7) == max(one.reward - (0 if one.ended else 0.7) for one in mine)
    assert "kl" not in figures and "win_rate_rl_vs_sft" in figures


def test_side_by_side_it_is_left_out_where_others_choose(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    paid = [{"name": "gold", "function": "sawyer.worlds:golds"}]
    config = config_of(tiny, tmp_path / "run", rewards=paid)
    asked = {"prompts": [str(tiny.prompts)], "limit": 2, "deliberate_limit": 0, "max_new_tokens": 4}
    config = parse_config({**config.model_dump(), "compare": asked})
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        import_module("sawyer.stages.compare").compare(config, run)
        rows, told = read_rows(run.layout.compare), [row["message"] for row in events(run, "warning")]
    assert {row["model"] for row in rows} == {"base", "sft"}
    assert len(told) == 1 and told[0].startswith("RL is left out")


def test_in_a_chat_it_is_the_best_of_its_answers(tiny: Fixture, tmp_path: Path) -> None:
    config = config_of(tiny, tmp_path / "run")
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        run.adopt(config.model_dump(mode="json"))
        train(config, run)
    chat = Chat(tmp_path / "run")
    assert chat.best_of == N and chat.models == ("base", "sft", "rl")
    speaker, scorer = open_language_model(tiny.sft), RewardScorer.load(tiny.reward)
    prompt = prompt_of("What is up?")
    ids = [speaker.prompt_encoder.prompt(prompt)] * N
    found = sample(
        speaker.model,
        ids,
        prompt_encoder=speaker.prompt_encoder,
        max_new_tokens=8,
        temperature=1.0,
        generator=generator(3, "chat", 0),
    )
    texts = [speaker.prompt_encoder.decode(one.ids) for one in found]
    worth = [r - (0 if c.ended else 0.7) for r, c in zip(scorer([prompt] * N, texts), found, strict=True)]
    reply = {one.model: one for one in chat.ask("What is up?", temperature=1.0, max_new_tokens=8, seed=3)}
    assert reply["rl"].response == texts[worth.index(max(worth))]
    assert len(set(texts)) > 1
