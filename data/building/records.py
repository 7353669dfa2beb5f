"""Texts from JSON lines and Parquet columns."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from odeformer.files.errors import reason

LONGEST_LINE = 256 * 1024 * 1024
"""Maximum bytes of a line or of a value in a table, which is held in memory."""
ROWS_AT_ONCE = 128
"""Maximum rows of a Parquet file that are decoded together."""


def json_lines(stream: io.BufferedReader, start: int, end: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and content of all non-blank lines that begin at the bytes ``start`` … ``end`` − 1.

    The stream must be at its beginning. A line of more than 256 MiB is yielded truncated, as the last one.
    """
    offset = start
    if start:
        stream.seek(start - 1)
        while not (skipped := stream.readline(io.DEFAULT_BUFFER_SIZE)).endswith(b"\n") and skipped:
            offset += len(skipped)
        offset += len(skipped) - 1
    elif stream.peek(3)[:3] == b"\xef\xbb\xbf":
        offset += len(stream.read(3))  # the byte order mark that some editors write
    while end is None or offset < end:
        line = stream.readline(LONGEST_LINE + 1)
        if not line:
            return
        if not line.isspace():
            yield offset, line
        if len(line) > LONGEST_LINE:
            return
        offset += len(line)


def text_of_line(line: bytes, field: str) -> str:
    """The text in a field of a JSON line, "" for null.

    Raises:
        ValueError: with the problem and a remedy, to which the caller adds the place.
    """
    return text_of(object_of_line(line), field)


def text_of(row: dict[str, Any], field: str) -> str:
    """The text in a field of an object, "" for null.

    Raises:
        ValueError: as :func:`text_of_line`.
    """
    if field not in row:
        raise ValueError(f"has no field {field!r}, only {shown(row)}: name another field")
    return checked_text(row[field], field)


def object_of_line(line: bytes) -> dict[str, Any]:
    """The object in a JSON line.

    Raises:
        ValueError: as :func:`text_of_line`.
    """
    if len(line) > LONGEST_LINE:
        raise ValueError(f"is longer than {LONGEST_LINE} bytes: cut it into several")
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text: convert it to UTF-8 or leave it out") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON: correct it") from None
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object: write {…}")
    return row


def checked_text(value: Any, field: str) -> str:
    """A value that is text, "" for None.

    Raises:
        ValueError: for other types, NUL characters and halves of surrogate pairs.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"has {type(value).__name__} in {field!r}, not text: name another field")
    if "\0" in value:
        raise ValueError(f"has a NUL character in {field!r}, so it is not text: leave it out")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"has half of a surrogate pair in {field!r}: correct it or leave it out") from None
    return value


def row_group_ranges(path: str, size: int) -> list[tuple[int, int]]:
    """Consecutive ranges of row groups of about ``size`` bytes each, at least one.

    Raises:
        ValueError: for a file that is not Parquet.
    """
    with _parquet(path) as file:
        ranges = []
        start = total = 0
        for group in range(file.num_row_groups):
            total += file.metadata.row_group(group).total_byte_size
            if total >= size:
                ranges.append((start, group + 1))
                start, total = group + 1, 0
        if start < file.num_row_groups or not ranges:
            ranges.append((start, file.num_row_groups))
        return ranges


def parquet_column(path: str, field: str, start: int, end: int | None) -> Iterator[tuple[int, Any]]:
    """Yield row number and value of a text column in the row groups ``start`` … ``end`` − 1.

    Raises:
        ValueError: for a damaged file, a missing column, or a column that is not text.
    """
    import pyarrow as pa

    with _parquet(path) as file:
        schema = file.schema_arrow
        if field not in schema.names:
            raise ValueError(
                f"{path} has no column {field!r}, only {shown(schema.names)}: name another field"
            )
        check_once(path, schema.names, field)
        kind = schema.field(field).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (
            pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)
        ):
            raise ValueError(f"{path} has {kind} in column {field!r}, not text: name another field")
        for row, (value,) in _rows(path, file, [field], start, end):
            yield row, value


def parquet_rows(path: str, fields: Collection[str]) -> tuple[Any, Iterator[tuple[Any, ...]]]:
    """The schema (``pyarrow.Schema``) of a file, and the values of those ``fields`` that it has, row by row.

    Raises:
        ValueError: for a damaged file, also while the rows are read.
    """
    with _parquet(path) as file:
        schema = file.schema_arrow
    chosen = [name for name in schema.names if name in fields]

    def rows() -> Iterator[tuple[Any, ...]]:
        with _parquet(path) as file:
            yield from (values for _, values in _rows(path, file, chosen, 0, None))

    return schema, rows()


def shown(names: Iterable[str]) -> str:
    """The first of these names in one line, as they are shown in messages."""
    first = (name if name.isprintable() and len(name) <= 60 else repr(name[:60]) for name in names)
    return ", ".join(islice(first, 20)) or "nothing"


def check_once(path: str | Path, names: Sequence[str], field: str) -> None:
    """Refuse a column whose name two columns have.

    Raises:
        ValueError: naming it.
    """
    if list(names).count(field) > 1:
        raise ValueError(f"{path} names two columns {field!r} alike: rename one")


def _rows(
    path: str, file: Any, fields: Sequence[str], start: int, end: int | None
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield number and values of the rows in the row groups ``start`` … ``end`` − 1."""
    import pyarrow as pa

    groups = list(range(start, file.num_row_groups if end is None else end))
    number = 0
    try:
        # A value may be all of a column's bytes, and be repeated in each row that is decoded with it.
        largest = max((_column_bytes(file.metadata.row_group(group), fields) for group in groups), default=0)
        at_once = max(1, min(ROWS_AT_ONCE, LONGEST_LINE // max(1, largest)))
        for batch in file.iter_batches(batch_size=at_once, row_groups=groups, columns=list(fields)):
            batch.validate(full=True)
            for row in range(batch.num_rows):
                values = tuple(column[row].as_py() for column in batch.columns)
                for value in values:
                    if isinstance(value, str | bytes) and len(value) > LONGEST_LINE:
                        raise ValueError(f"a value has {len(value)} characters, {LONGEST_LINE} are read")
                yield number, values
                number += 1
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} is broken at row {number} ({reason(error)}): fetch it again or leave it out"
        ) from None


def _column_bytes(group: Any, fields: Sequence[str]) -> int:
    """The bytes of columns in a row group, before compression."""
    columns = (group.column(index) for index in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.startswith(tuple(fields))
    )


def _parquet(path: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(
            path, buffer_size=1024 * 1024, pre_buffer=False, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is not a Parquet file ({reason(error)}): fetch it again or leave it out"
        ) from None
