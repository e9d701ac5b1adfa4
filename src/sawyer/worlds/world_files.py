"""The world as files in the formats that people publish."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sawyer.records import Answer, Demonstration, JudgedPrompt, prompt_of
from sawyer.worlds.answerers import answers_to_judge, demonstrate
from sawyer.worlds.raters import rate
from sawyer.worlds.statements import statements
from sawyer.worlds.tasks import Split, tasks

TRAIN_PROMPTS = 4000  # distinct training prompts that demonstrations are drawn from


def demonstrations(count: int, seed: int) -> list[Demonstration]:
    """`count` instructions with somebody's answer, good or bad; prompts repeat when there are fewer."""
    rng = random.Random(f"{seed}/demonstrations")
    pool = tasks("train", min(count, TRAIN_PROMPTS), seed)
    return [
        Demonstration(prompt=prompt_of(task.prompt), response=demonstrate(task, rng))
        for task in (pool[i % len(pool)] for i in range(count))
    ]


def comparisons(
    count: int, seed: int, *, rater: str = "honest", split: Split = "train", answers: int = 6
) -> list[JudgedPrompt]:
    """`count` prompts with `answers` answers each, scored by a rater."""
    rng = random.Random(f"{seed}/comparisons")
    rows = []
    for task in tasks(split, count, seed + 1):
        sources = dict(answers_to_judge(task, answers, rng))  # equal texts are one answer
        ratings = [
            Answer(response=text, score=rate(rater, task.prompt, text, rng), source=who) for text, who in sources.items()
        ]
        rows.append(JudgedPrompt(prompt=prompt_of(task.prompt), answers=tuple(ratings)))
    return rows


def write_world(
    out: Path,
    *,
    seed: int,
    rater: str = "honest",
    instructions: int = 8000,
    rated_prompts: int = 2000,
    prompts: int = 3000,
    held_out: int = 400,
    dev: int = 400,
    paragraphs: int = 20_000,
) -> dict[str, Path]:
    """Write instructions.json (Alpaca), comparisons.json (GPT-4-LLM), prompts.jsonl, held_out.jsonl, dev.jsonl, statements.txt.

    Each number is the rows of its file; returns name -> path.
    """
    out.mkdir(parents=True, exist_ok=True)
    instruction_rows = [
        {"instruction": row.prompt.text, "input": "", "output": row.response} for row in demonstrations(instructions, seed)
    ]
    comparison_rows = [
        {
            "user_input": row.prompt.text,
            "responses_and_scores": [{"response": a.response, "source": a.source, "score": a.score} for a in row.answers],
        }
        for row in comparisons(rated_prompts, seed, rater=rater)
    ]
    paths = {
        "instructions": _json(out / "instructions.json", instruction_rows),
        "comparisons": _json(out / "comparisons.json", comparison_rows),
    }
    for name, split, count in (("prompts", "train", prompts), ("held_out", "held_out", held_out), ("dev", "dev", dev)):
        rows = ({"prompt": task.prompt, "family": task.family} for task in tasks(split, count, seed))  # type: ignore[arg-type]
        paths[name] = _lines(out / f"{name}.jsonl", rows)
    paths["statements"] = out / "statements.txt"
    paths["statements"].write_text("\n\n".join(statements(seed, paragraphs)) + "\n", encoding="utf-8")
    return paths


def _json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
