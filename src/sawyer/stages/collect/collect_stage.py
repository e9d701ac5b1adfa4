"""Sample K answers a prompt from the SFT model, or else the run's own, and write them as a file to be scored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from sawyer.config import Config, required_section, start_of
from sawyer.errors import DataError
from sawyer.records import Answer, JudgedPrompt, Prompt, json_lines, once_each, scored_row
from sawyer.runs import Run, write_text
from sawyer.stages.collect.judge_votes import judge_collected
from sawyer.train import Answerer, StepAnswers, answer_in_steps, chunks_of, distributed, generator, read_data
from sawyer.worlds import rate

STAGE = "collect"
ANSWERS_A_STEP = 512


def collect(config: Config, run: Run) -> dict[str, Any]:
    """Write `collect/answers.jsonl`; returns its key figures, `waiting` counts the answers without a score."""
    settings = required_section(config.collect, "collect")
    start = start_of(config, STAGE)
    assert start is not None
    answerer = Answerer.open(
        *(run, STAGE, "the model", start.path(run.layout.model), start.template),
        device=config.device,
        precision=config.precision,
    )
    read = read_data(
        run,
        STAGE,
        settings.prompts,
        want="prompts",
        columns=settings.columns,
        max_bad_rows=config.max_bad_rows,
        prompt_encoder=answerer.policy.prompt_encoder,
    )
    read = once_each(read)
    prompts = [p for p in read.records if isinstance(p, Prompt) and answerer.fits(p)][: settings.limit]
    if not prompts:
        raise DataError("collect.prompts has no prompt that fits the model", todo="give shorter prompts")
    left_out = len(read.records) - len(prompts)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{len(prompts):,} prompts x {settings.answers} answers of at most {settings.max_new_tokens} tokens"
        + (f"; {left_out:,} prompts left out (too long, or over the limit)" * bool(left_out))
        + read.remarks(),
        unread=dict(read.unread),
    )

    def answer(index: int, chunk: Sequence[Prompt]) -> StepAnswers:
        """The chunk's responses, a list of K a prompt."""
        completions, tokens = answerer.answer(
            [prompt for prompt in chunk for _ in range(settings.answers)],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            generator=generator(config.seed, STAGE, index),
        )
        metrics = {
            "length": sum(len(c.ids) for c in completions) / len(completions),
            "eos_rate": sum(c.ended for c in completions) / len(completions),
        }
        return StepAnswers(
            rows=chunks_of(list(map(answerer.decode, completions)), settings.answers), metrics=metrics, tokens=tokens
        )

    chunks = chunks_of(prompts, ANSWERS_A_STEP // settings.answers)
    responses = answer_in_steps(run, STAGE, chunks, answer, save_every_seconds=config.save_every_seconds)
    records = _score(config, prompts, responses)
    text = json_lines(scored_row(record) for record in records)
    distributed.on_rank_zero(lambda: write_text(run.layout.answers, text))
    scores = [answer.score for record in records for answer in record.answers]
    numbers = [score for score in scores if score is not None]
    figures: dict[str, Any] = {"prompts": len(records), "answers": len(scores), "waiting": len(scores) - len(numbers)}
    if settings.judge is not None:
        return figures | judge_collected(config, run) | {"waiting": 0}  # its votes are judgements: nobody need wait for others
    return figures | ({"mean_score": sum(numbers) / len(numbers)} if numbers else {})


def _score(config: Config, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[JudgedPrompt]:
    """The answers as records: scored by the world's rater, or waiting for people."""
    rng = random.Random(f"{config.seed}/{STAGE}/rater")
    rater = config.world.scoring_rater if config.world else None
    records = []
    for prompt, texts in zip(prompts, responses, strict=True):
        # The same text twice teaches nothing about which is better: one of each is scored.
        distinct = list(dict.fromkeys(texts))
        scores = [rate(rater, prompt.text, text, rng) if rater else None for text in distinct]
        answers = [Answer(response=t, score=s, source="sft") for t, s in zip(distinct, scores, strict=True)]
        records.append(JudgedPrompt(prompt=prompt, answers=tuple(answers)))
    return records
