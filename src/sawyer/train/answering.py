"""Answering prompts in steps that can be interrupted: the one loop of collection, comparison, best-of-n and its study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from sawyer.models import Completion, LanguageModel, beam_search, freeze_for_inference, open_language_model, sample
from sawyer.records import Prompt
from sawyer.runs import Run
from sawyer.train import distributed
from sawyer.train.device import Placement, choose_device
from sawyer.train.stage_loop import record_fast_paths, run_steps

Chunk = TypeVar("Chunk")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAnswers:
    """What a step of answering gives."""

    rows: Sequence[Any]  # plain values, which a checkpoint can hold
    metrics: Mapping[str, float]
    tokens: int  # of prompts and answers


def answer_in_steps(
    run: Run,
    stage: str,
    chunks: Sequence[Chunk],
    answer: Callable[[int, Chunk], StepAnswers],
    *,
    save_every_seconds: float,
    show: str = "length",
) -> list[Any]:
    """All rows that `answer(index, chunk)` gives, a step a chunk, in their order.

    What a step draws must depend on its index and chunk alone: a run that was interrupted then gives the same rows. Raises
    Interrupted, with the rows so far saved, once the run was asked to stop.
    """
    loop = _AnswerLoop(chunks, answer)
    run_steps(run, stage, loop, save_every_seconds=save_every_seconds, show=show)
    return loop.rows


def chunks_of(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Pieces of `size` items, the last one perhaps shorter; of at least one item each."""
    size = max(1, size)
    return [items[start : start + size] for start in range(0, len(items), size)]


class _AnswerLoop(Generic[Chunk]):
    """The `StageLoop` of `answer_in_steps`."""

    def __init__(self, chunks: Sequence[Chunk], answer: Callable[[int, Chunk], StepAnswers]) -> None:
        self.chunks, self.answer, self.steps, self.step_tokens = chunks, answer, len(chunks), 0
        self.rows: list[Any] = []

    def step(self, index: int) -> Mapping[str, float]:
        answers = self.answer(index, self.chunks[index])
        self.rows += answers.rows
        self.step_tokens = answers.tokens
        return answers.metrics

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load(self, state: Mapping[str, Any]) -> None:
        self.rows = list(state["rows"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answerer:
    """A language model that only answers, on its device."""

    policy: LanguageModel
    placement: Placement

    @classmethod
    def open(
        cls,
        run: Run,
        stage: str,
        name: str,
        source: str | Path,
        template: str | None,
        *,
        device: str,
        precision: str,
        is_first: bool = True,
    ) -> Answerer:
        """Load and freeze the model in `source`. With `is_first` the stage's journal gets the fast path that `name` takes."""
        policy = open_language_model(source, template)
        placement = choose_device(device, precision, width=policy.width, vocabulary=policy.vocabulary)
        policy.model.to(placement.device)
        if is_first:
            record_fast_paths(run, stage, {name: policy.model})
        freeze_for_inference(policy.model)
        return cls(policy=policy, placement=placement)

    def fits(self, prompt: Prompt) -> bool:
        """Whether the prompt leaves room for an answer."""
        return self.policy.prompt_encoder.fits(prompt)

    def decode(self, completion: Completion) -> str:
        """The answer's text."""
        return self.policy.prompt_encoder.decode(completion.ids)

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        generator: torch.Generator,
        temperature: float = 1.0,
        greedy: bool = False,
        beams: bool = False,
    ) -> tuple[list[Completion], int]:
        """(an answer to each prompt, the tokens of prompts and answers together): sampled, greedy, or by beam search."""
        encoder = self.policy.prompt_encoder
        prompt_ids = [encoder.prompt(prompt) for prompt in prompts]
        if not prompt_ids:
            return [], 0
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "generator": generator}
        settings |= {"prompt_encoder": encoder, "map_rows": distributed.map_sharded}
        with self.placement.autocast():
            if beams:
                completions = beam_search(self.policy.model, prompt_ids, **settings)
            else:
                completions = sample(self.policy.model, prompt_ids, temperature=temperature, greedy=greedy, **settings)
        return completions, sum(map(len, prompt_ids)) + sum(len(completion.ids) for completion in completions)
