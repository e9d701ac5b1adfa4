"""Judgements -> groups: the K answers of one prompt, encoded once each, with all their pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from sawyer.config import Config, judged_sources, required_section
from sawyer.errors import DataError
from sawyer.maths import JudgedBatch, RewardLoss, ScoreNormalizer
from sawyer.models import LanguageModel, RewardModel
from sawyer.records import Pair, Prompt, ScoredAnswers, insufficient, judgement, named, pairs, split
from sawyer.runs import Run
from sawyer.stages.reward.loss_choice import open_loss
from sawyer.text import RewardEncoder, Row, limit_tokens
from sawyer.train import encode_all, read_data

STAGE = "reward"
AS_THEY_ARE = ScoreNormalizer(mean=0.0, scale=1.0)


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
    standard: ScoreNormalizer = AS_THEY_ARE  # of the scores in `train`
    remarks: str = ""  # what the plan says of the data, "; " before each
    unread: Mapping[str, int] = field(default_factory=dict)  # column or field -> rows in which it was not read

    @property
    def examined(self) -> tuple[Group, ...]:
        """What the trained model is examined on: the held-out prompts, or else the training prompts with a pair."""
        return self.held_out or tuple(group for group in self.train if group.pairs)


def standard_of(groups: Sequence[Group]) -> ScoreNormalizer:
    """Mean and deviation of the groups' scores, which `regression` learns to give."""
    return ScoreNormalizer.of([score for group in groups for score in group.scores]) if groups else AS_THEY_ARE


def judged(groups: Sequence[Group], standard: ScoreNormalizer) -> JudgedBatch:
    """The groups as losses see them, all their answers in one row."""
    starts = [sum(len(g.responses) for g in groups[:i]) for i in range(len(groups))]
    found = [(s + j, s + k, d) for s, group in zip(starts, groups, strict=True) for j, k, d in group.pairs]
    return JudgedBatch(
        prompts=torch.tensor([i for i, group in enumerate(groups) for _ in group.responses], dtype=torch.int64),
        scores=torch.tensor([standard(score) for group in groups for score in group.scores], dtype=torch.float64),
        better=torch.tensor([j for j, _, _ in found], dtype=torch.int64),
        worse=torch.tensor([k for _, k, _ in found], dtype=torch.int64),
        difference=torch.tensor([d for _, _, d in found], dtype=torch.float32),
    )


def load(config: Config, run: Run, reader: RewardModel | LanguageModel) -> Judgements:
    """Read the config's files and, where there are any, the collected answers that somebody has scored.

    The loss decides what can teach: answers with a score, or pairs of which one is better. Raises DataError where nothing can.
    """
    asked = required_section(config.reward, "reward")
    loss = open_loss(asked.loss)
    records: list[ScoredAnswers | Pair] = []
    formats, remarks, unread = list[str](), list[str](), Counter[str]()
    for source in judged_sources(config, STAGE, run.layout.answers):
        found = read_data(
            run,
            STAGE,
            source.paths,
            want=source.want,
            columns=source.columns,
            max_bad_rows=source.max_bad_rows,
            prompt_encoder=reader.prompt_encoder,
            unrendered=config.max_bad_rows,
        )
        records += [record for record in found.records if isinstance(record, ScoredAnswers | Pair)]
        formats.append(found.format)
        remarks.append(found.remarks(without=("tied", "one answer", "unscored")))  # `left` counts them
        unread.update(found.unread)
    if (problem := insufficient(records, "comparisons")) is not None:
        raise DataError(
            "there is nothing to learn: no prompt of reward.data has two answers with different scores",
            where=problem.where,
            expected="at least one pair of answers of which one is better",
            why="a reward model learns from differences alone",
            todo="score the answers (collect/answers.jsonl, if they were collected), or name another file",
        )
    train, held_out = split(records, asked.eval_fraction)
    prompt_encoder, left = limit_tokens(reader.prompt_encoder, asked.max_tokens), _Left()
    if held_out and not train:
        raise DataError(
            f"reward.eval_fraction is {asked.eval_fraction:g}: all {len(held_out):,} rows of reward.data are held out, "
            "none is left to train on",
            expected="rows on both sides",
            todo="lower reward.eval_fraction, or give more judged prompts",
        )
    learnt, checked = _groups(train, prompt_encoder, run, left, loss), _groups(held_out, prompt_encoder, run, left, loss)
    for group in checked:
        if not group.pairs:  # such a prompt teaches `regression`, but examines nothing
            left.add("no answer is better than another", group.prompt)
    if words := left.warning(prompt_encoder.context, asked.max_tokens):
        run.journal.event(STAGE, "warning", message=words)
    judgements = Judgements(
        train=learnt,
        held_out=tuple(group for group in checked if group.pairs),
        format=" + ".join(formats),
        standard=standard_of(learnt),
        remarks="".join(remarks) + left.remarks(prompt_encoder.context, asked.max_tokens),
        unread=unread,
    )
    if not any(group.pairs for group in judgements.train):
        raise DataError(
            "there is nothing to learn: no prompt of reward.data has two answers with different scores",
            expected="at least one pair of answers of which one is better",
            why="a reward model learns from differences alone",
            todo="score the answers (collect/answers.jsonl, if they were collected), or name another file",
        )
    return judgements


SAME_TOKENS = "its answers are the same tokens as they are read"  # cut where they begin to differ
# Why a prompt cannot teach, of those reasons that any large file has.
EXPECTED_REASONS = (
    "no answer has a score",
    "a single scored answer has nothing to compare with",
    "all scores are equal",
    "no answer is better than another",
    SAME_TOKENS,
)


@dataclass(slots=True)
class _Left:
    """What cannot teach, by reason: where it stands in the files. The other three are counted inside prompts that can."""

    places: dict[str, list[str]] = field(default_factory=dict)
    ties: int = 0
    equal: int = 0  # pairs whose answers are the same tokens to the model
    cut: int = 0

    def add(self, reason: str, prompt: Prompt) -> None:
        # The file's name alone: what is told is the same wherever a run lies.
        file, line = Path(prompt.where.file).name, prompt.where.line
        self.places.setdefault(reason, []).append(f"{file}:{line}" if line else file)

    def warning(self, context: int, max_tokens: int | None) -> str:
        """What the data's owner should act on; empty where there is nothing."""
        told = [
            f"{counted(len(places), 'prompt')} left out: {reason} ({named(places)})"
            for reason, places in self.places.items()
            if reason not in EXPECTED_REASONS
        ]
        if self.cut and context != max_tokens:
            told.append(f"{counted(self.cut, 'answer')} cut to the model's {context:,} tokens")
        return "; ".join(told)

    def remarks(self, context: int, max_tokens: int | None) -> str:
        """What is as it is in any large file, and what `max_tokens` cost, for the plan."""
        told = [
            f"{counted(len(places), 'prompt')} left out: {reason}"
            for reason, places in self.places.items()
            if reason in EXPECTED_REASONS
        ]
        told += [f"{counted(self.ties, 'tied pair')} left out"] if self.ties else []
        told += [f"{counted(self.equal, 'pair')} left out: the same tokens twice"] if self.equal else []
        if self.cut and context == max_tokens:
            told.append(f"reward.max_tokens: {counted(self.cut, 'answer')} cut to {context:,} tokens")
        return "".join(f"; {words}" for words in told)


def counted(count: int, what: str) -> str:
    """`1 pair is`, `3 pairs are`"""
    return f"1 {what} is" if count == 1 else f"{count:,} {what}s are"


def _groups(
    records: Sequence[ScoredAnswers | Pair], prompt_encoder: RewardEncoder, run: Run, left: _Left, loss: RewardLoss
) -> tuple[Group, ...]:
    """The records that can teach, encoded; the others go to `left`."""
    groups: list[Group] = []
    found = encode_all(run, STAGE, records, lambda record: _group(record, prompt_encoder), "prompts encoded")
    for record, whole in zip(records, found, strict=True):
        group = _without_equal(whole)
        if reason := _unfit(record, whole, group, loss):
            left.add(reason, record.prompt)
            continue
        left.equal += len(whole.pairs) - len(group.pairs)
        if isinstance(record, ScoredAnswers) and loss.counts == "pairs":
            left.ties += pairs(record)[1]
        left.cut += sum(row.cut for row in group.rows)
        groups.append(group)
    return tuple(groups)


def _without_equal(group: Group) -> Group:
    """Without the pairs whose answers are the same tokens, as they are read: cut at the same place, or alike from the first."""
    apart = tuple(pair for pair in group.pairs if group.rows[pair[0]].ids != group.rows[pair[1]].ids)
    return group if len(apart) == len(group.pairs) else replace(group, pairs=apart)


def _unfit(record: ScoredAnswers | Pair, whole: Group, group: Group, loss: RewardLoss) -> str:
    """Why the loss can learn nothing from this prompt; empty where it can."""
    if loss.counts == "answers" and isinstance(record, Pair):
        return "a pair has no score to learn"
    if not group.responses:
        return "no answer has a score"
    if not all(any(row.trained) for row in group.rows):
        return "the prompt leaves no room for an answer"
    if whole.pairs and not group.pairs and loss.counts != "answers":
        return SAME_TOKENS
    if not group.pairs and loss.counts != "answers":
        return "a single scored answer has nothing to compare with" if len(group.responses) == 1 else "all scores are equal"
    return ""


def _group(record: ScoredAnswers | Pair, prompt_encoder: RewardEncoder) -> Group:
    told = judgement(record)
    return Group(
        prompt=record.prompt,
        responses=told.responses,
        rows=tuple(prompt_encoder.answer(record.prompt, response) for response in told.responses),
        pairs=((0, 1, told.scores[0]),) if isinstance(record, Pair) else tuple(pairs(record)[0]),
        sources=told.sources,
        scores=told.scores,
    )
