"""Training: device and precision, the optimizer step, the one loop, checkpoints, random numbers, several processes.

The door opens a module when a name of it is used: a finished run asks `distributed` who it is, and must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sawyer.train.allocator import peak_memory_mb, reset_peak_memory
    from sawyer.train.answer_rewards import add_answer_rewards, answer_reward_row, write_answer_rewards
    from sawyer.train.answering import Answerer, StepAnswers, answer_in_steps, chunks_of
    from sawyer.train.checkpoint import STATE, load_checkpoint, save_checkpoint, write_folder, write_state
    from sawyer.train.device import Placement, choose_device
    from sawyer.train.judged_data import (
        NO_NORMALIZER,
        EncodedPrompt,
        JudgedMinibatch,
        encode_judged,
        judged_batch,
        judged_minibatches,
        read_judged_files,
    )
    from sawyer.train.memory_plan import memory_plan_summary, plan_memory
    from sawyer.train.micro_batches import shard_micro_batches
    from sawyer.train.next_token import NextTokenLoop
    from sawyer.train.optimizer_step import OptimizerStep, restore_weights, trained_weights
    from sawyer.train.rng import batch_indices, generator
    from sawyer.train.shared_run import open_shared_run
    from sawyer.train.stage_data import encode_all, encode_rows, lengths_in_words, read_data, readable, report_remarks
    from sawyer.train.stage_loop import StageLoop, learned_gate, losses_of, record_fast_paths, run_steps, stop_if_requested

_MODULES = {
    "allocator": ("peak_memory_mb", "reset_peak_memory"),
    "answer_rewards": ("add_answer_rewards", "answer_reward_row", "write_answer_rewards"),
    "answering": ("Answerer", "StepAnswers", "answer_in_steps", "chunks_of"),
    "checkpoint": ("STATE", "load_checkpoint", "save_checkpoint", "write_folder", "write_state"),
    "device": ("Placement", "choose_device"),
    "judged_data": (
        *("NO_NORMALIZER", "EncodedPrompt", "JudgedMinibatch"),
        *("encode_judged", "judged_batch", "judged_minibatches", "read_judged_files"),
    ),
    "memory_plan": ("plan_memory", "memory_plan_summary"),
    "micro_batches": ("shard_micro_batches",),
    "next_token": ("NextTokenLoop",),
    "optimizer_step": ("OptimizerStep", "restore_weights", "trained_weights"),
    "rng": ("batch_indices", "generator"),
    "shared_run": ("open_shared_run",),
    "stage_data": ("encode_all", "encode_rows", "lengths_in_words", "read_data", "readable", "report_remarks"),
    "stage_loop": ("StageLoop", "learned_gate", "losses_of", "record_fast_paths", "run_steps", "stop_if_requested"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"sawyer.train.{_HOMES[name]}"), name)
