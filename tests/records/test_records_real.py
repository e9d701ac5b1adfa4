"""Real files, where SAWYER_REAL_DATA names a folder that has them, and the rows that the docs show."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.records import JudgedPrompt, check, read
from sawyer.records.formats import FORMATS, Want

Put = Callable[[str, Any], str]
FOLDER = os.environ.get("SAWYER_REAL_DATA", "")
FILES: list[tuple[str, Want, int, str]] = [
    ("instructions/llms_from_scratch.json", "demonstrations", 1100, "instructions (Alpaca)"),
    ("instructions/gpteacher_roleplay.json", "demonstrations", 1923, "instructions (Alpaca)"),
    ("instructions/gsm8k_train.jsonl", "demonstrations", 7473, "question and answer"),
    ("instructions/self_instruct_seed_tasks.jsonl", "demonstrations", 175, "tasks with instances (self-instruct)"),
    ("comparisons/vicuna80_scored.json", "scored", 80, "scored answers (GPT-4-LLM)"),
    ("comparisons/llms_from_scratch_pairs.json", "pairs", 1100, "pairs"),
    ("prompts/vicuna80.jsonl", "prompts", 80, "prompts"),
    ("prompts/arena_hard_v01.jsonl", "prompts", 500, "prompts"),
]


@pytest.mark.skipif(not FOLDER, reason="SAWYER_REAL_DATA names no folder of real data files")
def test_real_files() -> None:
    for name, want, rows, shape in FILES:
        found = read(str(Path(FOLDER, name)), want=want)
        assert (len(found.records) + len(found.problems), found.format) == (rows, shape), name
        assert {problem.kind for problem in found.problems} <= {"tied"}, name
        assert not check([str(Path(FOLDER, name))])[0].is_refused
    answers = {"comparisons/vicuna80_scored.json": 559, "comparisons/oasst_trees.jsonl": 641}
    for name, count in answers.items():
        records: tuple[JudgedPrompt, ...] = read(str(Path(FOLDER, name)), want="comparisons").records
        assert sum(len(record.answers) for record in records) == count
    assert len({record.where.line for record in records}) == 100


SECTIONS: dict[str, Want] = {
    "Instructions": "demonstrations",
    "Judgements": "comparisons",
    "Labels": "labels",
    "Prompts": "prompts",
}


def test_every_row_in_the_docs_is_read_whole(put: Put, shown: dict[str, list[Any]]) -> None:
    """docs/data.md names every shape there is, and each row it shows is what its section says, with no field left over."""
    taken = set()
    assert shown.keys() == SECTIONS.keys()
    for title, want in SECTIONS.items():
        for row in shown[title]:
            found = read(put("a.jsonl", [row]), want=want)
            assert found.records and not found.unread, row
            taken.add(found.format)
    assert taken == {shape.name for shape in FORMATS}
