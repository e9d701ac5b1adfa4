"""The built-in world: English instructions of which the truth is known, people who answer them and people who judge."""

from sawyer.worlds.answerers import ANSWERERS, STYLES, answer
from sawyer.worlds.gold_score import Gold, gold, golds
from sawyer.worlds.raters import RATERS, rate
from sawyer.worlds.statements import judgements, statements
from sawyer.worlds.tasks import FAMILIES, Task, find, questions, tasks
from sawyer.worlds.world_files import comparisons, demonstrations, write

VERSION = "1"  # of facts, phrasings and gold; a base model trained on the world carries it
