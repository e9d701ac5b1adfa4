"""Models that judge answers, behind an OpenAI-compatible endpoint: asked for scores, and for pairs in both orders.

Every reply is kept in a file by what was asked, so that an interruption loses none and none costs twice.
"""

from sawyer.judges.judge_plan import JudgePlan, JudgeTally
from sawyer.judges.judge_prompts import DEFAULT_RUBRIC
from sawyer.judges.judge_settings import (
    KEY_ENV,
    JudgeMethod,
    JudgeSettings,
    count_calls,
    rater_name,
    read_key,
    read_rubric,
    settings_from,
)
from sawyer.judges.model_judge import Judge, OrderedGrades, Question, QuestionResult, ordered_grades
