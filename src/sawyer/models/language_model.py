"""A language model ready to read and answer: network, tokenizer, prompt encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sawyer.models.adapters import LowRank
from sawyer.models.decoding import caches_exactly
from sawyer.models.load import load_policy, load_tokenizer, prompt_encoder_of
from sawyer.models.network_parts import network_of
from sawyer.models.pretrained import table_rows
from sawyer.text import PromptEncoder, set_template


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedModel:
    """A network with its tokenizer, whatever it is for."""

    model: nn.Module
    tokenizer: Any

    @property
    def width(self) -> int:
        """Hidden units."""
        config: Any = self.model.config
        return int(config.get_text_config().hidden_size)

    @property
    def parameters(self) -> int:
        """Number of weights, tied ones once; of an adapter's view those of the network that it shares, too."""
        network: nn.Module = network_of(self.model)
        common = [weight for name, weight in network.named_parameters() if network is self.model or ".lora_" not in name]
        return sum({id(weight): weight.numel() for weight in (*common, *self.model.parameters())}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel(TokenizedModel):
    """What a stage opens to train or to ask a language model."""

    prompt_encoder: PromptEncoder
    reads: str = ""  # in words: which chat template it is written to with

    @property
    def vocabulary(self) -> int:
        """Tokens that the model tells apart."""
        config: Any = self.model.config
        return int(config.get_text_config().vocab_size)


def open_tokenizer(source: str | Path, template: str | None = None, *, fixed_size: bool = False) -> tuple[Any, str]:
    """A language model's tokenizer with the template that it is written to with (None is `auto`), and which one, in words: here
    alone it is decided. `fixed_size`: the model can have no more embeddings than it has."""
    tokenizer = load_tokenizer(source, fixed_size=fixed_size)
    return tokenizer, set_template(tokenizer, template or "auto", rows=table_rows(source) if fixed_size else None)


def open_language_model(
    source: str | Path, template: str | None = None, *, lora: LowRank | None = None, seed: int = 0
) -> LanguageModel:
    """Load a language model. `template` is set on its tokenizer; None is `auto`: the one that was saved with it. With `lora` it
    is ready to train adapters alone (`load_policy`)."""
    tokenizer, reads = open_tokenizer(source, template, fixed_size=lora is not None)
    model = load_policy(source, tokenizer, lora=lora, seed=seed)
    if not caches_exactly(model):
        reads += "; whole rows are read again at each token, because its cache cannot be batched: slow"
    return LanguageModel(model=model, tokenizer=tokenizer, prompt_encoder=prompt_encoder_of(model, tokenizer), reads=reads)
