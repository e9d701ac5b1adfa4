"""What a row is: types, reading, checks, splits, pairs."""

from sawyer.records.answered_prompts import AnsweredPrompt, json_lines, read_answers, scored_row
from sawyer.records.check_file import FileReport, check, insufficient
from sawyer.records.data_files import expand
from sawyer.records.holdout_split import bucket, split
from sawyer.records.problems import Problem
from sawyer.records.read import MAX_BAD_ROWS, Read, join_names, leave_out, once_each, read, unread_in_words
from sawyer.records.record_types import (
    Answer,
    Demonstration,
    JudgedPrompt,
    LabelledText,
    Message,
    Pair,
    Prompt,
    Record,
    Role,
    prompt_from_messages,
    prompt_in,
    prompt_of,
)
