"""Every extension, plain and gzipped; the line of each row as an editor counts; files that are not what they seem."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import DataError
from sawyer.records import Problem, expand, read
from sawyer.records.row_reading import raw_rows

Put = Callable[[str, Any], str]
ROWS = [{"question": "Up?", "answer": 'Down, or\n"not"'}, {"question": "Où?", "answer": "Ici"}]
TEXTS = {
    ".json": json.dumps(ROWS),
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    ".ndjson": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    ".csv": 'question,answer\nUp?,"Down, or\n""not"""\nOù?,Ici\n',
}


def lines(path: str) -> list[int]:
    """The line of each raw row; the file must be sound."""
    problems: list[Problem] = []
    found = [row.line for row in raw_rows(path, problems, lambda row: "question" in row)]
    assert problems == []
    return found


def told(path: str, want: Any = "demonstrations") -> tuple[str, str]:
    """(where, whole message) of the DataError, where no bad row is let pass."""
    with pytest.raises(DataError) as caught:
        read(path, want=want, max_bad_rows=0)
    return caught.value.where, str(caught.value)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("suffix", list(TEXTS))
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_every_text_extension(put: Put, suffix: str, ending: str, start: str) -> None:
    found = read(put(f"a{suffix}{ending}", start + TEXTS[suffix]), want="demonstrations")
    assert [(r.prompt.text, r.response) for r in found.records] == [("Up?", 'Down, or\n"not"'), ("Où?", "Ici")]
    assert found.problems == () and found.format == "question and answer"


@pytest.mark.parametrize("name", ["A.JSON", "A.JsonL", "A.CSV", "A.JSON.GZ"])
def test_capitals_in_the_extension(put: Put, name: str, tmp_path: Path) -> None:
    text = TEXTS["." + name.lower().split(".")[1]]
    put(name, gzip.compress(text.encode()) if name.endswith("GZ") else text)
    assert len(read(name, want="demonstrations").records) == 2


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz", "A.PARQUET"])
def test_parquet(put: Put, name: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    turns = [{"role": "user", "content": "Up?"}, {"role": "assistant", "content": "Down."}]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"messages": [turns, turns[:1]], "n": [1.5, None]}), buffer)
    content = buffer.getvalue()
    where, message = told(put(name, content))
    # Parquet has no lines: a row's number stands for it.
    assert where == f"{name}:2:messages" and "no turn is the assistant's" in message
    assert [r.fields.get("n") for r in read(name, want="prompts").records] == [1.5, None]


def test_parquet_that_is_none(put: Put) -> None:
    pytest.importorskip("pyarrow")
    assert "not a Parquet file" in told(put("a.parquet", b"PAR1 but no more"))[1]
    assert "not a Parquet file" in told(put("b.parquet", b""))[1]
    put("c.parquet.gz", b"")
    Path("c.parquet.gz").write_bytes(b"not gzip")
    assert "cannot be read" in told("c.parquet.gz")[1]


def test_parquet_without_rows(put: Put) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    buffer = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), buffer)
    assert told(put("a.parquet", buffer.getvalue()))[1].startswith("a.parquet: the file has no rows")


def test_parquet_without_pyarrow(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install pyarrow" in told(put("a.parquet", b"PAR1"))[1]


# Lines


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"question": 1}\n\n  \n{"question": 2}\n', [1, 4]),
        ("a.jsonl", '\r\n{"question": 1}\r\n{"question": 2}', [2, 3]),
        ("a.json", '[{"question": 1}, {"question": 2},\n\n{"question": 3}]', [1, 1, 3]),
        # All on one line: the row's number stands for it.
        ("a.json", '[{"question": 1}, {"question": 2}, {"question": 3}]\n', [1, 2, 3]),
        ("a.json", '{"version": 2, "data": [{"a": 1}, {"a": 2}]}', [1, 2]),
        ("a.json", json.dumps([{"question": 1, "x": [1, 2]}, {"question": 2}], indent=1), [2, 9]),
        ("a.json", json.dumps([{"question": 1}, {"question": 2}], indent=4).replace("\n", "\r\n"), [2, 5]),
        ("a.json", "\ufeff\n\n[\n{}\n,{}]", [4, 5]),
        ("a.json", '["one",\n "two"]', [1, 2]),
        ("a.json", '\n {"question": 1,\n"answer": 2}\n', [2]),
        # One object around all rows: their lines, not its.
        ("a.json", '{"version": 2,\n "data": [\n  {"a": [{"b": 1}]},\n  {"a": 2}\n ]\n}', [3, 4]),
        ("a.json", '{"errors": [], "a\\"b" : {"data": [{}]},\n "data" :[{"a": 1},\n{"a": 2}] }', [2, 3]),
        # ... but an object that is a row itself is one row, whatever lists it holds.
        ("a.json", '{"question": 1, "data": [{"a": 1}, {"a": 2}]}', [1]),
        # The ending says .json, the text is JSON Lines; and the other way round.
        ("a.json", '{"question": 1}\n{"question": 2}\n', [1, 2]),
        ("a.jsonl", '[\n {"question": 1},\n {"question": 2}\n]\n', [2, 3]),
        ("a.jsonl", '{\n "question": 1\n}\n', [1]),
        ("a.csv", "question,answer\n1,2\n3,4", [2, 3]),
        ("a.csv", '\n\nquestion,"ans\nwer"\r\n1,"a\n\nb"\r\n\r\n   \n3,"4"\n', [5, 10]),
        ("a.csv", "question,answer\r1,2\r3,4\r", [2, 3]),
        # No quoting: a line is a row, whatever quotes stand in it.
        ("a.tsv", 'question\tanswer\n1\t2, 3\r\n"4\t5\n\n6"\t"7"\n8\t9', [2, 3, 5, 6]),
        ("a.txt", "one\n\n two\r\n\x0b\nthree", [1, 3, 5]),
    ],
)
def test_the_line_each_row_begins_on(put: Put, name: str, text: str, expected: list[int]) -> None:
    assert lines(put(name, text)) == expected
    assert lines(put(f"{name}.gz", text)) == expected


# What cannot be read


@pytest.mark.parametrize(
    ("name", "text", "where", "words"),
    [
        (
            "a.jsonl",
            '{"prompt": "x"}\n' * 6 + '{"prompt": \n{"prompt": 8}\n',
            "a.jsonl:7",
            "not JSON (Expecting value, column 12)",
        ),
        ("a.json", '[\n{"text": "p"},\n{"text": "q"},\n{"c" 3}\n]', "a.json:4", "not JSON (Expecting ':' delimiter, column 6)"),
        ("a.json", '[\n{"text": "p"}\n{"text": "q"}\n]', "a.json:3", "expected , or ] after a row"),
        ("a.json", '[\n{"text": "p"},\n]', "a.json:3", "a comma after the last row"),
        ("a.json", '[{"text": "p"}]\n\n[{"text": "q"}]', "a.json:3", "more text after the closing ]"),
        ("a.json", '{\n"a": 1\n}\n{\n"b": 2\n}', "a.json:4", "more text after the first object"),
        ("a.json", '{\n"a": 1,\n"b" 2\n}', "a.json:3", "Expecting ':' delimiter"),
        ("a.json", '{"a": 1\n{"prompt": "b"}\n', "a.json:1", "not JSON"),
        ("a.json", "hello", "a.json:1", "not JSON"),
        ("a.jsonl", "hello", "a.jsonl:1", "not JSON"),
        ("a.json", '[\n{"a": "one\ntwo"}]', "a.json:2", "Invalid control character"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt" "then goes on, and ends otherwise', "a.jsonl:2", "not JSON (Expecting ':'"),
        # Cut off: the end of the text is where it goes wrong.
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "so it en', "a.jsonl:2", "the last line is cut off"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "x", "n": {"m": 1}', "a.jsonl:2", "the last line is cut off"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": tr', "a.jsonl:2", "the last line is cut off"),
        ("a.json", '[\n{"text": "p"},\n{"b": "so it en', "a.json:3", "the file is cut off"),
        ("a.json", '[\n{"text": "p"},\n{"text": "q"},\n\n', "a.json:3", "the file is cut off"),
        ("a.json", '[\n{"text": "p"},\n{"text": "q"}\n', "a.json:3", "the file is cut off"),
        ("a.json", "[", "a.json:1", "the file is cut off"),
        ("a.json", '{"prompt": ["x"', "a.json:1", "the file is cut off"),
        ("a.csv", 'prompt,n\nx,1\n"so it\nen', "a.csv:3", "a quote that opens in this row is never closed"),
        ("a.csv", "prompt,n\nx,1\nso it en", "a.csv:3", "the last line is cut off: 1 cells under 2 columns"),
        ("a.csv", "prompt,n\nx,1\n\n1,2,3\ny,2\n", "a.csv:4", "3 cells under 2 columns"),
        ("a.csv", "prompt,n\nx\ny,2\n", "a.csv:2", "1 cells under 2 columns"),
        ("a.csv", 'prompt,n\n"x"y,1\n', "a.csv:2", "',' expected after '\"'"),
        ("a.csv", 'prompt\nx\n""\n', "a.csv:3:prompt", "`prompt` is empty"),
        ("a.csv", "prompt,prompt\nx,y\n", "a.csv:1:prompt", "two columns are called `prompt`"),
        ("a.csv", "\nprompt,prompt\nx,y\n", "a.csv:2:prompt", "two columns are called `prompt`"),
        # Whole files
        ("a.json", "", "a.json", "the file is empty"),
        ("a.jsonl", " \r\n\n", "a.jsonl", "the file is empty"),
        ("a.csv", "\ufeff", "a.csv", "the file is empty"),
        ("a.txt", "\n", "a.txt", "the file is empty"),
        ("a.json", "[]", "a.json", "the file has no rows"),
        ("a.csv", "prompt,n\n", "a.csv", "the file has no rows"),
        ("a.xlsx", "x", "a.xlsx", ".xlsx is not known"),
        ("a", "x", "a", "no ending is not known"),
        # JSON's corners
        ("a.jsonl", "[" * 100_000 + "\n", "a.jsonl:1", "not JSON (nested too deep)"),
        ("a.json", '["p",\n{"prompt": ' + "[" * 100_000, "a.json:2", "not JSON (nested too deep)"),
        ("a.json", '["p",\n\n{"n": ' + "7" * 5000 + "}]", "a.json:3", "a number with too many digits"),
        ("a.jsonl", '{"n": ' + "7" * 5000 + "}\n{}\n", "a.jsonl:1", "a number with too many digits"),
    ],
)
def test_broken_text(put: Put, name: str, text: str, where: str, words: str) -> None:
    place, message = told(put(name, text), want="prompts")
    assert place == where and words in message and "what to do: " in message
    if name != "a":
        assert told(put(f"{name}.gz", text), want="prompts")[0] == where.replace(name, f"{name}.gz", 1)


def test_rows_beside_the_broken_ones_still_come(put: Put) -> None:
    problems: list[Problem] = []
    name = put("a.jsonl", '{"a": 1}\noops\n{"a": 3}\n[\n')
    assert [row.line for row in raw_rows(name, problems, lambda row: True)] == [1, 3]
    assert [(p.where, p.kind) for p in problems] == [("a.jsonl:2", "broken JSON"), ("a.jsonl:4", "broken JSON")]
    problems.clear()
    assert [row.line for row in raw_rows(put("a.csv", "a,b\n1\n2,3\n"), problems, lambda row: True)] == [3]


@pytest.mark.parametrize("start", [b"\x89PNG\r\n", b"PAR1", b"PK\x03\x04", b"%PDF-1.7", b"\x1f\x8b\x08"])
def test_a_binary_file_is_called_so(put: Put, start: bytes) -> None:
    where, message = told(put("a.jsonl", start + bytes(range(256))))
    assert where == "a.jsonl" and "a binary file under a text file's name" in message


def test_any_binary_file(put: Put) -> None:
    assert "a binary file" in told(put("a.csv", bytes(range(256)) * 4))[1]
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        message = told(put("a.jsonl", (json.dumps(ROWS[1]) + "\n").encode(encoding) * 9))[1]
        assert ("UTF-16" if encoding == "utf-16" else "a binary file") in message


def test_not_utf8_is_told_line_by_line(put: Put) -> None:
    problems: list[Problem] = []
    content = b'{"a": "1"}\n{"a": "caf\xe9"}\n{"a": "3"}\n{"a": "\xff\xfe"}\n'
    found = [(row.line, row.value) for row in raw_rows(put("a.jsonl", content), problems, lambda row: True)]
    assert [(p.where, p.kind, p.fatal, p.bad) for p in problems] == [
        ("a.jsonl:2", "encoding", False, True),
        ("a.jsonl:4", "encoding", False, True),
    ]
    assert "byte 0xe9 is not UTF-8" in problems[0].message
    assert found == [(1, {"a": "1"}), (3, {"a": "3"})]
    # Of rows over several lines the damaged one is left out; where all lie on one line, nobody knows which it is.
    problems.clear()
    name = put("a.json", b'[{"a":\n"1"},\n{"a":\n"\xe9"},\n{"a": "3"}]')
    assert [row.line for row in raw_rows(name, problems, lambda row: True)] == [1, 5] and [p.bad for p in problems] == [True]
    problems.clear()
    list(raw_rows(put("a.json", b'[{"a": "1"}, {"a": "\xe9"}]'), problems, lambda row: True))
    assert [(p.where, p.fatal) for p in problems] == [("a.json:1", True)]


def test_cyrillic_in_an_old_code_page_is_not_called_binary(put: Put) -> None:
    content = ('{"prompt": "' + "где" * 50 + '"}').encode("cp1251")
    where, message = told(put("a.jsonl", content))
    assert where == "a.jsonl:1" and "is not UTF-8" in message


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", '{"prompt": "x"}\n{"prompt": "y\0"}\n'), ("a.csv", "prompt\ny\0\n")])
def test_nul_bytes_are_told_once(put: Put, name: str, text: str) -> None:
    problems: list[Problem] = []
    list(raw_rows(put(name, text), problems, lambda row: True))
    assert [(p.where, p.kind, p.bad) for p in problems] == [(f"{name}:2", "NUL", True)]


def test_damaged_gzip(put: Put, tmp_path: Path) -> None:
    whole = gzip.compress(TEXTS[".jsonl"].encode() * 50)
    bent = bytearray(whole)
    bent[20:24] = b"\xff\xff\xff\xff"
    for content in (whole[:-9], b"no gzip at all", whole[:5], bytes(bent)):
        (tmp_path / "b.jsonl.gz").write_bytes(content)
        put("a.jsonl", "x")  # the fixture stands in the folder
        where, message = told("b.jsonl.gz")
        assert where == "b.jsonl.gz" and "cannot be read" in message


# Paths


def test_paths_and_patterns(put: Put) -> None:
    for name in ("b.jsonl", "a.jsonl", "c[1].jsonl", "d.txt"):
        put(name, TEXTS[".jsonl"])
    assert expand("*.jsonl") == ["a.jsonl", "b.jsonl", "c[1].jsonl"]
    assert expand(["b.jsonl", "*.jsonl"]) == ["b.jsonl", "a.jsonl", "c[1].jsonl"]
    assert expand("c[1].jsonl") == ["c[1].jsonl"]  # a file of that very name, not a pattern


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.json", "nowhere.json: there is no such file"),
        ("*.none", r"\*.none: there is no such file"),
        (".", ".: is a folder"),
        ("a\0b", "there is no such file"),
        ("x" * 5000, "there is no such file"),
        ([], "no file is named"),
        ("", "there is no such file"),
    ],
)
def test_no_such_file(put: Put, path: Any, words: str) -> None:
    put("a.jsonl", TEXTS[".jsonl"])
    with pytest.raises(DataError, match=words):
        read(path, want="prompts")


def test_several_files_are_one_reading(put: Put) -> None:
    one = put("one.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    two = put("two.json", [{"prompt": "b"}, {"prompt": "c"}])
    found = read([one, two], want="prompts")
    assert [str(r.where) for r in found.records] == ["one.jsonl:1", "one.jsonl:2", "two.json:2"]
    assert [str(p) for p in found.problems] == ["two.json:1:row: the same as one.jsonl:2; left out; remove it"]
    assert found.files == (one, two)


def test_the_error_names_the_file_that_is_wrong_and_how_many_problems_there_are(put: Put) -> None:
    good = put("good.jsonl", [{"prompt": "a"}])
    bad = put("bad.jsonl", [{"prompt": "b"}, {"prompt": ""}, {"prompt": 3}, {"prompt": None}])
    where, message = told([good, bad], want="prompts")  # type: ignore[arg-type]
    assert where == "bad.jsonl:2:prompt"
    assert message.startswith("bad.jsonl:2:prompt: `prompt` is empty; 3 of 4 rows cannot be used, ")
    assert "mend `prompt`" in message and "`sawyer check bad.jsonl` lists all" in message
