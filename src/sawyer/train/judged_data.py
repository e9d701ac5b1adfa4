"""Judged prompts for training: read from the configured files, encoded once, and cut into minibatches of whole prompts.

The reward model and DPO learn from the same judgements, so both come through here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sawyer.maths import JudgedBatch, ScoreNormalizer
from sawyer.records import JudgedPrompt, Pair
from sawyer.records.formats import Want
from sawyer.runs import Run
from sawyer.text import Batch, RewardEncoder, Row, pad_right
from sawyer.train.stage_data import read_data

NO_NORMALIZER = ScoreNormalizer(mean=0.0, scale=1.0)


class JudgedSource(Protocol):
    """The files of one setting, and how they are read."""

    @property
    def paths(self) -> Sequence[str]: ...

    @property
    def want(self) -> Want: ...

    @property
    def columns(self) -> Mapping[str, str]: ...

    @property
    def max_bad_rows(self) -> float | None:
        """Fraction of a file's rows that may be left out; None: none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedFiles:
    """Judged prompts as their files have them."""

    prompts: tuple[JudgedPrompt, ...]
    format: str  # the names of their formats, for the user
    remarks: str  # for the plan, "; " before each
    unread: Mapping[str, int]  # column or field -> rows in which it was not read


def read_judged_files(
    run: Run, stage: str, sources: Iterable[JudgedSource], encoder: RewardEncoder, max_unrendered: float
) -> JudgedFiles:
    """Read all sources. `max_unrendered` is the share of a file's rows that may be bad once the template refuses some.

    Raises DataError for files that cannot be used.
    """
    prompts: list[JudgedPrompt] = []
    formats, remarks, unread = list[str](), list[str](), Counter[str]()
    for source in sources:
        read_in = read_data(
            run,
            stage,
            source.paths,
            want=source.want,
            columns=source.columns,
            max_bad_rows=source.max_bad_rows,
            prompt_encoder=encoder,
            max_unrendered=max_unrendered,
        )
        prompts += [record for record in read_in.records if isinstance(record, JudgedPrompt)]
        formats.append(read_in.format)
        remarks.append(read_in.remarks(without=("tied", "one answer", "unscored")))  # the stages count these themselves
        unread.update(read_in.unread)
    return JudgedFiles(prompts=tuple(prompts), format=" + ".join(formats), remarks="".join(remarks), unread=unread)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A judged prompt with each of its scored answers as tokens."""

    record: JudgedPrompt  # every answer has a score
    rows: tuple[Row, ...]  # one an answer, in their order
    pairs: tuple[Pair, ...]  # those of `record` whose answers differ as tokens, too

    @property
    def tokens(self) -> int:
        """Tokens of all answers, each with the prompt."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer, the prompt included."""
        return max(len(row.ids) for row in self.rows)

    @property
    def has_room(self) -> bool:
        """Whether the prompt leaves room for every answer."""
        return all(any(row.loss_mask) for row in self.rows)

    @property
    def cut(self) -> int:
        """Answers whose end the model cannot read."""
        return sum(row.cut for row in self.rows)


def encode_judged(prompt: JudgedPrompt, encoder: RewardEncoder) -> EncodedPrompt:
    """Encode each scored answer once. Answers that are cut to the same tokens are no pair: nothing could tell them apart."""
    record = prompt.drop_unscored()
    rows = tuple(encoder.answer(record.prompt, response) for response in record.responses)
    pairs = tuple(pair for pair in record.pairs().preferences if rows[pair.better].ids != rows[pair.worse].ids)
    return EncodedPrompt(record=record, rows=rows, pairs=pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedMinibatch:
    """Some prompts of a batch: all their answers as one padded batch, and the judgements of its rows."""

    batch: Batch  # (N, T), each answer once
    judgements: JudgedBatch

    def to(self, device: torch.device) -> JudgedMinibatch:
        """The same on another device."""
        return JudgedMinibatch(batch=self.batch.to(device), judgements=self.judgements.to(device))


def judged_minibatches(
    prompts: Sequence[EncodedPrompt], pad_id: int, token_budget: int, normalizer: ScoreNormalizer = NO_NORMALIZER
) -> Iterator[JudgedMinibatch]:
    """Cut a batch between prompts, never inside one: a pair's answers share a minibatch. At most `token_budget` padded tokens
    each, unless a single prompt's answers exceed it."""
    # Prompts of similar length share a minibatch, so that little of it is padding.
    chosen: list[EncodedPrompt] = []
    for prompt in sorted(prompts, key=lambda one: one.longest):
        rows = sum(len(one.rows) for one in chosen) + len(prompt.rows)
        if chosen and rows * prompt.longest > token_budget:
            yield _minibatch(chosen, pad_id, normalizer)
            chosen = []
        chosen.append(prompt)
    if chosen:
        yield _minibatch(chosen, pad_id, normalizer)


def _minibatch(prompts: Sequence[EncodedPrompt], pad_id: int, normalizer: ScoreNormalizer) -> JudgedMinibatch:
    rows = [row for prompt in prompts for row in prompt.rows]
    return JudgedMinibatch(batch=pad_right(rows, pad_id), judgements=judged_batch(prompts, normalizer))


def judged_batch(prompts: Sequence[EncodedPrompt], normalizer: ScoreNormalizer = NO_NORMALIZER) -> JudgedBatch:
    """The judgements as losses see them: all answers of all prompts in one row."""
    better, worse, differences = list[int](), list[int](), list[float]()
    start = 0  # of the prompt's answers among all
    for prompt in prompts:
        better += [start + pair.better for pair in prompt.pairs]
        worse += [start + pair.worse for pair in prompt.pairs]
        differences += [pair.difference for pair in prompt.pairs]
        start += len(prompt.record.answers)
    weights = [prompt.record.weight for prompt in prompts]
    return JudgedBatch(
        prompts=torch.tensor([i for i, one in enumerate(prompts) for _ in one.record.answers], dtype=torch.int64),
        scores=torch.tensor([normalizer(score) for one in prompts for score in one.record.scores], dtype=torch.float64),
        better=torch.tensor(better, dtype=torch.int64),
        worse=torch.tensor(worse, dtype=torch.int64),
        difference=torch.tensor(differences, dtype=torch.float32),
        weights=torch.tensor(weights, dtype=torch.float64),
    )
