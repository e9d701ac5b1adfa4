"""Freezing: which weights of a network training leaves as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from sawyer.errors import ConfigError, ModelError

# A pooler reads the trunk's last states for the head alone, and is new where the head is: it is counted with the head.
POOLER = "pooler"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenLayers:
    """What is left to train.

    Example: `FrozenLayers(layers=2, of_layers=12, trainable=70_874_112, total=124_439_808)`
    """

    layers: int  # frozen, counted from the input
    of_layers: int
    trainable: int  # weights, tied ones once
    total: int

    @property
    def summary(self) -> str:
        """The sentence that a stage's plan shows."""
        return f"{self.layers} of {self.of_layers} layers frozen, {self.trainable:,} of {self.total:,} weights remain trainable"


def freeze(model: nn.Module, what: int | Literal["all_but_head"], *, setting: str = "freeze") -> FrozenLayers:
    """Let training leave a part of `model` as it is: its weights no longer require a gradient, whatever did before.

    A number n freezes the first n layers, and from n = 1 on the embeddings too, with all else that a token passes through
    before the first layer; an output projection tied to the embeddings is frozen with them. `"all_but_head"` leaves the
    head trainable (and the pooler before it, where there is one). `setting` is the name that errors use.

    Raises ConfigError for more layers than there are, ModelError for a network without one stack of layers.
    """
    trunk: Any = getattr(model, "base_model", model)
    layers = layers_of(model)
    if what == "all_but_head":
        frozen_ids = {id(weight) for name, weight in trunk.named_parameters() if POOLER not in name.split(".")}
    else:
        if what > len(layers):
            raise ConfigError(
                f"{setting}: {what} layers, but the model has {len(layers)}",
                expected=f"0 to {len(layers)}",
                todo=f"give at most {len(layers)}",
            )
        frozen_ids = {id(weight) for layer in layers[:what] for weight in layer.parameters()}
        frozen_ids |= {id(weight) for module in _before(model, layers) for weight in module.parameters()} if what else set()
    for weight in model.parameters():
        weight.requires_grad_(id(weight) not in frozen_ids)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if not trainable:
        raise ConfigError(f"{setting}: {what} leaves no weight to train", expected="less", todo="freeze fewer layers")
    return FrozenLayers(
        layers=len(layers) if what == "all_but_head" else what,
        of_layers=len(layers),
        trainable=trainable,
        total=sum(weight.numel() for weight in model.parameters()),
    )


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The stack of layers of a decoder or encoder: the list as long as its config says, the outermost of such lists."""
    trunk: Any = getattr(model, "base_model", model)
    count = getattr(trunk.config.get_text_config(), "num_hidden_layers", None)
    stacks = [
        (name, module) for name, module in trunk.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outermost = [
        (name, module) for name, module in stacks if not any(name.startswith(f"{other}.") for other, _ in stacks if other)
    ]
    if len(outermost) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(outermost)} stacks of {count} layers",
            expected="one, as GPT-2, Llama, BERT, RoBERTa and DeBERTa have",
            why="it is not known which layers come first",
            todo="leave `freeze` out for this model",
        )
    return outermost[0][1]


@torch.no_grad()
def _before(model: nn.Module, layers: nn.ModuleList) -> list[nn.Module]:
    """The modules that run before the first layer, and every embedding outside the layers (some are read, not run)."""
    trunk: Any = getattr(model, "base_model", model)
    inside = {id(module) for module in layers.modules()}
    outside = [module for module in trunk.modules() if id(module) not in inside]
    # One that holds the layers has begun to run before them as well, and is no leaf.
    leaves = [module for module in outside if not list(module.children())]
    modules: list[nn.Module] = [module for module in outside if isinstance(module, nn.Embedding)]
    at_layers = False

    def arrive(*_: Any) -> None:
        nonlocal at_layers
        at_layers = True

    def note(module: nn.Module, *_: Any) -> None:
        if not at_layers:
            modules.append(module)

    hooks = [layers[0].register_forward_pre_hook(arrive), *(leaf.register_forward_pre_hook(note) for leaf in leaves)]
    try:
        ids = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
        trunk(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return modules
