"""Tokenizers small enough to know by heart: one token a byte, and one that merges across the prompt's end."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

EOS = "<|endoftext|>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(merges: list[tuple[str, str]], *, bos: bool = False, **named: Any) -> Any:
    """Ids 0 to 255 are bytes in the order of ByteLevel's alphabet, then the merges, then special tokens."""
    vocabulary = {token: i for i, token in enumerate([*ALPHABET, *(a + b for a, b in merges)])}
    core = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    # Without the regular expression nothing keeps a merge from reaching over a space or a line's end.
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **{"eos_token": EOS, **named})
    if bos:
        first, number = tokenizer.bos_token, tokenizer.bos_token_id
        core.post_processor = processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, number)])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **{"eos_token": EOS, **named})
    return tokenizer


@pytest.fixture
def bytes_tokenizer() -> Any:
    """One token a byte; EOS is 256, pad 257."""
    return byte_level([], pad_token="<|pad|>")


@pytest.fixture
def merging_tokenizer() -> Any:
    """Knows `: ` (colon and space), `\\n\\n` and ` D` as one token each."""
    return byte_level([(":", "Ġ"), ("Ċ", "Ċ"), ("Ġ", "D")], pad_token="<|pad|>")


@pytest.fixture(params=["<s>", "</s>"])
def beginning_tokenizer(request: pytest.FixtureRequest) -> Any:
    """Puts `<s>` before each text, as Llama's does, or its EOS, as OPT's does."""
    return byte_level([], bos=True, bos_token=request.param, eos_token="</s>", pad_token="<pad>")
