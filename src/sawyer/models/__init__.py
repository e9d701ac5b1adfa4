"""Networks: load and save, forward, sample, score."""

from sawyer.models.adapters import LowRank, lora_told, merge, without_adapters
from sawyer.models.artifact import copy_model, read_extra, save_model
from sawyer.models.blocked import only_read
from sawyer.models.classify import Classifier, class_logits, load_classifier, new_classifier
from sawyer.models.compose import FunctionScorer, LabelScorer, Part, WeightedScorer
from sawyer.models.embed import NearDuplicates, mean_pooled, near_duplicates
from sawyer.models.fitted import FittedValues
from sawyer.models.foreign import read_adapter
from sawyer.models.forward import (
    TokenLogprobs,
    before_trained,
    head_of,
    is_causal,
    mean_loss,
    network_of,
    policy_entropies,
    policy_logprobs,
    row_cost,
    row_losses,
    score_head,
    sequence_logits,
    splits_exactly,
    token_values,
    trunk_states,
)
from sawyer.models.freeze import Frozen, freeze
from sawyer.models.heads import PolicyWithValue, ValueNetwork
from sawyer.models.judge import Judge, Load, load_judge, new_judge, set_judge_template
from sawyer.models.kinds import Known, look_at
from sawyer.models.load import (
    codec_of,
    context_length,
    load_base,
    load_policy,
    load_reader,
    load_reward,
    load_tokenizer,
    new_policy,
    new_reward,
    train_tokenizer,
)
from sawyer.models.merged import save_merged
from sawyer.models.pretrained import family_problem, remote_code, table_rows
from sawyer.models.processor import multiplies_bf16, multiplies_bf16_in_tiles
from sawyer.models.rounded import hold_in_bf16
from sawyer.models.sample import Completion, deliberate, sample
from sawyer.models.score import (
    DetailedScorer,
    Ensemble,
    Member,
    RewardScorer,
    Scored,
    Scorer,
    member_folder,
    scored,
)
from sawyer.models.shared import Adapted, AdaptedTrunk, Shared
from sawyer.models.speaker import Speaker, open_speaker, open_tokenizer
from sawyer.models.text_scorer import TextScorer, reward_folder

__all__ = [
    "Adapted",
    "AdaptedTrunk",
    "Classifier",
    "Completion",
    "DetailedScorer",
    "Ensemble",
    "FittedValues",
    "Frozen",
    "FunctionScorer",
    "Judge",
    "Known",
    "LabelScorer",
    "Load",
    "LowRank",
    "Member",
    "NearDuplicates",
    "Part",
    "PolicyWithValue",
    "RewardScorer",
    "Scored",
    "Scorer",
    "Shared",
    "Speaker",
    "TextScorer",
    "TokenLogprobs",
    "ValueNetwork",
    "WeightedScorer",
    "before_trained",
    "class_logits",
    "codec_of",
    "context_length",
    "copy_model",
    "deliberate",
    "family_problem",
    "freeze",
    "head_of",
    "hold_in_bf16",
    "is_causal",
    "load_base",
    "load_classifier",
    "load_judge",
    "load_policy",
    "load_reader",
    "load_reward",
    "load_tokenizer",
    "look_at",
    "lora_told",
    "mean_loss",
    "mean_pooled",
    "member_folder",
    "merge",
    "multiplies_bf16",
    "multiplies_bf16_in_tiles",
    "near_duplicates",
    "network_of",
    "new_classifier",
    "new_judge",
    "new_policy",
    "new_reward",
    "only_read",
    "open_speaker",
    "open_tokenizer",
    "policy_entropies",
    "policy_logprobs",
    "read_adapter",
    "read_extra",
    "remote_code",
    "reward_folder",
    "row_cost",
    "row_losses",
    "sample",
    "save_merged",
    "save_model",
    "score_head",
    "scored",
    "sequence_logits",
    "set_judge_template",
    "splits_exactly",
    "table_rows",
    "token_values",
    "train_tokenizer",
    "trunk_states",
    "without_adapters",
]
