"""Exports of Argilla 2, Label Studio and feedloop into a store. The shapes are those tools'; the rows are made by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import DataError, RatingError
from sawyer.ratings import RatingSettings, RatingStore, agreement_report, judgement_of
from sawyer.ratings.choices import check_choice
from sawyer.ratings.import_formats import format_of_rows, read_foreign_rows
from sawyer.ratings.imports import ImportSummary, import_ratings


def argilla(fields: dict[str, Any], responses: dict[str, list[Any]]) -> dict[str, Any]:
    """A record as `dataset.records.to_json` writes it."""
    empty: dict[str, Any] = {"metadata": {}, "suggestions": {}, "vectors": {}}
    return {"id": "1", "fields": fields, "responses": responses, "_server_id": "5f1c"} | empty


def answer(value: Any, user: str = "u-1", **more: str) -> dict[str, Any]:
    return {"value": value, "user_id": user} | more


THREE = {"prompt": "Up?", "response-1": "one", "response-2": "two", "response-3": "three"}
TWO = {"instruction": "Up?", "generation-0": "zero", "generation-1": "one"}
ITEMS = [
    {"id": "llm_1", "title": "A", "body": "one"},
    {"id": "llm_2", "title": "B", "body": "two"},
    {"id": "llm_3", "html": "three"},
]


def task(result: list[Any], data: dict[str, Any] | None = None, **annotation: Any) -> dict[str, Any]:
    """A task of Label Studio's JSON export."""
    own = {"id": 1001, "completed_by": 7, "result": result, "was_cancelled": False, "lead_time": 4.5} | annotation
    texts = {"prompt": "Up?", "text1": "left text", "text2": "right text"}
    return {"id": 1, "data": data or texts, "annotations": [own], "predictions": [], "project": 83}


def pairwise(side: str, to_name: str = "text1,text2") -> dict[str, Any]:
    return {"from_name": "pw", "to_name": to_name, "type": "pairwise", "value": {"selected": side}}


def ranker(value: Any) -> dict[str, Any]:
    return {"from_name": "rank", "to_name": "results", "type": "ranker", "value": {"ranker": value}}


def small(**values: Any) -> dict[str, Any]:
    """A row of Label Studio's JSON-MIN export."""
    row = {"id": 1, "prompt": "Up?", "text1": "left text", "text2": "right text", "annotator": 7, "annotation_id": 1001}
    return row | {"created_at": "2026-01-01T00:00:00Z", "lead_time": 4.5} | values


def take(tmp_path: Path, rows: Sequence[Any], *, lines: bool = False) -> tuple[ImportSummary, list[tuple[str, dict[str, Any]]]]:
    """The summary, and of each vote its rater and the score of each text (empty: a skip)."""
    path = tmp_path / "export.json"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) if lines else json.dumps(list(rows)))
    with RatingStore.open(tmp_path / "r.sqlite", settings=RatingSettings(method="pair")) as store:
        summary = import_ratings(store, path, now=1000.0)
        votes = []
        for vote in store.stored_votes():
            judgement = judgement_of(vote)
            texts = [answer.response for answer in vote.assignment.item.answers]
            scores = {} if judgement is None else dict(zip(texts, judgement.scores, strict=True))
            votes.append((vote.assignment.rater.name, scores))
        return summary, votes


SHAPES: list[tuple[dict[str, Any], dict[str, float]]] = [
    # Argilla: a ranking is a list of options, best first (2.x), or of options with ranks, of which ties are kept.
    (argilla(THREE, {"ranking": [answer(["response-2", "response-1", "response-3"])]}), {"one": 1, "two": 2, "three": 0}),
    (
        argilla(THREE, {"r": [answer([{"value": f"reply-{i}", "rank": rank} for i, rank in ((1, 1), (2, 1), (3, 2))])]}),
        {"one": 1, "two": 1, "three": 0},
    ),
    (argilla(THREE, {f"rating_{i}": [answer(i + 3)] for i in (1, 2, 3)}), {"one": 4, "two": 5, "three": 6}),
    (argilla(TWO, {"preference": [answer("generation-1")]}), {"zero": 0, "one": 1}),
    (argilla(TWO, {"preference": [answer("0")]}), {"zero": 1, "one": 0}),
    (argilla(TWO, {"preference": [answer("Response B")], "rationale": [answer("shorter")]}), {"zero": 0, "one": 1}),
    (argilla(TWO, {"preference": [answer("tie")]}), {"zero": 0, "one": 0}),
    (argilla(TWO, {"preference": [answer("0", status="discarded")]}), {}),
    # flattened
    (
        TWO
        | {"id": "1", "preference.responses": ["generation-0"], "preference.responses.users": ["u-1"]}
        | {"preference.responses.status": ["submitted"], "preference.suggestion": None},
        {"zero": 1, "one": 0},
    ),
    # Label Studio
    (task([pairwise("right")]), {"left text": 0, "right text": 1}),
    (
        task([pairwise("left", "x,y")], {"question": "Up?", "answer_a": "left text", "answer_b": "right text"}),
        {"left text": 1, "right text": 0},
    ),
    (task([ranker(["llm_3", "llm_1", "llm_2"])], {"prompt": "Up?", "items": ITEMS}), {"one": 1, "two": 0, "three": 2}),
    (
        task([ranker({"rank": ["llm_2", "llm_1", "llm_3"], "bad": []})], {"prompt": "Up?", "items": ITEMS}),
        {"one": 1, "two": 2, "three": 0},
    ),
    (task([], was_cancelled=True), {}),
    (small(pw=[{"selected": "left"}]), {"left text": 1, "right text": 0}),
    (small(items=ITEMS, rank=[{"ranker": {"_": ["llm_1", "llm_2", "llm_3"]}}]), {"one": 2, "two": 1, "three": 0}),
    # feedloop
    ({"prompt": "Up?", "chosen": "yes", "rejected": "no"}, {"yes": 1, "no": 0}),
]


@pytest.mark.parametrize(("row", "expected"), SHAPES)
def test_each_shape(tmp_path: Path, row: dict[str, Any], expected: dict[str, float]) -> None:
    summary, votes = take(tmp_path, [row])
    assert [scores for _, scores in votes] == [expected] and not summary.left_out, summary.left_out
    assert summary.votes == summary.rows == summary.items == 1
    with RatingStore.open(tmp_path / "r.sqlite") as store:
        (only,) = store.rated_items()
    assert only.item.prompt.text == "Up?"


def test_raters_keep_their_names(tmp_path: Path) -> None:
    rows = [
        task([pairwise("left")], completed_by={"id": 3, "email": "anna@example.org"}),
        task([pairwise("right")]),
        task([pairwise("right")], {"prompt": "Down?", "text1": "a", "text2": "b"}),
    ]
    summary, votes = take(tmp_path, rows)
    assert summary.raters == ("anna@example.org", "Label Studio user 7")
    assert sorted(name for name, _ in votes) == ["Label Studio user 7", "Label Studio user 7", "anna@example.org"]
    with RatingStore.open(tmp_path / "r.sqlite") as store:
        report = agreement_report(store.rated_items())
    assert report.same_order.value == 0.0 and report.shared_items == 1
    assert [profile.median_seconds for profile in report.profiles] == [4.5, 4.5]


def test_an_argilla_record_with_two_raters(tmp_path: Path) -> None:
    both = {"preference": [answer("generation-0", "u-1"), answer("generation-1", "u-2")]}
    summary, votes = take(tmp_path, [argilla(TWO, both)])
    assert dict(votes) == {"u-1": {"zero": 1, "one": 0}, "u-2": {"zero": 0, "one": 1}}
    assert summary.items == 1 and summary.votes == 2


def test_every_row_that_is_left_out_is_counted_with_its_reason(tmp_path: Path) -> None:
    rows = [
        task([pairwise("right")]),
        task([]),
        task([pairwise("left")], {"text1": "a", "text2": "b"}),
        task([pairwise("left")], {"prompt": "Up?", "this": "a", "that": "b"}),
        task([pairwise("left")], {"prompt": "Up?", "text1": "same", "text2": "same"}),
        task([ranker({"good": ["llm_1"], "bad": ["llm_2", "llm_3"]})], {"prompt": "Up?", "items": ITEMS}),
        task([pairwise("left")]),
        {"id": 9, "data": {"prompt": "Up?"}, "annotations": []},
        {"prompt": "Up?", "chosen": "a", "rejected": "b"},
    ]
    summary, votes = take(tmp_path, rows)
    assert votes == [("Label Studio user 7", {"left text": 1, "right text": 0})], "of two by one rater the last"
    assert summary.votes == 1 and sum(summary.left_out.values()) == len(rows) - 1
    assert len(summary.left_out) == 8
    for word in (
        "no prompt",
        "no known names",
        "same text",
        "does not name every answer",
        "earlier judgement",
        "another shape",
    ):
        assert word in summary.words


def test_drafts_are_left_out(tmp_path: Path) -> None:
    draft = argilla(TWO, {"preference": [answer("0", status="draft"), answer("1", "u-2", status="submitted")]})
    summary, votes = take(tmp_path, [draft])
    assert votes == [("u-2", {"zero": 0, "one": 1})] and summary.left_out == {"a draft": 1}


def test_the_same_file_again_changes_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(20)]
    first, votes = take(tmp_path, rows, lines=True)
    again, votes_after = take(tmp_path, rows, lines=True)
    assert (first.items, first.votes) == (20, 20) and (again.items, again.votes) == (0, 20)
    assert votes == votes_after
    with RatingStore.open(tmp_path / "r.sqlite") as store:
        (profile,) = agreement_report(store.rated_items()).profiles
    assert profile.flags == () and profile.name == "feedloop", "chosen stands first in the file, which is no side"
    assert profile.too_fast_share.value is None, "the file has no times"


def test_imported_votes_stand_beside_votes_of_the_page(tmp_path: Path) -> None:
    """An item that was there is the same item, whatever the order of its answers in the file."""
    take(tmp_path, [{"prompt": "Up?", "chosen": "yes", "rejected": "no"}])
    summary, votes = take(tmp_path, [{"prompt": "Up?", "chosen": "no", "rejected": "yes", "rater": "Anna"}])
    assert summary.items == 0 and dict(votes) == {"feedloop": {"yes": 1, "no": 0}, "Anna": {"yes": 0, "no": 1}}


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": 1, "sentence": "x", "label": 2}],
        [],
        [1, 2],
        [{"a": 1}, {"a": 2}, {"prompt": "p", "chosen": "c", "rejected": "r"}],
    ],
)
def test_an_unknown_shape_is_refused_with_what_was_seen_and_what_is_read(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(RatingError) as caught:
        take(tmp_path, rows)
    assert "no known shape" in caught.value.given
    assert not rows or not isinstance(rows[0], dict) or next(iter(rows[0])) in caught.value.given
    for name in ("Argilla", "Label Studio", "feedloop", "annotations", "chosen"):
        assert name in caught.value.expected


def test_nothing_that_can_be_taken_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(RatingError, match=r"no choice of one of two and no ranking \(1\)"):
        take(tmp_path, [task([])])
    with RatingStore.open(tmp_path / "r.sqlite") as store:
        assert store.progress(0.0).items == 0 and store.raters() == []


@pytest.mark.parametrize("content", ['{"prompt": "a"', "prompt,chosen\na,b\n", "[" * 100_000])
def test_a_file_that_is_no_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with RatingStore.open(tmp_path / "r.sqlite", settings=RatingSettings(method="pair")) as store:
        with pytest.raises(DataError, match="neither JSON nor JSON lines"):
            import_ratings(store, tmp_path / "x.json")
        (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="UTF-8"):
            import_ratings(store, tmp_path / "x.json")
        with pytest.raises(DataError, match="cannot be read"):
            import_ratings(store, tmp_path / "absent.json")


JUNK = (None, "", 0, -1, True, 1.5, [], {}, "x", ["a"], [{"id": 1}], [None], [[]], {"value": None}, 10**30, float("nan"))


def damaged(value: Any, rng: random.Random) -> Any:
    """The value with some of its parts gone, or something else in their stead."""
    if rng.random() < 0.12:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        return {name: damaged(part, rng) for name, part in value.items() if rng.random() > 0.04}
    return [damaged(part, rng) for part in value] if isinstance(value, list) else value


def test_damaged_rows_are_counted_or_give_choices_that_fit() -> None:
    rng = random.Random(8)
    votes = 0
    for _ in range(3000):
        rows = [damaged(rng.choice(SHAPES)[0], rng) for _ in range(2)]
        shape = format_of_rows(rows)
        if shape is None:
            continue
        result = read_foreign_rows(rows, shape)
        assert result.votes or result.left_out
        for vote in result.votes:
            if len(set(vote.answers)) == len(vote.answers):
                check_choice(vote.choice, vote.method, len(vote.answers))
                votes += 1
    assert votes > 200
