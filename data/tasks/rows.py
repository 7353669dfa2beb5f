"""Rows of named fields out of tables: JSON lines, TSV, CSV, Parquet, folders of Hugging Face."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data.building.hugging_face import open_data_set

Fields = dict[str, str]


_DATA_SET_FILES = ("state.json", "dataset_dict.json")
_DATA_SET_SUFFIXES = {".parquet", ".arrow", ".jsonl", ".csv"}


class Row(NamedTuple):
    """One row: where it is in its file, for messages, and its fields."""

    place: str
    fields: Fields


def read_rows(path: Path, by_position: bool, split: str) -> Iterator[Row]:
    """Yield a table's rows.

    TSV has no quoting, CSV has the usual one; `by_position` takes their first line for a row, and counts
    the fields. A Parquet file or a folder of Hugging Face is read by the library `datasets`, and of a
    folder the rows of one `split`. Raises FileNotFoundError; ValueError that names file and line.
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
    """Say whether a folder is one that the library `datasets` reads, rather than a folder of texts."""
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
    """Return a JSON string as it is, a number or truth value as JSON writes it."""
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
    # A class label is stored as a number; its name is what people and templates mean.
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a Parquet file ({reason}): write it again") from None
