"""Rows of named fields from tables: JSON lines, TSV, CSV, Parquet and saved Hugging Face data sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data.building.hugging_face import open_data_set
from odeformer.files.errors import reason

Fields = dict[str, str]
"""The fields of a row by name."""

_DATA_SET_FILES = ("state.json", "dataset_dict.json")
_DATA_SET_SUFFIXES = {".parquet", ".arrow", ".jsonl", ".csv"}


class Row(NamedTuple):
    """The fields of a row, and its place in the file, for error messages."""

    place: str
    fields: Fields


def read_rows(path: Path, by_position: bool, split: str) -> Iterator[Row]:
    """Yield the rows of a table.

    Args:
        path: a .jsonl, .tsv (without quoting), .csv or .parquet file, or a folder saved by ``datasets``.
        by_position: whether a TSV or CSV file has no header; its fields are then named "0", "1", …
        split: the split to read of a folder.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a .jsonl, .tsv, .csv or .parquet file")
    readers = {".jsonl": _json_rows, ".tsv": _table_rows, ".csv": _table_rows}
    if path.is_dir() or path.suffix == ".parquet":
        yield from _data_set_rows(path, split)
        return
    if path.suffix not in readers:
        raise ValueError(f"{path} ends in {path.suffix!r}: give a .jsonl, .tsv, .csv or .parquet file")
    try:
        yield from readers[path.suffix](path, by_position)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): convert it") from None


def is_data_set(folder: Path) -> bool:
    """Whether a folder holds a data set that ``datasets`` can read, rather than text files."""
    return any(
        file.suffix in _DATA_SET_SUFFIXES or file.name in _DATA_SET_FILES for file in folder.rglob("*")
    )


def _json_rows(path: Path, by_position: bool) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"{path} line {number} is not JSON: correct it") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path} line {number} is not a JSON object: write {{...}}")
            place = f"line {number}"
            yield Row(place, {name: _as_text(path, place, name, row[name]) for name in row})


def _as_text(path: Path, place: str, name: str, value: object) -> str:
    """A JSON value as text: strings unchanged, numbers and booleans as in JSON."""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{path} {place}: field {name!r} is not a text or a number")
    text = value if isinstance(value, str) else json.dumps(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{path} {place}: field {name!r} has half of a surrogate pair")
    return text


def _table_rows(path: Path, by_position: bool) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".tsv":
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        try:
            for row in reader:
                if not row:
                    continue
                if header is None:
                    header = [str(i) for i in range(len(row))] if by_position else row
                    if len(set(header)) != len(header):
                        raise ValueError(f"{path} names two columns alike: rename one")
                    if not by_position:
                        continue
                if len(row) != len(header):
                    raise ValueError(
                        f"{path} line {reader.line_num} has {len(row)} columns, the first line has "
                        f"{len(header)}: correct it"
                    )
                yield Row(f"line {reader.line_num}", dict(zip(header, row, strict=True)))
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num} is malformed: {error}") from None


def _data_set_rows(path: Path, split: str) -> Iterator[Row]:
    opened = _parquet(path) if path.suffix == ".parquet" else open_data_set(str(path), None, split)
    # A class label is stored as a number; templates use its name.
    labels = {name: kind for name, kind in (opened.features or {}).items() if hasattr(kind, "int2str")}
    for number, row in enumerate(opened, 1):
        named = row | {name: kind.int2str(row[name]) for name, kind in labels.items()}
        place = f"row {number}"
        yield Row(place, {name: _as_text(path, place, name, value) for name, value in named.items()})


def _parquet(path: Path) -> Any:
    import datasets

    try:
        return datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    except Exception as error:  # noqa: BLE001 (the library raises many kinds)
        raise ValueError(f"{path} is not a Parquet file ({reason(error)}): write it again") from None
