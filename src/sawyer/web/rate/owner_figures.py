"""What only the owner sees, as JSON: progress and agreement by rater, conflicts, exports, imports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.errors import RatingError
from sawyer.ratings import choice_json, conflicts, parse_choice

if TYPE_CHECKING:
    from sawyer.ratings.store import RatingStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFile:
    """A file to download or to write."""

    name: str
    media_type: str
    text: str


class OwnerFigures:
    """Progress and agreement. The report on the raters takes up to a second, so it is kept until a vote changes it."""

    def __init__(self, store: RatingStore) -> None:
        self._store = store
        self._digest, self._agreement = "", dict[str, Any]()

    def values(self) -> dict[str, Any]:
        """{"progress": items, judged_items, votes by rater, open_leases, method; "agreement": the report on the raters}."""
        from sawyer.ratings import agreement_report, report_json

        digest = self._store.digest()
        if digest != self._digest:
            self._agreement = report_json(agreement_report(self._store.rated_items()))
            self._digest = digest
        progress = asdict(self._store.progress()) | {"method": self._store.settings.method}
        return {"progress": progress, "agreement": self._agreement}


def conflicts_json(store: RatingStore) -> list[dict[str, Any]]:
    """The items on which raters contradict one another and that the owner has not settled, with who said what."""
    open_conflicts = [conflict for conflict in conflicts(store.rated_items()) if not conflict.is_adjudicated]
    return [
        {
            "item": conflict.item.id,
            "method": conflict.method,
            "prompt": [{"role": message.role, "content": message.content} for message in conflict.item.prompt.messages],
            "answers": [answer.response for answer in conflict.item.answers],
            "votes": [{"rater": vote.rater, "choice": choice_json(vote.choice), "note": vote.note} for vote in conflict.votes],
        }
        for conflict in open_conflicts
    ]


def adjudicate(store: RatingStore, item: str, raw: Any) -> None:
    """Store the owner's judgement, raw as the page sends it, of an item that was judged. Raises RatingError."""
    rated_item = next((one for one in store.rated_items() if one.item.id == item), None)
    votes = [vote for vote in rated_item.votes if vote.assignment.pick != "adjudication"] if rated_item else []
    if rated_item is None or not votes:
        raise RatingError("nobody has judged this item", expected="the id of an item of GET /api/conflicts")
    method = votes[0].assignment.method
    choice = parse_choice(raw, method, len(rated_item.item.answers))
    store.adjudicate(item, choice, store.rater("owner"), method=method)


EXPORTS = ("answers", "pairs", "csv", "demonstrations")


def export_file(store: RatingStore, what: str, *, raters: bool = False) -> ExportFile:
    """The judgements as one of EXPORTS; `raters` adds who judged. Raises RatingError for another name."""
    from sawyer.ratings import exports

    if what not in EXPORTS:
        raise RatingError(f"there is no export {what!r}", expected=f"one of {', '.join(EXPORTS)}")
    if what == "csv":
        return ExportFile(name="votes.csv", media_type="text/csv", text=exports.votes_csv(store.stored_votes(), raters=raters))
    if what == "demonstrations":
        text = exports.demonstrations(store.stored_votes())
    else:
        write: Callable[..., str] = exports.answers_jsonl if what == "answers" else exports.preference_pairs
        text = write(store.rated_items(), raters=raters)
    return ExportFile(name=f"rated-{what}.jsonl", media_type="application/jsonl", text=text)


def import_json(store: RatingStore, path: Path) -> dict[str, Any]:
    """Take another tool's export into the store; what came and what could not be taken."""
    from sawyer.ratings.imports import import_ratings

    summary = import_ratings(store, path)
    return asdict(summary) | {"words": summary.words}
