"""Sample K answers a prompt from the SFT model, or else the run's own, and write them as a file to be scored."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.config import Config, start_of, wanted
from sawyer.engine import Place, choose_place, generator, read_data, run_steps
from sawyer.errors import DataError
from sawyer.models import Speaker, only_read, open_speaker, sample
from sawyer.records import Answer, Prompt, ScoredAnswers, json_lines, once_each, scored_row
from sawyer.runs import Run, write_text
from sawyer.worlds import rate

STAGE = "collect"
ANSWERS_A_STEP = 512


def collect(config: Config, run: Run) -> dict[str, Any]:
    """Write `collect/answers.jsonl`; returns its key figures, `waiting` being the answers nobody has scored yet."""
    asked = wanted(config.collect, "collect")
    start = start_of(config, STAGE)
    assert start is not None
    speaker = open_speaker(start.path(run.layout.model), start.template)
    place = choose_place(config.device, config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
    speaker.model.to(place.device)
    only_read(speaker.model)
    found = read_data(
        run,
        STAGE,
        asked.prompts,
        want="prompts",
        columns=asked.columns,
        max_bad_rows=config.max_bad_rows,
        codec=speaker.codec,
    )
    found = once_each(found)
    prompts = [p for p in found.records if isinstance(p, Prompt) and speaker.codec.fits(p)][: asked.limit]
    if not prompts:
        raise DataError("collect.prompts has no prompt that fits the model", todo="give shorter prompts")
    work = CollectWork(config, place, speaker, prompts)
    left_out = len(found.records) - len(prompts)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{len(prompts):,} prompts x {asked.answers} answers of at most {asked.max_new_tokens} tokens"
        + (f"; {left_out:,} prompts left out (too long, or over the limit)" * bool(left_out))
        + found.remarks(),
        unread=dict(found.unread),
    )
    run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds, show="length")
    records = _judged(config, prompts, work.responses)
    write_text(run.layout.answers, json_lines(scored_row(record) for record in records))
    scores = [answer.score for record in records for answer in record.answers if answer.score is not None]
    waiting = sum(answer.score is None for record in records for answer in record.answers)
    figures: dict[str, Any] = {"prompts": len(records), "answers": len(scores) + waiting, "waiting": waiting}
    return figures | ({"mean_score": sum(scores) / len(scores)} if scores else {})


class CollectWork:
    """Sampling in steps of a fixed number of prompts; what a step draws depends on its number alone."""

    def __init__(self, config: Config, place: Place, speaker: Speaker, prompts: Sequence[Prompt]) -> None:
        self.config, self.place, self.speaker, self.prompts = config, place, speaker, prompts
        self.each = max(1, ANSWERS_A_STEP // wanted(config.collect, "collect").answers)  # prompts a step
        self.steps = math.ceil(len(prompts) / self.each)
        self.responses: list[list[str]] = []  # one list of K responses a prompt, in the prompts' order

    def step(self, index: int) -> Mapping[str, float]:
        asked = wanted(self.config.collect, "collect")
        prompts = self.prompts[index * self.each : (index + 1) * self.each]
        encoded = [self.speaker.codec.prompt(prompt) for prompt in prompts for _ in range(asked.answers)]
        with self.place.autocast():
            completions = sample(
                self.speaker.model,
                encoded,
                codec=self.speaker.codec,
                max_new_tokens=asked.max_new_tokens,
                temperature=asked.temperature,
                generator=generator(self.config.seed, STAGE, index),
            )
        texts = [self.speaker.codec.decode(completion.ids) for completion in completions]
        self.responses += [texts[i : i + asked.answers] for i in range(0, len(texts), asked.answers)]
        return {
            "length": sum(len(c.ids) for c in completions) / len(completions),
            "eos_share": sum(c.ended for c in completions) / len(completions),
        }

    def state(self) -> dict[str, Any]:
        return {"responses": self.responses}

    def load(self, state: Mapping[str, Any]) -> None:
        self.responses = [list(texts) for texts in state["responses"]]


def _judged(config: Config, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[ScoredAnswers]:
    """The answers as records: scored by the world's rater, or waiting for people."""
    rng = random.Random(f"{config.seed}/{STAGE}/rater")
    records = []
    for prompt, texts in zip(prompts, responses, strict=True):
        # The same text twice teaches nothing about which is better: one of each is judged.
        distinct = list(dict.fromkeys(texts))
        scores = [rate(config.world.rater, prompt.text, text, rng) if config.world else None for text in distinct]
        answers = [Answer(response=t, score=s, source="sft") for t, s in zip(distinct, scores, strict=True)]
        records.append(ScoredAnswers(prompt=prompt, answers=tuple(answers)))
    return records
