"""The models side by side: who is asked what, best of 8, KL, and the figures by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.errors import DataError, WorldError
from sawyer.models import RewardScorer, copy_model, open_language_model
from sawyer.models.fast import prepacked_linear
from sawyer.pipeline import preflight
from sawyer.records import prompt_of, read
from sawyer.runs import read_rows
from sawyer.stages.compare import compare
from sawyer.stages.compare.comparison_rows import ComparedAnswer, ModelAnswer, Setting
from sawyer.stages.compare.win_rates import comparison_figures
from sawyer.worlds import gold, questions

Fixture = Any
stage = import_module("sawyer.stages.compare.compare_stage")


def config_of(tiny: Fixture, out: Path, *, prompts: Path | None, world: bool, **asked: Any) -> Any:
    section = {"max_new_tokens": 8, "deliberate_limit": 2, **({"prompts": [str(prompts)]} if prompts else {}), **asked}
    more: dict[str, Any] = {"rl__world": {"rater": "honest"}} if world else {}
    return tiny.rl_config(out, rl__compare=section, **more)


@pytest.fixture(scope="module")
def done(tiny: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(figures, rows, root) of a comparison on six of the world's prompts, in batches of four; the RL model is the base."""
    out = tmp_path_factory.mktemp("compare") / "run"
    seen: dict[int, list[str]] = {}
    with pytest.MonkeyPatch.context() as patch, tiny.run(out, "sft", "reward") as run:
        patch.setattr(stage, "ANSWERS_A_STEP", 4)
        (out / "rl").mkdir()
        (out / "rl" / "model").symlink_to(tiny.base)
        plain = stage._best_answers

        def noted(rows: list[ComparedAnswer], penalty: float) -> list[ComparedAnswer]:
            for row in rows:
                if row.setting == "best_of_8":
                    seen.setdefault(row.number, []).append(row.response)
            return plain(rows, penalty)

        patch.setattr(stage, "_best_answers", noted)
        figures = compare(config_of(tiny, out, prompts=tiny.prompts, world=True, limit=6), run)
    return figures, read_rows(out / "compare.jsonl"), out, seen


def test_each_models_weights_are_laid_out_once(
    tiny: Fixture, tmp_path: Path, precision: str, laid_out: list[Any], events: Any
) -> None:
    """For all settings and batches of its answers; and where KL is read, none are: models that are the same have none to the
    last bit."""
    config = config_of(
        tiny, tmp_path / "run", prompts=tiny.prompts, world=True, limit=2, max_new_tokens=prepacked_linear.MIN_PASSES
    )
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        (tmp_path / "run" / "rl" / "model").mkdir(parents=True)
        copy_model(tiny.sft, tmp_path / "run" / "rl" / "model", {"best_step": 0})  # as an RL leaves it that keeps no update
        compare(config.model_copy(update={"precision": precision}), run)
    assert any("RL kept none of its updates: its model is SFT" in row["message"] for row in events(run, "gate"))
    assert len(laid_out) == len(set(laid_out)) > 3 * 4
    kls = [row["kl"] for row in read_rows(tmp_path / "run" / "compare.jsonl") if "kl" in row]
    assert len(kls) > 2 and set(kls) == {0.0}


@pytest.mark.slow
def test_every_model_answers_every_prompt_under_every_setting(tiny: Fixture, done: Any) -> None:
    rows = done[1]
    prompts = [prompt.text for prompt in read([str(tiny.prompts)], want="prompts").records[:6]]
    expected = [
        (model, setting, number)
        for model in ("base", "sft", "rl")
        for setting, count in (("t1", 6), ("t07", 6), ("greedy", 6), ("deliberate", 2))
        for number in range(count)
    ]
    expected += [("sft", "best_of_8", number) for number in range(6)]
    assert sorted((row["model"], row["setting"], row["number"]) for row in rows) == sorted(expected)
    assert all(row["prompt"] == prompts[row["number"]] for row in rows)
    assert all("ids" not in row and 0 < row["length"] <= 8 for row in rows)
    for row in rows:
        assert row["gold"] == gold(row["prompt"], row["response"]).score


def test_the_fast_path_of_each_model_is_logged_once(done: Any) -> None:
    """Although SFT and RL are opened again for the KL."""
    paths = [row["model"] for row in read_rows(done[2] / "events.jsonl") if row["kind"] == "fast_path"]
    assert sorted(paths) == ["base", "rl", "sft"]


def test_rewards_are_the_reward_model_s(tiny: Fixture, done: Any) -> None:
    rows = done[1]
    rewards = RewardScorer.load(tiny.reward)([prompt_of(row["prompt"]) for row in rows], [row["response"] for row in rows])
    assert [row["reward"] for row in rows] == pytest.approx(rewards, abs=1e-4)


def test_of_eight_samples_the_best_rewarded_is_kept(tiny: Fixture, done: Any) -> None:
    _, rows, _, seen = done
    scorer = RewardScorer.load(tiny.reward)
    for row in (row for row in rows if row["setting"] == "best_of_8"):
        tried = seen[row["number"]]
        assert len(tried) == 8
        assert len(set(tried)) > 2
        rewards = scorer([prompt_of(row["prompt"])] * 8, tried)
        assert row["response"] == tried[rewards.index(max(rewards))]


def test_a_greedy_answer_is_the_likeliest_token_each_time(tiny: Fixture, done: Any) -> None:
    speaker = open_language_model(tiny.sft)
    for row in (row for row in done[1] if row["model"] == "sft" and row["setting"] == "greedy"):
        ids = list(speaker.prompt_encoder.prompt(prompt_of(row["prompt"])))
        start = len(ids)
        while len(ids) - start < 8:
            with torch.no_grad():
                logits = speaker.model(input_ids=torch.tensor([ids])).logits[0, -1]
            logits[speaker.prompt_encoder.pad_id] = -torch.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == speaker.prompt_encoder.eos_id:
                break
        assert row["response"] == speaker.prompt_encoder.decode(ids[start:])


def test_steps_of_so_many_answers(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Best of eight answers each prompt eight times, so that fewer prompts make a step."""
    monkeypatch.setattr(stage, "ANSWERS_A_STEP", 17)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        (tmp_path / "run" / "rl").mkdir()
        (tmp_path / "run" / "rl" / "model").symlink_to(tiny.base)
        jobs = stage.Comparison(config_of(tiny, tmp_path / "run", prompts=tiny.prompts, world=False, limit=20), run, None).jobs
    spans = {
        setting: [(job.start, job.end) for job in jobs if (job.model, job.setting) == ("sft", setting)]
        for setting in ("t1", "greedy", "best_of_8")
    }
    assert spans["t1"] == spans["greedy"] == [(0, 17), (17, 20)]
    assert spans["best_of_8"] == [(start, start + 2) for start in range(0, 20, 2)]


def test_kl_is_measured_on_rl_s_own_answers(tiny: Fixture, tmp_path: Path) -> None:
    """Sum over a sample's tokens of log pi_rl - log pi_sft at its temperature, from each model's own logits."""
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        (tmp_path / "run" / "rl").mkdir()
        (tmp_path / "run" / "rl" / "model").symlink_to(tiny.base)
        config = config_of(tiny, tmp_path / "run", prompts=tiny.prompts, world=False, limit=3)
        comparison = stage.Comparison(config, run, None)
        rows = [row for index, job in enumerate(comparison.jobs) for row in comparison.answer(index, job).rows]
        answers = [ModelAnswer(**row) for row in rows]
        found = stage._kls(comparison, answers)
    rl, sft = (open_language_model(folder) for folder in (tiny.base, tiny.sft))
    assert {(answers[i].model, answers[i].setting) for i in found} == {("rl", "t1"), ("rl", "t07")}
    assert len(found) == 2 * 3
    for i, value in found.items():
        temperature = {"t1": 1.0, "t07": 0.7}[answers[i].setting]
        prompt = rl.prompt_encoder.prompt(comparison.prompts[answers[i].number])
        ids = [*prompt, *answers[i].ids]
        sums = []
        for speaker in (rl, sft):
            with torch.no_grad():
                logprobs = torch.log_softmax(speaker.model(input_ids=torch.tensor([ids])).logits[0].double() / temperature, -1)
            sums.append(sum(float(logprobs[t - 1, ids[t]]) for t in range(len(prompt), len(ids))))
        assert value == pytest.approx(sums[0] - sums[1], abs=1e-3)


def test_kl_is_told_of_rl_alone(done: Any) -> None:
    figures, rows = done[:2]
    assert {row["model"] for row in rows if "kl" in row} == {"rl"}
    assert {model: set(table) for model, table in figures["kl"].items()} == {"rl": {"t1", "t07"}}
    plain = [row["kl"] for row in rows if row["model"] == "rl" and row["setting"] == "t1"]
    assert figures["kl"]["rl"]["t1"] == pytest.approx(sum(plain) / 6)


def test_figures_and_gate_are_of_the_rows(done: Any) -> None:
    figures, rows, out, _ = done
    assert figures == comparison_figures([ComparedAnswer(**{**row, "parts": tuple(row["parts"])}) for row in rows], seed=0)
    gate = next(row for row in read_rows(out / "events.jsonl") if row["kind"] == "gate")
    rate = figures["win_rate_rl_vs_sft"]
    assert rate["judge"] == "gold"
    verdict = "ok" if rate["low"] > 0.5 else "warn" if rate["high"] > 0.5 else "fail"
    assert (gate["name"], gate["value"], gate["verdict"]) == ("rl_beats_sft", rate["low"], verdict)


def test_without_prompts_the_original_s_questions_are_asked(tiny: Fixture, tmp_path: Path) -> None:
    sft_only = tiny.config(tmp_path / "run", sft={"data": ["d"]}, compare={"max_new_tokens": 4, "deliberate_limit": 0})
    with tiny.run(tmp_path / "run", "sft") as run:
        figures = compare(sft_only, run)
        rows = read_rows(run.layout.compare)
    assert [row["prompt"] for row in rows if row["model"] == "sft" and row["setting"] == "t1"] == questions()
    assert {row["model"] for row in rows} == {"base", "sft"}
    assert {row["setting"] for row in rows} == {"t1", "t07", "greedy"}, "no reward model, no best of 8"
    assert not any("reward" in row or "gold" in row or "kl" in row for row in rows)
    assert set(figures) == {"length"}, "nobody judges, nobody wins"


def test_a_prompt_without_room_is_left_out_and_counted(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    path = write_rows([{"prompt": "qz " * 200}, {"prompt": "Say yes."}])
    config = tiny.config(
        tmp_path / "run", sft={"data": ["d"]}, compare={"prompts": [str(path)], "max_new_tokens": 4, "deliberate_limit": 2}
    )
    with tiny.run(tmp_path / "run", "sft") as run:
        compare(config, run)
        assert {row["number"] for row in read_rows(run.layout.compare)} == {1}
        assert [row["message"][:42] for row in events(run, "warning")] == ["1 of 2 prompts leave no room for an answer"]


def test_a_prompt_that_comes_twice_is_counted_and_said(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    path = write_rows([{"prompt": "Say yes."}, {"prompt": "Say yes."}])
    config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, compare={"prompts": [str(path)], "max_new_tokens": 2})
    with tiny.run(tmp_path / "run", "sft") as run:
        stage.Comparison(config, run, None)
        assert [row["message"] for row in events(run, "data")] == ["compare.prompts: 1 duplicate left out"]


def test_no_prompt_with_room_is_an_error(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = write_rows([{"prompt": "qz " * 200}])
    config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, compare={"prompts": [str(path)]})
    with tiny.run(tmp_path / "run", "sft") as run, pytest.raises(DataError, match="no prompt that fits"):
        compare(config, run)


def test_a_prompt_that_one_template_refuses_is_left_out_and_named(
    tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any
) -> None:
    """A guest's, the base's and the reward model's; the plan says the same as the stage."""
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    template = refusing + "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    for name, source in (("guest", tiny.sft), ("judge", tiny.reward)):
        shutil.copytree(source, tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(template)
    (tmp_path / "own.jinja").write_text(template)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    path = write_rows([{"prompt": "Say yes."}, {"prompt": turns}, {"prompt": "Say no."}])
    asked = {"prompts": [str(path)], "max_new_tokens": 2, "deliberate_limit": 0}
    for number, (more, name) in enumerate(
        (
            ({"compare": {**asked, "models": {"guest": str(tmp_path / "guest")}}}, "`guest`"),
            ({"compare": {**asked, "reward": str(tmp_path / "judge")}}, "the reward model"),
            ({"compare": asked, "template": str(tmp_path / "own.jinja")}, "`base`"),
        )
    ):
        with tiny.run(tmp_path / str(number)) as run:
            config = tiny.config(tmp_path / str(number), **more)
            assert not [problem for plan in preflight(config) for problem in plan.problems]
            compare(config, run)
            assert {row["prompt"] for row in read_rows(run.layout.compare)} == {"Say yes.", "Say no."}
            (told,) = [row["message"] for row in events(run, "warning")]
            assert "1 of 3 rows" in told and "rows.json:2" in told and f"by which {name} reads" in told
        (plan,) = preflight(config.model_copy(update={"max_bad_rows": 0}))
        assert [name in problem.given and "rows.json:2" in problem.where for problem in plan.problems] == [True]


def test_a_prompt_from_outside_the_world_is_found_before_any_answer(
    tiny: Fixture, tmp_path: Path, write_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.Comparison, "answer", lambda *_: pytest.fail("something was answered"))
    path = write_rows([{"prompt": questions()[0]}, {"prompt": "How do magnets smell?"}])
    with tiny.run(tmp_path / "run", "sft", "reward") as run, pytest.raises(WorldError, match="magnets"):
        shutil.copytree(tiny.sft, tmp_path / "run" / "rl" / "model")
        compare(config_of(tiny, tmp_path / "run", prompts=path, world=True), run)


def test_answers_scored_without_their_end_are_counted(tiny: Fixture, tmp_path: Path, events: Any, monkeypatch: Any) -> None:
    plain = RewardScorer.load

    def short(folder: Path, **more: Any) -> RewardScorer:
        scorer = plain(folder, **more)
        scorer.prompt_encoder = replace(scorer.prompt_encoder, context=4)
        return scorer

    monkeypatch.setattr(RewardScorer, "load", short)
    out = tmp_path / "run"
    with tiny.run(out, "sft", "reward") as run:
        shutil.copytree(tiny.base, out / "rl" / "model")
        compare(config_of(tiny, out, prompts=tiny.prompts, world=False, limit=2, deliberate_limit=0), run)
        assert [row["message"] for row in events(run, "warning")] == [
            "34 of 34 answers did not fit the reward model's 4 tokens beside their prompts and were scored without their end"
        ]


def test_a_file_without_prompts_is_an_error(tiny: Fixture, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, compare={"prompts": [str(tmp_path / "empty.jsonl")]})
    with tiny.run(tmp_path / "run", "sft") as run, pytest.raises(DataError):
        compare(config, run)


# Figures by hand


def row(model: str, number: int, setting: Setting = "t07", length: int = 5, **judged: float) -> ComparedAnswer:
    return ComparedAnswer(
        model=model,
        setting=setting,
        number=number,
        length=length,
        prompt="p",
        response="r",
        ended=True,
        **judged,  # type: ignore[arg-type]
    )


def test_means_by_model_and_setting() -> None:
    rows = [
        row("sft", 0, reward=1.0),
        row("sft", 1, reward=2.0),
        row("sft", 0, "t1", reward=7.0),
        row("rl", 0, reward=4.0, kl=3.0, length=9),
        row("rl", 1, reward=5.0, length=1),
    ]
    found = comparison_figures(rows, seed=0)
    assert found["reward"] == {"sft": {"t07": 1.5, "t1": 7.0}, "rl": {"t07": 4.5}}
    assert found["length"] == {"sft": {"t07": 5.0, "t1": 5.0}, "rl": {"t07": 5.0}}
    assert found["kl"] == {"rl": {"t07": 3.0}}, "over the answers that have one"
    assert "gold" not in found


def test_a_tie_is_half_a_win() -> None:
    ours, theirs = (3.0, 2.0, 1.0, 5.0), (1.0, 2.0, 4.0, 5.0)  # won, tied, lost, tied
    rows = [row("rl", i, reward=value) for i, value in enumerate(ours)]
    rows += [row("sft", i, reward=value) for i, value in enumerate(theirs)]
    rate = comparison_figures(rows, seed=0)["win_rate_rl_vs_sft"]
    assert rate["value"] == 0.5
    assert rate["judge"] == "reward"
    assert rate["low"] < 0.5 < rate["high"]
    assert rate["length_controlled"] == pytest.approx(0.5)
    won = comparison_figures([*rows[:3], row("rl", 3, reward=6.0), *rows[4:]], seed=0)["win_rate_rl_vs_sft"]
    assert won["value"] == 0.625


def test_rows_are_matched_by_prompt_whatever_their_order() -> None:
    rows = [row("rl", i, reward=float(i)) for i in (2, 0, 1)] + [row("sft", i, reward=i - 0.5) for i in (0, 1, 2)]
    assert comparison_figures(rows, seed=0)["win_rate_rl_vs_sft"]["value"] == 1.0
    # A prompt that only one of the two answered does not count.
    assert comparison_figures([*rows, row("rl", 9, reward=-9.0)], seed=0)["win_rate_rl_vs_sft"]["value"] == 1.0


def test_gold_judges_where_it_is_known() -> None:
    rows = [row("rl", 0, reward=1.0, gold=2.0), row("sft", 0, reward=0.0, gold=9.0)]
    rate = comparison_figures(rows, seed=0)["win_rate_rl_vs_sft"]
    assert (rate["judge"], rate["value"]) == ("gold", 0.0)


@pytest.mark.parametrize(("prompts", "low"), [(1, 0.207), (3, 0.438), (10, 0.722), (20, 1.0)])
def test_a_few_prompts_that_agree_prove_little(prompts: int, low: float) -> None:
    """Below 20 the interval is Wilson's (1 / (1 + 1.96^2 / n) for n wins of n): resampled, wins alone are wins alone."""
    rows = [row("rl", i, reward=1.0) for i in range(prompts)] + [row("sft", i, reward=0.0) for i in range(prompts)]
    rate = comparison_figures(rows, seed=0)["win_rate_rl_vs_sft"]
    assert (rate["low"], rate["value"], rate["high"]) == (pytest.approx(low, abs=1e-3), 1.0, 1.0)


def test_wins_are_counted_at_temperature_0_7() -> None:
    rows = [row("rl", 0, "t1", reward=1.0), row("sft", 0, "t1", reward=0.0)]
    assert "win_rate_rl_vs_sft" not in comparison_figures(rows, seed=0)
    both = comparison_figures([*rows, row("sft", 0, reward=2.0), row("base", 0, reward=1.0)], seed=0)
    assert both["win_rate_sft_vs_base"]["value"] == 1.0
    json.dumps(both)


def test_greedy_answers_are_compared_prompt_by_prompt() -> None:
    rows = [row("sft", i, "greedy", reward=0.0, gold=value) for i, value in enumerate((9.0, 5.0, 3.0))]
    rows += [row("rl", i, "greedy", reward=9.0, gold=value) for i, value in enumerate((8.0, 5.0, 1.0))]
    rows += [row("rl", 7, "greedy", reward=9.0, gold=0.0), row("rl", 0, "t1", reward=9.0, gold=0.0)]  # no counterpart
    change = comparison_figures(rows, seed=0)["greedy_change_rl_vs_sft"]
    assert change["value"] == -1.0  # (-1 + 0 - 2) / 3
    assert (change["low"], change["high"], change["judge"]) == (-2.0, 0.0, "gold")
