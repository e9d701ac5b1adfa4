"""Networks: load and save, forward, sample, score."""

from sawyer.models.artifact import read_extra, save_model
from sawyer.models.forward import (
    TokenLogprobs,
    mean_loss,
    policy_logprobs,
    sequence_scores,
    splits_exactly,
    token_values,
)
from sawyer.models.freeze import Frozen, freeze
from sawyer.models.heads import ValueNetwork
from sawyer.models.load import (
    context_length,
    load_policy,
    load_reward,
    load_tokenizer,
    new_policy,
    new_reward,
    train_tokenizer,
)
from sawyer.models.sample import Completion, deliberate, sample
from sawyer.models.score import RewardScorer, Scorer
from sawyer.models.speaker import Speaker, open_speaker

__all__ = [
    "Completion",
    "Frozen",
    "RewardScorer",
    "Scorer",
    "Speaker",
    "TokenLogprobs",
    "ValueNetwork",
    "context_length",
    "deliberate",
    "freeze",
    "load_policy",
    "load_reward",
    "load_tokenizer",
    "mean_loss",
    "new_policy",
    "new_reward",
    "open_speaker",
    "policy_logprobs",
    "read_extra",
    "sample",
    "save_model",
    "sequence_scores",
    "splits_exactly",
    "token_values",
    "train_tokenizer",
]
