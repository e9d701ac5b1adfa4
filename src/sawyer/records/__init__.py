"""What a row is: types, reading, checks, splits, pairs."""

from sawyer.records.answered import Answered, answered
from sawyer.records.check import FileReport, check
from sawyer.records.formats import prompt_in
from sawyer.records.pairs import Judgement, judgement, pairs
from sawyer.records.problems import Problem
from sawyer.records.read import Read, named, read
from sawyer.records.rows import expand
from sawyer.records.split import bucket, split
from sawyer.records.types import (
    Answer,
    Demonstration,
    Labelled,
    Message,
    Pair,
    Prompt,
    Record,
    Role,
    ScoredAnswers,
    Where,
    prompt_of,
)
from sawyer.records.write import json_lines, scored_row

__all__ = [
    "Answer",
    "Answered",
    "Demonstration",
    "FileReport",
    "Judgement",
    "Labelled",
    "Message",
    "Pair",
    "Problem",
    "Prompt",
    "Read",
    "Record",
    "Role",
    "ScoredAnswers",
    "Where",
    "answered",
    "bucket",
    "check",
    "expand",
    "json_lines",
    "judgement",
    "named",
    "pairs",
    "prompt_in",
    "prompt_of",
    "read",
    "scored_row",
    "split",
]
