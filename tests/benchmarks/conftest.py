"""A model of one layer and six rows of each kind, and a machine whose rate is measured in no time."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from sawyer.config import Config, parse_config
from sawyer.models import new_policy, save_model, train_tokenizer
from sawyer.text import set_template

ANSWERS = ("The opposite of up is down.", "Down.", "I am sorry.", "Up is up, and so it is.")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("bench")
    tokenizer = train_tokenizer(ANSWERS * 3, 300, 64)
    set_template(tokenizer, "question")
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    save_model(folder / "m", new_policy(vocab_size=302, layers=1, width=16, heads=2, context=64, seed=0, **ids), tokenizer)
    questions = [f"What is {name}?" for name in ("up", "down", "left", "right", "here", "there")]
    shown = [{"instruction": q, "input": "", "output": ANSWERS[i % 4]} for i, q in enumerate(questions)]
    scored = [
        {"user_input": q, "responses_and_scores": [{"response": a, "score": i, "source": "x"} for i, a in enumerate(ANSWERS)]}
        for q in questions
    ]
    (folder / "sft.json").write_text(json.dumps(shown))
    (folder / "scored.json").write_text(json.dumps(scored))
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": q}) for q in questions))
    return parse_config(
        {
            "model": str(folder / "m"),
            "sft": {"data": [str(folder / "sft.json")], "batch_size": 3},
            "reward": {"data": [str(folder / "scored.json")], "batch_size": 2},
            "rl": {
                "prompts": [str(folder / "prompts.jsonl")],
                "batch_size": 4,
                "episodes": 4,
                "num_minibatches": 2,
                "epochs": 1,
                "max_new_tokens": 4,
            },
        }
    )


@pytest.fixture(autouse=True)
def quick_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("benchmarks.ceiling")
    monkeypatch.setattr(module, "SHAPES", ((8, 16, 16),))
