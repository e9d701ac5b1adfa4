"""A reward model with its tokenizer: a decoder reads the templated text, an encoder the pair of texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sawyer.errors import ModelError
from sawyer.models.adapters import LowRank
from sawyer.models.forward import is_causal, sequence_logits
from sawyer.models.language_model import TokenizedModel
from sawyer.models.load import (
    check_end,
    context_length,
    load_reader,
    load_reward,
    named_ends,
    new_reward,
    padding_of,
    resize_embeddings,
)
from sawyer.text import ConversationEncoder, RewardEncoder, Row, TextPairEncoder, pad_right, set_template


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel(TokenizedModel):
    """What a stage opens to train a reward model, or to ask one; `prompt_encoder` is how it reads a prompt and a response."""

    prompt_encoder: RewardEncoder
    reads: str  # in words: text pairs, its own chat template, or which other and why
    note: str = ""  # a warning for users: such as a template that the folder does not name; empty where there is none


LoadNetwork = Callable[[str | Path, Any], nn.Module]  # (folder or hub id, its tokenizer) -> its network


def new_reward_model(
    source: str | Path,
    *,
    seed: int,
    heads: int = 1,
    template: str | None = None,
    fallback: str = "question",
    lora: LowRank | None = None,
) -> RewardModel:
    """`heads` new scores on the trunk in `source`, a folder or hub id of any decoder or encoder.

    `template` replaces what a decoder brings; `fallback` is that of one whose tokenizer brings none that can be used. With
    `lora` the trunk learns through adapters alone.
    """
    tokenizer = load_reader(source, fixed_size=lora is not None)
    return _reward_model(
        source, tokenizer, new_reward(source, tokenizer, seed=seed, heads=heads, lora=lora), template, fallback
    )


def load_reward_model(
    source: str | Path, *, template: str | None = None, fallback: str = "question", load: LoadNetwork = load_reward
) -> RewardModel:
    """A trained reward model, ours or one that plain transformers wrote; `template` replaces what a decoder brings.

    `load` opens the network itself, where it is not to be one of its own.
    """
    tokenizer = load_reader(source)
    return _reward_model(source, tokenizer, load(source, tokenizer), template, fallback)


def _reward_model(source: str | Path, tokenizer: Any, model: Any, template: str | None, fallback: str) -> RewardModel:
    if is_causal(model):
        rows = model.get_input_embeddings().weight.shape[0] if getattr(model, "attached_adapter", None) is not None else None
        reads, note = set_reward_template(source, tokenizer, template, fallback, rows=rows)
        resize_embeddings(model, tokenizer)
        prompt_encoder = ConversationEncoder(
            tokenizer=tokenizer, context=context_length(model), end_ids=named_ends(model), padding=padding_of(model)
        )
        return RewardModel(model=model, tokenizer=tokenizer, prompt_encoder=prompt_encoder, reads=reads, note=note)
    context = min(context_length(model), int(tokenizer.model_max_length))
    tokenizer.model_max_length = context  # what is saved cuts long pairs where we do
    has_types = "token_type_ids" in tokenizer.model_input_names and getattr(model.config, "type_vocab_size", 0) > 1
    pairs = TextPairEncoder(tokenizer=tokenizer, context=context, types=has_types)
    _check_padding(source, model, pairs)
    return RewardModel(model=model, tokenizer=tokenizer, prompt_encoder=pairs, reads="text pairs")


def set_reward_template(
    source: str | Path, tokenizer: Any, template: str | None, fallback: str = "question", *, rows: int | None = None
) -> tuple[str, str]:
    """Put on a reward model's tokenizer the configured template, else its own if that can be used, else `fallback`: here
    alone it is decided. Returns which one, in words, and what there is to note of it. `rows`: how many embeddings there are,
    where there can be no more. Raises ModelError where the configured template cannot be used."""
    if template not in (None, "auto"):
        return set_template(tokenizer, str(template), rows=rows), ""
    why = "its tokenizer brings none"
    if tokenizer.chat_template:
        try:
            return set_template(tokenizer, "tokenizer"), ""
        except ModelError as error:
            why = error.given.replace("the template 'tokenizer'", "its own")
    name = "question" if fallback in ("tokenizer", "auto") else fallback
    check_end(source, tokenizer)  # ours write one
    set_template(tokenizer, name, rows=rows)
    reads = f"the template `{name}` ({why})"
    return reads, f"{source} is read by {reads}"


@torch.no_grad()
def _check_padding(source: str | Path, model: nn.Module, prompt_encoder: TextPairEncoder) -> None:
    """A row's score must not change with padding, here and in whatever loads what is saved."""
    for name, module in model.named_modules():
        padding_index = getattr(module, "padding_idx", None) if name.endswith("position_embeddings") else None
        if (
            padding_index is not None and padding_index != prompt_encoder.pad_id
        ):  # RoBERTa and its kin count positions from that id on
            raise ModelError(
                f"{source} pads with the token {padding_index}, its tokenizer with {prompt_encoder.pad_id}",
                expected="one padding token for both",
                why="the model counts its positions from it",
                todo="set `pad_token` in its tokenizer_config.json to the token of that number",
            )
    rows = [Row(ids=ids, loss_mask=(True,) * len(ids), prompt_length=0, cut=False) for ids in ((2, 3, 2), (2, 3))]
    try:
        together = sequence_logits(model, pad_right(rows, prompt_encoder.pad_id))[1]
        alone = sequence_logits(model, pad_right(rows[1:], prompt_encoder.pad_id))[0]
    except Exception as error:  # T5 and BART read no row without their EOS
        raise ModelError(
            f"{source} cannot read any row as an encoder does: {str(error).strip().splitlines()[0]}",
            expected="an encoder such as BERT, RoBERTa or DeBERTa, or a decoder",
            todo="name another model",
        ) from error
    if not bool(torch.isfinite(alone).all()):
        raise ModelError(
            f"{source} scores answers by numbers that are not finite",
            expected="finite scores",
            why="its weights are damaged: no answer can be ranked by it",
            todo="fetch or train it again, or name another model",
        )
    if not torch.allclose(together, alone, atol=1e-3, rtol=1e-3):
        raise ModelError(
            f"{source} has scores that change with padding",
            expected="an encoder that leaves padding out, such as BERT, RoBERTa or DeBERTa",
            why="rewards would depend on what else is in the batch",
            todo="name another model",
        )
