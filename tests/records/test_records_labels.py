"""Labelled texts: one label or several, from objects and from tables with and without a header; what is refused, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sawyer.errors import DataError
from sawyer.records import LabelledText, check, read, split

Put = Callable[[str, Any], str]


def found(*texts: LabelledText) -> list[tuple[str, tuple[str, ...], bool]]:
    return [(text.text, text.labels, text.many) for text in texts]


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ("spam", "spam"),
        (" spam ", "spam"),
        (1, "1"),
        (0, "0"),
        (-1, "-1"),
        (2.0, "2"),
        (True, "true"),
        (False, "false"),
        ("0", "0"),
    ],
)
def test_one_label(put: Put, given: Any, label: str) -> None:
    read_ = read(put("a.jsonl", [{"text": " Buy now. ", "label": given}]), want="labels")
    assert found(*read_.records) == [("Buy now.", (label,), False)]
    assert read_.format == "labelled texts" and read_.problems == ()
    assert str(read_.records[0].where) == "a.jsonl:1"


@pytest.mark.parametrize(
    ("given", "labels"),
    [(["b", "a"], ("b", "a")), ([], ()), (["a", "a"], ("a",)), ([1, True], ("1", "true")), ('["a", "b"]', ("a", "b"))],
)
def test_many_labels(put: Put, given: Any, labels: tuple[str, ...]) -> None:
    assert found(*read(put("a.jsonl", [{"text": "x", "labels": given}]), want="labels").records) == [("x", labels, True)]


def test_glue_s_sentence_and_names_of_one_s_own(put: Put) -> None:
    assert found(*read(put("a.json", [{"sentence": "x", "label": 1, "idx": 7}]), want="labels").records) == [
        ("x", ("1",), False)
    ]
    rows = put("b.jsonl", [{"comment": "x", "kind": "rude"}])
    columns = {"comment": "text", "kind": "label"}
    assert found(*read(rows, want="labels", columns=columns).records) == [("x", ("rude",), False)]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_a_table_with_a_header(put: Put, name: str) -> None:
    mark = "\t" if ".tsv" in name else ","
    text = "\n".join(mark.join(row) for row in (("text", "label"), ("Good one", "1"), ("Bad one", "0"))) + "\n"
    assert found(*read(put(name, text), want="labels").records) == [("Good one", ("1",), False), ("Bad one", ("0",), False)]


def test_a_table_s_list_is_json(put: Put) -> None:
    text = 'text,labels\nx,"[""a"", ""b""]"\ny,[]\n'
    assert found(*read(put("a.csv", text), want="labels").records) == [("x", ("a", "b"), True), ("y", (), True)]


COLA = "gj04\t1\t\tThe doll wriggled itself loose.\ncj99\t0\t*\tAs you eat the most, you want the least.\n"


def test_a_table_without_a_header_by_its_columns_numbers(put: Put) -> None:
    rows = read(put("cola.tsv", COLA), want="labels", columns={"2": "label", "4": "text"})
    assert found(*rows.records) == [
        ("The doll wriggled itself loose.", ("1",), False),
        ("As you eat the most, you want the least.", ("0",), False),
    ]
    assert [str(record.where) for record in rows.records] == ["cola.tsv:1", "cola.tsv:2"], "the first line is a row"


def test_without_numbers_its_first_line_is_a_header_and_the_file_is_refused(put: Put) -> None:
    with pytest.raises(DataError, match="match none of the formats for labels"):
        read(put("cola.tsv", COLA), want="labels")


def test_a_header_of_numbers_is_a_header(put: Put) -> None:
    rows = read(put("a.csv", "1,2\nyes,Some text\n"), want="labels", columns={"1": "label", "2": "text"})
    assert found(*rows.records) == [("Some text", ("yes",), False)]


def test_numbers_and_names_together_need_a_header(put: Put) -> None:
    with pytest.raises(DataError, match="no row has `2`, which `columns:` names"):
        read(put("cola.tsv", COLA), want="labels", columns={"2": "label", "sentence": "text"})


def test_a_number_beyond_the_last_column_is_refused(put: Put) -> None:
    with pytest.raises(DataError, match=r"cola.tsv:1:row: fields 1, 3, 4, label"):
        read(put("cola.tsv", COLA), want="labels", columns={"2": "label", "5": "text"})


def test_a_short_row_of_a_table_without_a_header_is_named(put: Put) -> None:
    with pytest.raises(DataError, match=r"cola.tsv:3: 2 cells under 4 columns"):
        read(put("cola.tsv", COLA + "gj04\t1\n"), want="labels", columns={"2": "label", "4": "text"}, max_bad_rows=0)


GOOD = {"text": "fine", "label": "a"}


@pytest.mark.parametrize(
    ("row", "where", "words"),
    [
        ({"text": "x"}, "a.jsonl:2:label", "there is no `label`"),
        ({"text": "x", "label": None}, "a.jsonl:2:label", "there is no `label`"),
        ({"text": "x", "label": " "}, "a.jsonl:2:label", "`label` is empty"),
        ({"text": "x", "label": 0.5}, "a.jsonl:2:label", "which is no class"),
        ({"text": "x", "label": ["a"]}, "a.jsonl:2:label", "is a list, not text"),
        ({"text": "", "label": "a"}, "a.jsonl:2:text", "`text` is empty"),
        ({"label": "a"}, "a.jsonl:2:text", "there is no `text`"),
        ({"text": "x", "labels": "a"}, "a.jsonl:2:labels", "is a str, not a list"),
        ({"text": "x", "labels": "[a"}, "a.jsonl:2:labels", "not a list in JSON"),
        ({"text": "x", "labels": ["a", None]}, "a.jsonl:2:labels[1]", "there is no `labels[1]`"),
        ({"text": "x", "labels": ["a", ""]}, "a.jsonl:2:labels[1]", "is empty"),
        ({"text": "x", "labels": ["a"], "label": "a"}, "a.jsonl:2:labels", "`label` and `labels`"),
    ],
)
def test_refused_by_line_and_field(put: Put, row: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(DataError) as refused:
        read(put("a.jsonl", [GOOD, row]), want="labels", max_bad_rows=0)
    assert refused.value.where == where and words in str(refused.value)


def test_duplicates_are_left_out_and_contradictions_are_said(put: Put) -> None:
    rows = [GOOD, {"text": "other", "label": "a"}, GOOD, {"text": "fine", "label": "b"}]
    taken = read(put("a.jsonl", rows), want="labels")
    assert found(*taken.records) == [("fine", ("a",), False), ("other", ("a",), False), ("fine", ("b",), False)]
    assert [(p.where, p.kind) for p in taken.problems] == [("a.jsonl:3:row", "duplicate"), ("a.jsonl:4:label", "contradiction")]
    assert "another label in a.jsonl:1" in taken.problems[1].message


def test_labels_in_another_order_are_the_same_row(put: Put) -> None:
    taken = read(put("a.jsonl", [{"text": "x", "labels": ["a", "b"]}, {"text": "x", "labels": ["b", "a"]}]), want="labels")
    assert len(taken.records) == 1 and [p.kind for p in taken.problems] == ["duplicate"]


def test_check_takes_them_for_what_they_are(put: Put) -> None:
    put("a.jsonl", [GOOD, {"text": "x", "label": "b"}])
    put("b.jsonl", [{"text": "x", "label": "a"}])
    reports = check(["a.jsonl"], held_out=["b.jsonl"])
    assert [(report.want, report.records) for report in reports] == [("labels", 2), ("labels", 1)]
    assert [problem.kind for problem in reports[1].problems] == ["leak"]
    # A label of an answer is no class but a judgement, and prompts without labels are prompts.
    assert check([put("c.jsonl", [{"prompt": "x", "completion": "y", "label": True}])])[0].want == "comparisons"
    assert check([put("c.jsonl", [{"prompt": "x", "completion": "y", "label": "rude"}])])[0].want == "demonstrations"
    assert check([put("d.jsonl", [{"text": "x"}])])[0].want == "prompts"


def test_a_text_falls_on_one_side_of_the_split(put: Put) -> None:
    rows = [{"text": f"Text {i}", "label": str(label)} for i in range(200) for label in (0, 1)]
    train, held_out = split(read(put("a.jsonl", rows), want="labels").records, 0.25)
    assert 60 < len(held_out) < 140 and len(train) + len(held_out) == 400
    assert not {record.text for record in train} & {record.text for record in held_out}
