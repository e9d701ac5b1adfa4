"""`sawyer trust` on models as they lie on a disk: decoder and encoders that plain transformers wrote, and ensembles of ours."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoders import noisy, write

from sawyer.models import member_folder, new_policy, new_reward, save_model, train_tokenizer
from sawyer.records import json_lines, prompt_of, scored_row
from sawyer.records.record_types import Answer, JudgedPrompt
from sawyer.runs import replace_folder

pytestmark = pytest.mark.slow

WORDS = "what is the opposite of up down where a question answer yes no word be brief".split()
ASKED = [f"what is the {a} of {b} ?" for a in WORDS[3:8] for b in WORDS[4:9]][:24]
RECORDS = [
    JudgedPrompt(
        prompt=prompt_of(ask),
        answers=(
            Answer(response=f"the {ask.split()[3]} is {ask.split()[5]} .", score=8.0, source="good"),
            Answer(response=f"{ask.split()[5]} where a word", score=2.0, source="bad"),
        ),
    )
    for ask in ASKED
]
UNITS = [(0.5, 2.0), (-1.0, 0.25)]  # shift and scale of the ensemble's members


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def data(root: Path) -> Path:
    path = root / "judged.jsonl"
    path.write_text(json_lines(scored_row(record) for record in RECORDS))
    return path


def decoder(folder: Path, heads: int = 1, seed: int = 1) -> tuple[Any, Any]:
    """(model, tokenizer) of a tiny GPT-2; its untrained language model is left in `folder`/policy."""
    tokenizer = train_tokenizer([*ASKED, *(a.response for r in RECORDS for a in r.answers)] * 2, 300, 96)
    named = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    policy = new_policy(vocab_size=len(tokenizer), layers=1, width=16, heads=2, context=96, seed=seed, **named)
    (folder / "policy").mkdir(parents=True, exist_ok=True)
    save_model(folder / "policy", policy, tokenizer)
    return noisy(new_reward(folder / "policy", tokenizer, seed=seed, heads=heads)), tokenizer


def by_plain_transformers(folder: Path, kind: str) -> Path:
    """A reward model's folder of no maker but transformers."""
    if kind != "gpt2":
        return write(folder, kind, num_labels=1)
    model, tokenizer = decoder(folder.with_name("source"))
    assert type(model) is hf.GPT2ForSequenceClassification
    model.save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


Rewards = dict[tuple[str, str], float]


def plainly(folder: Path, kind: str, head: int = 0) -> Rewards:
    """(prompt, response) -> its raw score, each alone, by transformers and nothing of ours."""
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    found = {}
    for record in RECORDS:
        ask = record.prompt.messages[-1].content
        for answer in record.answers:
            if kind == "gpt2":
                ids = [*tokenizer(f"Question: {ask}\nResponse:").input_ids, *tokenizer(f" {answer.response}").input_ids]
                inputs = {"input_ids": torch.tensor([[*ids, tokenizer.eos_token_id]])}
            else:
                inputs = tokenizer(ask, answer.response, truncation=True, return_tensors="pt")
            with torch.no_grad():
                found[ask, answer.response] = float(model(**inputs).logits[0, head])
    return found


def gaps(rewards: Rewards) -> list[float]:
    """Of each prompt's one pair, the good answer's reward less the bad one's."""
    asked = [(record.prompt.messages[-1].content, [answer.response for answer in record.answers]) for record in RECORDS]
    return [rewards[ask, good] - rewards[ask, bad] for ask, (good, bad) in asked]


def right(rewards: Rewards) -> float:
    """The share of pairs whose good answer has the higher reward."""
    return sum(gap > 0 for gap in gaps(rewards)) / len(RECORDS)


@pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta"])
def test_models_of_plain_transformers(root: Path, data: Path, sawyer: Callable[..., Any], kind: str) -> None:
    folder = by_plain_transformers(root / kind, kind)
    done = sawyer("trust", folder, "--data", data, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    rewards = plainly(folder, kind)
    accuracy = found["sides"][0]["accuracy"]
    assert accuracy["value"] == pytest.approx(right(rewards)) and accuracy["prompts"] == accuracy["cases"] == 24
    assert accuracy["low"] < accuracy["value"] or accuracy["value"] == 0
    assert found["sides"][0]["spread"] == pytest.approx(statistics.pstdev(rewards.values()))
    assert len(set(rewards.values())) > 10 and found["loss"] is None
    (told,) = found["sides"][0]["calibration"]
    assert (told["formula"], told["why"]) == ("sigmoid(D)", "the usual probability; which loss trained this model is not known")
    assert [probe["name"] for probe in found["probes"] if probe["wins"]["cases"]]


@pytest.fixture(scope="module", params=["seeds", "heads"])
def ensemble(request: pytest.FixtureRequest, root: Path) -> tuple[str, Path]:
    """Two members with units of their own; the worst case counts."""
    by = request.param
    folder = root / f"ensemble-{by}"
    told = {"members": 2, "by": by, "heads": 2 if by == "heads" else 1, "units": UNITS}
    told |= {"reward": "min", "penalty": 0.0, "own_disagreement": 0.4}
    with replace_folder(folder) as new:
        first, tokenizer = decoder(root / by, heads=told["heads"])
        save_model(new, first, tokenizer, {"reward_shift": 0.5, "reward_scale": 2.0, "loss": "bradley_terry", "ensemble": told})
        if by == "seeds":
            member_folder(new, 1).mkdir()
            second = decoder(root / "other", seed=4)[0]
            with torch.no_grad():
                second.score.weight.neg_()  # the first one's opinion, and the contrary
            save_model(member_folder(new, 1), second, tokenizer, {"reward_shift": -1.0, "reward_scale": 0.25})
    return by, folder


def test_an_ensemble_is_judged_by_its_one_reward(ensemble: tuple[str, Path], data: Path, sawyer: Callable[..., Any]) -> None:
    by, folder = ensemble
    done = sawyer("trust", folder, "--data", data, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    raws = [plainly(folder, "gpt2"), plainly(member_folder(folder, 1), "gpt2") if by == "seeds" else plainly(folder, "gpt2", 1)]
    rewards = {
        text: min((raw[text] - shift) / scale for raw, (shift, scale) in zip(raws, UNITS, strict=True)) for text in raws[0]
    }
    side = found["sides"][0]
    assert side["accuracy"]["value"] == pytest.approx(right(rewards))
    assert side["spread"] == pytest.approx(statistics.pstdev(rewards.values()), rel=1e-4)
    # Neither member alone says the same.
    assert all(side["spread"] != pytest.approx(statistics.pstdev(list(raw.values())), rel=1e-2) for raw in raws)
    # It is sure in the unit its members were trained in: their mean scale, (2 + 0.25) / 2.
    assert found["loss"] == "bradley_terry"
    sure = statistics.fmean(1 / (1 + math.exp(-1.125 * abs(gap))) for gap in gaps(rewards))
    bins = side["calibration"][0]["bins"]
    cases = [one["right"]["cases"] for one in bins]
    assert sum(cases) == 24
    assert sum(one["confidence"] * n for one, n in zip(bins, cases, strict=True)) / 24 == pytest.approx(sure, rel=1e-4)


def test_an_ensemble_on_the_terminal_and_as_a_page(
    ensemble: tuple[str, Path], data: Path, tmp_path: Path, sawyer: Callable[..., Any]
) -> None:
    done = sawyer("trust", ensemble[1], "--data", data, "--out", tmp_path / "page.html")
    assert done.code == 0, done.err
    assert "24 prompts" in done.out and "sigmoid(D)" in done.out and (tmp_path / "page.html").stat().st_size > 10_000
