"""The engine: place and precision, the optimizer step, next-token training, the one loop, checkpoints, seeded randomness."""

from sawyer.train.allocator import kept_memory, peak_memory_mb, reset_peak_memory
from sawyer.train.checkpoint import STATE, load_checkpoint, restore_state, save_checkpoint
from sawyer.train.device import Placement, choose_device
from sawyer.train.encoding_cache import encode_rows
from sawyer.train.judged_data import (
    NO_NORMALIZER,
    EncodedPrompt,
    JudgedMinibatch,
    encode_judged,
    judged_batch,
    judged_minibatches,
    read_judged_files,
)
from sawyer.train.memory_plan import NetworkMemory, memory_plan, memory_plan_summary
from sawyer.train.next_token import NextTokenLoop
from sawyer.train.optimizer_step import OptimizerStep, Update, restore_weights, trained_weights
from sawyer.train.rng import batch_indices, generator
from sawyer.train.stage_data import encode_all, lengths_in_words, read_data, readable, report_remarks
from sawyer.train.stage_loop import StageLoop, run_steps, stop_if_asked
from sawyer.train.training_loss_gate import learned_gate, losses_of
