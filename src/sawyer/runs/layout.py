"""The paths of a run's files. No other module spells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of the run in `root`; nothing need exist."""

    root: Path

    @property
    def config(self) -> Path:
        """The settings, every default filled in."""
        return self.root / "config.yaml"

    @property
    def manifest(self) -> Path:
        """What happened: versions, seed, each stage's state, parents and figures."""
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        """A row a step."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Gates, guards, saves, resumes, warnings."""
        return self.root / "events.jsonl"

    @property
    def samples(self) -> Path:
        """Answers sampled during the run."""
        return self.root / "samples.jsonl"

    @property
    def journal(self) -> Path:
        """How long those three were at the last save, and their checksums: what is cut or damaged is found by them."""
        return self.root / "journal.json"

    @property
    def answers(self) -> Path:
        """The SFT model's answers, scored or waiting for a score."""
        return self.root / "collect" / "answers.jsonl"

    def answers_before(self, number: int) -> Path:
        """The answers that lay there when they were collected anew for the `number`th time, counted from 1."""
        return self.root / "collect" / f"answers-before-{number}.jsonl"

    def answers_of(self, number: int) -> Path:
        """The answers of a round of collection, counted from 1."""
        return self.answers if number == 1 else self.root / "collect" / f"answers-{number}.jsonl"

    def rounds_of_collection(self) -> list[Path]:
        """The folders in which later collections keep their state while they are at work."""
        return sorted(self.root.glob("collect-*"))

    @property
    def ratings(self) -> Path:
        """What people judged, every revision (SQLite)."""
        return self.root / "ratings.sqlite"

    @property
    def judge_cache(self) -> Path:
        """Every reply of a judge that is a model (SQLite): not in `collect`, since collecting anew must not cost them again."""
        return self.root / "judge_cache.sqlite"

    @property
    def judgements(self) -> Path:
        """The votes as the reward stage reads them: a row for each judgement, without names."""
        return self.root / "collect" / "judgements.jsonl"

    def judged_files(self) -> tuple[Path, ...]:
        """The judgements that were collected: the answers with their scores and, once there are votes, those."""
        return (self.answers, self.judgements) if self.judgements.exists() else (self.answers,)

    @property
    def agreement(self) -> Path:
        """How far the raters of the judgements beside it agree, and which votes those were."""
        return self.root / "collect" / "agreement.json"

    def round(self, number: int) -> Path:
        """What an earlier round left, counted from 1: a run's folder of its own, with its reward model, RL model and page."""
        return self.root / "rounds" / str(number)

    def earlier_rounds(self) -> list[Layout]:
        """The rounds of training before the run's own, each a run's folder, the first one first; without deleted ones."""
        return [Layout(self.round(number)) for number in self._round_numbers()]

    def count_rounds(self) -> int:
        """How many earlier rounds there were: the number of the last one that is there."""
        return max(self._round_numbers(), default=0)

    def _round_numbers(self) -> list[int]:
        folders = self.round(1).parent.glob("[1-9]*")
        return sorted(int(folder.name) for folder in folders if folder.name.isdecimal() and folder.is_dir())

    def collection(self, number: int) -> str:
        """How a collection of answers is called in the journal and in run.json: `collect`, then `collect-2`."""
        return "collect" if number == 1 else f"collect-{number}"

    @property
    def answer_rewards(self) -> Path:
        """The reward model's score of each collected answer and its uncertainty: what people are asked next goes by it."""
        return self.root / "reward" / "answer_rewards.jsonl"

    @property
    def trust(self) -> Path:
        """How far the reward model can be trusted: every figure of its report, and the verdict."""
        return self.root / "reward" / "trust.json"

    @property
    def compare(self) -> Path:
        """A row for each prompt, model and setting."""
        return self.root / "compare.jsonl"

    @property
    def summary(self) -> Path:
        """The figures a script wants."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """The page a person wants."""
        return self.root / "report.html"

    @property
    def best_of_n_samples(self) -> Path:
        """Best-of-n's answers with their rewards and gold scores."""
        return self.root / "drawn.jsonl"

    @property
    def pace(self) -> Path:
        """Of `study algorithms --minutes`: what was measured of each algorithm before its budget was set."""
        return self.root / "pace.json"

    def study(self, study: str) -> Path:
        """A study's runs, each in its folder, and its table: `losses`, `algorithms`, `seeds`, `overoptimisation`."""
        return self.root / study

    def table(self, study: str) -> Path:
        """Where `root` is such a folder: its figures."""
        return self.root / f"{study}.json"

    def table_text(self, study: str) -> Path:
        """The same for people, in Markdown."""
        return self.root / f"{study}.md"

    def table_page(self, study: str) -> Path:
        """The same as a page with its pictures."""
        return self.root / f"{study}.html"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.root / ".lock"

    def folder(self, stage: str) -> Path:
        """What a stage leaves."""
        return self.root / stage

    def model(self, stage: str) -> Path:
        """A stage's model in Hugging Face's format."""
        return self.root / stage / "model"

    def merged_model(self, stage: str) -> Path:
        """Where a stage left adapters: the whole model that they make, once somebody has asked for it."""
        return self.root / stage / "merged"

    def checkpoint(self, stage: str) -> Path:
        """A stage's full state while it is at work."""
        return self.root / stage / "checkpoint"

    def encoded_rows(self, stage: str) -> Path:
        """The rows of a stage at work, as tokens, where there are many."""
        return self.root / stage / "encoded"

    def members(self, stage: str) -> Path:
        """Of an ensemble at work: the members that are trained, a folder each, counted from 0."""
        return self.root / stage / "members"

    def best(self, stage: str, step: int) -> Path:
        """Of a stage at work the best model so far, found after so many steps."""
        return self.root / stage / f"best-{step}"

    def bests(self, stage: str) -> list[Path]:
        """All of them that lie there: the one that the checkpoint knows, and one that is newer."""
        return sorted((self.root / stage).glob("best-*"))
