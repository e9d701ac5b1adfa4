"""What a row is: types, reading, checks, splits, pairs."""

from sawyer.records.answered_prompts import AnsweredPrompt, answered
from sawyer.records.check_file import FileReport, check
from sawyer.records.data_files import expand
from sawyer.records.enough_data import insufficient
from sawyer.records.holdout_split import bucket, split
from sawyer.records.problems import Problem
from sawyer.records.read import MAX_BAD_ROWS, Read, leave_out, named, once_each, read, unread_in_words
from sawyer.records.record_types import (
    Answer,
    Demonstration,
    JudgedPrompt,
    Labelled,
    Message,
    Pair,
    Pairs,
    Prompt,
    Record,
    Role,
    Where,
    prompt_in,
    prompt_of,
)
from sawyer.records.write_rows import json_lines, scored_row
