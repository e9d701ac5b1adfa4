"""What can go wrong, as a tree. Every message says what was given, what was expected, why it matters, what to do.

SawyerError                 base of all; the command line prints it without a traceback and exits 1
├── ConfigError             a run's file or an override: unknown key, wrong type, sizes that do not fit
├── DataError               a data file, with file:line:field where known
├── ModelError              a model folder or tokenizer that cannot serve
├── RunError                a run's folder: locked, changed under us, unwritable, full disk
├── TrainingError           training that must not go on: memory that ran out, a gate before it that failed
│   └── NotFiniteError      a loss, gradient, score or logit that is not finite: refused before it touches a weight
├── ProcessError            several processes at work on one run: one does not come, or is gone
├── RatingError             a vote or an item that cannot be: never shown to its rater, of another method, out of range
├── JudgeError              a model that judges: unreachable, refused, or it answered something that is no judgement
├── WorldError              a prompt the built-in world does not know, or a base model of another world version
└── Interrupted             Ctrl-C or SIGTERM: state is saved, the command exits cleanly
"""

from __future__ import annotations


class SawyerError(Exception):
    """A failure the user can act on.

    `given` is what was found, `expected` what would have been right, `why` the consequence, `todo` the next step.
    Callers catch the whole tree with `except sawyer.SawyerError as error: print(error)`.
    """

    def __init__(self, given: str, *, expected: str = "", why: str = "", todo: str = "") -> None:
        self.given, self.expected, self.why, self.todo = given, expected, why, todo
        parts = [given]
        parts += [f"  expected: {expected}"] if expected else []
        parts += [f"  why it matters: {why}"] if why else []
        parts += [f"  what to do: {todo}"] if todo else []
        super().__init__("\n".join(parts))


class ConfigError(SawyerError):
    """The run's file or an override asks for something that cannot be."""


class DataError(SawyerError):
    """A data file cannot be used as it is. `where` is `file`, `file:line` or `file:line:field`."""

    def __init__(self, given: str, *, where: str = "", expected: str = "", why: str = "", todo: str = "") -> None:
        self.where = where
        super().__init__(f"{where}: {given}" if where else given, expected=expected, why=why, todo=todo)


class ModelError(SawyerError):
    """A model folder, hub id or tokenizer cannot serve here."""


class RunError(SawyerError):
    """A run's folder cannot be used: locked, changed under us, unwritable, disk full."""


class TrainingError(SawyerError):
    """Training stopped itself before it could do harm."""


class NotFiniteError(TrainingError):
    """A figure that training would have learnt from is not finite; the weights are as they were before it."""


class ProcessError(SawyerError):
    """One of several processes that work on a run does not come, or is gone. `silent`: it did not say why."""

    def __init__(self, given: str, *, silent: bool = True, expected: str = "", why: str = "", todo: str = "") -> None:
        self.silent = silent
        super().__init__(given, expected=expected, why=why, todo=todo)


class RatingError(SawyerError):
    """A vote, rater or item of `sawyer rate` that cannot be taken."""


class JudgeError(SawyerError):
    """A judge model's endpoint cannot be used."""


class WorldError(SawyerError):
    """The built-in world was asked about something outside it, or met a model of another version."""


class Interrupted(SawyerError):
    """The user or the system asked to stop; the state is saved and the same command goes on from there."""
