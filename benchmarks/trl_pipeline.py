"""The demo's pipeline assembled from TRL, to be timed beside `sawyer demo`: `python benchmarks/trl_pipeline.py --seed 0`.

The same base model, the same files of the built-in world, the same numbers of rows, epochs, answers and updates, the same
learning rates; SFTTrainer, transformers' `generate`, RewardTrainer and PPOTrainer do the work. TRL 1.12.0 is the last release
with a PPO trainer and is not among SAWYER's requirements: `pip install trl==1.12.0 peft accelerate datasets`.

What it leaves out is to its advantage: nothing is held out, evaluated on the way, checked, saved or drawn, there is no best of
eight and no beam search. A line of JSON ends it: seconds of each part, gold of each model at temperature 1, 0.7 and greedy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

warnings.filterwarnings("ignore")
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

NEW = 48  # tokens an answer
TOGETHER = 128  # prompts that `generate` answers at once
SETTINGS: dict[str, dict[str, Any]] = {
    "t1": {"do_sample": True, "temperature": 1.0},
    "t07": {"do_sample": True, "temperature": 0.7},
    "greedy": {"do_sample": False},
}


def main() -> None:
    """Every stage, each with its seconds."""
    asked = argparse.ArgumentParser(description="The demo's pipeline assembled from TRL.")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--share", type=float, default=1.0, help="of every stage's rows, to try it out")
    arguments = asked.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from sawyer.worlds import gold, write

    seconds: dict[str, float] = {}
    began = clock = time.perf_counter()

    def spent(name: str) -> None:
        nonlocal clock
        seconds[name] = round(time.perf_counter() - clock, 1)
        clock = time.perf_counter()
        print(f"{name}: {seconds[name]} s", flush=True)

    set_seed(arguments.seed)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        files = write(place / "data", seed=arguments.seed)
        base = _base()
        tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
        spent("data")

        sft = AutoModelForCausalLM.from_pretrained(base)
        _sft(sft, tokenizer, _some(json.loads(files["instructions"].read_text()), arguments.share), place / "sft")
        sft.save_pretrained(place / "sft-model")
        spent("sft")

        prompts = [json.loads(line)["prompt"] for line in files["prompts"].read_text().splitlines()]
        own = _collected(sft, tokenizer, _some(prompts[:1500], arguments.share), arguments.seed)
        spent("collect")

        scored = [
            (row["user_input"], [(a["response"], a["score"]) for a in row["responses_and_scores"]])
            for row in _some(json.loads(files["comparisons"].read_text()), arguments.share)
        ]
        reward = _reward(place / "sft-model", tokenizer, [*scored, *own], place / "reward")
        reward.save_pretrained(place / "reward-model")
        spent("reward")

        policy = AutoModelForCausalLM.from_pretrained(place / "sft-model")
        updates = max(1, round(40 * arguments.share))
        _ppo(policy, place / "sft-model", place / "reward-model", tokenizer, prompts, updates, arguments.seed, place / "rl")
        spent("rl")

        held_out = [json.loads(line)["prompt"] for line in files["held_out"].read_text().splitlines()]
        found = {}
        for name, model in (("base", AutoModelForCausalLM.from_pretrained(base)), ("sft", sft), ("rl", policy)):
            for setting, how in SETTINGS.items():
                answers = _answers(model.eval(), tokenizer, _some(held_out, arguments.share), **how)
                judged = [gold(p, a).score for p, a in zip(held_out, answers, strict=False)]
                found[f"{name}_{setting}"] = round(statistics.mean(judged), 2)
        spent("compare")
    told = {"what": "trl_pipeline", "seed": arguments.seed, "threads": torch.get_num_threads(), "parts": seconds}
    print(json.dumps(told | {"seconds": round(time.perf_counter() - began, 1), "gold": found}))


def _base() -> Path:
    import sawyer.worlds

    return Path(sawyer.worlds.__file__).parent / "base"


def _some(rows: Sequence[Any], share: float) -> Sequence[Any]:
    return rows[: max(1, round(len(rows) * share))]


def _asked(prompt: str) -> str:
    return f"Question: {prompt}\nResponse:"


def _trained(folder: Path, batch: int, epochs: float, rate: float) -> dict[str, Any]:
    """What the trainers of SFT and reward are told alike."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch,
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "max_length": 128,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 100,
        "disable_tqdm": True,
        "use_cpu": True,
    }


def _sft(model: Any, tokenizer: Any, rows: Sequence[dict[str, str]], folder: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = [{"prompt": _asked(row["instruction"]), "completion": f" {row['output']}"} for row in rows]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_trained(folder, 16, 1, 2e-3)),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(data),
    )
    trainer.train()


def _answers(model: Any, tokenizer: Any, prompts: Sequence[str], **how: Any) -> list[str]:
    found = []
    for start in range(0, len(prompts), TOGETHER):
        batch = tokenizer([_asked(p) for p in prompts[start : start + TOGETHER]], return_tensors="pt", padding=True)
        ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
        out = model.generate(**ids, max_new_tokens=NEW, pad_token_id=tokenizer.pad_token_id, top_k=0, **how)
        found += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in found]


def _collected(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[tuple[str, list[tuple[str, float]]]]:
    """Four answers of the model's own to each prompt, the different ones judged by the world's honest rater."""
    from sawyer.worlds import rate

    rng = random.Random(seed)
    answers = _answers(model.eval(), tokenizer, [p for p in prompts for _ in range(4)], do_sample=True, temperature=1.0)
    found = []
    for number, prompt in enumerate(prompts):
        different = dict.fromkeys(answers[4 * number : 4 * number + 4])
        found.append((prompt, [(answer, rate("honest", prompt, answer, rng)) for answer in different]))
    return found


def _reward(sft: Path, tokenizer: Any, scored: Sequence[tuple[str, list[tuple[str, float]]]], folder: Path) -> Any:
    """On all pairs of a prompt's answers whose scores differ, in steps of about as many as eight prompts have."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    pairs = [
        {"prompt": _asked(prompt), "chosen": f" {better[0]}", "rejected": f" {worse[0]}"}
        for prompt, answers in scored
        for one, other in itertools.combinations(answers, 2)
        if one[1] != other[1]
        for better, worse in [(one, other) if one[1] > other[1] else (other, one)]
    ]
    model = AutoModelForSequenceClassification.from_pretrained(sft, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    batch = max(1, round(len(pairs) / len(scored) * 8))
    print(f"{len(pairs)} pairs of {len(scored)} prompts, {batch} a step", flush=True)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**_trained(folder, batch, 2, 4e-4)),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(pairs),
    )
    trainer.train()
    return model


def _ppo(
    policy: Any, sft: Path, reward: Path, tokenizer: Any, prompts: Sequence[str], updates: int, seed: int, folder: Path
) -> None:
    """Updates of 128 answers in four minibatches, one epoch, as the demo does them."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    ids = [tokenizer(_asked(prompt))["input_ids"] for prompt in prompts]
    data = Dataset.from_list([{"input_ids": row} for row in ids if len(row) + NEW <= 128])
    config = PPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=32,
        gradient_accumulation_steps=4,
        num_mini_batches=4,
        num_ppo_epochs=1,
        total_episodes=128 * updates,
        local_rollout_forward_batch_size=128,
        response_length=NEW,
        temperature=1.0,
        learning_rate=3e-4,
        kl_coef=0.05,
        missing_eos_penalty=1.0,
        stop_token="eos",
        bf16=False,
        gradient_checkpointing=False,
        num_sample_generations=0,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=seed,
    )
    scalar = (AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1) for _ in range(2))
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(sft),
        reward_model=next(scalar),
        value_model=next(scalar),
        train_dataset=data,
        eval_dataset=data.select(range(8)),
    )
    trainer.train()


if __name__ == "__main__":
    main()
