"""Every decoder that transformers ships and of which a tiny config can be made: a row is told what it is told alone, whatever
lies beside it, in log-probs, in scores and in sampling. Windows and chunks are shorter than the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from sawyer.errors import ModelError
from sawyer.models import beam_search, context_length, policy_logprobs, sample, sequence_logits
from sawyer.models.attention_span import long_range, steady_length
from sawyer.models.decoding import caches_exactly
from sawyer.models.fast import packing
from sawyer.models.fast.packing import packs_exactly
from sawyer.models.load import check_causal
from sawyer.models.network_parts import trunk_of
from sawyer.text import Row, pad_right

VOCABULARY, WIDTH, WINDOW, NEW = 96, 32, 8, 12
PAD, EOS = 1, 3
NAMED = (  # what settings are called that mean the same in the many families
    (VOCABULARY, "vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size"),
    (WIDTH, "hidden_size d_model n_embd embedding_size input_embedding_size output_embedding_size lru_width dim"),
    (48, "intermediate_size ffn_dim ffn_hidden_size n_inner dff d_ff decoder_ffn_dim encoder_ffn_dim"),
    (2, "num_hidden_layers n_layer num_layers n_layers decoder_layers encoder_layers num_decoder_layers num_encoder_layers"),
    (2, "num_key_value_heads num_kv_heads multi_query_group_num num_experts_per_tok moe_k moe_topk index_n_heads bos_token_id"),
    (2, "linear_num_key_heads mamba_expand"),
    (4, "num_attention_heads n_head num_heads n_heads decoder_attention_heads encoder_attention_heads mamba_n_heads"),
    (4, "num_decoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts"),
    (4, "linear_num_value_heads mamba_num_heads mamba_d_conv"),
    (8, "head_dim kv_channels qk_rope_head_dim qk_nope_head_dim v_head_dim linear_key_head_dim linear_value_head_dim"),
    (8, "mamba_d_state state_size ssm_state_size index_head_dim query_pre_attn_scalar hidden_size_per_layer_input"),
    (WINDOW, "sliding_window window_size attention_chunk_size attention_window_size local_attention sliding_window_size"),
    (16, "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size"),
    (16, "q_lora_rank kv_lora_rank o_lora_rank mamba_d_head mamba_head_dim chunk_size mamba_chunk_size"),
    (1, "n_shared_experts n_group topk_group first_k_dense_replace mamba_n_groups n_groups o_groups"),
    (64, "mamba_d_ssm index_topk"),
    (128, "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length context_length"),
)
SIZES = {name: size for size, names in NAMED for name in names.split()} | {"pad_token_id": PAD, "eos_token_id": EOS}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
TURNED = {"rotary_dim": 4}
WINDOWED = {"use_sliding_window": True, "max_window_layers": 1}
LATENT = {"num_key_value_heads": 4, "head_dim": None}  # attention whose keys are made anew for each head
MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "granitemoehybrid"), HYBRID),
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"), LATENT),
    "longcat_flash": {"num_key_value_heads": 4},
    **dict.fromkeys(("minicpm3", "youtu", "dots3_note_text"), LATENT),
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
    "moshi": {"sliding_window": 128},  # its own cache forgets beyond the window what its own mask still shows
    **dict.fromkeys(("codegen", "gptj"), TURNED),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3"), WINDOWED),
    "phi3": {"original_max_position_embeddings": 64, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 2.0, "partial_rotary_factor": 1.0,
    }},
}  # fmt: skip
OF_IMAGES = "sees or hears as well; its text part alone is among the kinds"
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        ("dots3_note", "emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "git", "got_ocr2"), OF_IMAGES
    ),
    **dict.fromkeys(
        ("llama4", "mllama", "moss_transcribe_diarize", "musicgen", "musicgen_melody", "phi4_multimodal"), OF_IMAGES
    ),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen4_exp"), OF_IMAGES),
    "blt": "reads bytes through two more networks of its own, which a config of the whole does not make small",
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model, whose states it reads"),
    **dict.fromkeys(("zamba", "zamba2"), "shares one layer's weights among more layers than a tiny config has"),
    "cohere_compass_text": "asks its config for rotary settings of layers that it does not have",
    "dbrx": "keeps its sizes in configs of its own, without rotary settings that today's transformers asks for",
    "xmod": "an encoder that must be told a language first",
    "reformer": "reads only rows of a multiple of its chunks, and an encoder unless told otherwise",
}
REFUSED = frozenset(  # encoders, and others of which a later token changes what was said before: `check_causal` says so
    "bert bert-generation big_bird camembert cpmant data2vec-text electra ernie megatron-bert prophetnet rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xlnet".split()
)
AT_ITS_EOS = frozenset("bart bigbird_pegasus mbart mvp plbart".split())  # has a decoder beside an encoder; scores rows that end
QUICK = {"llama", "mistral", "doge", "qwen3_next", "phi3", "mamba"}


def tiny(kind: str, **more: Any) -> Any:
    """A config of some ten thousand weights."""
    made = CONFIG_MAPPING[kind]
    aliases = made.attribute_map
    known = {*made().to_dict(), *(field.name for field in dataclasses.fields(made)), *aliases}
    sizes = {name: size for name, size in SIZES.items() if name in known and aliases.get(name) not in SIZES}
    sizes |= MORE.get(kind, {}) | more
    return made(**{name: size for name, size in sizes.items() if size is not None})


def built(auto: Any, config: Any) -> nn.Module:
    """The model with weights so large that attention and norms matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.device("meta"):
            assert sum(weight.numel() for weight in auto.from_config(config).parameters()) < 4e6, "its config is not tiny"
        model: nn.Module = auto.from_config(config).eval()
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.copy_(1.3 * weight.shape[-1] ** -0.5 * torch.randn(weight.shape, generator=draw))
                elif "bias" in name or "sink" in name:
                    weight.copy_(0.3 * torch.randn(weight.shape, generator=draw))
    return model


def rows() -> list[Row]:
    """Prompts that are shared, short ones, and one much longer than windows, chunks and its neighbours."""
    draw = torch.Generator().manual_seed(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, VOCABULARY, (count,), generator=draw).tolist())

    prompt = ids(9)
    texts = [(prompt + ids(14), 9), (prompt + ids(5), 9), (ids(7), 4), (prompt + ids(2), 9), (ids(50), 12), (ids(30), 3)]
    return [Row(ids=x, loss_mask=tuple(i >= n for i in range(len(x))), prompt_length=n, cut=False) for x, n in texts]


ROWS = rows()


def codec_of_ids(context: int) -> Any:
    """What sampling asks of a codec; no text is ever read."""
    tokenizer = SimpleNamespace(unk_token_id=None)
    return SimpleNamespace(tokenizer=tokenizer, context=context, size=VOCABULARY, pad_id=PAD, eos_id=EOS, end_ids=(EOS,))


@torch.no_grad()
def alone(model: Any, ids: tuple[int, ...]) -> Tensor:
    """(T, V) log-probs by plain transformers: one row, no padding, no cache."""
    found: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return found


@pytest.fixture(autouse=True)
def packs_always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models this small are never worth the calls."""
    monkeypatch.setitem(packing.CALL_COST, "cpu", 0.0)
    hf.utils.logging.set_verbosity_error()
    yield
    hf.utils.logging.set_verbosity_warning()


@torch.no_grad()
def check_logprobs(model: Any) -> None:
    found = policy_logprobs(model, pad_right(ROWS, PAD)).logprobs
    for place, row in enumerate(ROWS):
        expected = alone(model, row.ids)[range(row.prompt_length - 1, len(row.ids) - 1), row.ids[row.prompt_length :]]
        assert torch.allclose(found[place, row.prompt_length : len(row.ids)], expected, atol=1e-3), f"row {place}"


@torch.no_grad()
def check_samples(model: Any) -> None:
    prompts = [*(row.ids[: row.prompt_length] for row in ROWS), ROWS[4].ids[:40]]
    draw = torch.Generator().manual_seed(0)
    prompt_encoder = codec_of_ids(context_length(model))
    sampled = sample(model, prompts, prompt_encoder=prompt_encoder, max_new_tokens=NEW, temperature=1.0, generator=draw)
    for prompt, said in zip(prompts, sampled, strict=True):
        table = alone(model, prompt + said.ids)[len(prompt) - 1 :]
        expected = [float(table[place, token]) for place, token in enumerate(said.ids)]
        assert list(said.logprobs) == pytest.approx(expected, abs=1e-3)
        assert said.ids


@torch.no_grad()
def check_scores(kind: str) -> None:
    model: Any = built(hf.AutoModelForSequenceClassification, tiny(kind, num_labels=1))
    assert trunk_of(model) is not model
    found = sequence_logits(model, pad_right(ROWS, PAD))[:, 0]
    expected = [float(model(input_ids=torch.tensor([row.ids])).logits) for row in ROWS]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


KINDS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(LEFT_OUT))
COMPARED = [kind for kind in KINDS if kind not in REFUSED]


def marked(kinds: Iterable[str]) -> list[Any]:
    return [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in kinds]


@pytest.mark.parametrize("kind", marked(COMPARED))
def test_a_row_is_told_what_it_is_told_alone(kind: str) -> None:
    model = built(hf.AutoModelForCausalLM, tiny(kind))
    check_causal(kind, model)
    check_logprobs(model)
    check_samples(model)
    if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES and kind not in AT_ITS_EOS:
        check_scores(kind)


@pytest.mark.parametrize("kind", sorted(AT_ITS_EOS))
def test_what_scores_at_an_end_asks_for_one(kind: str) -> None:
    """Rows that are cut have none, so it is no reward model; plain transformers says it too."""
    model: Any = built(hf.AutoModelForSequenceClassification, tiny(kind, num_labels=1))
    with pytest.raises(ValueError, match="<eos>"):
        model(input_ids=torch.tensor([ROWS[0].ids]))


@pytest.mark.parametrize("kind", marked(sorted(REFUSED)))
def test_who_is_refused_is_refused_rightly(kind: str) -> None:
    model = built(hf.AutoModelForCausalLM, tiny(kind))
    with pytest.raises(ModelError, match=kind):
        check_causal(kind, model)
    short, whole = alone(model, ROWS[4].ids[:25]), alone(model, ROWS[4].ids)
    assert not torch.allclose(short, whole[:25], atol=1e-2)


def test_how_many_are_compared() -> None:
    """Fifty kinds and more, in log-probs and in scores. Nothing is counted here that is not compared above."""
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert len(COMPARED) >= 50 and set(LEFT_OUT) | REFUSED | AT_ITS_EOS <= known
    assert not REFUSED & set(LEFT_OUT) and set(COMPARED) | REFUSED | set(LEFT_OUT) == known
    assert AT_ITS_EOS <= set(COMPARED) & set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    assert len(set(COMPARED) & set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES) - AT_ITS_EOS) >= 50
    assert all(LEFT_OUT.values())


@pytest.mark.fast_path
def test_what_is_read_from_the_config_and_not_tried() -> None:
    """A window that lives in the mask alone: three short rows see nothing of it, and packed rows would be wrong."""
    model: Any = built(hf.AutoModelForCausalLM, tiny("doge"))
    assert long_range(model.config) == "keep_window_size: 2048, sliding_window: 8".partition(", ")[2]
    assert not packs_exactly(trunk_of(model))
    model.config.sliding_window = None  # the layers keep theirs: what a trial alone would have said
    again = built(hf.AutoModelForCausalLM, tiny("doge"))
    packing._problems[trunk_of(again)] = packing._try_packing(trunk_of(again))
    assert packs_exactly(trunk_of(again))
    with pytest.raises(AssertionError, match="row"):
        check_logprobs(again)


@pytest.mark.parametrize(
    ("config", "told", "length"),
    [
        (hf.LlamaConfig(), "", None),
        (hf.MistralConfig(sliding_window=4096, max_position_embeddings=32768), "sliding_window: 4096", None),
        (hf.MistralConfig(sliding_window=4096, max_position_embeddings=4096), "", None),
        (hf.Qwen2Config(), "", None),
        (tiny("phi3"), "rope_type: longrope, sliding_window: 8", 64),
        (tiny("qwen3_next"), "linear_attention", None),
        (tiny("llama4_text"), "chunked_attention, attention_chunk_size: 8", None),
        (hf.DeepseekV32Config(), "indexed_attention, index_topk: 2048", 2048),
    ],
)
def test_what_configs_name(config: Any, told: str, length: int | None) -> None:
    assert long_range(config) == told
    assert steady_length(config) == length


def test_the_context_ends_where_rows_begin_to_depend_on_each_other() -> None:
    """Beyond 64 tokens Phi-3's long factors are those of the whole batch, plain transformers' too."""
    model: Any = built(hf.AutoModelForCausalLM, tiny("phi3"))
    assert context_length(model) == 64 < model.config.max_position_embeddings
    short, long = ROWS[5].ids, ROWS[4].ids + ROWS[5].ids
    beside = torch.tensor([short + (4,) * (len(long) - len(short)), long])
    with torch.no_grad():
        found = model(input_ids=beside, use_cache=False).logits[0, : len(short)].log_softmax(-1)
    assert not torch.allclose(found, alone(model, short), atol=1e-2)


@pytest.mark.parametrize(("kind", "cached"), [("llama", True), ("qwen3_next", True), ("falcon_h1", True), ("mamba", False)])
def test_which_are_read_again_at_each_token(kind: str, cached: bool) -> None:
    """Beam search as well: it is asked of prompts of one length where nothing may be padded."""
    model: Any = built(hf.AutoModelForCausalLM, tiny(kind))
    assert caches_exactly(model) is cached
    prompts = [row.ids[: row.prompt_length] for row in ROWS]
    draw = torch.Generator().manual_seed(0)
    said = beam_search(model, prompts, prompt_encoder=codec_of_ids(128), max_new_tokens=4, generator=draw)
    assert [len(one.ids) > 0 for one in said] == [True] * len(prompts)
