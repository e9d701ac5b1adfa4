"""Networks: load and save, forward, sample, score."""

from sawyer.models.adapters import lora_summary, without_adapters
from sawyer.models.classifier import Classifier, class_logits, new_classifier
from sawyer.models.composite_reward import FunctionScorer, LabelScorer, RewardComponent, WeightedScorer
from sawyer.models.fast import fast_path, freeze_for_inference, multiplies_bf16
from sawyer.models.forward import (
    before_trained,
    mean_loss,
    policy_entropies,
    policy_logprobs,
    row_cost,
    row_losses,
    sequence_logits,
    token_values,
    trunk_states,
)
from sawyer.models.freezing import FrozenLayers, freeze
from sawyer.models.language_model import LanguageModel, open_language_model, open_tokenizer
from sawyer.models.load import (
    context_length,
    hold_in_bf16,
    load_base,
    load_policy,
    load_reader,
    load_reward,
    load_tokenizer,
    new_policy,
    new_reward,
    prompt_encoder_of,
    train_tokenizer,
)
from sawyer.models.model_folder import copy_model, read_extra, save_merged, save_model
from sawyer.models.multi_adapter import AdapterTrunk, AdapterView, MultiAdapter
from sawyer.models.network_parts import head_of, network_of, score_head, splits_exactly
from sawyer.models.peft_folder import read_adapter
from sawyer.models.pretrained import model_facts, remote_code
from sawyer.models.prompt_embeddings import near_duplicates
from sawyer.models.reward_model import LoadNetwork, RewardModel, new_reward_model, set_reward_template
from sawyer.models.ridge_values import RidgeValues
from sawyer.models.sampling import Completion, beam_search, sample
from sawyer.models.scoring import Ensemble, Member, RewardScorer, Scorer, member_folder, score_details
from sawyer.models.text_scorer import TextScorer, reward_folder
from sawyer.models.value_head import PolicyWithValue, ValueNetwork
