"""The built-in world: English instructions with a known truth, people who answer them and people who judge."""

from sawyer.worlds.answerers import ANSWERERS, STYLES, answer
from sawyer.worlds.gold_score import Gold, gold, golds
from sawyer.worlds.raters import RATERS, rate
from sawyer.worlds.statements import judgements, statements
from sawyer.worlds.tasks import FAMILIES, Task, find_task, questions, tasks
from sawyer.worlds.world_files import comparisons, demonstrations, write_world

VERSION = "1"  # of facts, phrasings and gold; a base model trained on the world records it
