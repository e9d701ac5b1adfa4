"""What can be wrong with a row, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass

# Kinds that any large file has, and that ask nothing of its owner: they are counted in a line of the plan. All other kinds
# are warnings.
EXPECTED_KINDS = frozenset(("duplicate", "tied", "one answer", "unscored", "unranked", "unanswered", "order", "pair", "empty"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding. `fatal`: it is the file's, and training refuses the file. `bad`: the row cannot be used; it is left out, and
    more of them than `max_bad_rows` refuse the file. Neither: the row is taken as it is, or says nothing to learn; it is told.

    Example: `Problem(where="a.json:12:output", kind="empty", message="it is empty", todo="...", fatal=False, bad=True)`
    """

    where: str  # file:line:field, as much of it as is known
    kind: str  # missing | empty | type | score | duplicate | tied | order | pair | unscored | leak | long | encoding | ...
    message: str
    todo: str
    fatal: bool
    bad: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.message}; {self.todo}"
