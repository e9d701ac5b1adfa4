"""The loss that was asked for: one of ours by its name, or a user's own function, found, tried and only then used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sawyer.config import Reward, own_file, own_names
from sawyer.errors import ConfigError
from sawyer.maths import REWARD_LOSSES, WEIGHTS, Objective, OfPairs, RewardLoss, check_loss

SHAPE = "a function of r_j, r_k and the score difference d > 0, tensors of shape (P,), that returns P losses"


def open_loss(name: str) -> RewardLoss:
    """One of ours, or `module:function` from the working directory. Raises ConfigError where there is no such loss."""
    return REWARD_LOSSES[name] if name in REWARD_LOSSES else OfPairs(own_function(name))


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
        todo=f"mend it; `sawyer loss {name}` runs the same checks",
    )


def objective(asked: Reward) -> Objective:
    """What a reward section minimises."""
    return Objective(loss=open_loss(asked.loss), weigh=WEIGHTS[asked.by], center=asked.center)


def own_function(name: str) -> Callable[..., Any]:
    """The function that `module:function` names, of the module as its file is now. Raises ConfigError."""
    names = own_names(name)
    if names is None:
        near = get_close_matches(name, REWARD_LOSSES, n=1, cutoff=0.5)
        raise ConfigError(
            f"there is no loss {name!r}" + (f"; did you mean `{near[0]}`?" if near else ""),
            expected=f"one of: {', '.join(REWARD_LOSSES)}, or your own as module:function",
        )
    module = _module(name, names[0])
    function = getattr(module, names[1], None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == names[0] and callable(value)]
        raise ConfigError(
            f"{names[0]} ({getattr(module, '__file__', 'built in')}) has no function {names[1]}",
            expected=f"one of its functions: {', '.join(there) or 'none yet'}",
            todo="check the spelling after the colon",
        )
    return function


def _module(name: str, module: str) -> Any:
    """Import it with the working directory first on the path; what was imported before from the same file is read again."""
    file, here = own_file(name), os.getcwd()
    known = sys.modules.get(module)
    taken = getattr(known, "__file__", None)
    if file is not None and known is not None and (taken is None or Path(taken).resolve() != file.resolve()):
        raise ConfigError(
            f"{file}: another module is called {module} ({taken or 'built in'})",
            expected="a name of its own",
            todo=f"rename the file, e.g. my_{module.split('.')[-1]}.py, and name it so in reward.loss",
        )
    sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        return importlib.reload(known) if known is not None and file is not None else importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise _unreadable(name, file, error) from error
        raise ConfigError(
            f"there is no module {module} to take {name} from",
            expected=f"a file {module.replace('.', '/')}.py in {here}, or an installed package",
            todo="check the spelling before the colon, or start the command in the folder that holds the file",
        ) from error
    except Exception as error:  # a user's module may raise anything
        raise _unreadable(name, file, error) from error
    finally:
        sys.path.remove(here)


def _unreadable(name: str, file: Path | None, error: Exception) -> ConfigError:
    line = error.lineno if isinstance(error, SyntaxError) else _line_in(file, error)
    where = f"{file}:{line}" if file is not None and line else str(file or name)
    return ConfigError(
        f"{where}: {type(error).__name__}: {error}",
        why=f"it must be imported for {name}",
        todo="mend the module",
    )


def _line_in(file: Path | None, error: Exception) -> int:
    """The line of the user's file at which it went wrong; 0 where none of the traceback is in it."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if file is not None and Path(trace.tb_frame.f_code.co_filename).resolve() == file.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
