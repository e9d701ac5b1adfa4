"""Folders of adapters as any program writes them: read without the network, checked, and merged whole where LoRA is not all
that they hold. What cannot be used is refused by name: a trained weight that is left out changes answers in silence."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.errors import ModelError
from sawyer.runs import ADAPTER, base_of

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."  # before every name in PEFT's files
# Settings whose meaning is known here, or that say nothing of what the weights do.
KNOWN_SETTINGS = {
    *("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias", "lora_bias"),
    *("target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern", "use_dora"),
    *("modules_to_save", "trainable_token_indices", "ensure_weight_tying", "init_lora_weights", "runtime_config"),
    *("eva_config", "corda_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
}
# How A and B begin says nothing of what they are, unless the base model's own weights were changed with them.
CHANGE_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What a folder of adapters holds."""

    base: str  # the network they belong to: a folder or hub id
    config: Any  # peft.LoraConfig
    weights: Mapping[str, Tensor]  # by the network's own names, without an adapter's
    heads: Mapping[str, Tensor]  # whole weights of the network, trained beside the adapters

    @property
    def scores(self) -> int:
        """How many scores its head gives; 0 for a language model's."""
        return next((len(weight) for name, weight in reversed(list(self.heads.items())) if name.endswith("weight")), 0)

    def beyond(self, heads: Sequence[str] = ()) -> str:
        """What it trains besides plain A and B and a network's `heads`, in words; empty for nothing."""
        odd = sorted(name for name in self.weights if not name.endswith((A, B)))
        odd += sorted(name for name in self.heads if name not in heads)
        init = str(self.config.init_lora_weights)
        if init.startswith(CHANGE_THE_BASE):
            return f"init_lora_weights: {init}, which changes the base model"
        if self.config.use_dora:
            return "DoRA"
        return f"the weights {', '.join(odd[:3])}{' and others' if len(odd) > 3 else ''}" if odd else ""


def read_adapter(folder: str | Path) -> Adapter:
    """Raises ModelError for a folder whose adapters are of another kind than LoRA, are incomplete, or do what is not known
    here. The folder alone is read: PEFT would ask the hub for a repository of its name where a file is missing."""
    from peft import LoraConfig, PeftConfig

    base = base_of(folder)
    _check_settings(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = PeftConfig.from_pretrained(str(folder))
        weights = _read_weights(Path(folder))
    except ModelError:
        raise
    except Exception as error:  # PEFT, safetensors and json each have their own classes
        raise unreadable(folder, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__) from error
    if not isinstance(config, LoraConfig):
        raise unreadable(folder, f"they are {config.peft_type}")
    largest = max((max(weight.shape, default=0) for weight in weights.values()), default=0)
    ranks = [config.r, *(config.rank_pattern or {}).values()]
    if not all(type(rank) is int and 0 < rank <= largest for rank in ranks):
        raise unreadable(folder, f"rank {max(ranks, key=str)!r} is none that its weights have")
    weights_by_name = _names_of_network(weights)
    return Adapter(
        base=base,
        config=config,
        weights={name: weight for name, weight in weights_by_name.items() if ".lora_" in name},
        heads={name: weight for name, weight in weights_by_name.items() if ".lora_" not in name},
    )


def _names_of_network(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the network's own names. Beside a whole trained layer PEFT sometimes writes it again, and the one that it replaces."""
    whole = {name.removeprefix(PREFIX): weight for name, weight in weights.items() if ".original_module." not in name}
    return {name.replace(".modules_to_save.", "."): weight for name, weight in whole.items()}


def _check_settings(folder: str | Path) -> None:
    try:
        settings = json.loads((Path(folder) / ADAPTER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(folder, f"{ADAPTER} cannot be read ({error})") from error
    if not isinstance(settings, dict):
        raise unreadable(folder, f"{ADAPTER} is no table of settings")
    if str(settings.get("peft_type")) != "LORA":
        raise unreadable(folder, f"they are {settings.get('peft_type')}")
    if unknown := sorted(name for name, value in settings.items() if value and name not in KNOWN_SETTINGS):
        raise unreadable(folder, f"they use {', '.join(unknown)}, which is not known here")


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if (folder / WEIGHTS).is_file():
        return load_file(str(folder / WEIGHTS))
    if (folder / PICKLE).is_file():
        weights: dict[str, Tensor] = torch.load(folder / PICKLE, map_location="cpu", weights_only=True)
        return weights
    raise ModelError(
        f"{folder} has no weights",
        expected=f"{WEIGHTS} (or {PICKLE}) beside {ADAPTER}",
        why="a folder is read as it lies here; nothing is fetched for it",
        todo="copy the whole folder again",
    )


def merge_whole(model: Any, adapter: Adapter, folder: str | Path) -> Any:
    """The network that PEFT makes of `model` and all that the adapter trained, as plain weights; of heads only those that the
    network has in this size (another one is about to be drawn)."""
    from peft import PeftModel, set_peft_model_state_dict

    weights_here = dict(model.named_parameters())
    scores = type(model).__name__.endswith("ForSequenceClassification")
    outside = [name for name in adapter.heads if not name.startswith(f"{model.base_model_prefix}.")] if scores else []
    unfit = {name for name in outside if name not in weights_here or weights_here[name].shape != adapter.heads[name].shape}
    whole = {name: weight for name, weight in adapter.heads.items() if name not in unfit}
    _fit_rows(model, whole)
    _part_tables(model, adapter)
    modules = {name for name in adapter.config.modules_to_save or () if not any(name in key.split(".") for key in unfit)}
    adapter.config.modules_to_save = sorted(modules) or None
    adapter.config.task_type = None
    adapter.config.inference_mode = False
    weights = {f"{PREFIX}{name}": weight for name, weight in {**adapter.weights, **whole}.items()}
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # what PEFT tells its own users
            peft_model = PeftModel(model, adapter.config)
            result = set_peft_model_state_dict(peft_model, weights)
            if odd := [*result.unexpected_keys, *_not_loaded(peft_model, result.missing_keys)]:
                raise unreadable(folder, f"{odd[0].removeprefix(PREFIX)} does not fit the model in {adapter.base}")
            network: Any = peft_model.merge_and_unload()
    except ModelError:
        raise
    except Exception as error:  # PEFT has many words for what does not fit
        raise unreadable(folder, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__) from error
    vars(network).pop("peft_config", None)
    _untie(network)
    for weight in network.parameters():
        weight.requires_grad_(True)
    return network.eval()


def _fit_rows(model: Any, whole: Mapping[str, Tensor]) -> None:
    """As many embeddings as the adapter has, where it was saved with a table of another length."""
    table = model.get_input_embeddings()
    name = next((name for name, module in model.named_modules() if module is table), "")
    rows = whole.get(f"{name}.weight")
    if rows is not None and rows.shape[1:] == table.weight.shape[1:] and len(rows) != len(table.weight):
        model.resize_token_embeddings(len(rows), mean_resizing=False)


def _not_loaded(peft_model: Any, missing: Iterable[str]) -> list[str]:
    """The adapter's weights among those that had no value, but for second names of one that had (tied embeddings)."""
    weights, names_missing = dict(peft_model.named_parameters(remove_duplicate=False)), set(missing)
    loaded_ids = {id(weight) for name, weight in weights.items() if name not in names_missing}
    return [name for name in weights if name in names_missing and ".default" in name and id(weights[name]) not in loaded_ids]


@torch.no_grad()
def _part_tables(model: Any, adapter: Adapter) -> None:
    """Make two of tied embeddings and output projection where one of them has A and B: merged into both they would count twice,
    or where they do not belong."""
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tables = {id(model.get_input_embeddings()), id(head)}
    names = [name for name, module in model.named_modules() if id(module) in tables]
    has_low_rank = any(key.startswith(f"{name}.lora_") for key in adapter.weights for name in names)
    if has_low_rank and head is not None and head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.clone())


def _untie(model: Any) -> None:
    """Write into the config where embeddings and output projection are no longer one: loading the folder would tie them."""
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    table: nn.Module = model.get_input_embeddings()
    if head is not None and head.weight is not table.weight:
        for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
            config.tie_word_embeddings = False


def unreadable(folder: str | Path, what: str) -> ModelError:
    """The error for a folder of adapters that cannot be used, because of `what`."""
    return ModelError(
        f"the adapters in {folder} cannot be used: {what}",
        expected="LoRA adapters as PEFT writes them, with the model that they were trained on",
        todo="copy the whole folder again, or merge them with the program that made them",
    )
