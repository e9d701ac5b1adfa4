"""What a row is: types, reading, checks, splits, pairs."""

from sawyer.records.answered import Answered, answered
from sawyer.records.check import FileReport, check
from sawyer.records.files import expand
from sawyer.records.formats import prompt_in
from sawyer.records.pairs import Judgement, judgement, pairs
from sawyer.records.problems import Problem
from sawyer.records.read import MAX_BAD_ROWS, Read, leave_out, named, once_each, read, unread_in_words
from sawyer.records.split import bucket, split
from sawyer.records.sufficient import insufficient
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
    "MAX_BAD_ROWS",
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
    "insufficient",
    "json_lines",
    "judgement",
    "leave_out",
    "named",
    "once_each",
    "pairs",
    "prompt_in",
    "prompt_of",
    "read",
    "scored_row",
    "split",
    "unread_in_words",
]
