"""The engine: place and precision, the optimizer step, next-token training, the one loop, checkpoints, seeded randomness."""

from sawyer.engine.checkpoint import load_checkpoint, save_checkpoint
from sawyer.engine.language import LanguageWork
from sawyer.engine.learned import learned_gate, losses_of
from sawyer.engine.loop import Work, run_steps, stop_if_asked
from sawyer.engine.place import Place, choose_place
from sawyer.engine.seeds import batch_indices, generator
from sawyer.engine.step import Learner, Update

__all__ = [
    "LanguageWork",
    "Learner",
    "Place",
    "Update",
    "Work",
    "batch_indices",
    "choose_place",
    "generator",
    "learned_gate",
    "load_checkpoint",
    "losses_of",
    "run_steps",
    "save_checkpoint",
    "stop_if_asked",
]
