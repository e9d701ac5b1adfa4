"""Arrow and Parquet files, folders that `datasets` saved, .zst: read as pyarrow itself reads them."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import DataError
from sawyer.records import check, expand, read

pa: Any = pytest.importorskip("pyarrow")
Put = Callable[[str, Any], str]
ROWS = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(3000)]


def saved(folder: Path, rows: list[dict[str, Any]], parts: int = 2) -> Path:
    """A folder as save_to_disk writes it: Arrow streams, dataset_info.json and state.json."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{parts:05}.arrow" for i in range(parts)]
    for i, name in enumerate(names):
        table = pa.Table.from_pylist(rows[i * len(rows) // parts : (i + 1) * len(rows) // parts])
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def test_a_saved_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    folder = saved(tmp_path / "data", ROWS)
    found = read(str(folder), want="demonstrations")
    assert [record.response for record in found.records] == [row["completion"] for row in ROWS]
    assert str(found.records[1500].where) == f"{folder}/data-00001-of-00002.arrow:1"
    assert expand(f"{tmp_path}/d*") == expand(str(folder)) and len(expand(str(folder))) == 2


def test_of_several_splits_one_is_named(tmp_path: Path) -> None:
    for split in ("test", "train"):
        saved(tmp_path / "data" / split, ROWS[:4])
    (tmp_path / "data" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match="the splits test, train") as refused:
        read(str(tmp_path / "data"), want="demonstrations")
    advised = refused.value.todo.removeprefix("name ").split(" or ")
    assert all(len(read(path, want="demonstrations").records) == 4 for path in advised)


def test_a_folder_of_files_is_told_their_pattern(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(DataError) as refused:
        check([str(tmp_path)])
    assert expand(refused.value.todo.removeprefix("name its files: ")) == [f"{tmp_path}/rows.jsonl"]


def test_an_arrow_file_with_a_footer(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1700)
    assert len(read(str(tmp_path / "a.arrow"), want="demonstrations").records) == 3000
    (tmp_path / "b.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:-9])
    (tmp_path / "c.arrow").write_bytes(b"nothing of the kind")
    for name in ("b.arrow", "c.arrow"):
        with pytest.raises(DataError, match=r"cannot be read|not an Arrow file"):
            read(str(tmp_path / name), want="demonstrations")


def test_a_bad_row_is_named_by_its_number(tmp_path: Path) -> None:
    pa.parquet = pytest.importorskip("pyarrow.parquet")
    pa.parquet.write_table(pa.Table.from_pylist([*ROWS, {"prompt": "x", "completion": None}]), tmp_path / "a.parquet")
    (problem,) = read(str(tmp_path / "a.parquet"), want="demonstrations").problems
    assert problem.where == f"{tmp_path}/a.parquet:3001:completion"


def test_decimals_and_times_are_values_that_json_knows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    when = datetime.datetime(2024, 5, 6, 7, 8, 9)
    table = pa.table(
        {
            "prompt": ["Up?", "Left?"],
            "responses": [["a", "b"], ["c", "d"]],
            "scores": pa.array([[decimal.Decimal("1.50"), decimal.Decimal("3.00")]] * 2, pa.list_(pa.decimal128(5, 2))),
            "at": [when, when],
            "tags": pa.array([[("k", "v")], []], pa.map_(pa.string(), pa.string())),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    first, _ = read(str(tmp_path / "a.parquet"), want="comparisons").records
    assert [answer.score for answer in first.answers] == [1.5, 3]
    prompt = read(str(tmp_path / "a.parquet"), want="prompts").records[0]
    assert prompt.fields["at"] == "2024-05-06T07:08:09" and prompt.fields["tags"] == {"k": "v"}
    json.dumps(dict(prompt.fields))


def test_zst(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    assert len(read(str(path), want="demonstrations").records) == 3000
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="cannot be read"):
        read(str(path), want="demonstrations")


def test_zst_without_pyarrow(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"A \.zst file needs pyarrow"):
        read(put("a.jsonl.zst", b"\x28\xb5\x2f\xfd"), want="demonstrations")
