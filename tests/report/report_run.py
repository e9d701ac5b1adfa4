"""A run's folder made by hand, through the same journal and manifest a real run writes with."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from sawyer.records import Answer, JudgedPrompt, Prompt, prompt_of
from sawyer.runs import Gate, Layout, Manifest, write_json
from sawyer.runs.journal import Journal
from sawyer.trust import Trust, as_json, decide_verdict, trust

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> & \x00\x1b[31m \ud800 {{ 7 * 7 }} </style>'
QUESTIONS = (
    "Write a mythical backstory for my D&D character.",
    'Rewrite the sentence to sound more positive: "The job search was a slow and tedious process."',
    'What is the opposite of "up"?',
    "What is Google?",
    "Where is Princeton University?",
    "Who is the current chancellor of Germany?",
)
WORDS = "the of a down search river town answer bright calm story who is in found old new green north".split()


def make_run(root: Path, *, prompts: int = 120, bad_reward: bool = False, hostile: bool = True) -> Path:
    """A whole run with 60 RL updates; its figures are drawn from a fixed seed."""
    rng = random.Random(7)
    layout = Layout(root)
    root.mkdir(parents=True)
    journal, manifest = Journal(layout), Manifest(layout.manifest)
    config = {
        "out": str(root),
        "seed": 0,
        "model": "/models/gpt2-small",
        "world": {"rater": "honest"},
        "base": None,
        "sft": {"data": ["data/instructions.json"], "epochs": 1.0},
        "collect": {"prompts": ["data/prompts.jsonl"]},
        "reward": {"data": ["data/comparisons.json"], "loss": "squared"},
        "rl": {"prompts": ["data/prompts.jsonl"], "episodes": 7680, "kl": {"coefficient": 0.05, "budget": 6.0}},
        "compare": {"prompts": ["data/held_out.jsonl"]},
    }
    layout.config.write_text(yaml.safe_dump(config, sort_keys=False))
    _sft(journal, rng)
    _reward(journal, rng, bad_reward)
    _rl(journal, rng, hostile)
    rows = _compared(rng, prompts, hostile)
    layout.compare.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rate = {"value": 0.71, "low": 0.66, "high": 0.76, "judge": "gold"}
    rate |= {"length_controlled": 0.69, "length_controlled_low": 0.63, "length_controlled_high": 0.745}
    figures = {
        "sft": {"eval_loss": 1.12, "base_eval_loss": 2.31, "eos_rate": 0.97, "loss_first": 2.3, "loss_last": 1.08},
        "collect": {"prompts": 1000, "answers": 4000, "waiting": 0, "mean_score": 6.1},
        "reward": {
            "eval_prompts": 200,
            "accuracy": 0.861,
            "accuracy_low": 0.84,
            "accuracy_high": 0.88,
            "baseline_longer": 0.56,
            "baseline_high": 0.6,
            "eval_loss": 0.41,
            "ece": 0.034,
            "length_correlation": 0.12,
            "corrupted_win_rate": 0.06,
            "gold_accuracy": 0.88,
            "gold_accuracy_low": 0.86,
            "gold_correlation": 0.71,
            "loss_first": 0.9,
            "loss_last": 0.35,
            "probes": {
                "twice": 0.05,
                "shuffled": 0.02,
                "other_prompt": 0.01,
                "empty": 0.0,
                "pleasantries": 0.17,
                "truncated": 0.08,
            },
        },
        "rl": {"reward_sft": 0.02, "reward_best": 0.91, "best_step": 50, "kl": 3.1, "updates": 60, "stopped": ""},
        "compare": {"win_rate_rl_vs_sft": rate},
    }
    write_json(layout.trust, as_json(examined(), decide_verdict(examined())))
    seconds = {"sft": 71.0, "collect": 24.0, "reward": 58.0, "rl": 121.0, "compare": 29.0}
    start = 1_790_000_000.0
    for stage, spent in seconds.items():
        manifest.update(stage, status="done", started=start, ended=start + spent, seconds=spent, figures=figures[stage])
        start += spent
    manifest.note_versions({"torch": "2.13.0", "transformers": "5.23.0"})
    gold = {
        "base": {"t1": 2.4, "t07": 3.1, "greedy": 4.0, "deliberate": 3.6},
        "sft": {"t1": 5.9, "t07": 7.4, "greedy": 8.4, "deliberate": 8.1},
        "rl": {"t1": 8.0, "t07": 8.6, "greedy": 9.0, "deliberate": 8.8},
        "best_of_8": 7.7,
    }
    reward = {
        "base": {"t1": -2.4, "t07": -1.6, "greedy": -0.8, "deliberate": -1.1},
        "sft": {"t1": 0.0, "t07": 0.4, "greedy": 0.7, "deliberate": 0.66},
        "rl": {"t1": 0.9, "t07": 1.05, "greedy": 1.1, "deliberate": 1.08},
        "best_of_8": 1.02,
    }
    write_json(
        layout.summary,
        {
            "seconds": seconds | {"total": sum(seconds.values())},
            "gold": gold,
            "reward_mean": reward,
            "compare": {"win_rate_rl_vs_sft": rate},
            **{s: figures[s] for s in ("sft", "collect", "reward", "rl")},
        },
    )
    return root


@cache
def examined(prompts: int = 60) -> Trust:
    """The report on a scorer that mostly prefers what the judges do, drawn from a fixed seed; some answers are SFT's own."""
    rng = random.Random(8)
    records = []
    for number in range(prompts):
        scores = [rng.randint(2, 18) / 2 for _ in range(4)]
        sources = ("expert", "<b>rude</b>", "sft", "sft")
        answers = tuple(
            Answer(response=f"{HOSTILE if number == 7 else ''}{_text(rng)} {number}: {score:g}", score=score, source=source)
            for score, source in zip(scores, sources, strict=True)
        )
        records.append(JudgedPrompt(prompt=prompt_of(f"What is {number}?"), answers=answers))

    def scorer(asked: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        known = [float(text.split()[-1]) if text.split()[-1:] and text[-1].isdigit() else 3.0 for text in responses]
        # It reads the prompt, whose number an answer names, and dislikes being told everything twice.
        off = [
            (f" {prompt.text[8:-1]}:" not in text) + (text.count(":") > 1)
            for prompt, text in zip(asked, responses, strict=True)
        ]
        noise = [random.Random(ascii(text)).gauss(0, 0.6) for text in responses]
        return [score / 4 + error - 2 * wrong for score, error, wrong in zip(known, noise, off, strict=True)]

    return trust(scorer, records, loss="squared", held_out=True)


def _sft(journal: Journal, rng: random.Random) -> None:
    journal.event(
        "sft", "plan", message="7,600 rows (Alpaca), 400 held out, 312,000 tokens an epoch, 475 steps, 1.4 M parameters"
    )
    for step in range(475):
        loss = 1.05 + 1.3 * math.exp(-step / 60) + 0.08 * rng.gauss(0, 1)
        journal.metrics(
            "sft", step, {"loss": loss, "learning_rate": 5e-4, "grad_norm": 0.8 + 0.2 * rng.random(), "tokens": 600}
        )
    journal.metrics("sft", 475, {"eval_loss": 1.12, "eval_perplexity": 3.06, "base_eval_loss": 2.31, "eos_rate": 0.97})
    journal.event(
        "sft", "warning", message="3 of 7,600 rows are longer than the model's 128 tokens and lose the end of their response"
    )
    for name, value, threshold, message in (
        ("sft_stops", 0.97, 0.9, "97% of answers to held-out prompts end by themselves"),
        ("sft_beats_base", 1.12, 2.31, "held-out loss 2.310 -> 1.120 nats a token"),
        ("sft_learned", 1.08, 2.3, "training loss 2.300 -> 1.080"),
    ):
        journal.gate(_gate("sft", name, "ok", value, threshold, message))


def _reward(journal: Journal, rng: random.Random, bad: bool) -> None:
    for step in range(340):
        share = min(1.0, max(0.0, 0.88 - 0.36 * math.exp(-step / 50) + 0.06 * rng.gauss(0, 1)))
        loss = max(0.05, 0.35 + 0.6 * math.exp(-step / 50) + 0.12 * rng.gauss(0, 1))
        journal.metrics("reward", step, {"loss": loss, "accuracy": share, "learning_rate": 3e-4, "grad_norm": 1.0, "pairs": 90})
    journal.metrics("reward", 340, {"eval_loss": 0.41, "accuracy": 0.861, "baseline_longer": 0.56})
    message = "accuracy 0.861 on held-out pairs, at least 0.840; the best of 'longer wins' and chance may reach 0.600"
    journal.gate(_gate("reward", "reward_beats_baselines", "fail" if bad else "ok", 0.84, 0.6, message))
    journal.gate(_gate("reward", "reward_learned", "ok", 0.35, 0.9, "training loss 0.900 -> 0.350"))
    message = "damaged answers beat the whole ones 12.0% of the time (worst: pleasantries, 17%)"
    journal.gate(_gate("reward", "reward_rejects_damage", "warn", 0.12, 0.1, message))


def _rl(journal: Journal, rng: random.Random, hostile: bool) -> None:
    for update in range(60):
        up = 1 - math.exp(-update / 18)
        values = {
            "reward": 0.75 * up - 0.05 + 0.05 * rng.gauss(0, 1), "score": 0.95 * up + 0.06 * rng.gauss(0, 1),
            "kl": 3.4 * up + 0.1 * rng.random(), "kl_coefficient": 0.05, "length": 14 + 2 * up + rng.gauss(0, 0.4),
            "eos_rate": min(1.0, 0.96 + 0.04 * up), "distinct_2": 0.62 - 0.1 * up,
            "mode_response_rate": 0.02 + 0.01 * rng.random(),
            "sampled_entropy": 1.6 - 0.9 * up, "policy_loss": -0.01, "value_loss": 0.4 - 0.2 * up,
            "clip_fraction": 0.03 + 0.02 * rng.random(),
            "approx_kl": 0.004 + 0.002 * rng.random(), "explained_variance": 0.6 * up, "grad_norm": 0.7, "value_grad_norm": 0.9,
            "learning_rate": 3e-4 * (1 - update / 60),
        }  # fmt: skip
        if update % 10 == 0:
            values |= _evaluated(up)
            _tracked(journal, update, up, rng, hostile)
        journal.metrics("rl", update, values)
    journal.metrics("rl", 60, _evaluated(0.96))
    _tracked(journal, 60, 0.96, rng, hostile)
    journal.event("rl", "best_checkpoint", step=50, message="kept the model after update 50 of 60: held-out reward 0.910")
    journal.gate(_gate("rl", "rl_improves", "ok", 0.91, 0.02, "held-out reward 0.020 -> 0.910 (update 50 of 60)"))
    journal.gate(_gate("rl", "rl_kl_budget", "ok", 3.1, 6.0, "the kept model is 3.10 nats a response away from the SFT model"))
    journal.gate(
        _gate("compare", "rl_beats_sft", "ok", 0.66, 0.5, "RL wins 71.0% of the prompts against SFT by gold (66.0% to 76.0%)")
    )


def _evaluated(up: float) -> dict[str, float]:
    return {
        "eval_reward": 0.9 * up, "eval_kl": 3.3 * up, "eval_length": 14 + 2 * up, "eval_eos_rate": 0.98,
        "eval_gold": 5.9 + 2.2 * up,
    }  # fmt: skip


def _tracked(journal: Journal, update: int, up: float, rng: random.Random, hostile: bool) -> None:
    rows = [
        {
            "prompt": q,
            "response": _text(rng),
            "reward": up + rng.gauss(0, 0.3),
            "kl": 3 * up,
            "length": 12,
            "ended": True,
            "gold": 6 + 2 * up,
        }
        for q in QUESTIONS
    ]
    if hostile:
        rows[0]["response"] = "<b>bold</b> " + rows[0]["response"]
    journal.samples("rl", update, rows)


def _compared(rng: random.Random, prompts: int, hostile: bool) -> list[dict]:
    rows = []
    for model, lift in (("base", -1.6), ("sft", 0.2), ("rl", 1.0)):
        for setting in ("t1", "t07", "greedy", "deliberate", *(("best_of_8",) if model == "sft" else ())):
            for number in range(min(prompts, 24) if setting == "deliberate" else prompts):
                reward = lift + rng.gauss(0, 0.6)
                rows.append(
                    {
                        "number": number,
                        "prompt": QUESTIONS[number] if number < len(QUESTIONS) else f"What is a {rng.choice(WORDS)} {number}?",
                        "model": model,
                        "setting": setting,
                        "response": HOSTILE if hostile and number % 9 == 2 and model == "base" else _text(rng),
                        "length": 14,
                        "ended": rng.random() < 0.9,
                        "reward": reward,
                        "gold": min(10.0, max(0.0, 6 + 2 * reward)),
                        "parts": ["right"],
                    }
                )
    return rows


def _text(rng: random.Random) -> str:
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 26)))
    return words[:1].upper() + words[1:] + "."


def _gate(stage: str, name: str, verdict: str, value: float, threshold: float, message: str) -> Gate:
    return Gate(
        stage=stage, name=name, verdict=verdict, value=value, threshold=threshold, message=message,
        advice="add judged answers of that kind; the policy will find this weakness",
    )  # fmt: skip
