"""Other tools' exports into a store: items, raters by name, votes. Importing the same file again changes nothing."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sawyer.errors import DataError, RatingError
from sawyer.ratings.choices import MAX_ANSWERS, choice_json, fits_method
from sawyer.ratings.import_formats import FOREIGN_FORMATS, ForeignVote, format_of_rows, read_foreign_rows
from sawyer.ratings.items import item_of
from sawyer.ratings.rating_types import Choice, Item, Method, Vote
from sawyer.ratings.store import RatingStore
from sawyer.records import Answer

MOST_FIELDS = 8  # named in the error for an unknown shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What came of a file."""

    format: str
    rows: int
    items: int  # new to the store
    votes: int  # judgements and skips taken, those that were there already included
    raters: tuple[str, ...]
    left_out: Mapping[str, int]  # why -> judgements or rows

    @property
    def words(self) -> str:
        """The summary for people."""
        raters = f"{len(self.raters):,} rater{'s' * (len(self.raters) != 1)}"
        text = f"{self.format}: {self.votes:,} votes by {raters} from {self.rows:,} rows; {self.items:,} new items"
        reasons = ", ".join(f"{count:,} ({reason})" for reason, count in self.left_out.items())
        return f"{text}; left out: {reasons}" if reasons else text


def import_ratings(store: RatingStore, path: Path, *, now: float | None = None) -> ImportSummary:
    """Take the judgements of an export of Argilla, Label Studio or feedloop (JSON or JSON lines) into the store.

    The exports do not say in which order the answers were shown to whom, or it was the same for everybody: the votes get an
    order by lot, and tell nothing of position bias. Raises DataError for a file that is no JSON, and RatingError for an
    unknown shape and where nothing can be taken; then the store is as it was.
    """
    rows = _read_json(path)
    shape = format_of_rows(rows)
    if shape is None:
        raise RatingError(
            f"{path.name} has no known shape: {_shape_in_words(rows)}",
            expected="; or ".join(f"{other.name}: {other.fields}" for other in FOREIGN_FORMATS),
            todo="export the ratings as JSON from the tool in which they were made",
        )
    result = read_foreign_rows(rows, shape)
    left_out = dict(result.left_out)

    def drop(reason: str) -> None:
        left_out[reason] = left_out.get(reason, 0) + 1

    pairs: list[tuple[ForeignVote, Item]] = []
    for vote in result.votes:
        try:
            item = item_of(vote.prompt, [Answer(response=text, score=None) for text in vote.answers])
        except DataError:
            drop("the answers are the same text")
            continue
        if len(item.answers) != len(vote.answers):
            drop("two of the answers are the same text")
        elif not fits_method(vote.method, len(item.answers)):
            drop(f"more than {MAX_ANSWERS} answers")
        else:
            pairs.append((vote, item))
    if not pairs:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in left_out.items())
        raise RatingError(
            f"{path.name} ({shape.name}) has no judgement that can be taken: {reasons or 'it has no rows'}",
            expected="prompts with two answers or more, and who preferred which",
        )
    with store.all_or_nothing():
        items = store.add_items(item for _, item in pairs)
        votes = _store_votes(store, shape.name, pairs, time.time() if now is None else now, drop)
    names = dict.fromkeys(vote.rater.strip() for vote, _ in pairs)
    return ImportSummary(format=shape.name, rows=len(rows), items=items, votes=votes, raters=tuple(names), left_out=left_out)


def _store_votes(store: RatingStore, format: str, pairs: Sequence[tuple[ForeignVote, Item]], now: float, drop: Any) -> int:
    by_rater: dict[str, list[tuple[ForeignVote, Item]]] = {}
    for vote, item in pairs:
        by_rater.setdefault(vote.rater.strip(), []).append((vote, item))
    count = 0
    for name, judged_items in by_rater.items():
        rater = store.rater(name[:60])
        lasts: dict[tuple[str, Method], tuple[ForeignVote, Item]] = {}
        for vote, item in judged_items:
            if lasts.pop((item.id, vote.method), None) is not None:
                drop("an earlier judgement of the same answers by the same rater")
            lasts[item.id, vote.method] = (vote, item)
        entries = [(item.id, _order_by_lot(item, name), vote.method) for vote, item in lasts.values()]
        votes = []
        for (vote, item), assignment in zip(lasts.values(), store.assign_items(rater, entries, "uncertain"), strict=True):
            choice = _in_order(_in_item_order(vote, item), assignment.order)
            vote_id = _vote_id(format, name, item, vote.method, choice)
            seconds = max(0.0, vote.seconds)
            votes.append(Vote(id=vote_id, assignment=assignment.id, choice=choice, seconds=seconds, note=vote.note))
        for outcome in store.votes(rater, votes, now):
            if isinstance(outcome, RatingError):
                drop(outcome.given)
            else:
                count += 1
    return count


def _order_by_lot(item: Item, rater: str) -> tuple[int, ...]:
    """The same for the same item and rater. In the file the better answer may come first, which is no side."""
    order = list(range(len(item.answers)))
    random.Random(f"import:{item.id}:{rater}").shuffle(order)
    return tuple(order)


def _in_item_order(vote: ForeignVote, item: Item) -> Choice:
    """The choice as if the item's answers had been shown in the item's order."""
    texts = [answer.response for answer in item.answers]
    return _in_order(vote.choice, [vote.answers.index(text) for text in texts])


def _in_order(choice: Choice, order: Sequence[int]) -> Choice:
    """A choice about answers 0, 1, ... as one about the answers order[0], order[1], ..."""
    if choice.grade:
        return replace(choice, grade=choice.grade if order[0] < order[1] else -choice.grade)
    if choice.ranks:
        return replace(choice, ranks=tuple(choice.ranks[i] for i in order))
    return replace(choice, scores=tuple(choice.scores[i] for i in order)) if choice.scores else choice


def _vote_id(format: str, rater: str, item: Item, method: Method, choice: Choice) -> str:
    """The same for the same judgement: importing it again is no new revision."""
    content = json.dumps([format, rater, item.id, method, choice_json(choice)])
    return f"import-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def _read_json(path: Path) -> list[Any]:
    """The rows of a JSON array, of one object, or of JSON lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"it cannot be read ({error.strerror or error})", where=str(path), todo="check the path") from error
    except UnicodeDecodeError as error:
        raise DataError("it is no UTF-8 text", where=str(path), expected="JSON or JSON lines") from error
    try:
        content = json.loads(text)
        return content if isinstance(content, list) else [content]
    except (ValueError, RecursionError):
        pass  # not one value: perhaps a value a line
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(
                "it is neither JSON nor JSON lines", where=f"{path}:{number}", expected="a JSON value", todo="export it again"
            ) from error
    return rows


def _shape_in_words(rows: Sequence[Any]) -> str:
    first = next((row for row in rows if isinstance(row, Mapping)), None)
    if first is None:
        return "it has no rows" if not rows else f"its rows are {type(rows[0]).__name__}, not objects"
    names = [str(name) for name in first]
    more = f" and {len(names) - MOST_FIELDS} more" if len(names) > MOST_FIELDS else ""
    return f"its rows have the fields {', '.join(names[:MOST_FIELDS])}{more}"
