"""What can be wrong with a row."""

from __future__ import annotations

from dataclasses import dataclass

from sawyer.records.record_types import Where

# Kinds that any large file has, and that ask nothing of its owner: they are counted in a line of the plan. All other kinds
# are warnings.
EXPECTED_KINDS = frozenset(("duplicate", "tied", "one answer", "unscored", "unranked", "unanswered", "order", "pair", "empty"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding. `fatal`: it is the file's, and training refuses the file. `bad`: the row cannot be used; it is left out, and
    more of them than `max_bad_rows` refuse the file. Neither: the row is used as it is, or teaches nothing; it is reported.

    Example: `Problem(where="a.json:12:output", kind="empty", message="it is empty", todo="...", bad=True)`
    """

    where: str  # file:line:field, as much of it as is known
    kind: str  # missing | empty | type | score | duplicate | tied | order | pair | unscored | leak | long | encoding | ...
    message: str
    todo: str
    fatal: bool = False
    bad: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.message}; {self.todo}"


class Unfit(Exception):
    """What is wrong with a row: `field` is where, `kind` and `message` say how, `todo` what helps.

    Raised, the row cannot become a record; yielded beside a record, the record is used and the problem reported.
    """

    def __init__(self, field: str, kind: str, message: str, todo: str = "") -> None:
        super().__init__(message)
        self.field, self.kind, self.message = field, kind, message
        self.todo = todo or f"mend `{field}`, or name its column in `columns:`"

    def at(self, where: Where, *, bad: bool = False) -> Problem:
        """The problem of the row at `where`."""
        return Problem(where=f"{where}:{self.field}", kind=self.kind, message=self.message, todo=self.todo, bad=bad)
