"""One frozen network that serves as several models: policy, reference, value network and reward model, an adapter each.

A view looks like a network to its caller, and has only its own adapter's weights; before it runs, it sets
its adapter in the network's layers. So PPO needs the weights once, where it would need them four times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.models.adapters import (
    OFF,
    AttachedAdapter,
    LowRank,
    complete_config,
    inject_layers,
    layers_with,
    load_adapter_weights,
    new_config,
)
from sawyer.models.fast import set_active_adapter
from sawyer.models.peft_folder import Adapter


class MultiAdapter:
    """A causal language model and its active adapter. Its own weights are never trained."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.layers: list[Any] = layers_with(network)
        self.active: str | None = None
        self.configs: dict[str, Any] = {}  # by an adapter's name PEFT's settings of it, as its folder has them
        for weight in network.parameters():
            weight.requires_grad_(False)

    def add(self, name: str, adapter: Adapter, folder: str | Path) -> None:
        """The adapter of a folder, under a name; its scalar head, if it has one, is left to the caller."""
        load_adapter_weights(self.network, adapter, name, folder, ("score.weight",))
        self._register(name, complete_config(adapter.config, adapter.base, ()))

    def add_new(self, name: str, base: str | Path, lora: LowRank, *, seed: int) -> None:
        """A new adapter, which changes nothing yet; `base` is where the network came from."""
        config = complete_config(new_config(self.network, lora), base, ())
        inject_layers(self.network, config, name, seed=seed)
        self._register(name, config)

    def add_copy(self, name: str, of: str) -> None:
        """The same as another adapter, with weights of its own."""
        inject_layers(self.network, self.configs[of], name)
        self._register(name, self.configs[of])
        with torch.no_grad():
            for mine, theirs in zip(self.weights(name), self.weights(of), strict=True):
                mine.copy_(theirs)

    def _register(self, name: str, config: Any) -> None:
        self.configs[name] = config
        self.layers, self.active = layers_with(self.network), None
        for weight in self.weights(name):
            weight.requires_grad_(False)

    def weights(self, name: str) -> list[Tensor]:
        """The weights of an adapter, layer by layer."""
        return [weight for layer in self.layers for part in _matrices(layer, name).values() for weight in part.parameters()]

    def set_adapter(self, name: str) -> None:
        """The next forward pass is that of this adapter."""
        if self.active != name:
            set_active_adapter(self.layers, name)
            self.active = name


class AdapterTrunk(nn.Module):
    """The trunk of a shared network, with one adapter. `parameters()` are the adapter's alone."""

    def __init__(self, multi_adapter: MultiAdapter, name: str) -> None:
        super().__init__()
        self.multi_adapter, self.name = multi_adapter, name
        layers = {
            path: layer
            for path, layer in multi_adapter.network.named_modules()
            if any(layer is one for one in multi_adapter.layers)
        }
        self.adapter = nn.ModuleDict(
            {
                f"{path} {kind}".replace(".", "-"): part
                for path, layer in layers.items()
                for kind, part in _matrices(layer, name).items()
            }
        )

    @property
    def network(self) -> Any:
        """The trunk that all share."""
        return self.multi_adapter.network.base_model

    @property
    def config(self) -> Any:
        """Its settings."""
        return self.network.config

    def forward(self, **inputs: Any) -> Any:
        self.multi_adapter.set_adapter(self.name)
        return self.network(**inputs)


class AdapterView(nn.Module):
    """A shared network with one adapter, or as it is without any; `score` is a reward model's head.

    `config` is what its own folder says of it. Saving it writes its adapter alone.
    """

    def __init__(
        self, multi_adapter: MultiAdapter, name: str = OFF, *, config: Any = None, score: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.multi_adapter, self.name = multi_adapter, name
        self.base_model = AdapterTrunk(multi_adapter, name)
        self.config = multi_adapter.network.config if config is None else config
        if score is not None:
            self.score = score

    @property
    def network(self) -> Any:
        """The network that all share."""
        return self.multi_adapter.network

    @property
    def attached_adapter(self) -> AttachedAdapter | None:
        """What is written where this is saved; None for the network without adapters."""
        settings = self.multi_adapter.configs.get(self.name)
        return None if settings is None else AttachedAdapter(name=self.name, config=settings)

    def learn(self) -> None:
        """From now on its adapter is trained."""
        self.base_model.adapter.requires_grad_(True)

    def get_input_embeddings(self) -> Any:
        """The network's table of tokens."""
        return self.network.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """The network's projection to the vocabulary."""
        return self.network.get_output_embeddings()

    def forward(self, **inputs: Any) -> Any:
        self.multi_adapter.set_adapter(self.name)
        return self.network(**inputs)


def _matrices(layer: Any, name: str) -> dict[str, nn.Module]:
    """A and B of an adapter in one layer; none where it has none."""
    parts = {"A": layer.lora_A, "B": layer.lora_B}
    return {kind: modules[name] for kind, modules in parts.items() if name in modules}
