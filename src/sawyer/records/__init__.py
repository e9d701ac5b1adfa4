"""What a row is: types, reading, checks, splits, pairs."""

from sawyer.records.answered_prompts import AnsweredPrompt, answered
from sawyer.records.check_file import FileReport, check
from sawyer.records.data_files import expand
from sawyer.records.enough_data import insufficient
from sawyer.records.formats import prompt_in
from sawyer.records.holdout_split import bucket, split
from sawyer.records.pairs import Judgement, judgement, pairs
from sawyer.records.problems import Problem
from sawyer.records.read import MAX_BAD_ROWS, Read, leave_out, named, once_each, read, unread_in_words
from sawyer.records.record_types import (
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
from sawyer.records.write_rows import json_lines, scored_row
