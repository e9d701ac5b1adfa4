"""The value network: a scalar head at every token, on a trunk of its own or on the policy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sawyer.errors import ModelError
from sawyer.models.language_model import open_language_model
from sawyer.models.load import load_reward, load_tokenizer
from sawyer.models.network_parts import score_head


class ValueNetwork(nn.Module):
    """V at every token: head(trunk(ids)), (B, T) ids -> (B, T), in the reward's standard unit.

    The head begins at zero, V = 0 everywhere: rewards are standardised on the SFT model's answers, so 0 is what the policy
    earns on average when it starts. A reward model's own head is trained at last tokens alone; at the others its output lies
    many deviations off, and advantages made of it wreck the policy before the values have recovered.
    """

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.trunk(input_ids=ids, use_cache=False).last_hidden_state
        return self.head(hidden)[..., 0].float()

    @classmethod
    def from_reward(cls, folder: Path) -> ValueNetwork:
        """On the reward model's trunk (Stiennon et al. 2020): it already tells good answers from bad ones."""
        model: Any = load_reward(folder, load_tokenizer(folder))
        head = score_head(model)
        if head is None:
            raise ModelError(
                f"{folder} is no decoder whose states can be valued at every token",
                expected="a reward model as this program's reward stage writes it",
                todo="set rl.value_init: policy",
            )
        return cls(model.base_model, head.in_features)

    @classmethod
    def from_policy(cls, source: str | Path, template: str | None = None) -> ValueNetwork:
        """On a copy of the policy's trunk; a `template` may bring tokens of its own."""
        model: Any = open_language_model(source, template).model
        return cls(model.base_model, model.get_output_embeddings().in_features)


class PolicyWithValue(nn.Module):
    """A policy and a value head on its trunk, trained as one: V costs one linear layer, and its loss moves the policy's states.

    As in `ValueNetwork` the head begins at zero.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy, self.head = policy, nn.Linear(policy.get_output_embeddings().in_features, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """V at every token, (B, T) ids -> (B, T)."""
        trunk: Any = self.policy.base_model
        return self.of_states(trunk(input_ids=ids, use_cache=False).last_hidden_state)

    def of_states(self, states: Tensor) -> Tensor:
        """(B, T, d) states of the policy's trunk -> (B, T)."""
        return self.head(states)[..., 0].float()
