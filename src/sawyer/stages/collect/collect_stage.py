"""Sample K answers a prompt from the SFT model, or else the run's own, and write them as a file to be scored."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.config import Config, required_section, start_of
from sawyer.errors import DataError
from sawyer.models import LanguageModel, freeze_for_inference, open_language_model, sample
from sawyer.records import Answer, JudgedPrompt, Prompt, json_lines, once_each, scored_row
from sawyer.runs import Run, write_text
from sawyer.train import Placement, choose_device, distributed, generator, read_data, record_fast_paths, run_steps
from sawyer.worlds import rate

STAGE = "collect"
ANSWERS_A_STEP = 512


def collect(config: Config, run: Run) -> dict[str, Any]:
    """Write `collect/answers.jsonl`; returns its key figures, `waiting` being the answers nobody has scored yet."""
    asked = required_section(config.collect, "collect")
    start = start_of(config, STAGE)
    assert start is not None
    speaker = open_language_model(start.path(run.layout.model), start.template)
    place = choose_device(config.device, config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
    speaker.model.to(place.device)
    record_fast_paths(run, STAGE, {"the model": speaker.model})
    freeze_for_inference(speaker.model)
    found = read_data(
        run,
        STAGE,
        asked.prompts,
        want="prompts",
        columns=asked.columns,
        max_bad_rows=config.max_bad_rows,
        prompt_encoder=speaker.prompt_encoder,
    )
    found = once_each(found)
    prompts = [p for p in found.records if isinstance(p, Prompt) and speaker.prompt_encoder.fits(p)][: asked.limit]
    if not prompts:
        raise DataError("collect.prompts has no prompt that fits the model", todo="give shorter prompts")
    work = CollectLoop(config, place, speaker, prompts)
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
    text = json_lines(scored_row(record) for record in records)
    distributed.on_rank_zero(lambda: write_text(run.layout.answers, text))
    scores = [answer.score for record in records for answer in record.answers if answer.score is not None]
    waiting = sum(answer.score is None for record in records for answer in record.answers)
    figures: dict[str, Any] = {"prompts": len(records), "answers": len(scores) + waiting, "waiting": waiting}
    return figures | ({"mean_score": sum(scores) / len(scores)} if scores else {})


class CollectLoop:
    """Sampling in steps of a fixed number of prompts; what a step draws depends on its number alone."""

    def __init__(self, config: Config, place: Placement, speaker: LanguageModel, prompts: Sequence[Prompt]) -> None:
        self.config, self.place, self.speaker, self.prompts = config, place, speaker, prompts
        self.each = max(1, ANSWERS_A_STEP // required_section(config.collect, "collect").answers)  # prompts a step
        self.steps = math.ceil(len(prompts) / self.each)
        self.step_tokens = 0
        self.responses: list[list[str]] = []  # one list of K responses a prompt, in the prompts' order

    def step(self, index: int) -> Mapping[str, float]:
        collect = required_section(self.config.collect, "collect")
        prompts = self.prompts[index * self.each : (index + 1) * self.each]
        encoded = [self.speaker.prompt_encoder.prompt(prompt) for prompt in prompts for _ in range(collect.answers)]
        with self.place.autocast():
            completions = sample(
                self.speaker.model,
                encoded,
                prompt_encoder=self.speaker.prompt_encoder,
                max_new_tokens=collect.max_new_tokens,
                temperature=collect.temperature,
                generator=generator(self.config.seed, STAGE, index),
                map_rows=distributed.map_sharded,
            )
        self.step_tokens = sum(map(len, encoded)) + sum(len(completion.ids) for completion in completions)
        texts = [self.speaker.prompt_encoder.decode(completion.ids) for completion in completions]
        self.responses += [texts[i : i + collect.answers] for i in range(0, len(texts), collect.answers)]
        return {
            "length": sum(len(c.ids) for c in completions) / len(completions),
            "eos_rate": sum(c.ended for c in completions) / len(completions),
        }

    def state(self) -> dict[str, Any]:
        return {"responses": self.responses}

    def load(self, state: Mapping[str, Any]) -> None:
        self.responses = [list(texts) for texts in state["responses"]]


def _judged(config: Config, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[JudgedPrompt]:
    """The answers as records: scored by the world's rater, or waiting for people."""
    rng = random.Random(f"{config.seed}/{STAGE}/rater")
    records = []
    for prompt, texts in zip(prompts, responses, strict=True):
        # The same text twice teaches nothing about which is better: one of each is judged.
        distinct = list(dict.fromkeys(texts))
        scores = [rate(config.world.rater, prompt.text, text, rng) if config.world else None for text in distinct]
        answers = [Answer(response=t, score=s, source="sft") for t, s in zip(distinct, scores, strict=True)]
        records.append(JudgedPrompt(prompt=prompt, answers=tuple(answers)))
    return records
