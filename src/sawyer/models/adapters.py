"""LoRA through PEFT: a frozen network, and beside each linear layer of its trunk a small product of two matrices to train.

W x becomes W x + alpha / rank * B A x, with B zero at first (Hu et al. 2021, arXiv 2106.09685). A folder of adapters holds A, B
and the heads that were trained with them; the network itself is named by it and lies elsewhere.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from sawyer.errors import ConfigError, ModelError
from sawyer.models.fast import is_adapter_layer, is_conv1d, set_active_adapter
from sawyer.models.freezing import POOLER
from sawyer.models.peft_folder import PREFIX, WEIGHTS, Adapter, merge_whole, unreadable
from sawyer.runs import BESIDE, is_local

NAME = "default"  # what PEFT calls an adapter that stands alone
KINDS: Mapping[bool, str] = {False: "CAUSAL_LM", True: "SEQ_CLS"}
OFF = "off"  # no adapter's name: with it a layer is what it was before


class LowRank(Protocol):
    """The settings of new adapters; `config.Lora` is one."""

    @property
    def rank(self) -> int: ...  # columns of B

    @property
    def alpha(self) -> float: ...  # their product is multiplied by alpha / rank

    @property
    def targets(self) -> Sequence[str] | None: ...  # last names of the layers that get them; None: all linear ones of the trunk


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedAdapter:
    """An adapter in a network, and what goes into a folder of it."""

    name: str
    config: Any  # peft.LoraConfig
    heads: tuple[str, ...] = ()  # names of the network's other trained weights


def attach_new_adapter(model: Any, base: str | Path, lora: LowRank, *, seed: int) -> None:
    """New adapters in `model`, drawn from `seed`; everything but them and its heads is frozen."""
    heads = _heads(model)
    config = complete_config(new_config(model, lora), base, heads)
    inject_layers(model, config, NAME, seed=seed)
    model.attached_adapter = AttachedAdapter(name=NAME, config=config, heads=heads)
    train_adapter(model)


def new_config(model: Any, lora: LowRank) -> Any:
    """PEFT's settings of new adapters for this network."""
    from peft import LoraConfig

    layers, stacks = _layers(model, lora.targets)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,  # others read whole numbers alone
        target_modules=_shortest(model, layers),
        target_parameters=sorted({".".join(name.split(".")[-2:]) for name in stacks}) or None,
        lora_dropout=0.0,
        # GPT-2's layers keep their weights the other way round.
        fan_in_fan_out=bool(layers) and all(is_conv1d(model.get_submodule(name)) for name in layers),
    )


def complete_config(config: Any, base: str | Path, heads: Sequence[str]) -> Any:
    """The settings with what a folder of them must say besides: the network that they belong to, and which heads it holds."""
    settings = copy(config)
    settings.base_model_name_or_path = os.path.abspath(base) if is_local(base) else str(base)
    settings.task_type = KINDS[bool(heads)]
    settings.modules_to_save = sorted({_module_of(name) for name in heads}) or None
    return settings


def attach_adapter(model: Any, adapter: Adapter, folder: str | Path) -> Any:
    """The network with the adapters of `folder`, which belong to it, heads included where it has the same.

    Where they train more than A and B (embeddings, biases, DoRA's magnitudes) all of it is merged at once, and the network that
    is given back has plain weights.
    """
    heads = _heads(model)
    if adapter.beyond(heads):
        return merge_whole(model, adapter, folder)
    load_adapter_weights(model, adapter, NAME, folder, heads)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in adapter.heads.items():
            if name in weights and weights[name].shape == weight.shape:
                weights[name].copy_(weight)
    model.attached_adapter = AttachedAdapter(
        name=NAME, config=complete_config(adapter.config, adapter.base, heads), heads=heads
    )
    train_adapter(model)
    return model


def load_adapter_weights(network: Any, adapter: Adapter, name: str, folder: str | Path, heads: Sequence[str] = ()) -> None:
    """The weights of an adapter under this name in a network, which may have others; its `heads` are left to the caller.
    Raises ModelError for one that trains more than A and B: these would change the network for all."""
    from peft import set_peft_model_state_dict

    if more := adapter.beyond(heads):
        raise cannot_go_on(folder, more)
    inject_layers(network, adapter.config, name)
    try:
        result = set_peft_model_state_dict(network, dict(adapter.weights), adapter_name=name)
    except Exception as error:  # sizes of another model
        raise unreadable(folder, str(error).strip().splitlines()[-1].strip()) from error
    missing = [key for key in result.missing_keys if ".lora_" in key and key.endswith(f".{name}.weight")]
    if odd := [*result.unexpected_keys, *missing]:
        raise unreadable(folder, f"{odd[0]} does not fit the model in {adapter.base}")


def cannot_go_on(folder: str | Path, more: str) -> ModelError:
    """The error for adapters that can be merged into their model, and not trained further beside it."""
    return ModelError(
        f"the adapters in {folder} train more than LoRA's A and B: {more}",
        expected="plain LoRA where training goes on from adapters",
        why="the rest would have to change the model that they belong to",
        todo=f"write the whole model with `sawyer merge {folder}`, and name that as the model",
    )


def inject_layers(network: Any, config: Any, name: str, *, seed: int = 0) -> None:
    """PEFT's layers around those that the config names, A drawn from `seed`; heads stay the plain layers that they are."""
    from peft import inject_adapter_in_model

    bare = copy(config)
    bare.modules_to_save = bare.task_type = None
    bare.inference_mode = False
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # what PEFT tells its own users
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(bare, network, name)
        except Exception as error:  # PEFT has many classes for settings that do not fit
            raise ModelError(
                f"{type(network).__name__} takes no adapters: {str(error).strip().splitlines()[0]}",
                expected="linear layers",
                todo="name other `lora.targets`, or leave `lora` out",
            ) from error


def train_adapter(model: Any) -> None:
    """Only its adapter and its heads require a gradient."""
    adapter: AttachedAdapter = model.attached_adapter
    learns = {*_lora_names(model, adapter.name), *adapter.heads}
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in learns)
    model.eval()


def layers_with(network: nn.Module) -> list[Any]:
    """The layers that have adapters."""
    return [module for module in network.modules() if is_adapter_layer(module)]


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Within it the network is what it was before it got adapters; its heads are as they are."""
    layers = layers_with(model)
    set_active_adapter(layers, OFF)
    try:
        yield
    finally:
        set_active_adapter(layers, model.attached_adapter.name if layers else NAME)


def lora_summary(model: Any) -> str:
    """What is left to train of a network with adapters, as a stage's plan goes on to say; empty for one without."""
    if getattr(model, "attached_adapter", None) is None:
        return ""
    weights = {id(weight): weight for weight in model.parameters()}.values()
    trainable = sum(weight.numel() for weight in weights if weight.requires_grad)
    config = model.attached_adapter.config
    total = sum(weight.numel() for weight in weights)
    summary = f", LoRA of rank {config.r}: {trainable:,} of {total:,} weights are trained"
    missing = {} if config.target_parameters else _stacks(model)
    share = sum(weight.numel() for weight in missing.values()) / total
    names = ", ".join(sorted({_last(name) for name in missing}))
    left_out = f"; experts, {share:.0%} of the weights, get no adapter (lora.targets could name {names})" if missing else ""
    return summary + left_out


def merge(model: Any) -> None:
    """The adapters added to the weights for good: W + alpha / rank * B A. A network without adapters stays as it is."""
    if getattr(model, "attached_adapter", None) is None:
        return  # nor is PEFT imported, which takes seconds
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if is_adapter_layer(module) and child != "base_layer":
            layer: Any = module
            while is_adapter_layer(layer):  # experts have an adapter around another one's
                layer.merge(adapter_names=[model.attached_adapter.name])
                layer = layer.base_layer
            setattr(model.get_submodule(parent), child, layer)
    for trace in ("attached_adapter", "peft_config"):
        vars(model).pop(trace, None)
    for weight in model.parameters():
        weight.requires_grad_(True)


def write_adapter(folder: Path, network: Any, adapter: AttachedAdapter) -> dict[str, str]:
    """adapter_config.json and adapter_model.safetensors as PEFT writes them; returns facts that a moved folder needs.

    Sets in the config are sorted: the same run must leave the same bytes.
    """
    from safetensors.torch import save_file

    settings = {**adapter.config.to_dict(), "inference_mode": True}
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = dict(network.named_parameters())
    names = {name.replace(f".{adapter.name}.weight", ".weight"): name for name in _lora_names(network, adapter.name)}
    names |= {name: name for name in adapter.heads}
    tensors = {f"{PREFIX}{key}": weights[name].detach().cpu().contiguous() for key, name in names.items()}
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    base, here = Path(str(adapter.config.base_model_name_or_path)), folder.resolve()
    together = base.is_dir() and any(
        parent in base.resolve().parents for parent in here.parents[1:3]
    )  # in one run, or beside it
    return {BESIDE: os.path.relpath(base.resolve(), here)} if together else {}


def _layers(model: Any, targets: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Names of the trunk's linear layers; or those layers and stacked experts whose last name is in `targets`."""
    inside = {id(module) for module in model.base_model.modules()}
    names = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and id(module) in inside and POOLER not in name.split(".")
    ]
    if targets is None:
        return names, []
    stacks = list(_stacks(model))
    names_known = sorted({_last(name) for name in (*names, *stacks)})
    unknown = [target for target in targets if target not in names_known]
    if unknown:
        raise ConfigError(
            f"lora.targets: the model has no linear layers called {', '.join(unknown)}",
            expected=f"some of: {', '.join(names_known)}",
            todo="leave it out for all of them",
        )
    return [name for name in names if _last(name) in targets], [name for name in stacks if _last(name) in targets]


def _stacks(model: Any) -> dict[str, nn.Parameter]:
    """The weights of a mixture's experts, (experts, one side, other side) each, by their names: no linear layers hold them."""
    trunk = {id(weight) for weight in model.base_model.parameters()}
    convolutions = {id(weight) for module in model.modules() if isinstance(module, nn.Conv1d) for weight in module.parameters()}
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dim() == 3 and id(weight) in trunk - convolutions and ".lora_" not in name
    }


def _shortest(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """The layers by their last names, as people write them, where no other module is called so; else by their whole names."""
    chosen, last = set(layers), {_last(name) for name in layers}
    others = {_last(name) for name, _ in model.named_modules() if name not in chosen}
    return sorted(layers if last & others else last)


def _heads(model: Any) -> tuple[str, ...]:
    """The weights of a model that scores or classifies outside its trunk, and its pooler's; none of a language model."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return ()
    trunk = {id(weight) for name, weight in model.base_model.named_parameters() if POOLER not in name.split(".")}
    return tuple(name for name, weight in model.named_parameters() if id(weight) not in trunk and ".lora_" not in name)


def _lora_names(network: nn.Module, name: str) -> list[str]:
    """The adapter's weights, by their names in the network."""
    return [key for key, _ in network.named_parameters() if ".lora_" in key and key.endswith(f".{name}.weight")]


def _module_of(weight: str) -> str:
    """`classifier.dense.weight` -> classifier; `bert.pooler.dense.bias` -> pooler: the part that PEFT keeps whole."""
    parts = weight.split(".")
    return POOLER if POOLER in parts else parts[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
