"""Any stage may be the first: a reward model alone, RL and DPO from a model that is given, a comparison of what exists."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoders import write

from sawyer import pipeline
from sawyer.models import open_language_model
from sawyer.records import read, split
from sawyer.report import build
from sawyer.runs import Layout, read_rows
from sawyer.runs.atomic_files import hash_folder

Fixture = Any
SHORT = "def short(prompts, responses):\n    return [-len(r) / 10 for r in responses]\n"
LORA = {"rank": 2}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`my_short:short`, a reward function in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_short.py").write_text(SHORT)
    monkeypatch.delitem(sys.modules, "my_short", raising=False)


def left_out(out: Path) -> dict[str, str]:
    return {row["stage"]: row["message"] for row in read_rows(Layout(out).events) if row["kind"] == "left_out"}


def pairs_file(tiny: Fixture, folder: Path) -> str:
    """Ready-made pairs: the first and the last of each prompt's answers, by score."""
    rows = []
    for row in json.loads(tiny.comparisons.read_text()):
        ranked = sorted(row["responses_and_scores"], key=lambda answer: -answer["score"])
        if ranked[0]["score"] > ranked[-1]["score"] and ranked[0]["response"] != ranked[-1]["response"]:
            rows.append({"prompt": row["user_input"], "chosen": ranked[0]["response"], "rejected": ranked[-1]["response"]})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "pairs.jsonl")


def on_page(out: Path, *words: str) -> None:
    """The report is there and says so."""
    page = build(out).read_text()
    assert all(word in page for word in words)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "lora", "roberta"])
def test_a_reward_model_alone(tiny: Fixture, tmp_path: Path, kind: str) -> None:
    out, pairs = tmp_path / "run", pairs_file(tiny, tmp_path)
    asked: dict[str, Any] = {"data": [pairs], "batch_size": 8, "learning_rate": 1e-3, "eval_fraction": 0.2}
    asked |= {"model": str(write(tmp_path / "encoder", kind))} if kind == "roberta" else {}
    tree = {"reward": asked, **({"lora": LORA} if kind == "lora" else {}), **({"model": None} if kind == "roberta" else {})}
    summary = pipeline.run(tiny.config(out, **tree))
    assert list(summary["seconds"]) == ["reward", "report", "total"] and summary["reward"]["eval_prompts"] > 0
    assert "the answers in the files set the mean and scale of the reward" in left_out(out)["reward"]
    assert not (out / "sft").exists() and summary["gates"].keys() >= {"reward_learned", "reward_beats_baselines"}
    on_page(out, "the answers in the files set the mean and scale of the reward")
    if kind == "lora":
        return
    # The saved model in plain transformers, and its zero and unit: mean and deviation over the training answers.
    model = hf.AutoModelForSequenceClassification.from_pretrained(out / "reward" / "model").eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(out / "reward" / "model")
    records = [r for r in split(read([pairs], want="comparisons").records, 0.2)[0] if r.is_pair]
    if kind == "roberta":  # pairs that are equal once cut, or whose words it does not know, teach nothing
        both = [
            [tokenizer(r.prompt.text, text, truncation=True)["input_ids"] for text in (r.chosen, r.rejected)] for r in records
        ]
        records = [record for record, (one, other) in zip(records, both, strict=True) if one != other]
    scores = []
    for prompt, text in [(r.prompt.text, text) for r in records for text in (r.chosen, r.rejected)]:
        if kind == "roberta":
            inputs = tokenizer(prompt, text, truncation=True, return_tensors="pt")
        else:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            inputs = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            scores.append(float(model(**inputs).logits[0, 0]))
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    assert summary["reward"]["reward_shift"] == pytest.approx(mean, abs=1e-5)
    assert summary["reward"]["reward_scale"] == pytest.approx(deviation, rel=1e-4)


RL = {
    "eval_fraction": 0.3,
    "episodes": 16,
    "batch_size": 8,
    "num_minibatches": 2,
    "epochs": 1,
    "max_new_tokens": 8,
    "eval_prompts": 4,
    "eval_every": 1,
}
PAID = {"rewards": [{"name": "short", "function": "my_short:short"}]}
SHARED: dict[str, Any] = {"value_init": "shared"}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ppo": ({}, {}),
    "ppo with adapters": ({}, {"lora": LORA}),
    "ppo, one trunk": (SHARED, {}),
    "ppo, values fitted": ({"value_init": "ridge"}, {}),
    "grpo": ({"algorithm": "grpo"}, {}),
    "new tokens": ({}, {"template": "chatml"}),
    "best_of_n": ({"algorithm": "best_of_n"}, {}),
}


@pytest.mark.slow
@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("way", WAYS)
def test_rl_from_a_model_that_is_given(tiny: Fixture, tmp_path: Path, way: str) -> None:
    changes, besides = WAYS[way]
    out, before = tmp_path / "run", hash_folder(tiny.sft)
    kept = ("max_new_tokens", "eval_prompts", "eval_fraction")
    base = {name: RL[name] for name in kept} if way == "best_of_n" else RL
    asked = {"prompts": [str(tiny.prompts)], "learning_rate": 1e-3, **base, **PAID, **changes}
    if way == "best_of_n":
        del asked["learning_rate"]
    summary = pipeline.run(tiny.config(out, model=str(tiny.sft), rl=asked, compare={"max_new_tokens": 6}, **besides))
    assert hash_folder(tiny.sft) == before and not (out / "sft").exists() and not (out / "reward").exists()
    gates = summary["gates"]
    if way != "best_of_n":
        # Policy, reference and sampler are the given model before the first update.
        assert {gates[f"step0_{name}"] for name in ("kl", "ratio", "clip", "sampler")} == {"ok"}
        assert "step0_score" not in gates and "step0_score is left out" in left_out(out)["rl"]
        first = next(row for row in read_rows(Layout(out).metrics) if row["stage"] == "rl" and "eval_kl" in row)
        assert first["eval_kl"] == pytest.approx(0, abs=1e-5)
        on_page(out, "step0_score is left out", "there is no judge")
        rows = read_rows(Layout(out).compare)
        assert {row["model"] for row in rows} == {"base", "rl"} and any("kl" in row for row in rows)
    template = besides.get("template", "question")
    ours, given = (
        open_language_model(out / "rl" / "model").prompt_encoder,
        open_language_model(tiny.sft, template).prompt_encoder,
    )
    prompts = read([str(tiny.prompts)], want="prompts").records
    assert [ours.prompt(prompt) for prompt in prompts] == [given.prompt(prompt) for prompt in prompts]
    again = pipeline.run(tiny.config(out, model=str(tiny.sft), rl=asked, compare={"max_new_tokens": 6}, **besides))
    assert again == summary, "finished: nothing is done twice"


@pytest.mark.slow
@pytest.mark.parametrize("besides", [{}, {"lora": LORA}], ids=["whole", "adapters"])
def test_dpo_from_pairs_alone(tiny: Fixture, tmp_path: Path, besides: dict[str, Any]) -> None:
    out, pairs = tmp_path / "run", pairs_file(tiny, tmp_path)
    asked = {"algorithm": "dpo", "data": [pairs], "batch_size": 10, "epochs": 3, "learning_rate": 3e-3, "eval_every": 4}
    asked |= {"max_new_tokens": 8, "eval_prompts": 6, "eval_fraction": 0.2}
    summary = pipeline.run(tiny.config(out, model=str(tiny.sft), rl=asked, **besides))
    told = summary["rl"]
    # Policy and reference are one at the start: every margin is 0, and each pair costs log 2.
    assert told["pair_loss_first"] == pytest.approx(math.log(2), abs=1e-6) and told["pair_loss_best"] < told["pair_loss_first"]
    assert "reward_best" not in told and told["pair_loss_change"] < 0
    assert (summary["gates"]["rl_improves"] == "ok") == (told["pair_loss_change_high"] < 0)
    rows = [row for row in read_rows(Layout(out).metrics) if "eval_pair_loss" in row]
    assert min(row["eval_pair_loss"] for row in rows) == told["pair_loss_best"]
    assert not any(name in row for row in rows for name in ("eval_reward", "eval_score", "score"))
    assert all("reward" not in row for row in read_rows(Layout(out).samples))
    on_page(out, "loss of the held-out pairs 0.693")
    if besides:
        return
    # The kept model's loss by plain transformers, pair by pair.
    ours, theirs = (hf.AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (out / "rl" / "model", tiny.sft))
    prompt_encoder = open_language_model(tiny.sft).prompt_encoder
    losses = []
    for record in split(read([pairs], want="comparisons").records, 0.2)[1]:
        margin = 0.0
        for text, sign in ((record.chosen, 1), (record.rejected, -1)):
            row = prompt_encoder.answer(record.prompt, text)
            ids = torch.tensor([row.ids])
            for model, which in ((ours, 1), (theirs, -1)):
                with torch.no_grad():
                    logprobs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
                margin += sign * which * float(logprobs[torch.tensor(row.loss_mask[1:])].sum())
        losses.append(math.log1p(math.exp(-0.1 * margin)))
    assert told["pair_loss_best"] == pytest.approx(math.fsum(losses) / len(losses), abs=1e-5)


@pytest.mark.slow
def test_a_comparison_of_any_models(tiny: Fixture, tmp_path: Path) -> None:
    out = tmp_path / "run"
    models = {"mine": str(tiny.sft), "theirs": str(tiny.base)}
    compare: dict[str, Any] = {"models": models, "max_new_tokens": 6, "deliberate_limit": 1}
    summary = pipeline.run(tiny.config(out, model=None, compare=compare))
    rows = read_rows(Layout(out).compare)
    assert {row["model"] for row in rows} == {"mine", "theirs"} and not any("reward" in row for row in rows)
    assert "there is no judge" in left_out(out)["compare"] and "compare" not in summary
    on_page(out, "there is no judge", "mine", "theirs")
    judged = pipeline.run(tiny.config(tmp_path / "judged", model=None, compare={**compare, "reward": str(tiny.reward)}))
    assert set(judged["reward_mean"]) == {"mine", "theirs"} and "compare" not in left_out(tmp_path / "judged")
    rate = judged["compare"]["win_rate_theirs_vs_mine"]
    both = [(row["reward"], row["model"]) for row in read_rows(Layout(tmp_path / "judged").compare) if row["setting"] == "t07"]
    mine, theirs = ([reward for reward, model in both if model == name] for name in models)
    wins = [1.0 if b > a else 0.5 if a == b else 0.0 for a, b in zip(mine, theirs, strict=True)]
    assert rate["value"] == pytest.approx(sum(wins) / len(wins)) and rate["judge"] == "reward"
    on_page(tmp_path / "judged", "theirs against mine")


@pytest.mark.slow
def test_answers_of_a_given_model_are_collected(tiny: Fixture, tmp_path: Path) -> None:
    asked = {"prompts": [str(tiny.prompts)], "limit": 4, "answers": 2, "max_new_tokens": 6}
    summary = pipeline.run(tiny.config(tmp_path / "run", model=str(tiny.sft), collect=asked))
    assert summary["collect"]["prompts"] == 4 and Path(summary["waiting"]).exists()
