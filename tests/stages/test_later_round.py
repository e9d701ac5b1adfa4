"""A later round of collection: who answers, which prompts are kept, what people get to see, and that it can be interrupted."""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import ConfigError, Interrupted, RunError
from sawyer.records import read
from sawyer.runs import read_rows
from sawyer.stages.collect import collect, collect_round
from sawyer.stages.collect.later_round import PromptChoice, RoundAnswer, choose_prompts, prompt_uncertainty, round_figures
from sawyer.train import write_answer_rewards

Fixture = Any
stage = import_module("sawyer.stages.collect.later_round")


def answers(*rewards: float, disagreement: tuple[float, ...] = ()) -> list[RoundAnswer]:
    spreads: list[float | None] = [*disagreement] or [None] * len(rewards)
    return [
        RoundAnswer(response=f"answer {i}", source="rl" if i % 2 == 0 else "sft", reward=reward, disagreement=spread)
        for i, (reward, spread) in enumerate(zip(rewards, spreads, strict=True))
    ]


def config_of(tiny: Fixture, out: Path, **settings: Any) -> Any:
    section = {"prompts": [str(tiny.prompts)], "answers": 3, "max_new_tokens": 8, "limit": 5, **settings}
    own = {"sft": {"data": [str(tiny.instructions)]}, "reward": {"data": [str(tiny.comparisons)]}}
    return tiny.config(out, **own, collect=section, world={"rater": "people"}, rl={"prompts": [str(tiny.prompts)]})


def begin(tiny: Fixture, run: Any) -> None:
    """A finished first round: the RL model is the SFT model here."""
    import shutil

    if not run.layout.model("rl").exists():
        shutil.copytree(tiny.sft, run.layout.model("rl"))
    run.layout.answers.parent.mkdir(exist_ok=True)
    row = {"user_input": "Say yes.", "responses_and_scores": [{"response": "Yes.", "score": None, "source": "sft"}]}
    run.layout.answers.write_text(json.dumps(row) + "\n")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_uncertainty_is_the_smallest_gap_or_the_mean_disagreement() -> None:
    assert prompt_uncertainty(answers(3.0, -1.0, 2.5)) == -0.5  # gaps 0.5 and 3.5
    assert prompt_uncertainty(answers(0.0, 9.0, disagreement=(0.2, 0.6))) == pytest.approx(0.4)


def test_the_least_sure_are_kept_and_a_fifth_at_random() -> None:
    gaps = [5.0, 0.1, 4.0, 0.2, 3.0, 0.3, 2.0, 0.4, 1.0, 0.5, 6.0, 7.0]
    every = [answers(0.0, gap) for gap in gaps] + [answers(1.0)]  # the last prompt got one answer alone
    choice = choose_prompts(every, 5, random.Random(0))
    assert sorted(choice.uncertain) == [1, 3, 5, 7]  # the four smallest gaps
    assert len(choice.by_chance) == 1 and choice.by_chance[0] not in (1, 3, 5, 7, 12)
    assert choice.indices == tuple(sorted((*choice.uncertain, *choice.by_chance)))
    assert choice == choose_prompts(every, 5, random.Random(0))
    drawn = Counter(choose_prompts(every, 5, random.Random(seed)).by_chance[0] for seed in range(400))
    assert set(drawn) == {0, 2, 4, 6, 8, 9, 10, 11}  # every other prompt may come, however sure the model is of it
    assert min(drawn.values()) > 25  # of 50 expected


def test_without_a_limit_every_prompt_is_kept() -> None:
    every = [answers(0.0, 1.0), answers(2.0), answers(0.0, 0.0)]
    for limit in (None, 2, 9):
        assert choose_prompts(every, limit, random.Random(0)) == PromptChoice(uncertain=(), by_chance=(0, 2))


def test_the_figures_by_hand() -> None:
    every = [answers(1.0, 2.0, 3.0), answers(5.0), answers(7.0, 8.0)]
    figures = round_figures(2, every, PromptChoice(uncertain=(0,), by_chance=(2,)))
    assert figures == {
        **{
            "round": 2,
            "considered": 3,
            "single_answer_prompts": 1,
            "prompts": 2,
            "random_prompts": 1,
            "answers": 5,
            "waiting": 5,
        },
        **{"uncertainty": "reward gap", "reward_rl": (1 + 3 + 5 + 7) / 4, "reward_sft": (2 + 8) / 2},
    }


def test_both_models_answer_and_nothing_but_text_is_shown(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    out = tmp_path / "run"
    with tiny.run(out, "sft", "reward") as run:
        begin(tiny, run)
        figures = collect_round(config_of(tiny, out), run, 2)
        file, rewards = run.layout.answers_of(2), rows_of(run.layout.answer_rewards)
        assert "20%" in events(run, "chosen")[0]["message"] and events(run, "chosen")[0]["random_prompts"] == 1
    rows = rows_of(file)
    assert figures["prompts"] == len(rows) == 5
    assert figures["considered"] == 20  # four for each that is kept
    every = [answer for row in rows for answer in row["responses_and_scores"]]
    assert all(set(answer) == {"response", "score", "source"} and answer["score"] is None for answer in every)
    assert {answer["source"] for answer in every} == {"rl", "sft"}
    assert all(sum(a["source"] == "rl" for a in row["responses_and_scores"]) <= 2 for row in rows)
    assert figures["waiting"] == figures["answers"] == len(every) == len(rewards)
    assert [row["response"] for row in rewards] == [answer["response"] for answer in every]
    assert all(row["disagreement"] is None and isinstance(row["reward"], float) for row in rewards)
    known = {prompt.text for prompt in read([str(tiny.prompts)], want="prompts").records}  # type: ignore[union-attr]
    assert {row["prompt"][-1]["content"] for row in rewards} == {row["user_input"] for row in rows} <= known


def test_the_same_seed_gives_the_same_round_also_after_an_interruption(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "ANSWERS_A_STEP", 9)  # three prompts a step
    texts = []
    for name in ("straight", "interrupted"):
        out = tmp_path / name
        with tiny.run(out, "sft", "reward") as run:
            begin(tiny, run)
            if name == "interrupted":
                run.journal.listeners.append(lambda kind, row, run=run: run.stop.set("a test") if kind == "metric" else None)
                with pytest.raises(Interrupted):
                    collect_round(config_of(tiny, out), run, 2)
                assert not run.layout.answers_of(2).exists()
                run.journal.listeners.clear()
                run.stop.reason = ""
            collect_round(config_of(tiny, out), run, 2)
            steps = [row["step"] for row in read_rows(run.layout.metrics) if row["stage"] == "collect-2"]
            texts.append((run.layout.answers_of(2).read_text(), run.layout.answer_rewards.read_text(), steps))
    assert texts[0] == texts[1]
    assert texts[0][2] == list(range(7))


def test_a_round_is_refused_where_something_is_missing_or_there_already(tiny: Fixture, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with tiny.run(out, "sft", "reward") as run:
        for number, words in ((1, "no later round"), (2, "does not exist")):
            with pytest.raises(RunError, match=words):
                collect_round(config_of(tiny, out), run, number)
        begin(tiny, run)
        with pytest.raises(RunError, match=r"answers-2\.jsonl does not exist"):
            collect_round(config_of(tiny, out), run, 3)
        run.layout.answers_of(2).write_text("people's work\n")
        with pytest.raises(RunError, match="collected already"):
            collect_round(config_of(tiny, out), run, 2)
        assert run.layout.answers_of(2).read_text() == "people's work\n"
        run.layout.answers_of(2).unlink()
        run.layout.model("rl").rename(out / "elsewhere")
        with pytest.raises(RunError, match=r"rl.model does not exist"):
            collect_round(config_of(tiny, out), run, 2)


def test_the_world_s_answers_wait_for_people(tiny: Fixture, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with tiny.run(out, "sft") as run:
        figures = collect(config_of(tiny, out), run)
    assert figures["waiting"] == figures["answers"] > 5
    assert "mean_score" not in figures
    with pytest.raises(ConfigError, match=r"world\.rater"):
        tiny.config(out, world={"rater": "somebody"})


def test_the_reward_model_s_view_of_every_collected_answer(tiny: Fixture, tmp_path: Path) -> None:
    """Of all rounds, each answer once, in the files' order; without answers no old file stays."""

    def scorer(prompts: Any, responses: Any) -> list[float]:
        return [float(len(prompt.text) + len(text)) for prompt, text in zip(prompts, responses, strict=True)]

    with tiny.run(tmp_path / "run") as run:
        run.layout.answer_rewards.parent.mkdir()
        run.layout.answer_rewards.write_text("old\n")
        assert write_answer_rewards(run, scorer) == 0
        assert not run.layout.answer_rewards.exists()
        begin(tiny, run)
        given = [
            {"response": text, "score": None, "source": source}
            for text, source in (("No.", "rl"), ("Never.", "sft"), ("No.", "sft"))
        ]
        other = {"prompt": [{"role": "user", "content": "Say no."}], "responses_and_scores": given}
        run.layout.answers_of(2).write_text(json.dumps(other) + "\n")
        assert write_answer_rewards(run, scorer) == 3
        rows = rows_of(run.layout.answer_rewards)
    assert [(row["prompt"][0]["content"], row["response"], row["reward"]) for row in rows] == [
        ("Say yes.", "Yes.", 12.0),
        ("Say no.", "No.", 10.0),
        ("Say no.", "Never.", 13.0),
    ]
    assert rows[0] == {
        "prompt": [{"role": "user", "content": "Say yes."}], "response": "Yes.", "reward": 12.0, "disagreement": None
    }  # fmt: skip
