"""People's votes as judgements that a stage learns from, `collect/judgements.jsonl`, and beside it how far the raters agree."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sawyer.config import Config, rater_weights
from sawyer.ratings import RatedItem, StoredVote
from sawyer.records import JudgedPrompt, json_lines, read, scored_row
from sawyer.runs import Layout, Run, collected_files, hash_files, read_rows, write_json, write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All judgements besides `answers.jsonl` at one moment: votes, and scores of the answers of later collections."""

    key: str  # a hash of what it was made from
    text: str  # of judgements.jsonl; empty where nothing is judged
    judgements: int = 0
    raters: int = 0
    agreement: Mapping[str, Any] = field(default_factory=dict)  # the content of agreement.json

    @property
    def words(self) -> str:
        """Example: `132 judgements by 3 raters; 95 of 1,200 items are judged; 4 skips`"""
        return _in_words(self.agreement) if self.text else "no judgements"


def take_snapshot(config: Config, layout: Layout, *, unless: str = "") -> Snapshot | None:
    """The judgements as they are now; None where they are those of the key `unless`, or where nothing is there to judge by.

    Raises RatingError or RunError for votes that cannot be read, ConfigError where reward.raters names somebody who has not
    judged, DataError for a mistyped score in a later collection's answers.
    """
    later = collected_files(layout)[1:]
    has_votes = layout.ratings.exists()
    if not has_votes and (not later or "summary" in stored_agreement(layout)):
        return None  # a copy of a run, such as a kept round or a study's, has the judgements without the votes
    settings = {} if config.reward is None else config.reward.raters
    rated_items: Sequence[RatedItem] = ()
    digest, total = "", 0
    if has_votes:
        from sawyer.ratings import RatingStore

        with RatingStore.open(layout.ratings) as store, store.one_moment():  # people may be voting
            digest = store.digest()
            key = _key(digest, settings, layout)
            if key == unless:
                return None
            rated_items, total = store.rated_items(), store.progress().items
    key = _key(digest, settings, layout)
    if key == unless:
        return None
    names = dict.fromkeys(vote.assignment.rater.name for item in rated_items for vote in item.votes)
    rows, agreement = _vote_rows(rated_items, rater_weights(settings, list(names)) if names else {})
    scored_rows = [scored_row(record) for record in _scored_records(layout)]
    text = json_lines([*rows, *scored_rows])
    judged_items = Counter(item.item.round for item in rated_items if _is_judged(item))
    agreement |= {
        "key": key,
        "rows": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        "judgements": len(rows) + len(scored_rows),
        "items": total,
        "judged": {str(number): judged_items[number] for number in sorted(judged_items)},
        "scored": len(scored_rows),
    }
    raters = int(agreement.get("summary", {}).get("raters", 0))
    return Snapshot(key=key, text=text, judgements=len(rows) + len(scored_rows), raters=raters, agreement=agreement)


def _vote_rows(rated_items: Sequence[RatedItem], weights: Mapping[str, float]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The votes' rows, and what agreement.json has of them: no rater's name, since the page may be shown to anybody."""
    if not rated_items:
        return [], {}
    from sawyer.ratings import agreement_report, pseudonyms, report_json, training_rows

    rows, summary = training_rows(rated_items, weights)
    names = pseudonyms(rated_items)
    items = [replace(item, votes=tuple(_without_name(vote, names) for vote in item.votes)) for item in rated_items]
    counts: dict[str, Any] = {
        name: value for name, value in asdict(summary).items() if isinstance(value, int) and not isinstance(value, bool)
    }
    counts |= {"left_out_raters": len(summary.left_out), "left_out": sum(summary.left_out.values())}
    counts |= {"weighted_raters": len(summary.weights)}
    # Whom reward.raters leaves out sets no ceiling, but stays on the page: it shows why.
    silent = {names[vote.assignment.rater.id] for item in rated_items for vote in item.votes if _is_left_out(vote, weights)}
    report = report_json(agreement_report(items, without=silent))
    if silent:
        profiles = report_json(agreement_report(items))["profiles"]
        report["profiles"] += [profile | {"left_out": True} for profile in profiles if profile["name"] in silent]
    return rows, {"summary": counts, "report": report}


def _is_judged(item: RatedItem) -> bool:
    from sawyer.ratings import judgement_of

    return any(judgement_of(vote) is not None for vote in item.votes)


def _is_left_out(vote: StoredVote, weights: Mapping[str, float]) -> bool:
    return weights.get(vote.assignment.rater.name) == 0


def _without_name(vote: StoredVote, names: Mapping[int, str]) -> StoredVote:
    """The vote of a rater who is called r1, r2, ..., as in judgements.jsonl."""
    rater = vote.assignment.rater
    return replace(vote, assignment=replace(vote.assignment, rater=replace(rater, name=names[rater.id])))


def write_snapshot(layout: Layout, snapshot: Snapshot) -> None:
    """Write judgements.jsonl, and then agreement.json with its key: after a kill between the two it is made again."""
    if snapshot.text:
        write_text(layout.judgements, snapshot.text)
    else:
        layout.judgements.unlink(missing_ok=True)
    write_json(layout.agreement, snapshot.agreement)


def stored_agreement(layout: Layout) -> dict[str, Any]:
    """The content of agreement.json; empty where there is none that can be read: it is then made again."""
    try:
        content = json.loads(layout.agreement.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def stored_rows(layout: Layout) -> str:
    """A hash of judgements.jsonl as it is, to compare with a snapshot's."""
    text = layout.judgements.read_bytes() if layout.judgements.exists() else b""
    return hashlib.sha256(text).hexdigest()


def count_judgements(layout: Layout) -> int:
    """How many rows judgements.jsonl has."""
    return len(read_rows(layout.judgements))


def log_unjudged(run: Run) -> None:
    """Say which later collections wait for people: none of their answers has been judged."""
    judged_items = stored_agreement(run.layout).get("judged", {})
    for number, path in list(enumerate(collected_files(run.layout), 1))[1:]:
        records = _records(str(path))
        if judged_items.get(str(number)) or any(record.scores for record in records):
            continue
        answers = sum(len(record.answers) for record in records)
        run.journal.event(
            run.layout.collection(number),
            "waiting",
            message=f"{answers:,} answers to {len(records):,} prompts of round {number} wait for `sawyer rate "
            f"{run.layout.root}`; once some are judged, run the same command again",
        )


def _in_words(agreement: Mapping[str, Any]) -> str:
    summary: Mapping[str, Any] = agreement.get("summary", {})
    parts = []
    if summary:
        parts.append(f"{summary['judgements']:,} judgements by {_raters_text(summary['raters'])}")
        parts.append(f"{sum(agreement['judged'].values()):,} of {agreement['items']:,} items are judged")
        if left_out := summary["left_out"]:
            parts.append(f"{left_out:,} judgements of {_raters_text(summary['left_out_raters'])} left out by reward.raters")
        if skips := summary["skips"]:
            parts.append(f"{skips:,} skipped")
    if count := agreement.get("scored"):
        parts.append(f"{count:,} prompts of later collections with scores in their files")
    return "; ".join(parts)


def _raters_text(count: int) -> str:
    return f"{count:,} rater{'s' * (count != 1)}"


def _key(digest: str, weights: Mapping[str, float], layout: Layout) -> str:
    later = [path for path in collected_files(layout)[1:]]
    names = [str(path.relative_to(layout.root)) for path in later]
    # The names of the files count without the folder of the run, which may be moved.
    contents = [hash_files([], salt=path.read_text(encoding="utf-8", errors="surrogateescape")) for path in later]
    return hash_files([], salt=repr((digest, sorted(weights.items()), list(zip(names, contents, strict=True)))))


def _scored_records(layout: Layout) -> list[JudgedPrompt]:
    records = [record for path in collected_files(layout)[1:] for record in _records(str(path))]
    return [record for record in records if record.scores]


def _records(path: str) -> list[JudgedPrompt]:
    # A row that a person mistyped holds a judgement: it is an error, not a row to leave out.
    return [record for record in read([path], want="scored", max_bad_rows=None).records if isinstance(record, JudgedPrompt)]
