"""Rows of the file as items, assignments and votes, and texts as rows."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sawyer.errors import RatingError
from sawyer.ratings.assignment import ItemState, Pool, RatingSettings
from sawyer.ratings.choices import choice_json, parse_choice
from sawyer.ratings.items import messages_json
from sawyer.ratings.rating_types import Assignment, Item, Rater, StoredVote, Vote
from sawyer.records import Answer, Message, Prompt

SKIP = json.dumps({"skip": True})
ASSIGNMENT_COLUMNS = "a.number, a.item, a.rater, a.method, a.answer_order, a.pick, a.first_vote"
VOTE_COLUMNS = f"v.id, v.choice, v.seconds, v.rewrite, v.note, v.timestamp, v.revision, {ASSIGNMENT_COLUMNS}"
VOTES_JOINED = f"SELECT {VOTE_COLUMNS} FROM votes v JOIN assignments a ON a.number = v.assignment"
ITEMS_AT_ONCE = 500  # parameters of one query


class RowReader:
    """Reads rows, and remembers items and raters, which never change but for an item's uncertainty."""

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._raters: dict[int, Rater] = {}

    def rater(self, row: Sequence[Any]) -> Rater:
        """The rater of a row (number, name, kind)."""
        return self._raters.setdefault(row[0], Rater(id=row[0], name=row[1], kind=row[2]))

    def raters(self, connection: sqlite3.Connection) -> list[Rater]:
        """All raters, oldest first."""
        return [self.rater(row) for row in connection.execute("SELECT number, name, kind FROM raters ORDER BY number")]

    def forget_items(self) -> None:
        """Read items anew: an uncertainty has changed."""
        self._items.clear()

    def items(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, Item]:
        """Items by their row's number."""
        missing = [number for number in dict.fromkeys(numbers) if number not in self._items]
        for start in range(0, len(missing), ITEMS_AT_ONCE):
            self._read_items(connection, missing[start : start + ITEMS_AT_ONCE])
        return {number: self._items[number] for number in numbers}

    def _read_items(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
        marks = ", ".join("?" * len(numbers))
        rows = connection.execute(
            "SELECT i.number, i.id, p.messages, i.answers, i.round, i.uncertainty FROM items i"
            f" JOIN prompts p ON p.number = i.prompt WHERE i.number IN ({marks})",
            numbers,
        ).fetchall()
        answers: dict[int, Answer] = {}
        for number, id, messages, answer_list, round, uncertainty in rows:
            for answer in json.loads(answer_list):
                if answer not in answers:
                    (content,) = connection.execute("SELECT content FROM answers WHERE number = ?", (answer,)).fetchone()
                    response, score, source = json.loads(content)
                    answers[answer] = Answer(response=response, score=score, source=source)
            self._items[number] = Item(
                id=id,
                prompt=Prompt(messages=tuple(Message(role=role, content=text) for role, text in json.loads(messages))),
                answers=tuple(answers[answer] for answer in json.loads(answer_list)),
                round=round,
                uncertainty=uncertainty,
            )

    def assignments(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[Assignment]:
        """Assignments of rows with `ASSIGNMENT_COLUMNS`, without their votes."""
        items = self.items(connection, [row[1] for row in rows])
        if any(row[2] not in self._raters for row in rows):
            self.raters(connection)
        return [
            Assignment(
                id=row[0],
                item=items[row[1]],
                rater=self._raters[row[2]],
                method=row[3],
                order=tuple(json.loads(row[4])),
                pick=row[5],
            )
            for row in rows
        ]

    def votes(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[StoredVote]:
        """Votes of rows with `VOTE_COLUMNS`."""
        assignments = self.assignments(connection, [row[7:] for row in rows])
        votes = []
        for row, assignment in zip(rows, assignments, strict=True):
            vote = Vote(
                id=row[0],
                assignment=assignment.id,
                choice=parse_choice(json.loads(row[1]), assignment.method, len(assignment.order)),
                seconds=row[2],
                rewrite=json.loads(row[3]),
                note=json.loads(row[4]),
            )
            votes.append(StoredVote(assignment=replace(assignment, vote=vote), timestamp=row[5], revision=row[6]))
        return votes

    def last_votes(self, connection: sqlite3.Connection, where: str, parameters: Sequence[Any]) -> list[StoredVote]:
        """The last revisions of the assignments `a` that fit, in the order of their first votes."""
        sql = f"{VOTES_JOINED} WHERE v.number = a.last_vote AND ({where}) ORDER BY a.first_vote"
        return self.votes(connection, connection.execute(sql, parameters).fetchall())


def assignment_row(connection: sqlite3.Connection, rater: Rater, number: Any) -> Sequence[Any]:
    """The row of one of a rater's assignments. Raises RatingError for anybody else's and for none, without telling which."""
    is_number = isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**63
    sql = f"SELECT {ASSIGNMENT_COLUMNS} FROM assignments a WHERE a.number = ? AND a.rater = ?"
    row: Sequence[Any] | None = connection.execute(sql, (number, rater.id)).fetchone() if is_number else None
    if row is None:
        raise RatingError(
            f"no item was shown to {rater.name} under the number {str(number)[:40]}",
            expected="the number of an item that this rater was handed",
            todo="reload the page",
        )
    return row


def insert_assignment(connection: sqlite3.Connection, row: tuple[int, int, str, str, str], leased_at: float) -> int:
    """Add an assignment (item, rater, method, order as JSON, pick), whose number it returns."""
    cursor = connection.execute(
        "INSERT INTO assignments (item, rater, method, answer_order, pick, leased_at) VALUES (?, ?, ?, ?, ?, ?)",
        (*row, leased_at),
    )
    return int(cursor.lastrowid or 0)


def insert_vote(connection: sqlite3.Connection, vote: Vote, now: float) -> int:
    """Add a vote as its assignment's last revision, whose number (from 1) it returns."""
    sql = "SELECT count(*) + 1 FROM votes WHERE assignment = ?"
    revision = int(connection.execute(sql, (vote.assignment,)).fetchone()[0])
    choice, rewrite, note = (json.dumps(value) for value in (choice_json(vote.choice), vote.rewrite, vote.note))
    number = connection.execute(
        "INSERT INTO votes (id, assignment, revision, choice, seconds, rewrite, note, timestamp)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (vote.id, vote.assignment, revision, choice, vote.seconds, rewrite, note, now),
    ).lastrowid
    connection.execute(
        "UPDATE assignments SET first_vote = ifnull(first_vote, ?1), last_vote = ?1 WHERE number = ?2",
        (number, vote.assignment),
    )
    return revision


def insert_items(connection: sqlite3.Connection, items: Sequence[Item]) -> None:
    """Add new items. A prompt and an answer that several of them share are stored once."""
    prompts, answers = dict[int, int](), dict[int, int]()  # by the object: it lives as long as the items that are added
    rows = []
    for item in items:
        numbers = []
        for answer in item.answers:
            if (number := answers.get(id(answer))) is None:
                text = json.dumps([answer.response, answer.score, answer.source])
                number = answers[id(answer)] = _text_number(connection, "answers (key, content)", text)
            numbers.append(number)
        if (prompt := prompts.get(id(item.prompt))) is None:
            text = messages_json(item.prompt.messages)
            prompt = prompts[id(item.prompt)] = _text_number(connection, "prompts (key, messages)", text)
        rows.append((item.id, prompt, str(numbers), item.round, item.uncertainty))  # as JSON writes whole numbers
    connection.executemany("INSERT INTO items (id, prompt, answers, round, uncertainty) VALUES (?, ?, ?, ?, ?)", rows)


def _text_number(connection: sqlite3.Connection, columns: str, text: str) -> int:
    """The row's number of a text, which is written if need be."""
    key = hashlib.sha256(text.encode()).digest()
    new = connection.execute(f"INSERT OR IGNORE INTO {columns} VALUES (?, ?)", (key, text))  # most texts are new
    if new.rowcount:
        return int(new.lastrowid or 0)
    row = connection.execute(f"SELECT number FROM {columns.split()[0]} WHERE key = ?", (key,)).fetchone()
    return int(row[0])


def read_pool(connection: sqlite3.Connection, settings: RatingSettings) -> Pool:
    """What the file says of items, raters, leases and votes, for assignment."""
    items = connection.execute("SELECT number, id, prompt, answers, round, uncertainty FROM items ORDER BY number")
    pool = Pool(
        settings,
        (
            ItemState(
                number=number,
                id=id,
                prompt=prompt,
                answers=answers,
                round=round,
                uncertainty=uncertainty,
            )
            for number, id, prompt, answers, round, uncertainty in items
        ),
    )
    for number, name_key, kind in connection.execute("SELECT number, name_key, kind FROM raters"):
        pool.add_rater(number, name_key, is_model=kind == "model")
    for number, rater, item, method, pick, leased_at in connection.execute(
        "SELECT number, rater, item, method, pick, leased_at FROM assignments ORDER BY number"
    ):
        pool.add_assignment(number, rater, item, method, pick, leased_at)
    for number, item, rater, method, order, pick, choice in connection.execute(
        "SELECT a.number, a.item, a.rater, a.method, a.answer_order, a.pick, v.choice FROM votes v"
        " JOIN assignments a ON a.number = v.assignment ORDER BY v.number"
    ):
        pool.add_vote(number, rater, item, method, pick, tuple(json.loads(order)), choice == SKIP)
    pool.sort()
    return pool
