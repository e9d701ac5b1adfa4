"""What LoRA is for: PPO on a GPT-2 of 124 M weights in little more memory than the weights themselves take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="an environment from before PEFT was a dependency: install the package again")

# In a process of its own, as the peak of a process cannot be forgotten everywhere; `way` is full or lora.
PREPARE = """
import json, sys
from pathlib import Path
from sawyer.config import Lora
from sawyer.models import new_policy, new_reward_model, open_language_model, save_model, train_tokenizer
from sawyer.runs import Layout, replace_folder
from sawyer.text import set_template

root = Path(sys.argv[1])
texts = ["Question: What is the opposite of up?\\nResponse: Down, the opposite of up is down."] * 3
tokenizer = train_tokenizer(texts, 300, 1024)
set_template(tokenizer, "question")
eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
model = new_policy(vocab_size=50257, layers=12, width=768, heads=12, context=1024, seed=0, eos_id=eos, pad_id=pad)
assert 124e6 < sum(weight.numel() for weight in model.parameters()) < 125e6
base = root / "base"
with replace_folder(base) as folder:
    save_model(folder, model, tokenizer)
for way, lora in (("full", None), ("lora", Lora(rank=16))):
    layout = Layout(root / way)
    speaker = open_language_model(base, lora=lora)
    with replace_folder(layout.model("sft")) as folder:
        save_model(folder, speaker.model, speaker.tokenizer)
    judge = new_reward_model(layout.model("sft"), seed=1, lora=lora)
    with replace_folder(layout.model("reward")) as folder:
        save_model(folder, judge.model, judge.tokenizer, {"reward_shift": 0.0, "reward_scale": 1.0})
questions = [f"What is the opposite of up, asked for the time {number}?" for number in range(16)]
(root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": question}) + "\\n" for question in questions))
"""
MEASURE = """
import json, sys
from pathlib import Path
from sawyer.config import parse_config
from sawyer.train import peak_memory_mb, reset_peak_memory
from sawyer.runs import open_run
from sawyer.stages.rl.trainer import Trainer

root, way = Path(sys.argv[1]), sys.argv[2]
rl = {"prompts": [str(root / "prompts.jsonl")], "episodes": 4, "batch_size": 4, "num_minibatches": 2, "epochs": 1}
rl |= {"max_new_tokens": 8, "eval_prompts": 2, "eval_fraction": 0.2, "guards": "off"}
tree = {"out": str(root / way), "model": str(root / "base"), "precision": "fp32", "device": "cpu", "micro_batch_tokens": 64}
tree |= {"sft": {"data": ["none.json"]}, "reward": {"data": ["none.json"]}, "rl": rl}
config = parse_config(tree | ({"lora": {"rank": 16}} if way == "lora" else {}))
reset_peak_memory()
with open_run(root / way) as run:
    work = Trainer(config, run)
    for index in range(work.steps):
        work.step(index)
    print(json.dumps({"peak": peak_memory_mb(), "plan": work.memory}))
"""
MOST = 0.6  # of what full fine-tuning takes


def alone(code: str, *arguments: object) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak")
def test_ppo_with_lora_takes_at_most_three_fifths_of_the_memory(tmp_path: Path) -> None:
    alone(PREPARE, tmp_path)
    found = {way: json.loads(alone(MEASURE, tmp_path, way).splitlines()[-1]) for way in ("full", "lora")}
    print(found)
    assert found["lora"]["peak"] <= MOST * found["full"]["peak"], found
