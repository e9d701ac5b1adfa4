"""What can be refused is refused before the first step; `sawyer check` of a run's file shows the whole plan."""

from __future__ import annotations

import gc
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from encoders import write
from typer.testing import CliRunner

from sawyer import pipeline
from sawyer.cli.main import app
from sawyer.config.sections import Compare
from sawyer.errors import DataError, ModelError, SawyerError
from sawyer.models import model_facts
from sawyer.pipeline import fingerprint, preflight
from sawyer.records import read, split
from sawyer.runs import Layout, read_rows

Fixture = Any
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def rows(path: Path, *found: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def problems(config: Any) -> list[str]:
    return [f"{plan.stage}: {problem}" for plan in preflight(config) for problem in plan.problems]


def whole(tiny: Fixture, out: Path, **sections: Any) -> Any:
    """SFT, reward model, RL and comparison; `sections` change them."""
    paid = {"prompts": [str(tiny.prompts)], "episodes": 16, "batch_size": 8, "num_minibatches": 2, "max_new_tokens": 8}
    tree: dict[str, Any] = {
        "sft": {"data": [str(tiny.instructions)], "batch_size": 60, "max_new_tokens": 8, "eval_prompts": 2},
        "reward": {"data": [str(tiny.comparisons)], "batch_size": 20, "calibration_prompts": 4},
        "rl": {**paid, "epochs": 1, "eval_prompts": 2, "eval_every": 2},
        "compare": {"prompts": [str(tiny.prompts)], "limit": 3, "deliberate_limit": 1, "max_new_tokens": 4},
    }
    return tiny.config(out, **{name: {**tree.get(name, {}), **settings} for name, settings in {**tree, **sections}.items()})


def test_a_good_run_is_told_whole(tiny: Fixture, tmp_path: Path) -> None:
    config = whole(tiny, tmp_path / "run")
    plans = preflight(config)
    assert [plan.stage for plan in plans] == ["sft", "reward", "rl", "compare"] and problems(config) == []
    facts = {plan.stage: dict(plan.facts) for plan in plans}
    assert facts["sft"]["sft.data"].startswith("240 rows (instructions (Alpaca)), ") and "held out" in facts["sft"]["sft.data"]
    assert facts["rl"]["steps"] == "2 updates of 8 answers (ppo)"
    assert facts["compare"]["steps"] == "3 prompts to base, sft, rl"
    assert "the template `question`" in facts["sft"]["model"] or "its own chat template" in facts["sft"]["model"]
    assert not (tmp_path / "run").exists(), "a look writes nothing"


@pytest.mark.slow
def test_the_steps_that_are_told_are_the_steps_that_are_taken(tiny: Fixture, tmp_path: Path) -> None:
    config = whole(tiny, tmp_path / "run")
    told = {plan.stage: int(dict(plan.facts)["steps"].removeprefix("about ").split()[0]) for plan in preflight(config)}
    pipeline.run(config)
    taken = read_rows(Layout(tmp_path / "run").metrics)
    for stage in ("sft", "reward"):
        assert told[stage] == sum(row["stage"] == stage and "loss" in row for row in taken)
    assert told["rl"] == sum(row["stage"] == "rl" and "policy_loss" in row for row in taken)
    assert [plan.status for plan in preflight(config)] == ["done"] * 4


def test_every_problem_of_every_stage_is_named_at_once(tiny: Fixture, tmp_path: Path) -> None:
    shapeless = rows(tmp_path / "shapeless.jsonl", {"x": 1}, {"x": 2})
    changes = {"reward": {"data": [shapeless]}, "rl": {"max_new_tokens": 1000}, "compare": {"prompts": [str(tmp_path / "no")]}}
    config = whole(tiny, tmp_path / "run", **changes)
    found = problems(config)
    assert [line.partition(":")[0] for line in found] == ["reward", "rl", "compare"]
    assert "shapeless.jsonl:1" in found[0] and "leaves room for 1000 new tokens in the 160" in found[1]
    with pytest.raises(DataError, match=r"shapeless\.jsonl:1(.|\n)*also: 2 more problems; `sawyer check` of the same file"):
        pipeline.run(config)
    assert not (tmp_path / "run" / "sft").exists(), "nothing was trained"
    (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    said = CliRunner().invoke(app, ["check", str(tmp_path / "run.yaml")])
    assert said.exit_code == 1 and "The run would be refused for 3 problems" in said.output
    fixed = [f"reward.data=[{tiny.comparisons}]", "rl.max_new_tokens=8", f"compare.prompts=[{tiny.prompts}]"]
    said = CliRunner().invoke(app, ["check", str(tmp_path / "run.yaml"), *fixed])
    assert said.exit_code == 0 and "The run would begin with: sawyer run" in said.output


def test_a_row_that_a_later_stage_cannot_render_is_named_before_the_first(tiny: Fixture, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(NO_SYSTEM)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    judged = [{"prompt": turns, "chosen": "a", "rejected": "b"}]
    plain = [{"prompt": f"Why {i}?", "chosen": "a", "rejected": "b"} for i in range(150)]
    few, many = rows(tmp_path / "few.jsonl", *judged, *plain), rows(tmp_path / "many.jsonl", *plain[:2], *judged)
    template = {"template": str(tmp_path / "own.jinja")}
    tree = whole(tiny, tmp_path / "run").model_dump(mode="json")
    out = Path(tree.pop("out"))
    for file, refused in ((few, False), (many, False)):
        config = tiny.config(out, **{**tree, **template, "reward": {**tree["reward"], "data": [file]}})
        assert bool(problems(config)) == refused, "one bad row is let pass in any file"
    strict = {**tree, **template, "reward": {**tree["reward"], "data": [many]}, "max_bad_rows": 0}
    (told,) = problems(tiny.config(out, **strict))
    assert told.startswith("reward: ") and "many.jsonl:3" in told and "System role not supported" in told


def judged(*scores: Any, start: int = 0) -> list[dict[str, Any]]:
    """A prompt each for these scores of its two answers."""
    return [{"prompt": f"Why {start + i}?", "responses": ["a", "b"], "scores": pair} for i, pair in enumerate(scores)]


EQUAL, APART = judged([3, 3], [5, 5]), judged([3, 3], [5, 1])
ONE, BOTH = [{"text": f"t{i}", "label": "a"} for i in range(6)], [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(6)]
DPO = {"algorithm": "dpo", "max_new_tokens": 4, "eval_fraction": 0}


def alone(tiny: Fixture, out: Path, stage: str, file: str) -> Any:
    """A config of one stage that learns from a file."""
    if stage == "rl":
        return tiny.config(out, rl={**DPO, "prompts": [str(tiny.prompts)], "data": [file]})
    return tiny.config(out, **{stage: {"data": [file], "eval_fraction": 0}})


def loaded(tiny: Fixture, stage: str, config: Any) -> None:
    """What the stage itself does with its files."""
    from sawyer.models import open_language_model
    from sawyer.stages.classify.class_data import load_texts
    from sawyer.stages.reward.reward_data import load_reward_data
    from sawyer.stages.rl.dpo_pairs import load_pairs

    with tiny.run(Path(config.out)) as run:
        speaker = open_language_model(tiny.base)
        if stage == "classify":
            load_texts(config, run)
        elif stage == "reward":
            load_reward_data(config, run, speaker)
        else:
            load_pairs(config, run, speaker.prompt_encoder, [])


@pytest.mark.parametrize("stage", ["classify", "reward", "rl"])
def test_the_plan_and_the_stage_refuse_the_same_files(tiny: Fixture, tmp_path: Path, stage: str) -> None:
    """Rows that are good each and teach nothing together; with one that differs they do."""
    useless, good = (ONE, BOTH) if stage == "classify" else (EQUAL, APART)
    told = "the label 'a' alone" if stage == "classify" else "two answers"
    config = alone(tiny, tmp_path / "run", stage, rows(tmp_path / "useless.jsonl", *useless))
    (problem,) = problems(config)
    assert problem.startswith(f"{stage}: ") and told in problem and "useless.jsonl" in problem
    with pytest.raises(DataError, match=told):
        loaded(tiny, stage, config)
    config = alone(tiny, tmp_path / "run", stage, rows(tmp_path / "good.jsonl", *good))
    assert problems(config) == []
    loaded(tiny, stage, config)


def collecting(tiny: Fixture, out: Path, answers: list[dict[str, Any]], **more: Any) -> Any:
    """A run whose answers are collected, and lie there as they were scored."""
    layout = Layout(out)
    layout.answers.parent.mkdir(parents=True)
    rows(layout.answers, *answers)
    layout.manifest.write_text(json.dumps({"stages": {"collect": {"status": "done"}}}))
    reward = {"batch_size": 4, "eval_fraction": 0, **more.pop("reward", {})}
    return tiny.config(out, collect={"prompts": [str(tiny.prompts)]}, reward=reward, **more)


def test_files_and_collected_answers_are_enough_together(tiny: Fixture, tmp_path: Path) -> None:
    equal = {"data": [rows(tmp_path / "equal.jsonl", *EQUAL)]}
    assert problems(collecting(tiny, tmp_path / "a", judged([2, 1], start=5), reward=equal)) == []
    (told,) = problems(collecting(tiny, tmp_path / "b", judged([2, 2], start=5), reward=equal))
    assert told.startswith("reward: ") and "two answers with different scores" in told
    # Of those that nobody has scored yet it cannot be said.
    assert problems(collecting(tiny, tmp_path / "c", judged([None, None], start=5), reward=equal)) == []


def test_of_collected_answers_a_template_may_refuse_rows_and_a_misprint_none(tiny: Fixture, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(NO_SYSTEM)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    many = judged(*[[2, 1]] * 20)
    refused = {"prompt": turns, "responses": ["a", "b"], "scores": [2, 1]}
    template = {"template": str(tmp_path / "own.jinja")}
    config = collecting(tiny, tmp_path / "a", [*many, refused], **template)
    assert problems(config) == []
    from sawyer.models import new_reward_model
    from sawyer.stages.reward.reward_data import load_reward_data

    judge = new_reward_model(tiny.base, seed=0, template=config.template)
    with tiny.run(tmp_path / "a") as run:
        assert len(load_reward_data(config, run, judge).train_prompts) == 20
        (told,) = [row["message"] for row in read_rows(run.layout.events) if row["kind"] == "warning"]
    assert "answers.jsonl:21" in told and "System role not supported" in told
    slip = {"prompt": "Why?", "responses": ["a", "b"], "scores": [2]}
    config = collecting(tiny, tmp_path / "b", [*many, slip])
    (told,) = problems(config)
    assert "answers.jsonl:21" in told and "none of them may be lost" in told and "max_bad_rows" not in told
    with tiny.run(tmp_path / "b") as run, pytest.raises(DataError, match="none of them may be lost"):
        load_reward_data(config, run, judge)


def model_with(template: str, source: Path, folder: Path) -> str:
    """A copy of a model that brings another template."""
    shutil.copytree(source, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def test_prompts_are_tried_on_what_scores_their_answers(tiny: Fixture, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    prompts = rows(tmp_path / "p.jsonl", *({"prompt": f"Why {i}?"} for i in range(9)), {"prompt": turns})
    safe = model_with(NO_SYSTEM, tiny.reward, tmp_path / "safe")
    paid = {"prompts": [prompts], "max_new_tokens": 4, "eval_fraction": 0, "rewards": [{"name": "safe", "model": safe}]}

    def config(**more: Any) -> Any:
        return tiny.config(tmp_path / "run", rl={**paid, "episodes": 8, "batch_size": 8, "num_minibatches": 2}, **more)

    assert problems(config()) == [], "one bad row is let pass in any file"
    (told,) = problems(config(max_bad_rows=0))
    assert told.startswith("rl: ") and "p.jsonl:10" in told and "by which the reward model `safe` reads" in told
    # The run's own reward model, before it is trained on that model, and the comparison's.
    own = {"reward": {"data": [str(tiny.comparisons)], "model": safe}, "max_bad_rows": 0}
    (told,) = problems(tiny.config(tmp_path / "run", **own, rl={**paid, "rewards": []}))
    assert told.startswith("rl: ") and "by which the reward model reads" in told
    asked = {"prompts": [prompts], "reward": safe}
    (told,) = problems(tiny.config(tmp_path / "run", compare=asked, max_bad_rows=0))
    assert told.startswith("compare: ") and "by which the reward model reads" in told

    from sawyer.models import RewardScorer, open_language_model
    from sawyer.stages.rl.rl_prompts import load_prompts

    with tiny.run(tmp_path / "run") as run:
        found, _ = load_prompts(config(), run, open_language_model(tiny.base), RewardScorer.load(safe))
        told = " ".join(row["message"] for row in read_rows(run.layout.events) if "p.jsonl" in row["message"])
    assert len(found) == 9 and "p.jsonl:10" in told and "by which the reward model reads" in told


def test_judged_prompts_that_the_policy_cannot_read_set_no_unit(tiny: Fixture, tmp_path: Path) -> None:
    from sawyer.models import open_language_model
    from sawyer.stages.reward.reward_data import load_reward_data
    from sawyer.stages.reward.reward_stage import answerable_prompts

    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    file = rows(tmp_path / "j.jsonl", *judged([1, 2], [2, 1]), {"prompt": turns, "chosen": "a", "rejected": "b"})
    policy = open_language_model(model_with(NO_SYSTEM, tiny.base, tmp_path / "strict"))
    config = tiny.config(tmp_path / "run", reward={"data": [file], "eval_fraction": 0})
    with tiny.run(tmp_path / "run") as run:
        found = answerable_prompts(load_reward_data(config, run, open_language_model(tiny.base)), policy, run)
        (told,) = [row["message"] for row in read_rows(run.layout.events) if row["kind"] == "warning"]
    assert len(found) == 2 and "1 of 3" in told and "j.jsonl:3" in told and "System role not supported" in told


def test_a_judge_is_read_by_the_fallback_in_the_plan_as_in_the_stage(tiny: Fixture, tmp_path: Path) -> None:
    """Its own template refuses every conversation."""
    from sawyer.models import new_reward_model

    odd = model_with("{{ raise_exception('not a chat model') }}", tiny.base, tmp_path / "odd")
    config = tiny.config(tmp_path / "run", template="chatml", reward={"data": [str(tiny.comparisons)], "model": odd})
    (plan,) = preflight(config)
    assert plan.problems == ()
    assert dict(plan.facts)["model"].endswith(new_reward_model(odd, seed=0, fallback="chatml").reads)
    assert "the template `chatml`" in dict(plan.facts)["model"]


def test_the_plan_of_dpo_reads_its_pairs_by_dpos_settings(tiny: Fixture, tmp_path: Path) -> None:
    pairs = [{"prompt": f"Why is {i} what it is, and no other number?", "chosen": "a", "rejected": "b"} for i in range(200)]
    file = rows(tmp_path / "pairs.jsonl", *pairs)
    # Without prompts of their own those of the pairs are answered: there must be room for that.
    lonely = {**DPO, "data": [file], "max_new_tokens": 1000, "eval_fraction": 0.1}
    (told,) = problems(tiny.config(tmp_path / "run", rl=lonely))
    assert "none of its 200 prompts leaves room for 1000 new tokens in the 160 that the model reads" in told
    assert problems(tiny.config(tmp_path / "run", rl={**lonely, "max_new_tokens": 8, "max_tokens": 100})) == []
    # The reward model's pairs: cut by rl.max_tokens, held out by reward.eval_fraction.
    reward = {"data": [file], "eval_fraction": 0.5, "max_tokens": 8}
    rl = {**DPO, "prompts": [str(tiny.prompts)], "eval_fraction": 0.1, "batch_size": 10}
    config = tiny.config(tmp_path / "run", reward=reward, rl=rl)
    assert [line.partition(":")[0] for line in problems(config)] == ["reward"]
    facts = dict(next(plan for plan in preflight(config) if plan.stage == "rl").facts)
    train = len(split(read(file, want="comparisons").records, 0.5)[0])
    assert facts["reward.data"].startswith(f"200 judged prompts (pairs), {200 - train} of them held out")
    assert facts["steps"] == f"about {-(-train // 10)} updates of 10 prompts with their pairs (dpo)"
    config = tiny.config(tmp_path / "run", reward={**reward, "max_tokens": None}, rl={**rl, "max_tokens": 8})
    assert [line.partition(":")[0] for line in problems(config)] == ["rl"]


FAMILIES: dict[str, tuple[Any, str, str]] = {
    "gpt2": (hf.GPT2Config, "", ""),
    "granite": (hf.GraniteConfig, "", "no classifier"),
    "mistral3": (hf.Mistral3Config, "no language model", "no classifier"),
    "bert": (hf.BertConfig, "is an encoder", ""),
    "roberta": (hf.RobertaConfig, "is an encoder", ""),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_cannot_do_is_told_by_its_config_alone(tmp_path: Path, family: str) -> None:
    build, as_speaker, as_judge = FAMILIES[family]
    build().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()  # nobody reads it
    for kind, told in (("causal", as_speaker), ("classifier", as_judge)):
        if told:
            with pytest.raises(ModelError, match=told):
                model_facts(tmp_path, kind)  # type: ignore[arg-type]
        else:
            model_facts(tmp_path, kind)  # type: ignore[arg-type]


def test_an_encoder_does_not_answer(tiny: Fixture, tmp_path: Path) -> None:
    encoder = str(write(tmp_path / "encoder", "bert"))
    config = tiny.config(tmp_path / "run", model=encoder, reward={"data": [str(tiny.comparisons)]})
    assert problems(config) == [] and "text pairs" in dict(preflight(config)[0].facts)["model"]
    config = tiny.config(tmp_path / "run", model=encoder, sft={"data": [str(tiny.instructions)]})
    (told,) = problems(config)
    assert "is an encoder (of the family 'bert'), which reads and does not write" in told


def test_a_file_is_read_once(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = import_module("sawyer.records.read")  # `read` of the door is the function
    gc.collect()  # other tests have read the same file
    asked: list[str] = []
    real = room.scan_file
    monkeypatch.setattr(room, "scan_file", lambda path, *more: asked.append(path) or real(path, *more))
    config = tiny.config(tmp_path / "run", sft={"data": [str(tiny.instructions)], "max_new_tokens": 4, "eval_prompts": 2})
    pipeline.run(config)
    assert asked == [str(tiny.instructions)]
    # Nobody holds it any more, and a file that has changed is read anew.
    copy = tmp_path / "prompts.jsonl"
    copy.write_text('{"prompt": "a"}\n')
    first = read([str(copy)], want="prompts")
    assert read([str(copy)], want="prompts") is first
    copy.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert len(read([str(copy)], want="prompts").records) == 2
    with pytest.raises(SawyerError):
        read([str(tmp_path / "none")], want="prompts")


def test_one_file_spelt_in_two_ways_is_one_file(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.json").write_bytes(tiny.instructions.read_bytes())
    (tmp_path / "own.jinja").write_text(NO_SYSTEM)

    def print_of(**spelt: Any) -> str:
        return fingerprint(
            tiny.config(tmp_path / "run", **{"sft": {"data": ["data.json"]}, "template": "own.jinja", **spelt}), "sft"
        )

    assert print_of() == print_of(sft={"data": ["./data.json"]}, template="./own.jinja") == print_of(model=f"{tiny.base}/")
    (tmp_path / "more.json").write_bytes(tiny.instructions.read_bytes()[:-1] + b" ]")
    assert print_of() != print_of(sft={"data": ["more.json"]})
    before = print_of()
    (tmp_path / "data.json").write_bytes(b"[]")
    assert print_of() != before


def test_one_model_spelt_in_two_ways_is_one_model(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("judge", "other", "policy"):
        (tmp_path / name).mkdir()

    def prints(judge: str, policy: str) -> tuple[str, str]:
        rewards = [{"name": "a", "model": judge}]
        compare = {"reward": judge, "models": {"theirs": policy, "hub": "owner/name"}}
        config = tiny.rl_config(tmp_path / "run", rewards=rewards).model_copy(
            update={"compare": Compare.model_validate(compare)}
        )
        return fingerprint(config, "rl"), fingerprint(config, "compare")

    assert prints("judge", "policy") == prints("./judge", "policy/") == prints("judge/", "./policy")
    rl, compared = prints("judge", "policy")
    assert rl != prints("other", "policy")[0] and compared != prints("judge", "other")[1]


def test_a_model_s_name_that_no_file_can_have_is_no_folder(tiny: Fixture, tmp_path: Path) -> None:
    long = "a" * 300
    for name in (long, f"./{long}"):
        config = tiny.config(tmp_path / "run", model=name, sft={"data": [str(tiny.instructions)]})
        with pytest.raises(ModelError, match="aaa"):
            pipeline.run(config)


def test_a_home_folder_is_no_model_and_is_not_hashed(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sawyer.runs.manifest.hash_folder", lambda path: pytest.fail(f"{path} was hashed"))
    for named in ("~", "~/"):
        config = tiny.config(tmp_path / "run", model=named, sft={"data": [str(tiny.instructions)]})
        with pytest.raises(ModelError, match=r"model: .* has no config\.json"):
            pipeline.run(config)
