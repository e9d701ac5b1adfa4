"""The laboratory: many runs that differ in one thing, and one table of them.

Each study makes what its runs share once, lends it to them by links, and is done in pieces that are runs like any other:
what is finished is skipped, what was interrupted goes on.
"""

from sawyer.lab.ablation import ablate
from sawyer.lab.contest import bakeoff
from sawyer.lab.overoptimisation import study_overoptimisation
from sawyer.lab.spread import study_seeds

__all__ = ["ablate", "bakeoff", "study_overoptimisation", "study_seeds"]
