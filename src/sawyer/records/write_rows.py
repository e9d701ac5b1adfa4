"""Records -> rows of the public formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sawyer.records.record_types import JudgedPrompt


def scored_row(record: JudgedPrompt) -> dict[str, Any]:
    """GPT-4-LLM's shape; a conversation of several turns goes under `prompt` as a list of messages."""
    turns = record.prompt.messages
    prompt: dict[str, Any] = (
        {"user_input": record.prompt.text}
        if len(turns) == 1
        else {"prompt": [{"role": turn.role, "content": turn.content} for turn in turns]}
    )
    answers = [{"response": a.response, "score": a.score, "source": a.source} for a in record.answers]
    return prompt | {"responses_and_scores": answers}


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
