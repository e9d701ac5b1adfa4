"""The demo's pipeline assembled from TRL, to be timed beside `sawyer demo`: `python benchmarks/trl_pipeline.py --seed 0`.

The same base model, the same files of the built-in world, the same numbers of rows, epochs, answers and updates, the same
learning rates; as much is held out, and models are evaluated as often; SFTTrainer, transformers' `generate`, RewardTrainer and
PPOTrainer do the work. TRL 1.12.0 is the last release with a PPO trainer and is not among SAWYER's requirements: `pip install
trl==1.12.0 peft accelerate datasets`.

It works in fp32, in which it is no slower here than with TRL's `bf16` (lab/speed.md#bins).

What it leaves out is to its advantage: data are not checked, the reward model is not probed with damaged answers, nothing is
drawn or saved to go on from. A line of JSON ends it: seconds of each part, gold of each model at temperature 1, 0.7 and greedy,
and of the best of eight.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sawyer.config import Config

warnings.filterwarnings("ignore")
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

CONTEXT = 128  # tokens that the packaged base model reads
TOGETHER = 256  # prompts that `generate` answers at once: what suits it best here
SETTINGS: dict[str, dict[str, Any]] = {
    "t1": {"do_sample": True, "temperature": 1.0},
    "t07": {"do_sample": True, "temperature": 0.7},
    "greedy": {"do_sample": False},
}
# The original SAWYER's own setting, slow: for some of the prompts.
DELIBERATE = {"do_sample": True, "temperature": 0.5, "top_k": 10, "no_repeat_ngram_size": 2, "num_beams": 5}
BEST_OF = 8


def main() -> None:
    """Every stage, each with its seconds."""
    parser = argparse.ArgumentParser(description="The demo's pipeline assembled from TRL.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of every stage's rows, to try it out")
    arguments = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from sawyer.config import WORLD_BASE, demo_config, required_section
    from sawyer.worlds import write_world

    seconds: dict[str, float] = {}
    began = clock = time.perf_counter()

    def add_seconds(name: str) -> None:
        nonlocal clock
        seconds[name] = round(time.perf_counter() - clock, 1)
        clock = time.perf_counter()
        print(f"{name}: {seconds[name]} s", flush=True)

    set_seed(arguments.seed)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_world(folder / "data", seed=arguments.seed)
        recipe = demo_config(temporary, arguments.seed)
        tokenizer = AutoTokenizer.from_pretrained(WORLD_BASE, padding_side="left")
        add_seconds("data")

        sft = AutoModelForCausalLM.from_pretrained(WORLD_BASE)
        _sft(recipe, sft, tokenizer, _some(json.loads(files["instructions"].read_text()), arguments.share), folder / "sft-run")
        sft.save_pretrained(folder / "sft-model")
        add_seconds("sft")

        prompts = [json.loads(line)["prompt"] for line in files["prompts"].read_text().splitlines()]
        answers_of_prompt = _collect(recipe, sft, tokenizer, prompts, arguments.share)
        add_seconds("collect")

        ratings = [
            (row["user_input"], [(a["response"], a["score"]) for a in row["responses_and_scores"]])
            for row in _some(json.loads(files["comparisons"].read_text()), arguments.share)
        ]
        reward = _reward(recipe, folder / "sft-model", tokenizer, [*ratings, *answers_of_prompt], folder / "reward-run")
        reward.save_pretrained(folder / "reward-model")
        add_seconds("reward")

        policy = AutoModelForCausalLM.from_pretrained(folder / "sft-model")
        _ppo(recipe, policy, reward, folder, tokenizer, prompts, arguments.share)
        add_seconds("rl")

        held_out = [json.loads(line)["prompt"] for line in files["held_out"].read_text().splitlines()]
        results = {}
        for name, model in (("base", AutoModelForCausalLM.from_pretrained(WORLD_BASE)), ("sft", sft), ("rl", policy)):
            for setting, how in SETTINGS.items():
                answers = _answers(recipe, model.eval(), tokenizer, _some(held_out, arguments.share), **how)
                results[f"{name}_{setting}"] = _gold(held_out, answers)
                _scores(reward, tokenizer, held_out, answers)
            few = _some(held_out[: required_section(recipe.compare, "compare").deliberate_limit], arguments.share)
            _scores(reward, tokenizer, few, _answers(recipe, model, tokenizer, few, **DELIBERATE))
        results["best_of_8"] = _gold(held_out, _best(recipe, sft, reward, tokenizer, _some(held_out, arguments.share)))
        add_seconds("compare")
    figures = {"what": "trl_pipeline", "seed": arguments.seed, "threads": torch.get_num_threads(), "parts": seconds}
    print(json.dumps(figures | {"seconds": round(time.perf_counter() - began, 1), "gold": results}))


def _some(rows: Sequence[Any], share: float) -> Sequence[Any]:
    return rows[: max(1, round(len(rows) * share))]


def _held_out(rows: Sequence[Any], share: float) -> tuple[Sequence[Any], Sequence[Any]]:
    """(what is trained on, the last rows, which are not)."""
    most = len(rows) - round(len(rows) * share)
    return rows[:most], rows[most:]


def _gold(prompts: Sequence[str], answers: Sequence[str]) -> float:
    from sawyer.worlds import gold

    return round(statistics.mean(gold(p, a).score for p, a in zip(prompts, answers, strict=False)), 2)


def _question(prompt: str) -> str:
    return f"Question: {prompt}\nResponse:"


def _trainer_settings(settings: Any, batch: int, folder: Path) -> dict[str, Any]:
    """What the trainers of SFT and reward have in common, from the section of the recipe that is theirs."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": TOGETHER,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "max_length": CONTEXT,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 100,
        "disable_tqdm": True,
        "use_cpu": True,
    }


def _sft(recipe: Config, model: Any, tokenizer: Any, rows: Sequence[dict[str, str]], folder: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from sawyer.config import required_section

    settings = required_section(recipe.sft, "sft")
    data = [{"prompt": _question(row["instruction"]), "completion": f" {row['output']}"} for row in rows]
    train, held_out = _held_out(data, settings.eval_fraction)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_trainer_settings(settings, settings.batch_size, folder)),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(list(train)),
        eval_dataset=Dataset.from_list(list(held_out)),
    )
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    _answers(recipe, model.eval(), tokenizer, [row["instruction"] for row in rows[-settings.eval_prompts :]], **SETTINGS["t1"])


def _answers(recipe: Config, model: Any, tokenizer: Any, prompts: Sequence[str], **how: Any) -> list[str]:
    from sawyer.config import required_section

    new = required_section(recipe.compare, "compare").max_new_tokens  # collecting answers has the same
    results = []
    for start in range(0, len(prompts), TOGETHER):
        batch = tokenizer([_question(p) for p in prompts[start : start + TOGETHER]], return_tensors="pt", padding=True)
        ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
        out = model.generate(**ids, max_new_tokens=new, pad_token_id=tokenizer.pad_token_id, **{"top_k": 0, **how})
        results += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in results]


def _scores(reward: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    import torch

    results: list[float] = []
    texts = [f"{_question(p)} {a}{tokenizer.eos_token}" for p, a in zip(prompts, answers, strict=False)]
    for start in range(0, len(texts), TOGETHER):
        some = texts[start : start + TOGETHER]
        # On the right, as it was trained: GPT-2 counts positions from the padding on where it comes first.
        batch = tokenizer(some, return_tensors="pt", padding=True, padding_side="right", truncation=True, max_length=CONTEXT)
        with torch.no_grad():
            results += reward.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].tolist()
    return results


def _best(recipe: Config, sft: Any, reward: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Of several answers to each prompt the one with the highest reward."""
    several = [prompt for prompt in prompts for _ in range(BEST_OF)]
    answers = _answers(recipe, sft, tokenizer, several, **SETTINGS["t1"])
    scores = _scores(reward, tokenizer, several, answers)
    each = (range(start, start + BEST_OF) for start in range(0, len(several), BEST_OF))
    return [answers[max(indices, key=scores.__getitem__)] for indices in each]


def _collect(
    recipe: Config, model: Any, tokenizer: Any, prompts: Sequence[str], share: float
) -> list[tuple[str, list[tuple[str, float]]]]:
    """Several answers of the model's own to each prompt, the different ones ratings by the world's honest rater."""
    from sawyer.config import required_section
    from sawyer.worlds import rate

    settings, rng = required_section(recipe.collect, "collect"), random.Random(recipe.seed)
    prompts = _some(prompts[: settings.limit], share)
    several = [prompt for prompt in prompts for _ in range(settings.answers)]
    answers = _answers(recipe, model.eval(), tokenizer, several, do_sample=True, temperature=settings.temperature)
    results = []
    for number, prompt in enumerate(prompts):
        different = dict.fromkeys(answers[settings.answers * number : settings.answers * (number + 1)])
        results.append((prompt, [(answer, rate("honest", prompt, answer, rng)) for answer in different]))
    return results


def _reward(
    recipe: Config, sft: Path, tokenizer: Any, ratings: Sequence[tuple[str, list[tuple[str, float]]]], folder: Path
) -> Any:
    """On all pairs of a prompt's answers whose scores differ, in steps of about as many as a batch of prompts has."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from sawyer.config import required_section

    settings = required_section(recipe.reward, "reward")

    def pairs_of(rows: Sequence[tuple[str, list[tuple[str, float]]]]) -> list[dict[str, str]]:
        return [
            {"prompt": _question(prompt), "chosen": f" {better[0]}", "rejected": f" {worse[0]}"}
            for prompt, answers in rows
            for one, other in itertools.combinations(answers, 2)
            if one[1] != other[1]
            for better, worse in [(one, other) if one[1] > other[1] else (other, one)]
        ]

    train, held_out = _held_out(random.Random(recipe.seed).sample(ratings, len(ratings)), settings.eval_fraction)
    pairs = pairs_of(train)
    model = AutoModelForSequenceClassification.from_pretrained(sft, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    batch = max(1, round(len(pairs) / len(train) * settings.batch_size))
    print(f"{len(pairs)} pairs of {len(train)} prompts, {batch} a step", flush=True)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**_trainer_settings(settings, batch, folder)),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(pairs),
        eval_dataset=Dataset.from_list(pairs_of(held_out)),
    )
    trainer.train()
    trainer.evaluate()
    calibration_prompts = [prompt for prompt, _ in train[: settings.calibration_prompts]]
    answers_of_prompt = _answers(
        recipe, AutoModelForCausalLM.from_pretrained(sft), tokenizer, calibration_prompts, **SETTINGS["t1"]
    )
    _scores(model, tokenizer, calibration_prompts, answers_of_prompt)
    return model


def _ppo(recipe: Config, policy: Any, reward: Any, folder: Path, tokenizer: Any, prompts: Sequence[str], share: float) -> None:
    """As many updates of as many answers, minibatches and epochs as the demo has, and as many evaluations on the way."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from sawyer.config import required_section

    settings = required_section(recipe.rl, "rl")
    prompts, held_out = _held_out(prompts, settings.eval_fraction)
    ids = [tokenizer(_question(prompt))["input_ids"] for prompt in prompts]
    data = Dataset.from_list([{"input_ids": row} for row in ids if len(row) + settings.max_new_tokens <= CONTEXT])
    config = PPOConfig(
        output_dir=str(folder / "rl-run"),
        # TRL steps every `gradient_accumulation_steps` passes, whatever a minibatch is: 4 quarters would make one step.
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=1,
        num_mini_batches=settings.num_minibatches,
        num_ppo_epochs=settings.epochs,
        total_episodes=settings.batch_size * max(1, round(settings.episodes / settings.batch_size * share)),
        local_rollout_forward_batch_size=settings.batch_size,
        response_length=settings.max_new_tokens,
        temperature=settings.temperature,
        learning_rate=settings.learning_rate,
        kl_coef=settings.kl.coefficient,
        missing_eos_penalty=settings.missing_eos_penalty,
        stop_token="eos",
        bf16=False,
        gradient_checkpointing=False,
        num_sample_generations=0,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=recipe.seed,
    )
    scalar = (AutoModelForSequenceClassification.from_pretrained(folder / "reward-model", num_labels=1) for _ in range(2))

    def evaluate() -> None:
        few = _some(held_out[: settings.eval_prompts], share)
        _scores(reward, tokenizer, few, _answers(recipe, policy.eval(), tokenizer, few, **SETTINGS["t1"]))
        policy.train()

    class Evaluations(TrainerCallback):
        """After every so many updates."""

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            """`state` counts updates."""
            if state.global_step % settings.eval_every == 0:
                evaluate()

    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "sft-model"),
        reward_model=next(scalar),
        value_model=next(scalar),
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        callbacks=[Evaluations()],
    )
    evaluate()
    trainer.train()


if __name__ == "__main__":
    main()
