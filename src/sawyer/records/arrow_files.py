"""Parquet and Arrow files -> raw rows, in pieces. Values that JSON does not know come as those that it knows."""

from __future__ import annotations

import datetime
import decimal
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sawyer.errors import DataError
from sawyer.records.data_files import PACKED_SUFFIXES, check_size, content_of, need_pyarrow

ROWS_AT_ONCE = 1024


def columnar_rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a .parquet or .arrow file (a stream, as `datasets` writes it, or a file with a footer), in order.

    Decimals are numbers, dates and times their ISO text. Raises DataError for a file that is damaged or too large for memory.
    """
    parquet = ".parquet" in Path(path).name.lower()
    what = "Parquet" if parquet else "Arrow"
    pyarrow = need_pyarrow(path, what)
    number = 0
    try:
        source = (
            pyarrow.BufferReader(content_of(path)) if Path(path).suffix.lower() in PACKED_SUFFIXES else pyarrow.OSFile(path)
        )
        for batch in (_parquet if parquet else _arrow)(path, source):
            rows = batch.to_pylist()
            if any(_is_foreign(field.type) for field in batch.schema):
                rows = [_plain(row) for row in rows]
            for row in rows:
                number += 1
                yield row
    except (OSError, ValueError, EOFError, OverflowError, TypeError, pyarrow.ArrowException) as error:
        message = f"row {number + 1} or a later one cannot be read" if number else f"not a{'n' * (not parquet)} {what} file"
        raise DataError(
            f"{message} ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            where=path,
            expected=f"a whole {what} file",
            todo="copy or write the file again",
        ) from error


def _parquet(path: str, source: Any) -> Iterator[Any]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(source)
    groups = (file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    check_size(path, sum(groups))
    yield from file.iter_batches(batch_size=ROWS_AT_ONCE)


def _arrow(path: str, source: Any) -> Iterator[Any]:
    import pyarrow.ipc

    check_size(path, os.path.getsize(path))
    has_footer = source.read(6) == b"ARROW1"
    source.seek(0)
    if has_footer:
        reader = pyarrow.ipc.open_file(source)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        batches = iter(pyarrow.ipc.open_stream(source))
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield batch.slice(start, ROWS_AT_ONCE)


def _is_foreign(kind: Any) -> bool:
    """Whether a column's type, or one inside it, has values that JSON does not know."""
    import pyarrow.types as types

    inside = [kind.field(i).type for i in range(kind.num_fields)]
    return types.is_decimal(kind) or types.is_temporal(kind) or types.is_map(kind) or any(map(_is_foreign, inside))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) for item in value):  # a map
            return {str(name): _plain(item) for name, item in value}
        return [_plain(item) for item in value]
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value
