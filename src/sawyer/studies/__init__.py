"""Studies: many runs that differ in one thing, done in turn and resumed where they were, and one table of them."""

from sawyer.studies.algorithms import study_algorithms
from sawyer.studies.losses import study_losses
from sawyer.studies.overoptimisation import study_overoptimisation
from sawyer.studies.seed_spread import study_seeds
