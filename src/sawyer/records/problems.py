"""What can be wrong with a row, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding. `fatal`: training refuses the file; otherwise the row is left out or taken as it is, and counted.

    Example: `Problem(where="a.json:12:output", kind="empty", message="the response is empty", todo="...", fatal=True)`
    """

    where: str  # file:line:field, as much of it as is known
    kind: str  # missing | empty | type | score | duplicate | tied | order | pair | unscored | leak | long | encoding | ...
    message: str
    todo: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.where}: {self.message}; {self.todo}"
