"""Judgements -> groups: the K answers of one prompt, encoded once each, with all their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sawyer.config import Config
from sawyer.errors import DataError
from sawyer.models import Speaker
from sawyer.records import Pair, Prompt, ScoredAnswers, pairs, read, split
from sawyer.runs import Run
from sawyer.text import Row

STAGE = "reward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One prompt's K answers. `pairs` holds (j, k, d): answer j beats answer k by d > 0 on the judges' scale."""

    prompt: Prompt
    responses: tuple[str, ...]
    rows: tuple[Row, ...]
    pairs: tuple[tuple[int, int, float], ...]
    sources: tuple[str, ...] = ()  # who wrote each response, where the data say so

    @property
    def best(self) -> str:
        """The response that wins most of its pairs (the first of equals)."""
        wins = [sum(d for j, _, d in self.pairs if j == i) for i in range(len(self.responses))]
        return self.responses[wins.index(max(wins))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """What the reward model learns from and is checked on; no prompt is in both."""

    train: tuple[Group, ...]
    held_out: tuple[Group, ...]
    format: str


def load(config: Config, run: Run, speaker: Speaker) -> Judgements:
    """Read the config's files and, where there are any, the collected answers that somebody has scored."""
    asked = config.reward
    assert asked is not None
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
    judgements = Judgements(
        train=_groups(train, speaker, run, "training"),
        held_out=_groups(held_out, speaker, run, "held-out"),
        format=" + ".join(formats),
    )
    if not judgements.train:
        raise DataError(
            "no prompt of reward.data has two answers with different scores",
            expected="at least one pair of answers of which one is better",
            why="a reward model learns from differences alone",
            todo="score the answers (collect/answers.jsonl, if they were collected), or name another file",
        )
    return judgements


def _groups(records: Sequence[ScoredAnswers | Pair], speaker: Speaker, run: Run, name: str) -> tuple[Group, ...]:
    groups, ties, alone, cut, long = [], 0, 0, 0, 0
    responses: tuple[str, ...]
    sources: tuple[str, ...]
    for record in records:
        if isinstance(record, Pair):
            responses, sources = (record.chosen, record.rejected), ("", "")
            found: tuple[tuple[int, int, float], ...] = ((0, 1, 1.0 if record.margin is None else record.margin),)
        else:
            judged = [answer for answer in record.answers if answer.score is not None]
            responses, sources = tuple(answer.response for answer in judged), tuple(answer.source for answer in judged)
            compared, tied = pairs(record)
            found, ties = tuple(compared), ties + tied
        if not found:
            alone += 1
            continue
        rows = tuple(speaker.codec.answer(record.prompt, response) for response in responses)
        if not all(any(row.trained) for row in rows):
            long += 1
            continue
        cut += sum(row.cut for row in rows)
        groups.append(Group(prompt=record.prompt, responses=responses, rows=rows, pairs=found, sources=sources))
    if ties or alone or cut or long:
        run.journal.event(
            STAGE,
            "warning",
            message=f"{name} data: {ties:,} tied pairs teach nothing and are left out; {alone:,} prompts have no pair at all; "
            f"{cut:,} answers are cut to the model's {speaker.codec.context} tokens; "
            f"{long:,} prompts are too long and left out",
        )
    return tuple(groups)
