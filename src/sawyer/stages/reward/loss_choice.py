"""The configured loss: one of ours by its name, or a user's function, which is checked before it is used."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from sawyer.config import FORMER_VALUES, Reward, load_user_function, parse_function_name
from sawyer.errors import ConfigError
from sawyer.maths import REWARD_LOSSES, WEIGHTS, Objective, RewardLoss, check_loss

SHAPE = "a function of r_j, r_k and the score difference d > 0, tensors of shape (P,), that returns P losses"


def open_loss(name: str) -> RewardLoss:
    """One of ours, or `module:function` from the working directory. Raises ConfigError where there is no such loss."""
    return REWARD_LOSSES[name] if name in REWARD_LOSSES else RewardLoss(own_loss(name))


def checked_loss(name: str) -> RewardLoss:
    """`open_loss`, tried before anything is trained with it. Raises ConfigError with the point at which it is unfit."""
    loss = open_loss(name)
    failure = check_loss(loss).failure
    if failure is None:
        return loss
    raise ConfigError(
        f"reward.loss: {name} is refused: {failure.name}: {failure.message} (at {failure.point})",
        expected=f"{SHAPE}: differentiable, finite for r_j - r_k out to ±1,000, falling as r_j rises and as r_k falls",
        why="a loss that is not would train the reward model to nothing, or to prefer what people do not",
        todo=f"mend it; `sawyer check-loss {name}` runs the same checks",
    )


def objective(settings: Reward) -> Objective:
    """What a reward section minimises."""
    return Objective(
        loss=open_loss(settings.loss),
        weigh=WEIGHTS[settings.normalize_by],
        centering_coefficient=settings.centering_coefficient,
    )


def own_loss(name: str) -> Callable[..., Any]:
    """The user's function that `module:function` names. Raises ConfigError."""
    if parse_function_name(name) is None:
        near = [FORMER_VALUES[name]] if name in FORMER_VALUES else get_close_matches(name, REWARD_LOSSES, n=1, cutoff=0.5)
        raise ConfigError(
            f"there is no loss {name!r}" + (f"; did you mean `{near[0]}`?" if near else ""),
            expected=f"one of: {', '.join(REWARD_LOSSES)}, or your own as module:function",
        )
    return load_user_function(name, "reward.loss")
