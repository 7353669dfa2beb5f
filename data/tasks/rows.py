"""Rows of named fields from tables: JSON lines, TSV, CSV, Parquet and Hugging Face datasets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from data.building import records
from data.building.hugging_face import named_labels
from data.building.hugging_face import read_rows as read_data_set
from data.building.packed import compression_of, opened
from data.corpus import SUFFIXES, all_files
from odeformer.files.errors import reason

KNOWN = ".jsonl, .ndjson, .tsv, .csv or .parquet"

_SAVED = ("state.json", "dataset_dict.json")
_TABLES = (".parquet", ".arrow", ".jsonl", ".csv")
_ABOUT = ("readme", "license", "licence", "notice", "citation", "changelog")
"""Names of texts that say something about a dataset."""

Line = tuple[int, list[str]]
"""The number of a line, and the fields of the row that ends there."""


class Row(NamedTuple):
    """The fields of a row as they are stored, and its file and place in it, for error messages."""

    place: str
    fields: dict[str, Any]


def read_rows(path: Path, names: Collection[str], split: str) -> Iterator[Row]:
    """Yield the rows of a table.

    Args:
        path: a file, or a folder that ``datasets`` can read.
        names: the fields that are wanted; others need not be read. If all are numbers, a TSV or CSV file has
            no header, and they count its columns from 0.
        split: the split to read of a folder.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a {KNOWN} file")
    if path.is_dir():
        for place, fields in read_data_set(str(path), None, split, names):
            yield Row(place, fields)
        return
    compression = compression_of(path.name)
    suffix = Path(path.stem if compression else path.name).suffix.lower()
    if suffix == ".parquet" and not compression:
        yield from _parquet_rows(path, names)
    elif suffix not in (".jsonl", ".ndjson", ".tsv", ".csv"):
        raise ValueError(f"{path} ends in {path.suffix!r}: give a {KNOWN} file")
    else:
        try:
            yield from _json_rows(path) if "json" in suffix else _table_rows(path, suffix, names)
        except (OSError, EOFError) as error:
            if compression is None:
                raise
            raise ValueError(
                f"{path} is not intact {compression} ({reason(error)}): fetch it again or leave it out"
            ) from None


def as_text(place: str, name: str, value: object) -> str:
    """The value of a field as text: strings unchanged, numbers and booleans as in JSON.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, str | int | float):
        raise ValueError(f"{place}: field {name!r} is not a text or a number")
    text = value if isinstance(value, str) else json.dumps(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{place}: field {name!r} has half of a surrogate pair")
    return text


def is_data_set(folder: Path) -> bool:
    """Whether a folder holds a dataset that ``datasets`` can read, rather than text files.

    A table among texts does not make it one, nor do texts that only describe tables.
    """
    if any((folder / name).is_file() for name in _SAVED):
        return True
    files = list(all_files(folder))
    texts = [file for file in files if file.suffix.lower() in SUFFIXES and file.stem.lower() not in _ABOUT]
    return not texts and any(file.suffix.lower() in _TABLES or file.name in _SAVED for file in files)


def _json_rows(path: Path) -> Iterator[Row]:
    with opened(str(path), compression_of(path.name)) as stream:
        for number in count(1):
            line = stream.readline(records.LONGEST_LINE + 1)
            if not line:
                return
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors write
            if line.isspace() or not line:
                continue
            try:
                yield Row(f"{path} line {number}", records.object_of_line(line))
            except ValueError as error:
                raise ValueError(f"{path} line {number} {error}") from None


def _table_rows(path: Path, suffix: str, names: Collection[str]) -> Iterator[Row]:
    lines = _quoted_lines(path, ",") if suffix == ".csv" else _tsv_lines(path)
    first = next(lines, None)
    if first is None:
        return
    header = first[1]
    if names and all(name.isdecimal() for name in names):
        second = next(lines, None)
        lines = chain([second] if second else [], lines)
        if not (second and _is_numbered(header, second[1])):
            header = [str(index) for index in range(len(first[1]))]
            lines = chain([first], lines)
    for name in names:
        records.check_once(path, header, name)
    for number, row in lines:
        if len(row) != len(header):
            raise ValueError(
                f"{path} line {number} has {len(row)} columns, the first line has {len(header)}: correct it"
            )
        yield Row(f"{path} line {number}", dict(zip(header, row, strict=True)))


def _is_numbered(first: list[str], second: list[str]) -> bool:
    """Whether the first row of a table is a header of numbers, as pandas writes it, perhaps with an index."""
    numbers = first[1:] if first[0] == "" else first
    is_counted = numbers == [str(index) for index in range(len(numbers))]
    return bool(numbers) and is_counted and not all(cell.strip().isdecimal() for cell in second)


def _tsv_lines(path: Path) -> Iterator[Line]:
    """Yield the rows of a TSV file, in which quotes are letters, or enclose fields as in CSV."""
    plain = list(_plain_lines(path))
    if not any(field.startswith('"') for _, row in plain for field in row):
        return iter(plain)
    try:
        quoted = list(_quoted_lines(path, "\t"))
    except ValueError:
        return iter(plain)
    shape, shape_of_quoted = ({len(row) for _, row in lines} for lines in (plain, quoted))
    if len(shape_of_quoted) > 1:
        return iter(plain)
    if len(shape) > 1:
        return iter(quoted)
    if shape != shape_of_quoted or len(plain) != len(quoted):
        raise ValueError(
            f"{path} can be read in two ways, as its quotes may be letters or enclose tabs and line ends: "
            "write it as .csv or .jsonl"
        )
    pairs = zip(*(chain.from_iterable(row for _, row in lines) for lines in (plain, quoted)), strict=True)
    doubled = any(field.startswith('"') and '"' in other for field, other in pairs)
    columns = zip(*(row for _, row in plain), strict=True)
    whole = any(all(field.startswith('"') for field in column) for column in columns)
    return iter(quoted if doubled or whole else plain)


def _plain_lines(path: Path) -> Iterator[Line]:
    """Yield the rows of a TSV file whose quotes are letters."""
    return _lines(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _quoted_lines(path: Path, delimiter: str) -> Iterator[Line]:
    """Yield the rows of a file whose quotes may enclose fields."""
    return _lines(path, delimiter=delimiter, strict=True)


def _lines(path: Path, **options: Any) -> Iterator[Line]:
    csv.field_size_limit(records.LONGEST_LINE)
    with opened(str(path), compression_of(path.name)) as stream:
        reader = csv.reader(_texts(path, stream), **options)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num} is malformed: {error}") from None


def _texts(path: Path, stream: io.BufferedReader) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 file with their ends, which may be \n, \r\n or \r."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number in count(1):
            line = file.readline(records.LONGEST_LINE + 1)
            if not line:
                return
            if len(line) > records.LONGEST_LINE:
                raise ValueError(
                    f"{path} line {number} is longer than {records.LONGEST_LINE} characters: cut it"
                )
            if "\0" in line or not _is_utf8(line):
                raise ValueError(f"{path} is not UTF-8 text (line {number}): convert it to UTF-8")
            yield line


def _is_utf8(line: str) -> bool:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # bytes that were no characters
        return False
    return True


def _parquet_rows(path: Path, names: Collection[str]) -> Iterator[Row]:
    schema, rows = records.parquet_rows(str(path), names)
    for name in names:
        records.check_once(path, schema.names, name)
    chosen = [name for name in schema.names if name in names]
    kinds = _label_kinds(path, schema, chosen)
    for number, values in enumerate(rows, 1):
        place, row = f"{path} row {number}", dict(zip(chosen, values, strict=True))
        yield Row(place, dict.fromkeys(schema.names) | row | named_labels(place, kinds, row))


def _label_kinds(path: Path, schema: Any, chosen: Collection[str]) -> dict[str, Any]:
    """The types of columns as ``datasets`` noted them in a Parquet file, where it wrote the file."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    try:
        kinds = datasets.Features.from_arrow_schema(schema)
    except Exception as error:  # noqa: BLE001 (the library raises many kinds)
        raise ValueError(f"{path}: its column types are damaged ({reason(error)}): write it again") from None
    return {name: kind for name, kind in kinds.items() if name in chosen}
