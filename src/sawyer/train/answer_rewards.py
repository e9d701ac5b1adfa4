"""How sure the run's reward model is of each collected answer: what people are asked next goes by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count, takewhile
from typing import Any

from sawyer.models import Scorer, score_details
from sawyer.records import AnsweredPrompt, Prompt, json_lines, read_answers
from sawyer.runs import Layout, Run, read_rows, write_text
from sawyer.train import distributed


def write_answer_rewards(run: Run, scorer: Scorer) -> int:
    """Write `reward/answer_rewards.jsonl`: every answer collected so far, of all rounds, scored by `scorer`. Returns how many.

    Without collected answers an older file is removed: it would be another model's. A row that holds no answers is none here;
    whoever reads the file for its judgements reports it.
    """
    files = map(run.layout.answers_of, count(1))
    paths = [str(path) for path in takewhile(lambda path: path.exists(), files)]
    rows_with_answers: Iterable[AnsweredPrompt] = read_answers(paths, []) if paths else ()
    answers = list(dict.fromkeys(answer for row in rows_with_answers for answer in row.answers))
    if not answers:
        distributed.on_rank_zero(lambda: run.layout.answer_rewards.unlink(missing_ok=True))
        return 0
    prompts, responses = [prompt for prompt, _ in answers], [response for _, response in answers]
    details = score_details(scorer, prompts, responses)
    rows = [
        answer_reward_row(prompt, response, detail.reward, detail.disagreement)
        for prompt, response, detail in zip(prompts, responses, details, strict=True)
    ]
    distributed.on_rank_zero(lambda: write_text(run.layout.answer_rewards, json_lines(rows)))
    return len(rows)


def add_answer_rewards(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows of `answer_reward_row` to the file, after those that are there."""
    write_text(layout.answer_rewards, json_lines([*read_rows(layout.answer_rewards), *rows]))


def answer_reward_row(prompt: Prompt, response: str, reward: float, disagreement: float | None) -> dict[str, Any]:
    """A row of the file; `disagreement` is an ensemble's, in the unit of the reward, None of a single model."""
    messages = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    return {"prompt": messages, "response": response, "reward": reward, "disagreement": disagreement}
