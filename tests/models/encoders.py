"""Encoders of a few thousand weights with tokenizers of their own, as BERT, RoBERTa and DeBERTa have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

CONTEXT = 24
WORDS = "what is the opposite of up down . ? where a question answer : user assistant system yes no word be brief".split()
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": CONTEXT,
}
DEBERTA = {"relative_attention": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm", "pos_att_type": ["c2p", "p2c"]}
BUILD: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**SIZES, pad_token_id=0),
    "roberta": lambda: hf.RobertaConfig(
        **{**SIZES, "max_position_embeddings": CONTEXT + 2}, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2
    ),
    "deberta": lambda: hf.DebertaV2Config(**SIZES, **DEBERTA, type_vocab_size=0, pad_token_id=0),
    "deberta_typed": lambda: hf.DebertaV2Config(**SIZES, **DEBERTA, type_vocab_size=2, pad_token_id=0),
}


def tokenizer_of(name: str) -> Any:
    """Whole words in lower case; ids of special tokens and the form of a pair are those of the family."""
    if name == "roberta":
        special, pair = ["<s>", "<pad>", "</s>", "<unk>"], "<s> $A </s> </s> $B </s>"
        named = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
        single, inputs = "<s> $A </s>", ["input_ids", "attention_mask"]
    else:
        special, pair = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[CLS] $A [SEP] $B:1 [SEP]:1"
        named = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]"}
        single, inputs = "[CLS] $A [SEP]", ["input_ids", "token_type_ids", "attention_mask"]
    ids = {word: place for place, word in enumerate([*special, *WORDS])}
    core = Tokenizer(WordLevel(ids, unk_token=special[3]))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    core.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, ids[token]) for token in special[:3]]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core, **named, unk_token=special[3], model_input_names=inputs, model_max_length=512
    )


def noisy(model: Any) -> Any:
    """Untrained weights give all texts nearly the same score."""
    draw = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
    return model.eval()


def write(folder: Path, name: str, **labels: Any) -> Path:
    """A pre-trained trunk (with its masked-language-model head), or with `num_labels` a classifier, and its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = BUILD[name]()
        for setting, value in labels.items():
            setattr(config, setting, value)
        auto: Any = hf.AutoModelForSequenceClassification if labels else hf.AutoModelForMaskedLM
        noisy(auto.from_config(config)).save_pretrained(folder)
    tokenizer_of(name).save_pretrained(folder)
    return folder
