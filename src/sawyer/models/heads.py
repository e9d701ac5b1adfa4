"""The value network: a trunk of its own with a scalar head at every token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sawyer.errors import ModelError
from sawyer.models.load import load_reward, load_tokenizer, new_reward, score_head


class ValueNetwork(nn.Module):
    """V at every token: head(trunk(ids)), (B, T) ids -> (B, T). Reward units: (output - shift) / scale of the reward model."""

    def __init__(self, trunk: nn.Module, head: nn.Linear, *, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.shift, self.scale = shift, scale

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.trunk(input_ids=ids, use_cache=False).last_hidden_state
        return (self.head(hidden)[..., 0].float() - self.shift) / self.scale

    @classmethod
    def from_reward(cls, folder: Path, *, shift: float, scale: float) -> ValueNetwork:
        """Start from the reward model (Stiennon et al. 2020): it already reads answers, and its output is a return's."""
        return cls._of(load_reward(folder, load_tokenizer(folder)), folder, shift, scale)

    @classmethod
    def from_policy(cls, folder: Path, *, seed: int) -> ValueNetwork:
        """Start from the policy's trunk with a new head."""
        return cls._of(new_reward(folder, load_tokenizer(folder), seed=seed), folder, 0.0, 1.0)

    @classmethod
    def _of(cls, model: Any, folder: Path, shift: float, scale: float) -> ValueNetwork:
        head = score_head(model)
        if head is None:
            raise ModelError(
                f"{folder} has no scalar head that can be read at every token",
                expected="a decoder with a linear head, as this program's reward stage writes",
                todo="set rl.value_start: policy",
            )
        return cls(model.base_model, head, shift=shift, scale=scale)
