"""The store of votes: who judges what, and every judgement, on the disk before it is acknowledged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import secrets
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import get_args

from sawyer.errors import RatingError
from sawyer.ratings.assignment import NewAssignment, OpenAssignment, Pool, RatingSettings
from sawyer.ratings.choices import check_choice, fits_method
from sawyer.ratings.rating_database import RatingDatabase
from sawyer.ratings.rating_types import Assignment, Choice, Item, Method, Pick, RatedItem, Rater, RaterKind, StoredVote, Vote
from sawyer.ratings.vote_fields import check_vote_id, clean_name, clean_vote
from sawyer.ratings.vote_rows import (
    ASSIGNMENT_COLUMNS,
    VOTES_JOINED,
    RowReader,
    assignment_row,
    insert_assignment,
    insert_items,
    insert_vote,
    read_pool,
)

MAX_PREFETCH = 200  # items that one rater holds at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the judging is."""

    items: int  # that today's method can judge, or that are judged
    judged_items: int  # by people or by the owner; skips and models' votes do not count
    votes: Mapping[str, int]  # rater's name -> items voted on, skips and repeats included
    open_leases: int


class RatingStore:
    """The votes on a file's or a run's items. Safe for many threads, and for other programs on the same file.

    Example: `with RatingStore.open(path, settings=RatingSettings(method="pair")) as store: store.add_items(items)`
    """

    def __init__(self, database: RatingDatabase, settings: RatingSettings) -> None:
        self._database, self._settings, self._rows = database, settings, RowReader()
        self._pool_or_none: Pool | None = None  # None: to be read from the file
        self._data_version = -1  # SQLite's, when it was read: another program's commit changes it

    @classmethod
    def open(cls, path: Path, *, settings: RatingSettings | None = None, vfs: str | None = None) -> RatingStore:
        """The store in the file `path`, which is made with these settings if need be; an existing one takes them from now on.

        Without settings: an existing store, as it is. Raises RatingError where there is none, for another program's file and
        for a newer version of ours; RunError for a link, and where the disk refuses.
        """
        database = RatingDatabase.open(Path(path), create=settings is not None, vfs=vfs)
        try:
            file_settings = _read_settings(database)
            if settings is not None and settings != file_settings:
                with database.transaction() as connection:
                    values = [(name, json.dumps(value)) for name, value in asdict(settings).items()]
                    connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", values)
            active = settings or file_settings
            if active is None:
                raise RatingError(f"{path} has no settings", todo="open it with `sawyer rate` once")
        except BaseException:
            database.close()
            raise
        return cls(database, active)

    def __enter__(self) -> RatingStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Everything acknowledged is in it."""
        self._database.close()

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return self._database.path

    @property
    def settings(self) -> RatingSettings:
        """How items are handed out now."""
        return self._settings

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """Let all that the block reads be of one moment, whatever other programs write meanwhile. Nothing is written inside."""
        with self._database.snapshot():
            yield

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Store all that the block stores in one transaction: many times faster than one by one, and nothing where it raises.
        Nothing is acknowledged before the block ends."""
        with self._update():
            yield

    # Items and raters

    def add_items(self, items: Iterable[Item]) -> int:
        """Add items; one whose id is there keeps its place and votes, and takes a new uncertainty. Returns how many are new."""
        with self._update() as connection:
            uncertainties = {row[0]: row[1] for row in connection.execute("SELECT id, uncertainty FROM items")}
            new: dict[str, Item] = {}
            updates: dict[str, float] = {}
            for item in items:
                if item.id not in uncertainties:
                    new.setdefault(item.id, item)
                elif item.uncertainty is not None and item.uncertainty != uncertainties[item.id]:
                    updates[item.id] = item.uncertainty
            insert_items(connection, list(new.values()))
            connection.executemany(
                "UPDATE items SET uncertainty = ? WHERE id = ?", [(value, id) for id, value in updates.items()]
            )
            if new or updates:
                self._pool_or_none = None
                self._rows.forget_items()
        return len(new)

    def rater(self, name: str, kind: RaterKind = "person") -> Rater:
        """The rater of this name, made if need be. Names that differ in case, outer or double spaces alone are one name.

        Raises RatingError for a name of no or more than 60 characters, and where the name is that of another kind of rater.
        """
        clean, key = clean_name(name)
        if kind not in get_args(RaterKind):
            raise RatingError(f"a rater of kind {kind!r}", expected=" or ".join(get_args(RaterKind)))
        rater = next((rater for rater in self.raters() if clean_name(rater.name)[1] == key), None)
        if rater is None:
            with self._update() as connection:
                connection.execute(
                    "INSERT OR IGNORE INTO raters (name, name_key, kind, link_key) VALUES (?, ?, ?, ?)",
                    (clean, key, kind, secrets.token_hex(16)),
                )
                row = connection.execute("SELECT number, name, kind FROM raters WHERE name_key = ?", (key,)).fetchone()
                rater = self._rows.rater(row)
                self._pool().add_rater(rater.id, key, is_model=rater.kind == "model")
        if rater.kind != kind:
            raise RatingError(
                f"{rater.name} is a {rater.kind} here, not a {kind}",
                why="people's and models' judgements are distinguished by their raters",
                todo="take another name",
            )
        return rater

    def raters(self) -> list[Rater]:
        """All raters, oldest first."""
        with self._database.snapshot() as connection:
            return self._rows.raters(connection)

    def rater_key(self, rater: Rater) -> str:
        """A secret for the rater's link: 32 hexadecimal digits."""
        key = self._database.value("SELECT link_key FROM raters WHERE number = ?", (rater.id,))
        if key is None:
            raise _unknown_rater(rater)
        return str(key)

    def rater_by_key(self, key: str) -> Rater | None:
        """Whose secret it is; None: no rater's."""
        if not isinstance(key, str) or len(key) != 32 or not key.isascii():
            return None
        with self._database.snapshot() as connection:
            row = connection.execute("SELECT number, name, kind FROM raters WHERE link_key = ?", (key,)).fetchone()
        return None if row is None else self._rows.rater(row)

    # Who judges what

    def assign(self, rater: Rater, count: int, now: float) -> list[Assignment]:
        """Up to `count` (at most 200) items to judge: those in the rater's hands, oldest first, then new ones.

        Fewer, or none, where nothing is left for this rater. `now` is in seconds since the epoch. New leases last
        `lease_seconds`; this and each vote of the rater renew those of which less than half is left.
        """
        _check_time(now)
        count = min(max(count, 0), MAX_PREFETCH)
        with self._database.snapshot() as connection:
            pool = self._pool()
            _check_rater(pool, rater)
            old = pool.open_assignments(rater.id, now)[:count]
            if len(old) == count and not _stale(old, now, pool.settings.lease_seconds):
                return self._assignments(connection, [assignment.number for assignment in old])
        with self._update() as connection:
            pool = self._pool()
            self._renew(pool, connection, rater.id, now)
            numbers = [assignment.number for assignment in pool.open_assignments(rater.id, now)[:count]]
            while len(numbers) < count and (new := pool.next_assignment(rater.id, now)) is not None:
                numbers.append(self._insert_assignment(pool, connection, rater.id, new, now))
            return self._assignments(connection, numbers)

    def _assignments(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> list[Assignment]:
        """Assignments without a vote."""
        sql = f"SELECT {ASSIGNMENT_COLUMNS} FROM assignments a WHERE a.number = ?"
        return self._rows.assignments(connection, [connection.execute(sql, (number,)).fetchone() for number in numbers])

    def _insert_assignment(self, pool: Pool, connection: sqlite3.Connection, rater: int, new: NewAssignment, now: float) -> int:
        method = pool.settings.method
        row = (new.item.number, rater, method, json.dumps(new.order), new.pick)
        number = insert_assignment(connection, row, now)
        pool.add_assignment(number, rater, new.item.number, method, new.pick, now)
        return number

    def _renew(self, pool: Pool, connection: sqlite3.Connection, rater: int, now: float) -> None:
        """Let a rater's leases begin anew where less than half of their time is left: who is here keeps what is in hand."""
        stale = _stale(pool.open_assignments(rater, now), now, pool.settings.lease_seconds)
        if stale:
            connection.executemany("UPDATE assignments SET leased_at = ? WHERE number = ?", [(now, number) for number in stale])
            pool.renew(rater, stale, now)

    def assignment(self, rater: Rater, number: int) -> Assignment:
        """One of the rater's assignments with its last vote. Raises RatingError for anybody else's, and for none."""
        with self._database.snapshot() as connection:
            row = assignment_row(connection, rater, number)
            if row[6] is None:
                return self._rows.assignments(connection, [row])[0]
            return self._rows.last_votes(connection, "a.number = ?", (number,))[0].assignment

    def assign_item(
        self, rater: Rater, item: Item | str, order: tuple[int, ...], pick: Pick, *, method: Method | None = None
    ) -> Assignment:
        """An assignment of this item (or its id) outside the queue and without a lease: for models that judge, and for votes
        from other programs. Where the rater has one by the same method (today's by default), that one with its order and vote.

        Raises RatingError for an item that is not in the store and an order that is none of its answers.
        """
        return self.assign_items(rater, [(item if isinstance(item, str) else item.id, order, method)], pick)[0]

    def assign_items(
        self, rater: Rater, entries: Sequence[tuple[str, tuple[int, ...], Method | None]], pick: Pick
    ) -> list[Assignment]:
        """The same for many, each an item's id, its order and method: one transaction, all or none."""
        assignments = []
        with self._update() as connection:
            pool = self._pool()
            _check_rater(pool, rater)
            for item_id, order, method_or_none in entries:
                method = method_or_none or self._settings.method
                number, count = _item_row(connection, item_id)
                if sorted(order) != list(range(count)) or pick not in ("uncertain", "random") or not fits_method(method, count):
                    raise RatingError(
                        f"item {item_id} of {count} answers cannot go out by {method} in the order {list(order)} as {pick!r}",
                        expected="each answer once, a method for so many answers, and `uncertain` or `random`",
                    )
                row = connection.execute(
                    "SELECT number FROM assignments"
                    " WHERE item = ? AND rater = ? AND method = ? AND pick IN ('uncertain', 'random')",
                    (number, rater.id, method),
                ).fetchone()
                if row is None:
                    new = (number, rater.id, method, json.dumps(order), pick)
                    row = (insert_assignment(connection, new, 0.0),)
                    pool.add_assignment(row[0], rater.id, number, method, pick, 0.0)
                assignments.append(self.assignment(rater, row[0]))
        return assignments

    def item(self, item_id: str) -> Item:
        """An item by its id. Raises RatingError where there is none."""
        with self._database.snapshot() as connection:
            number, _ = _item_row(connection, item_id)
            return self._rows.items(connection, [number])[number]

    def done_and_left(self, rater: Rater, now: float | None = None) -> tuple[int, int]:
        """`count_done` and `count_left`, by the clock where `now` is None; as quick with many items as with few."""
        with self._database.snapshot():
            return self.count_done(rater), self.count_left(rater, time.time() if now is None else now)

    def count_left(self, rater: Rater, now: float) -> int:
        """How many items this rater can still be handed, those in hand included."""
        with self._database.snapshot():
            pool = self._pool()
            _check_rater(pool, rater)
            return pool.count_left(rater.id, now)

    def count_done(self, rater: Rater) -> int:
        """How many assignments this rater has voted on, skips and repeats included."""
        sql = "SELECT count(*) FROM assignments WHERE rater = ? AND first_vote IS NOT NULL AND pick != 'adjudication'"
        return int(self._database.value(sql, (rater.id,)))

    # Votes

    def vote(self, rater: Rater, vote: Vote, now: float) -> StoredVote:
        """Store a vote: when this returns, it is on the disk.

        The same id again returns what was stored under it; another id for the same assignment is a new revision. Raises
        RatingError for an assignment that is not this rater's and a choice that does not fit; RunError where the disk refuses:
        then nothing is stored.
        """
        result = self.votes(rater, [vote], now)[0]
        if isinstance(result, RatingError):
            raise result
        return result

    def votes(self, rater: Rater, votes: Sequence[Vote], now: float) -> list[StoredVote | RatingError]:
        """Store several votes in one transaction. One that is refused does not keep the others out."""
        _check_time(now)
        results: list[StoredVote | RatingError] = []
        with self._update() as connection:
            pool = self._pool()
            _check_rater(pool, rater)
            for vote in votes:
                try:
                    results.append(self._insert_vote(pool, connection, rater, vote, now))
                except RatingError as error:
                    results.append(error)
            self._renew(pool, connection, rater.id, now)
        return results

    def _insert_vote(self, pool: Pool, connection: sqlite3.Connection, rater: Rater, vote: Vote, now: float) -> StoredVote:
        check_vote_id(vote.id)
        twin = connection.execute(f"{VOTES_JOINED} WHERE v.id = ?", (vote.id,)).fetchall()
        if twin:
            twin_vote = self._rows.votes(connection, twin)[0]
            if twin_vote.assignment.rater != rater or twin_vote.assignment.id != vote.assignment:
                raise RatingError(f"the vote's id {vote.id} is that of another vote", todo="send it under a new id")
            return twin_vote
        row = assignment_row(connection, rater, vote.assignment)
        assignment = self._rows.assignments(connection, [row])[0]
        vote = clean_vote(vote, assignment.method, len(assignment.order))
        revision = insert_vote(connection, vote, now)
        pool.add_vote(row[0], rater.id, row[1], assignment.method, assignment.pick, assignment.order, vote.choice.skip)
        return StoredVote(assignment=replace(assignment, vote=vote), timestamp=now, revision=revision)

    def adjudicate(
        self, item_id: str, choice: Choice, owner: Rater, *, method: Method | None = None, now: float | None = None
    ) -> StoredVote:
        """Store the owner's own judgement of an item, which stands in place of its raters'.

        The choice is in terms of the answers in the item's own order.
        `method` is by default the one of the item's last vote. A second adjudication is a revision, and stands in place of the
        first. Raises RatingError for an unknown item and a choice that does not fit.
        """
        now = time.time() if now is None else now
        _check_time(now)
        with self._update() as connection:
            pool = self._pool()
            _check_rater(pool, owner)
            item, count = _item_row(connection, item_id)
            last = connection.execute(
                "SELECT method FROM assignments WHERE item = ? AND last_vote IS NOT NULL ORDER BY last_vote DESC LIMIT 1",
                (item,),
            ).fetchone()
            method = method or (last[0] if last else pool.settings.method)
            check_choice(choice, method, count)
            row = connection.execute(
                "SELECT number FROM assignments WHERE item = ? AND rater = ? AND method = ? AND pick = 'adjudication'",
                (item, owner.id, method),
            ).fetchone()
            new = (item, owner.id, method, json.dumps(list(range(count))), "adjudication")
            number = row[0] if row else insert_assignment(connection, new, now)
            vote = Vote(id=str(uuid.uuid4()), assignment=number, choice=choice, seconds=0.0)
            return self._insert_vote(pool, connection, owner, vote, now)

    # What was judged

    def history(self, rater: Rater) -> list[StoredVote]:
        """The last revision of each of the rater's votes, in the order of their first: what undo walks back through."""
        with self._database.snapshot() as connection:
            return self._rows.last_votes(connection, "a.rater = ? AND a.pick != 'adjudication'", (rater.id,))

    def previous(self, rater: Rater, before: int | None) -> StoredVote | None:
        """The rater's vote before that of the assignment `before`, by their first votes; the last one where that has no vote
        yet or is None. None: there is no earlier one. Raises RatingError for an assignment that is not this rater's."""
        with self._database.snapshot() as connection:
            row = None if before is None else assignment_row(connection, rater, before)
            limit = row[6] if row is not None and row[6] is not None else math.inf
            last = connection.execute(
                "SELECT number FROM assignments"
                " WHERE rater = ? AND first_vote < ? AND pick != 'adjudication' ORDER BY first_vote DESC LIMIT 1",
                (rater.id, limit),
            ).fetchone()
            return self._rows.last_votes(connection, "a.number = ?", last)[0] if last else None

    def rated_items(self) -> list[RatedItem]:
        """Every item with a vote, in the order of their first.

        Of each assignment the last revision; repeats and skips are among them; of several adjudications the last."""
        with self._database.snapshot() as connection:
            votes = self._rows.last_votes(connection, "1", ())
            last = connection.execute(
                "SELECT item, number FROM assignments WHERE pick = 'adjudication' AND last_vote IS NOT NULL ORDER BY last_vote"
            ).fetchall()
        adjudications = set(dict(last).values())  # of each item the last one
        by_item: dict[str, list[StoredVote]] = {}
        for vote in votes:
            assignment = vote.assignment
            if assignment.pick != "adjudication" or assignment.id in adjudications:
                by_item.setdefault(assignment.item.id, []).append(vote)
        return [RatedItem(item=group[0].assignment.item, votes=tuple(group)) for group in by_item.values()]

    def stored_votes(self) -> list[StoredVote]:
        """Every revision of every vote, in the order in which they came."""
        with self._database.snapshot() as connection:
            return self._rows.votes(connection, connection.execute(f"{VOTES_JOINED} ORDER BY v.number").fetchall())

    def progress(self, now: float | None = None) -> Progress:
        """How far the judging is, at `now` (None: by the clock)."""
        with self._database.snapshot() as connection:
            pool = self._pool()
            counts = dict(
                connection.execute(
                    "SELECT rater, count(*) FROM assignments"
                    " WHERE first_vote IS NOT NULL AND pick != 'adjudication' GROUP BY rater"
                ).fetchall()
            )
            return Progress(
                items=pool.count_items(),
                judged_items=sum(1 for item in pool.items.values() if item.is_judged),
                votes={rater.name: counts.get(rater.id, 0) for rater in self.raters()},
                open_leases=pool.count_leases(time.time() if now is None else now),
            )

    def digest(self) -> str:
        """A hash of what was judged: of each assignment the last choice with its item, rater, method and order.

        Notes, times and the file's bytes do not count. 32 hexadecimal digits."""
        with self._database.snapshot() as connection:
            rows = connection.execute(
                "SELECT i.id, r.name_key, a.pick, a.method, a.answer_order, v.choice FROM assignments a"
                " JOIN votes v ON v.number = a.last_vote JOIN items i ON i.number = a.item JOIN raters r ON r.number = a.rater"
                " WHERE a.pick != 'adjudication' OR a.last_vote ="
                " (SELECT max(b.last_vote) FROM assignments b WHERE b.item = a.item AND b.pick = 'adjudication')"
            ).fetchall()
        return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:32]

    # The picture in memory

    @contextlib.contextmanager
    def _update(self) -> Iterator[sqlite3.Connection]:
        """A transaction. Where it fails, the picture in memory is read anew: it may be ahead of the file."""
        with self._database.lock:  # until the picture is right again
            try:
                with self._database.transaction() as connection:
                    yield connection
            except BaseException:
                self._pool_or_none = None
                raise

    def _pool(self) -> Pool:
        """Items, leases and votes as the file has them, also after another program has written to it."""
        with self._database.snapshot() as connection:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if self._pool_or_none is None or version != self._data_version:
                self._pool_or_none, self._data_version = read_pool(connection, self._settings), version
            return self._pool_or_none


def _read_settings(database: RatingDatabase) -> RatingSettings | None:
    with database.snapshot() as connection:
        values = {name: json.loads(value) for name, value in connection.execute("SELECT name, value FROM settings")}
    return RatingSettings(**values) if values else None


def _stale(assignments: Iterable[OpenAssignment], now: float, lease_seconds: float) -> list[int]:
    """Those of which less than half of the lease is left."""
    return [a.number for a in assignments if abs(now - a.leased_at) >= lease_seconds / 2]


def _item_row(connection: sqlite3.Connection, item_id: str) -> tuple[int, int]:
    """An item's number and how many answers it has."""
    row = connection.execute("SELECT number, answers FROM items WHERE id = ?", (item_id,)).fetchone()
    if row is None:
        raise RatingError(f"there is no item {item_id!r}", expected="the id of an item of this store")
    return row[0], len(json.loads(row[1]))


def _check_rater(pool: Pool, rater: Rater) -> None:
    if rater.id not in pool.raters:
        raise _unknown_rater(rater)


def _unknown_rater(rater: Rater) -> RatingError:
    return RatingError(f"there is no rater {rater.name!r} with the number {rater.id} here", expected="a rater of this store")


def _check_time(now: float) -> None:
    if not math.isfinite(now):
        raise RatingError(f"the time is {now}", expected="seconds since the epoch")
