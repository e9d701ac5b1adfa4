"""The engine: place and precision, the optimizer step, next-token training, the one loop, checkpoints, seeded randomness."""

from sawyer.engine.checkpoint import STATE, load_checkpoint, put_state, save_checkpoint
from sawyer.engine.data import encode_all, lengths_in_words, read_data, readable, tell_remarks
from sawyer.engine.kept_rows import encode_rows
from sawyer.engine.language import LanguageWork
from sawyer.engine.learned import learned_gate, losses_of
from sawyer.engine.loop import Work, run_steps, stop_if_asked
from sawyer.engine.memory import kept_memory, peak_memory_mb, reset_peak_memory
from sawyer.engine.place import Place, choose_place
from sawyer.engine.plan import Held, memory_plan, memory_told
from sawyer.engine.seeds import batch_indices, generator
from sawyer.engine.step import Learner, Update, put_weights, trained_weights

__all__ = [
    "STATE",
    "Held",
    "LanguageWork",
    "Learner",
    "Place",
    "Update",
    "Work",
    "batch_indices",
    "choose_place",
    "encode_all",
    "encode_rows",
    "generator",
    "kept_memory",
    "learned_gate",
    "lengths_in_words",
    "load_checkpoint",
    "losses_of",
    "memory_plan",
    "memory_told",
    "peak_memory_mb",
    "put_state",
    "put_weights",
    "read_data",
    "readable",
    "reset_peak_memory",
    "run_steps",
    "save_checkpoint",
    "stop_if_asked",
    "tell_remarks",
    "trained_weights",
]
