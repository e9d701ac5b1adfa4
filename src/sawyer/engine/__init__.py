"""The engine: place and precision, the optimizer step, the one loop, checkpoints, seeded randomness."""

from sawyer.engine.checkpoint import load_checkpoint, save_checkpoint
from sawyer.engine.loop import Work, run_steps, stop_if_asked
from sawyer.engine.place import Place, choose_place
from sawyer.engine.seeds import batch_indices, generator
from sawyer.engine.step import Learner, Update

__all__ = [
    "Learner",
    "Place",
    "Update",
    "Work",
    "batch_indices",
    "choose_place",
    "generator",
    "load_checkpoint",
    "run_steps",
    "save_checkpoint",
    "stop_if_asked",
]
