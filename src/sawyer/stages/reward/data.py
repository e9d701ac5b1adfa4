"""Judgements -> groups: the K answers of one prompt, encoded once each, with all their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sawyer.config import Config, wanted
from sawyer.errors import DataError
from sawyer.maths import Judged, RewardLoss, Standard
from sawyer.models import Judge, Speaker
from sawyer.records import Pair, Prompt, ScoredAnswers, judgement, named, pairs, read, split
from sawyer.runs import Run
from sawyer.stages.reward.loss import open_loss
from sawyer.text import Row

STAGE = "reward"
AS_THEY_ARE = Standard(mean=0.0, scale=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One prompt's K answers. `pairs` holds (j, k, d): answer j beats answer k by d > 0 on the judges' scale."""

    prompt: Prompt
    responses: tuple[str, ...]
    rows: tuple[Row, ...]
    pairs: tuple[tuple[int, int, float], ...]  # none where all scores are equal, which teaches `regression` alone
    sources: tuple[str, ...] = ()  # who wrote each response, where the data say so
    scores: tuple[float, ...] = ()  # of each response, on the judges' scale; of a ready-made pair (d, 0)

    @property
    def best(self) -> str:
        """The response that wins most of its pairs (the first of equals)."""
        wins = [sum(d for j, _, d in self.pairs if j == i) for i in range(len(self.responses))]
        return self.responses[wins.index(max(wins))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """What the reward model learns from and is checked on; no prompt is in both."""

    train: tuple[Group, ...]
    held_out: tuple[Group, ...]  # each with a pair at least
    format: str
    standard: Standard = AS_THEY_ARE  # of the scores in `train`

    @property
    def examined(self) -> tuple[Group, ...]:
        """What the trained model is examined on: the held-out prompts, or else the training prompts with a pair."""
        return self.held_out or tuple(group for group in self.train if group.pairs)


def standard_of(groups: Sequence[Group]) -> Standard:
    """Mean and deviation of the groups' scores, which `regression` learns to give."""
    return Standard.of([score for group in groups for score in group.scores]) if groups else AS_THEY_ARE


def judged(groups: Sequence[Group], standard: Standard) -> Judged:
    """The groups as losses see them, all their answers in one row."""
    starts = [sum(len(g.responses) for g in groups[:i]) for i in range(len(groups))]
    found = [(s + j, s + k, d) for s, group in zip(starts, groups, strict=True) for j, k, d in group.pairs]
    return Judged(
        prompts=torch.tensor([i for i, group in enumerate(groups) for _ in group.responses], dtype=torch.int64),
        scores=torch.tensor([standard(score) for group in groups for score in group.scores], dtype=torch.float64),
        better=torch.tensor([j for j, _, _ in found], dtype=torch.int64),
        worse=torch.tensor([k for _, k, _ in found], dtype=torch.int64),
        difference=torch.tensor([d for _, _, d in found], dtype=torch.float32),
    )


def load(config: Config, run: Run, reader: Judge | Speaker) -> Judgements:
    """Read the config's files and, where there are any, the collected answers that somebody has scored.

    The loss decides what can teach: answers with a score, or pairs of which one is better. Raises DataError where nothing can.
    """
    asked = wanted(config.reward, "reward")
    loss = open_loss(asked.loss)
    records: list[ScoredAnswers | Pair] = []
    formats: list[str] = []
    sources: list[Sequence[str]] = [asked.data] if asked.data else []
    columns = [asked.columns] if asked.data else []
    if config.collect is not None:
        sources, columns = [*sources, [str(run.layout.answers)]], [*columns, {}]
    for source, names in zip(sources, columns, strict=True):
        found = read(source, want="comparisons", columns=names)
        records += [record for record in found.records if isinstance(record, ScoredAnswers | Pair)]
        formats.append(found.format)
        if found.skipped:
            run.journal.event(STAGE, "warning", message=found.told_skipped)
    train, held_out = split(records, asked.held_out)
    if held_out and not train:
        raise DataError(
            f"reward.held_out is {asked.held_out:g}: all {len(held_out):,} rows of reward.data are held out, "
            "none is left to train on",
            expected="rows on both sides",
            todo="lower reward.held_out, or give more judged prompts",
        )
    learnt, checked = _groups(train, reader, run, "training", loss), _groups(held_out, reader, run, "held-out", loss)
    if even := sum(not group.pairs for group in checked):  # such a prompt teaches `regression`, but examines nothing
        prompts = "1 prompt is" if even == 1 else f"{even:,} prompts are"
        run.journal.event(STAGE, "warning", message=f"held-out data: {prompts} left out: no answer is better than another")
    judgements = Judgements(
        train=learnt,
        held_out=tuple(group for group in checked if group.pairs),
        format=" + ".join(formats),
        standard=standard_of(learnt),
    )
    if not any(group.pairs for group in judgements.train):
        raise DataError(
            "there is nothing to learn: no prompt of reward.data has two answers with different scores",
            expected="at least one pair of answers of which one is better",
            why="a reward model learns from differences alone",
            todo="score the answers (collect/answers.jsonl, if they were collected), or name another file",
        )
    return judgements


@dataclass(slots=True)
class _Left:
    """What cannot teach, by reason: where it stands in the files. `ties` and `cut` are counted, inside prompts that can."""

    places: dict[str, list[str]] = field(default_factory=dict)
    ties: int = 0
    cut: int = 0

    def add(self, reason: str, record: ScoredAnswers | Pair) -> None:
        # The file's name alone: what is told is the same wherever a run lies.
        file, line = Path(record.where.file).name, record.where.line
        self.places.setdefault(reason, []).append(f"{file}:{line}" if line else file)

    def told(self, context: int) -> list[str]:
        said = []
        for reason, places in self.places.items():
            prompts = "1 prompt is" if len(places) == 1 else f"{len(places):,} prompts are"
            said.append(f"{prompts} left out: {reason} ({named(places)})")
        if self.ties:
            tied = "1 tied pair" if self.ties == 1 else f"{self.ties:,} tied pairs"
            said.append(f"{tied} of other prompts left out: equal scores say nothing of which is better")
        if self.cut:
            answers = "1 answer is" if self.cut == 1 else f"{self.cut:,} answers are"
            said.append(f"{answers} cut to the model's {context} tokens")
        return said


def _groups(
    records: Sequence[ScoredAnswers | Pair], reader: Judge | Speaker, run: Run, name: str, loss: RewardLoss
) -> tuple[Group, ...]:
    """The records that can teach, encoded; a warning counts and names the others."""
    groups: list[Group] = []
    left = _Left()
    for record in records:
        group = _group(record, reader)
        if reason := _unfit(record, group, loss):
            left.add(reason, record)
            continue
        if isinstance(record, ScoredAnswers) and loss.counts == "pairs":
            left.ties += pairs(record)[1]
        left.cut += sum(row.cut for row in group.rows)
        groups.append(group)
    if told := left.told(reader.codec.context):
        run.journal.event(STAGE, "warning", message=f"{name} data: {'; '.join(told)}")
    return tuple(groups)


def _unfit(record: ScoredAnswers | Pair, group: Group, loss: RewardLoss) -> str:
    """Why the loss can learn nothing from this prompt; empty where it can."""
    if loss.counts == "answers" and isinstance(record, Pair):
        return "a pair has no score to learn"
    if not group.responses:
        return "no answer has a score"
    if not group.pairs and loss.counts != "answers":
        return "a single scored answer has nothing to compare with" if len(group.responses) == 1 else "all scores are equal"
    if not all(any(row.trained) for row in group.rows):
        return "the prompt leaves no room for an answer"
    return ""


def _group(record: ScoredAnswers | Pair, reader: Judge | Speaker) -> Group:
    told = judgement(record)
    return Group(
        prompt=record.prompt,
        responses=told.responses,
        rows=tuple(reader.codec.answer(record.prompt, response) for response in told.responses),
        pairs=((0, 1, told.scores[0]),) if isinstance(record, Pair) else tuple(pairs(record)[0]),
        sources=told.sources,
        scores=told.scores,
    )
