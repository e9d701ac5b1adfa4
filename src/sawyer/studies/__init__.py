"""The laboratory: many runs that differ in one thing, and one table of them.

Each study makes what its runs share once, lends it to them by links, and is done in pieces that are runs like any other:
what is finished is skipped, what was interrupted goes on.
"""

from sawyer.studies.algorithms import study_algorithms
from sawyer.studies.losses import study_losses
from sawyer.studies.overoptimisation import study_overoptimisation
from sawyer.studies.seeds import study_seeds
