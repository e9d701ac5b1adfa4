"""Tiny random models dressed as the families that people download: their special tokens, templates and ends, in short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

TEXT = ["\n\n", "What is red? It is red.", "Say hi to me, please. No idea, sorry!", "Be terse.\n\nuser assistant system model"]
WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"  # lines' ends stay together, as in Llama 3 and Qwen
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN25 = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" + CHATML
# Earlier answers lose their thoughts, the last one gets an empty thought where it has none.
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% set parts = m.content.split('</think>') %}"
    "{% if loop.index0 > ns.last %}<think>\n{{ parts[0].replace('<think>', '').strip('\\n') if parts[1:] else '' }}"
    "\n</think>\n\n{% endif %}{{ parts[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% set own = messages[0].content.strip() if messages[0].role == 'system' else '' %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n{{ own }}<|eot_id|>"
    "{% for m in messages if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content.strip() }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content.strip() }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# The system text stands before the last question, so that it moves from turn to turn.
MISTRAL = (
    "{{ bos_token }}{% set own = messages[0].content ~ '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
    "[INST] {{ own if loop.last else '' }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# The prompt opens a thought that is left out once it is answered.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<User>{{ m.content }}{% elif m.role == 'assistant' %}"
    "<Assistant>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<Assistant><think>\n{% endif %}"
)
# The prompt closes an empty thought that is left out once it is answered.
CLOSED = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n<|thought><thought|>{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`specials` in their order: where `bos` stands among them it is put before each plain text."""

    template: str
    specials: tuple[str, ...]
    eos: str
    end: str  # what the template writes after an answer
    ends: tuple[str, ...]  # those of generation_config.json
    model: str = "Llama"
    bos: str | None = None
    pad: str | None = None
    pieces: bool = False  # SentencePiece: a space becomes ▁, and each text between special tokens begins with one


LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
RIGHT_PAD = "<|finetune_right_pad_id|>"
IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "llama3": Family(
        template=LLAMA3, specials=(*LLAMA, RIGHT_PAD), bos=LLAMA[0], eos="<|eot_id|>", end="<|eot_id|>", ends=LLAMA[1:5:3]
    ),
    "llama3_base_eos": Family(
        template=LLAMA3, specials=LLAMA, bos=LLAMA[0], eos="<|end_of_text|>", end="<|eot_id|>", ends=LLAMA[1:5:3]
    ),
    "qwen25": Family(template=QWEN25, specials=IM, eos=IM[2], end=IM[2], pad=IM[0], ends=(IM[2], IM[0]), model="Qwen2"),
    "qwen3": Family(template=QWEN3, specials=IM, eos=IM[2], end=IM[2], pad=IM[0], ends=(IM[2], IM[0]), model="Qwen3"),
    "gemma": Family(
        template=GEMMA,
        specials=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        end="<end_of_turn>",
        ends=("<eos>", "<end_of_turn>"),
        model="Gemma2",
    ),
    "mistral": Family(
        template=MISTRAL,
        specials=("<unk>", "<s>", "</s>"),
        bos="<s>",
        eos="</s>",
        pad="</s>",
        end="</s>",
        ends=("</s>",),
        model="Mistral",
        pieces=True,
    ),
    "phi3": Family(
        template=PHI3,
        specials=("<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|system|>", "<|user|>"),
        bos="<s>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        end="<|end|>",
        ends=("<|endoftext|>", "<|assistant|>", "<|end|>"),
        model="Phi3",
        pieces=True,
    ),
}
CONFIGS: dict[str, Callable[..., Any]] = {
    "Llama": hf.LlamaConfig, "Qwen2": hf.Qwen2Config, "Qwen3": hf.Qwen3Config, "Gemma2": hf.Gemma2Config,
    "Mistral": hf.MistralConfig, "Phi3": hf.Phi3Config,
}  # fmt: skip


def tokenizer_of(family: Family) -> Any:
    """A tokenizer of the family's kind that has seen a few lines."""
    if family.pieces:
        core = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        core, alphabet = Tokenizer(BPE()), []
        split = pre_tokenizers.Split(Regex(WORDS), "isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=[*family.specials, *alphabet],
        initial_alphabet=[] if family.pieces else pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(TEXT * 3, trainer)
    named = {name: token for name, token in (("bos_token", family.bos), ("pad_token", family.pad)) if token}
    named |= {"unk_token": "<unk>"} if family.pieces else {}
    if family.bos:
        number = core.token_to_id(family.bos)
        core.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=[(family.bos, number)])
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=family.eos,
        extra_special_tokens=[token for token in family.specials if token not in (family.eos, family.bos, family.pad)],
        **named,
    )
    tokenizer.chat_template = family.template
    return tokenizer


def config_of(family: Family, tokenizer: Any, **more: Any) -> Any:
    ends = tokenizer.convert_tokens_to_ids(list(family.ends))
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    return CONFIGS[family.model](**{**sizes, **more})


def noisy(model: Any, deviation: float = 0.2, seed: int = 0) -> Any:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) * deviation)
    return model.eval()


def write_instruct(folder: Path, family: Family) -> Path:
    """An instruct model's folder, its ends in generation_config.json alone as far as the tokenizer's EOS goes."""
    tokenizer = tokenizer_of(family)
    model = noisy(hf.AutoModelForCausalLM.from_config(config_of(family, tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_reward(folder: Path, family: Family, **more: Any) -> Path:
    """A reward model's folder as plain transformers leaves it."""
    tokenizer = tokenizer_of(family)
    model = noisy(hf.AutoModelForSequenceClassification.from_config(config_of(family, tokenizer, num_labels=1, **more)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
