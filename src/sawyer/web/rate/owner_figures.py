"""What only the owner sees, as JSON: progress and agreement by rater, conflicts, exports, imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.errors import RatingError
from sawyer.ratings import RatedItem
from sawyer.ratings.choices import choice_json

if TYPE_CHECKING:
    from sawyer.ratings.store import RatingStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFile:
    """A file to download or to write."""

    name: str
    media_type: str
    text: str


def progress_json(store: RatingStore) -> dict[str, Any]:
    """{"progress": items, judged_items, votes by rater, open_leases, method; "agreement": the report on the raters}."""
    from sawyer.ratings.agreement_report import agreement_report, report_json

    progress = asdict(store.progress()) | {"method": store.settings.method}
    return {"progress": progress, "agreement": report_json(agreement_report(store.rated_items()), names=True)}


def conflicts_json(store: RatingStore) -> list[dict[str, Any]]:
    """The items on which raters contradict one another and that the owner has not settled, with who said what."""
    from sawyer.ratings.conflicts import conflicts

    return [_conflict_json(item) for item in conflicts(store.rated_items())]


def _conflict_json(rated: RatedItem) -> dict[str, Any]:
    from sawyer.ratings.translation import choice_in_item_order

    return {
        "item": rated.item.id,
        "method": rated.votes[-1].assignment.method,
        "prompt": [{"role": message.role, "content": message.content} for message in rated.item.prompt.messages],
        "answers": [answer.response for answer in rated.item.answers],
        "votes": [
            {
                "rater": vote.assignment.rater.name,
                "choice": choice_json(choice_in_item_order(vote)),
                "note": vote.assignment.vote.note if vote.assignment.vote else "",
            }
            for vote in rated.votes
        ],
    }


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


def import_json(store: RatingStore, path: Path) -> Mapping[str, Any]:
    """Take another tool's export into the store; what came and what could not be taken."""
    from sawyer.ratings.imports import import_ratings

    return asdict(import_ratings(store, path))
