"""The built-in world: English instructions of which the truth is known, people who answer them and people who judge."""

from sawyer.worlds.answerers import ANSWERERS, STYLES, answer
from sawyer.worlds.files import comparisons, demonstrations, write
from sawyer.worlds.gold import Gold, gold, golds
from sawyer.worlds.raters import RATERS, rate
from sawyer.worlds.statements import judgements, statements
from sawyer.worlds.tasks import FAMILIES, Task, find, questions, tasks

VERSION = "1"  # of facts, phrasings and gold; a base model trained on the world carries it

__all__ = [
    "ANSWERERS",
    "FAMILIES",
    "RATERS",
    "STYLES",
    "VERSION",
    "Gold",
    "Task",
    "answer",
    "comparisons",
    "demonstrations",
    "find",
    "gold",
    "golds",
    "judgements",
    "questions",
    "rate",
    "statements",
    "tasks",
    "write",
]
