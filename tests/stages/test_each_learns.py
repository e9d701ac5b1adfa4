"""Each algorithm, from one SFT model and one reward: what is paid for rises on prompts that nothing was learnt from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sawyer.config import Config
from sawyer.models import open_language_model, sample
from sawyer.records import read
from sawyer.stages.rl.rl_stage import train
from sawyer.train import generator

Fixture = Any
SHORT = "def short(prompts, responses):\n    return [-len(r) / 10 for r in responses]\n"
ONLINE = {"episodes": 768, "batch_size": 32, "num_minibatches": 2, "epochs": 2, "learning_rate": 1e-2, "kl": {"budget": 1e3}}
ASKED: dict[str, dict[str, Any]] = {
    "ppo": ONLINE,
    "ppo shared": {**ONLINE, "value_init": "shared"},
    "ppo ridge": {**ONLINE, "value_init": "ridge"},
    "rloo": ONLINE,
    "grpo": ONLINE,
    "dpo": {"epochs": 20, "batch_size": 8, "learning_rate": 1e-2, "kl": {"budget": 1e3}},
    "best_of_n": {},
}


def judged(tiny: Fixture, path: Path) -> str:
    """Four of the SFT model's answers to each prompt, judged as the reward judges."""
    speaker = open_language_model(tiny.sft)
    prompts = read([str(tiny.prompts)], want="prompts").records
    rows = []
    for number, prompt in enumerate(prompts):
        ids = [speaker.prompt_encoder.prompt(prompt)] * 4
        draw = generator(0, "judged", number)
        found = sample(
            speaker.model, ids, prompt_encoder=speaker.prompt_encoder, max_new_tokens=16, temperature=1.0, generator=draw
        )
        texts = [speaker.prompt_encoder.decode(one.ids) for one in found]
        rows.append({"user_input": prompt.text, "responses_and_scores": [{"response": t, "score": -len(t)} for t in texts]})
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED)
def test_what_is_paid_for_rises(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"my_brevity_{name.replace(' ', '_')}"  # a module of a name is imported once
    (tmp_path / f"{module}.py").write_text(SHORT)
    rl = {"algorithm": name.partition(" ")[0], "prompts": [str(tiny.prompts)], "max_new_tokens": 16, "temperature": 1.0}
    rl |= {"rewards": [{"name": "short", "function": f"{module}:short"}], "eval_fraction": 0.3, "eval_prompts": 12}
    rl |= {"missing_eos_penalty": 0.0, **ASKED[name]} | ({} if name == "best_of_n" else {"guards": "off", "eval_every": 4})
    stages = {"sft": {"data": [str(tiny.instructions)]}, "reward": {"data": [judged(tiny, tmp_path / "judged.json")]}}
    config: Config = tiny.config(tmp_path / "run", **stages, rl=rl)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        figures = train(config, run)
    assert figures["reward_best"] - figures["reward_sft"] > 0.5, figures
