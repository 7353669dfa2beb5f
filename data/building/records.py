"""Texts out of JSON lines and of Parquet columns."""

import io
import json
from collections.abc import Iterator
from typing import Any

LONGEST_LINE = 256 * 1024 * 1024  # bytes; a line has to be held whole


def json_lines(stream: io.BufferedReader, start: int, end: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that begin at start … end - 1, each with where it begins; blank lines are left out.

    The stream stands at its beginning. Of a line of more than 256 MiB only that much is read; it ends them.
    """
    offset = start
    if start:
        stream.seek(start - 1)
        while not (skipped := stream.readline(io.DEFAULT_BUFFER_SIZE)).endswith(b"\n") and skipped:
            offset += len(skipped)
        offset += len(skipped) - 1
    elif stream.peek(3)[:3] == b"\xef\xbb\xbf":
        offset += len(stream.read(3))  # a mark of UTF-8 that some editors write
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
    """Return a JSON line's text, "" for null.

    Raises ValueError with what is wrong and what to do; the caller says where.
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
    if field not in row:
        names = ", ".join(list(row)[:20]) or "nothing"
        raise ValueError(f"has no field {field!r}, only {names}: name another field")
    return checked_text(row[field], field)


def checked_text(value: Any, field: str) -> str:
    """Return a value that is text, "" for a missing one.

    Raises ValueError for something else, for a NUL character and for half of a surrogate pair.
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
    """Return consecutive ranges of row groups of about `size` bytes each, at least one.

    Raises ValueError for a file that is not Parquet.
    """
    with _parquet(path) as file:
        ranges = []
        start = held = 0
        for group in range(file.num_row_groups):
            held += file.metadata.row_group(group).total_byte_size
            if held >= size:
                ranges.append((start, group + 1))
                start, held = group + 1, 0
        if start < file.num_row_groups or not ranges:
            ranges.append((start, file.num_row_groups))
        return ranges


def parquet_column(path: str, field: str, start: int, end: int | None) -> Iterator[tuple[int, Any]]:
    """Yield the values of a text column in row groups start … end - 1, each with its row in that range.

    Raises ValueError for a broken file, and for one without the column or with something else in it.
    """
    import pyarrow as pa

    with _parquet(path) as file:
        schema = file.schema_arrow
        if field not in schema.names:
            raise ValueError(
                f"{path} has no column {field!r}, only {', '.join(schema.names)}: name another field"
            )
        kind = schema.field(field).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (
            pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)
        ):
            raise ValueError(f"{path} has {kind} in column {field!r}, not text: name another field")
        groups = list(range(start, file.num_row_groups if end is None else end))
        row = 0
        try:
            for batch in file.iter_batches(batch_size=128, row_groups=groups, columns=[field]):
                for value in batch.column(0).to_pylist():
                    yield row, value
                    row += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} is broken ({reason}): fetch it again or leave it out") from None


def _parquet(path: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(
            path, buffer_size=1024 * 1024, pre_buffer=False, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a Parquet file ({reason}): fetch it again or leave it out") from None
