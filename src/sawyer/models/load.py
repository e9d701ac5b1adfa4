"""Tokenizers and networks from a folder or a hub id, or new ones. A folder never touches the network."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sawyer.errors import ModelError
from sawyer.models.adapters import LowRank, attach_adapter, attach_new_adapter, cannot_go_on, merge
from sawyer.models.attention_span import context_in
from sawyer.models.fast import is_conv1d, packs_exactly, tanh_gelus
from sawyer.models.network_parts import score_head, splits_exactly, trunk_of
from sawyer.models.peft_folder import read_adapter
from sawyer.models.pretrained import (
    check_config,
    check_family,
    check_folder,
    explain_load_errors,
    quiet,
    remote_code_kwargs,
    table_rows,
)
from sawyer.runs import base_of, facts_of, is_adapter, language_model, on_disk, settings_of
from sawyer.text import PromptEncoder, all_ends, id_count, special_ids, turn_end

END, PAD = "<|endoftext|>", "<|pad|>"
UNUSED_NAME = re.compile(r"pad|reserved|unused|placeholder|dummy", re.IGNORECASE)  # names of tokens that no text uses
OTHER_PAD = re.compile(r"image|img|video|vision|audio|fim|code", re.IGNORECASE)  # those that fill up something else
OURS = "sawyer"  # the key in config.json under which our few extra facts lie


def load_tokenizer(source: str | Path, *, fixed_size: bool = False) -> Any:
    """The tokenizer of a language model: that of `load_reader`. Raises ModelError without an EOS: then no answer could end."""
    tokenizer = load_reader(source, fixed_size=fixed_size)
    check_end(source, tokenizer)
    return tokenizer


def load_reader(source: str | Path, *, fixed_size: bool = False) -> Any:
    """The tokenizer of a model folder or hub id that reads and need not write, with a pad token of its own (`own_pad`).

    `fixed_size`, and always with adapters: no token beyond the model's embeddings is added, for adapters cannot bring a row
    that their base model lacks.
    """
    from transformers import AutoTokenizer

    check_folder(source)
    if is_adapter(source) and not any(Path(source).glob("tokenizer*")):  # another program wrote the adapters alone
        return load_reader(on_disk(base_of(source)), fixed_size=True)
    check_config(source)
    with explain_load_errors(source, "tokenizer"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, **remote_code_kwargs(source))
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes of a folder without tokenizer files
        raise ModelError(
            f"{source} has no tokenizer",
            expected="tokenizer.json (or vocab files) beside config.json",
            why="every text would become nothing",
            todo="copy the tokenizer's files there too",
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        own_pad(tokenizer, (tokenizer.eos_token_id,), table_rows(source) if fixed_size or is_adapter(source) else None)
    return tokenizer


def own_pad(tokenizer: Any, ends: Iterable[int | None], rows: int | None = None) -> None:
    """Give a tokenizer a pad token that is none of `ends`.

    With pad = EOS, masks made from lengths stay right, but every other program that reads the folder would mask EOS away, and a
    reward model's score would be read before it. A token that is there for it, or that nothing uses, is taken where there is
    one, else the token for what is unknown; only without these the vocabulary grows by one, or, where a model has `rows`
    embeddings and all are taken, EOS pads.
    """
    used = {*ends, tokenizer.bos_token_id}
    names_free = [
        token.content
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and number not in used and UNUSED_NAME.search(token.content) and not OTHER_PAD.search(token.content)
    ]
    names_free.sort(key=lambda name: "pad" not in name.lower())
    unknown = tokenizer.unk_token if tokenizer.unk_token_id not in used else None
    new = PAD if rows is None or len(tokenizer) < rows else tokenizer.eos_token
    tokenizer.add_special_tokens({"pad_token": next((name for name in (*names_free, unknown) if name), new)})


def check_end(source: str | Path, tokenizer: Any) -> None:
    """Raise ModelError for a tokenizer without an EOS token."""
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {source} has no EOS token",
            expected="a token that ends a response",
            why="no answer would ever end",
            todo="set `eos_token` in its tokenizer_config.json",
        )


def load_policy(source: str | Path, tokenizer: Any, *, lora: LowRank | None = None, seed: int = 0) -> nn.Module:
    """A causal language model in fp32 without dropout, with an embedding for every token of `tokenizer`.

    New embeddings are the mean of the known ones (Hewitt 2021): random ones start a loss far above a uniform guess. A folder of
    adapters gives the model that they make of the one they belong to, as plain weights. With `lora` only adapters are left to
    train: a copy of those in `source`, or new ones drawn from `seed`.
    """
    check_folder(source, weights=True)
    model = ready(_causal(on_disk(base_of(source)) if is_adapter(source) else source, tokenizer), tokenizer)
    if is_adapter(source):
        model = attach_adapter(model, read_adapter(source), source)
    adapt(model, source, lora, seed=seed)
    return model


def load_base(folder: Path, tokenizer: Any) -> nn.Module:
    """The network that the adapters in a folder belong to, without them."""
    return ready(_causal(on_disk(base_of(folder)), tokenizer), tokenizer)


def _causal(source: str | Path, tokenizer: Any) -> Any:
    """The language model in a folder or hub id, with a row for every token of the tokenizer."""
    from transformers import AutoModelForCausalLM

    check_folder(source, weights=True)
    check_family(source, "causal")
    with explain_load_errors(source, "language model"), quiet():
        pair: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **remote_code_kwargs(source)
        )
        model, info = pair
        check_whole(source, info["missing_keys"])
        resize_embeddings(model, tokenizer)
        check_causal(source, model)
    return model


def adapt(model: Any, source: str | Path, lora: LowRank | None, *, seed: int) -> None:
    """Leave adapters in the `model` of `source` where `lora` is given, new ones where it has none; else make plain weights
    of them. Raises ModelError for adapters of which more than A and B were trained: new ones would not belong to their base."""
    if lora is None:
        merge(model)
    elif getattr(model, "attached_adapter", None) is None:
        if is_adapter(source):
            raise cannot_go_on(source, read_adapter(source).beyond())
        attach_new_adapter(model, source, lora, seed=seed)


def new_policy(
    *, vocab_size: int, layers: int, width: int, heads: int, context: int, seed: int, eos_id: int, pad_id: int
) -> nn.Module:
    """A GPT-2-architecture model with weights drawn from `seed`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        n_positions=context,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, in one kernel instead of six
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    with seed_torch(seed):
        return GPT2LMHeadModel(config).eval()


def new_reward(source: str | Path, tokenizer: Any, *, seed: int, heads: int = 1, lora: LowRank | None = None) -> nn.Module:
    """Scalar heads on the trunk of the model in `source`: weights of deviation 1 / (d + 1), bias 0.

    Scores so begin within a tenth of each other. With 1 / sqrt(d + 1) (Stiennon et al. 2020) they begin a whole unit apart, and
    the squared loss multiplies that by up to 81: the first steps then take a chance order back through the trunk, with a
    gradient norm of 67 in the demo, and what it knew of right and wrong suffers
    (lab/learning.md#reward-head).

    What an encoder has between trunk and head and the source lacks (a pooler) is drawn as its architecture draws it. A source
    that is a reward model already, with as many heads, keeps its own; a classifier's head of other labels is replaced. With
    `lora` the trunk is frozen but for adapters, as in `load_policy`; heads are trained whole.
    """
    with seed_torch(seed):
        model, missing = sequence_model(source, "model with a scalar head", num_labels=heads)
        trunk = f"{model.base_model_prefix}."
        check_whole(source, [key for key in missing if key.startswith(trunk) and "pooler" not in key])
        name, head = _last_linear(model, heads)
        padding = None if f"{name}.weight" in missing or padding_of(model) not in special_ids(tokenizer) else padding_of(model)
        if f"{name}.weight" in missing:
            nn.init.normal_(head.weight, std=1 / (head.in_features + 1))
            if head.bias is not None:
                nn.init.zeros_(head.bias)
    resize_embeddings(model, tokenizer)
    ready(model, tokenizer, padding)
    adapt(model, source, lora, seed=seed)
    return model


def sequence_model(source: str | Path, what: str, **head_settings: Any) -> tuple[Any, list[str]]:
    """(a trunk with a head that reads whole texts, the names of weights that `source` lacks and that are random).

    `head_settings` go into its config; adapters in `source` are attached. A head of another size than in `source` is random."""
    from transformers import AutoModelForSequenceClassification

    check_folder(source, weights=True)
    adapter = read_adapter(source) if is_adapter(source) else None
    base = source if adapter is None else on_disk(adapter.base)
    check_folder(base, weights=True)
    check_family(base, "classifier")
    if adapter is not None and not head_settings:
        head_settings = _head_settings(source, adapter.scores)
    with explain_load_errors(base, what), quiet():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            base,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=bool(head_settings),  # another head is drawn anew; who asks looks at the trunk's weights
            **remote_code_kwargs(base),
            **head_settings,
        )
    missing = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if adapter is not None:
        model = attach_adapter(model, adapter, source)
        weights = dict(model.named_parameters())
        missing = [key for key in missing if key not in adapter.heads or weights[key].shape != adapter.heads[key].shape]
        setattr(model.config, OURS, settings_of(source).get(OURS))
    return model, missing


def _head_settings(folder: str | Path, scores: int) -> dict[str, Any]:
    """What a folder of adapters says of its head; `scores` is how many numbers that gives."""
    settings = settings_of(folder)
    head_settings = {name: settings[name] for name in ("id2label", "label2id", "problem_type") if settings.get(name)}
    if "id2label" in head_settings:
        head_settings["id2label"] = {int(index): label for index, label in head_settings["id2label"].items()}
    return head_settings if len(head_settings.get("id2label", ())) == scores else {"num_labels": scores}


def _last_linear(model: nn.Module, heads: int) -> tuple[str, nn.Linear]:
    """(name, layer) of what gives the scores: outside the trunk, the last linear layer with so many outputs."""
    trunk: Any = getattr(model, "base_model", model)
    inside = {id(module) for module in trunk.modules()}
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == heads and id(module) not in inside
    ]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no linear layer that gives {heads} scores",
            expected="a model whose scores are read from its trunk by a linear layer",
            todo="name another model",
        )
    return layers[-1]


def load_reward(source: str | Path, tokenizer: Any) -> nn.Module:
    """A trained reward model: any folder that `AutoModelForSequenceClassification` loads with one label, or an ensemble of
    heads as we write it; adapters are added to the weights."""
    model, missing = sequence_model(source, "reward model")
    if model.config.num_labels != ((facts(model).get("ensemble") or {}).get("heads") or 1):
        if family := language_model(settings_of(source)):
            raise ModelError(
                f"{source} is a language model ({family})",
                expected="a reward model",
                why="it has no head that scores an answer",
                todo="name a reward model's folder, or train one with `sawyer reward`",
            )
        raise ModelError(
            f"{source} has {model.config.num_labels} labels",
            expected="one: the reward",
            todo="name a model trained as a reward model; one label of a classifier can be a part of `rl.rewards`",
        )
    check_whole(source, missing)
    merge(model)
    # Of our own adapters the tokenizer knows it: the config is that of the model below.
    padding = None if is_adapter(source) and facts(model) else padding_of(model)
    resize_embeddings(model, tokenizer)
    return ready(model, tokenizer, padding)


def facts(model: Any) -> dict[str, Any]:
    """The facts that `save_model` wrote into the model's config; empty for a model that another program wrote."""
    return facts_of(
        {OURS: getattr(model.config, OURS, None)}, getattr(model.config, "name_or_path", "") or type(model).__name__
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, context: int) -> Any:
    """A byte-level BPE tokenizer (as GPT-2's) with tokens for the end of a text and for padding."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocab_size, min_frequency=2, special_tokens=[END, PAD], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe.to_str()), eos_token=END, bos_token=END, pad_token=PAD, model_max_length=context
    )


def context_length(model: nn.Module) -> int:
    """The most tokens the model can read, by its config and its table of positions."""
    length = context_in(model.config)
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from the padding index on: a table of 514 rows reads 512 tokens.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            length = min(length, int(module.num_embeddings) - int(module.padding_idx) - 1)
    return length


def ready(model: Any, tokenizer: Any, padding: int | None = None) -> nn.Module:
    """Dropout off for good; pad and ends set in the model's config, so that every other program masks and stops as we do.

    `padding` is the pad token that a head was trained with (`padding_of`): it stays, for the score is read before it.
    """
    from transformers import GenerationConfig

    generation = getattr(model, "generation_config", None)
    pad = tokenizer.pad_token_id if padding is None else padding
    if padding != tokenizer.pad_token_id and padding in special_ids(tokenizer):  # some name 0, which is a word: it stays one
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    ends = all_ends(tokenizer, turn_end(tokenizer) if tokenizer.chat_template else None, named_ends(model))
    eos = ends[0] if len(ends) == 1 else list(ends) or None
    for settings in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        settings.pad_token_id, settings.eos_token_id = pad, eos
    if generation is not None:
        # Without the source's habits: a repetition penalty would bend what is compared, and transformers refuses to save a
        # temperature beside `do_sample: false`, as many folders have it.
        model.generation_config = GenerationConfig(bos_token_id=generation.bos_token_id, pad_token_id=pad, eos_token_id=eos)
    fuse_activations(model)
    return model.eval()


def fuse_activations(model: nn.Module) -> None:
    """GPT-2's GELU, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in one kernel instead of six
    (lab/speed.md#gelu). The config keeps its name."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in tanh_gelus():
                setattr(module, name, nn.GELU(approximate="tanh"))


def hold_in_bf16(model: nn.Module) -> None:
    """Keep the weights of a decoder's linear layers in bf16, in half the memory, for good. They can no longer be trained.

    Under bf16 autocast, and only there, the model gives the very same numbers: autocast casts these weights at each call.
    Embeddings, norms and a projection tied to the embeddings are read in fp32 and stay so. An architecture whose layers are not
    known to be transformers' own is left as it is.
    """
    if not packs_exactly(trunk_of(model)):
        return
    splits_exactly(model)  # tried now, in fp32: the answer is remembered
    linear = [module for module in model.modules() if type(module) is nn.Linear or is_conv1d(module)]
    others = {id(weight) for module in model.modules() if module not in linear for weight in module.parameters(recurse=False)}
    for module in linear:
        for weight in module.parameters(recurse=False):
            if id(weight) not in others:
                weight.requires_grad_(False)
                weight.data = weight.data.to(torch.bfloat16)


def named_ends(model: Any) -> tuple[int, ...]:
    """The tokens that a model's makers name as ends: `eos_token_id` of generation_config.json, else of config.json."""
    generation = getattr(model, "generation_config", None)
    ids = getattr(generation, "eos_token_id", None)
    if ids is None:
        ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    return tuple(ids) if isinstance(ids, list | tuple) else () if ids is None else (int(ids),)


def padding_of(model: Any) -> int | None:
    """The pad token before which a decoder's scores are read: the one that its config names. None for none (some write -1), and
    for encoders, which get a mask."""
    if score_head(model) is None:
        return None
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    return int(padding) if padding is not None and 0 <= padding < model.get_input_embeddings().weight.shape[0] else None


def prompt_encoder_of(model: nn.Module, tokenizer: Any) -> PromptEncoder:
    """How a language model that is `ready` is written to: its tokenizer with its template, its context and all its ends."""
    return PromptEncoder(tokenizer=tokenizer, context=context_length(model), end_ids=named_ends(model))


@torch.no_grad()
def resize_embeddings(model: Any, tokenizer: Any) -> None:
    """An embedding for each token that was added to a tokenizer; new ones are the mean of those that were there.

    Raises ModelError for a tokenizer whose own vocabulary reaches beyond the embeddings, or that leaves numbers out there: it
    is another model's, or damaged.
    """
    size, old_size = id_count(tokenizer), model.get_input_embeddings().weight.shape[0]
    beyond = sorted(number for number in tokenizer.get_vocab().values() if number >= old_size)
    if beyond and (beyond[0] != old_size or len(beyond) != size - old_size or {*beyond} - {*tokenizer.added_tokens_decoder}):
        raise ModelError(
            f"the tokenizer has tokens up to number {max(beyond):,}, the model embeddings for {old_size:,}",
            expected="a tokenizer whose numbers are those of the model's embeddings",
            why="such tokens mean nothing to the model: the tokenizer belongs to another one, or is damaged",
            todo="copy the tokenizer's files of this very model beside its config.json",
        )
    if size <= old_size:
        return
    with quiet():
        model.resize_token_embeddings(size, mean_resizing=False)
    layers = {id(layer.weight): layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer}
    for layer in layers.values():
        layer.weight[old_size:] = layer.weight[:old_size].mean(0)
        if getattr(layer, "bias", None) is not None:
            layer.bias[old_size:] = layer.bias[:old_size].mean()


def check_whole(source: str | Path, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise ModelError(
            f"{source} lacks {len(names)} of its weights, {names[0]} among them",
            expected="every weight that its config.json implies",
            why="they would be random, train without a word and answer nonsense",
            todo="copy the whole folder again, or name a model of this kind",
        )


@torch.no_grad()
def check_causal(source: str | Path, model: Any) -> None:
    """A masked language model loads as well, and would see the tokens that it is to foretell. What follows must not matter, nor
    how much of it there is."""
    ids = torch.tensor([[0, 1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 1]], device=next(model.parameters()).device)
    whole, begin = (model(input_ids=x, attention_mask=torch.ones_like(x), use_cache=False).logits for x in (ids, ids[:, :5]))
    if not torch.allclose(whole[:, :5], begin, atol=1e-3, rtol=1e-3):
        raise ModelError(
            f"{source} is no causal language model: what it says of a token changes with the tokens after it",
            expected="a decoder such as GPT-2, Llama or Qwen",
            why="it would read each answer before it foretells it",
            todo="name a decoder; an encoder can only be a reward model",
        )


@contextlib.contextmanager
def seed_torch(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
