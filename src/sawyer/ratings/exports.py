"""Judgements as files: scored answers, preference pairs, a table of all votes, demonstrations.

Raters' names are in them only on request. Without names raters stand as r1, r2, ... where a file needs to tell them apart:
two raters who judge alike are two judgements, and rows that are equal in everything would be read as one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from sawyer.ratings.choices import choice_json
from sawyer.ratings.rating_types import RatedItem, StoredVote
from sawyer.ratings.translation import (
    choice_in_item_order,
    counted_votes,
    judgement_of,
    judgement_row,
    last_choice,
    pseudonyms,
    pseudonyms_of_votes,
)
from sawyer.records import Prompt, json_lines

COLUMNS = (
    *("vote", "assignment", "revision", "is_last", "time", "rater", "kind", "method", "pick", "seconds", "item", "prompt"),
    *("answers", "choice", "scores", "shown_order", "both_bad", "skip", "rewrite", "note"),
)
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full-width


def answers_jsonl(rated_items: Sequence[RatedItem], raters: bool = False) -> str:
    """A line of scored answers for each judgement, as `collect/judgements.jsonl` has it: `sawyer check` and reward training
    read it. `raters` writes names instead of r1, r2, ..."""
    names = _names(rated_items, raters)
    return json_lines(
        judgement_row(item, judgement, names[vote.assignment.rater.id])
        for item in rated_items
        for vote in counted_votes(item)
        if (judgement := judgement_of(vote)) is not None
    )


def preference_rows(rated_items: Sequence[RatedItem], raters: bool = False) -> tuple[list[dict[str, Any]], int]:
    """(a row for each two answers of which a judgement prefers one, the pairs that are ties): prompt, chosen, rejected, and
    margin, the difference of their scores. A ranking of k answers gives up to k (k - 1) / 2 rows."""
    names = _names(rated_items, True)
    rows: list[dict[str, Any]] = []
    ties = 0
    for item in rated_items:
        for vote in counted_votes(item):
            judgement = judgement_of(vote)
            scores = () if judgement is None else judgement.scores
            answers = [
                (answer.response, score)
                for answer, score in zip(item.item.answers, scores, strict=False)
                if score is not None  # not judged
            ]
            for (one, high), (other, low) in combinations(answers, 2):
                if high == low:
                    ties += 1
                    continue
                chosen, rejected = (one, other) if high > low else (other, one)
                row = {
                    "prompt": _prompt_json(item.item.prompt),
                    "chosen": chosen,
                    "rejected": rejected,
                    "margin": abs(high - low),
                }
                rows.append(row | ({"rater": names[vote.assignment.rater.id]} if raters else {}))
    return rows, ties


def preference_pairs(rated_items: Sequence[RatedItem], raters: bool = False) -> str:
    """`preference_rows` as JSON lines, without the ties."""
    return json_lines(preference_rows(rated_items, raters)[0])


def votes_csv(stored_votes: Sequence[StoredVote], raters: bool = False) -> str:
    """Every revision of every vote as a table, for spreadsheets. `answers`, `choice` and `scores` are JSON in the item's own
    order; `shown_order` has the positions in which the answers were shown.

    A text that a spreadsheet would run as a formula begins with an apostrophe.
    """
    lasts = {vote.assignment.id: vote.revision for vote in sorted(stored_votes, key=lambda vote: vote.revision)}
    names = pseudonyms_of_votes(stored_votes)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for vote in stored_votes:
        assignment, choice, judgement = vote.assignment, last_choice(vote), judgement_of(vote)
        content = assignment.vote
        cells = (
            content.id if content else "",
            assignment.id,
            vote.revision,
            int(lasts[assignment.id] == vote.revision),
            datetime.fromtimestamp(vote.timestamp, UTC).isoformat(timespec="seconds"),
            assignment.rater.name if raters else names[assignment.rater.id],
            assignment.rater.kind,
            assignment.method,
            assignment.pick,
            round(content.seconds, 3) if content else 0,
            assignment.item.id,
            _conversation_text(assignment.item.prompt),
            json.dumps([answer.response for answer in assignment.item.answers], ensure_ascii=False),
            json.dumps(choice_json(choice_in_item_order(vote))),
            json.dumps(list(judgement.scores)) if judgement is not None else "",
            " ".join(map(str, assignment.order)),
            int(choice.both_bad),
            int(choice.skip),
            content.rewrite if content else "",
            content.note if content else "",
        )
        writer.writerow([plain_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return table.getvalue()


def plain_cell(text: str) -> str:
    """The text as no spreadsheet takes it for a formula: one that begins with =, +, - or @, spaces aside, or with a tab or a
    line's end gets an apostrophe before it (OWASP, "CSV Injection")."""
    is_formula = text.lstrip().startswith(FORMULA_STARTS) or text.startswith(("\t", "\r", "\n"))
    return f"'{text}" if is_formula else text


def demonstrations(stored_votes: Sequence[StoredVote]) -> str:
    """Each rewrite, a better answer in a rater's words, as a line that `sft.data` reads: of each assignment the last
    revision's, and the same answer to the same prompt once. Of a conversation's earlier answers none is imitated."""
    lasts = {vote.assignment.id: vote for vote in sorted(stored_votes, key=lambda vote: vote.revision)}
    rows: dict[str, dict[str, Any]] = {}
    for _, vote in sorted(lasts.items()):
        rewrite = vote.assignment.vote.rewrite.strip() if vote.assignment.vote is not None else ""
        if not rewrite:
            continue
        messages = vote.assignment.item.prompt.messages
        if len(messages) == 1:
            row: dict[str, Any] = {"instruction": messages[0].content, "output": rewrite}
        else:
            turns = [
                {"role": message.role, "content": message.content} | ({"weight": 0} if message.role == "assistant" else {})
                for message in messages
            ]
            row = {"messages": [*turns, {"role": "assistant", "content": rewrite}]}
        rows.setdefault(json.dumps(row), row)
    return json_lines(rows.values())


def export_words(what: str, rated_items: Sequence[RatedItem], stored_votes: Sequence[StoredVote]) -> str:
    """What an export has and what it leaves out, in words."""
    if what == "pairs":
        rows, ties = preference_rows(rated_items)
        return f"{len(rows):,} pairs; left out: {ties:,} ties"
    if what == "answers":
        judgements = [judgement_of(vote) for item in rated_items for vote in counted_votes(item)]
        skips = sum(judgement is None for judgement in judgements)
        replacements = sum(len(item.votes) - len(counted_votes(item)) for item in rated_items)
        out = f"{skips:,} skips, {replacements:,} votes that an adjudication replaces"
        return f"{len(judgements) - skips:,} judgements; left out: {out}"
    if what == "demonstrations":
        return f"{demonstrations(stored_votes).count(chr(10)):,} demonstrations"
    return f"{len(stored_votes):,} votes, revisions included"


def _names(rated_items: Sequence[RatedItem], raters: bool) -> Mapping[int, str]:
    if not raters:
        return pseudonyms(rated_items)
    return {vote.assignment.rater.id: vote.assignment.rater.name for item in rated_items for vote in item.votes}


def _prompt_json(prompt: Prompt) -> str | list[dict[str, str]]:
    if len(prompt.messages) == 1:
        return prompt.text
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def _conversation_text(prompt: Prompt) -> str:
    if len(prompt.messages) == 1:
        return prompt.text
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)
