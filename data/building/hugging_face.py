"""Reading datasets with the library ``datasets``, one row at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml

from data.building.packed import compression_of, opened
from data.building.records import shown
from odeformer.files.errors import reason

SHARD_BYTES = 64 * 1024 * 1024
"""Shard size for datasets that were saved with ``save_to_disk``."""


def open_data_set(name: str, config: str | None, split: str) -> Any:
    """Open a dataset of the hub or of a folder for streaming, as an ``IterableDataset``.

    Code in the dataset is never run, and a folder's metadata cannot make it read other places.

    Raises:
        ValueError: if it cannot be opened.
    """
    return _opened(name, config, split)[0]


def _opened(name: str, config: str | None, split: str) -> tuple[Any, list[str]]:
    """The dataset, and the name of each shard's file where shards are files."""
    import datasets

    folder = Path(name)
    try:
        _check_card(folder)
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(name)
            if isinstance(saved, datasets.DatasetDict):
                saved = saved[split]
            _check_below(folder, [file["filename"] for file in saved.cache_files])
            shards = max(1, min(len(saved), saved.data.nbytes // SHARD_BYTES))
            return saved.to_iterable_dataset(num_shards=shards), []
        builder = datasets.load_dataset_builder(name, config)
        files = {key: [str(file) for file in some] for key, some in (builder.config.data_files or {}).items()}
        _check_below(folder, chain.from_iterable(files.values()))
        for first in (some[0] for some in files.values() if some):
            _check_lines(first)  # the library looks at it for the columns
        data_set = builder.as_streaming_dataset(split=split)
        of_split = files.get(split, [])
        return data_set, of_split if len(of_split) == data_set.num_shards else []
    except Exception as error:  # noqa: BLE001 (the library raises many kinds)
        raise ValueError(
            f"hf:{name} cannot be opened ({reason(error)}): correct name, config and split"
        ) from None


def _check_card(folder: Path) -> None:
    """Refuse a folder whose description names data files elsewhere, before the library looks for them."""
    from huggingface_hub import DatasetCard

    described: list[Any] = []
    if (folder / "README.md").is_file():
        described.append(DatasetCard.load(folder / "README.md").data.to_dict().get("configs"))
    if (folder / ".huggingface.yaml").is_file():
        described.append(yaml.safe_load((folder / ".huggingface.yaml").read_text(encoding="utf-8")))
    for place in _texts_in(described):
        if place.startswith(("/", "~")) or "::" in place or "://" in place or ".." in Path(place).parts:
            raise ValueError(f"it names {place!r}, and only files below its folder are read")


def _check_lines(file: str) -> None:
    """Refuse JSON lines with a null of their own: pyarrow 25 dies of them, and the process with it."""
    if ".json" not in Path(file).name or not Path(file).is_file():
        return
    before = b"}"
    with opened(file, compression_of(file)) as stream:
        for number, line in enumerate(stream, 1):
            content = line.strip()
            if content.startswith(b"null") and before.endswith(b"}"):
                raise ValueError(f"line {number} of {Path(file).name} is null, not an object: leave it out")
            before = content or before


def _texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in nested lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        yield from chain.from_iterable(map(_texts_in, value.values() if isinstance(value, dict) else value))


def _check_below(folder: Path, files: Iterable[str]) -> None:
    """Refuse files of this machine that are not below the folder; a dataset of the hub has none."""
    roots = (folder.absolute(), folder.resolve()) if folder.is_dir() else ()
    for file in files:
        if "://" in file and not roots:
            continue
        path = Path(file).absolute()
        if ".." in path.parts or not any(path.is_relative_to(root) for root in roots):
            raise ValueError(f"it names {file!r}, and only files below its folder are read")


def size_and_stamp(name: str, data_set: Any) -> tuple[int, str]:
    """The approximate bytes of a dataset, 0 if unknown, and a string that changes when the dataset does."""
    folder = Path(name)
    if not folder.is_dir():
        size = data_set.info.dataset_size or 0 if data_set.info else 0
        return size, f"{data_set.info.version} {size}"
    facts = [(file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    stamp = " ".join(f"{file.relative_to(folder)} {fact.st_size} {fact.st_mtime_ns}" for file, fact in facts)
    return sum(fact.st_size for _, fact in facts), stamp


def read_shard(name: str, config: str | None, split: str, field: str, index: int) -> Iterator[Any]:
    """Yield one field of every row in a shard of a dataset.

    Raises:
        ValueError: if the dataset lacks the field or cannot be read.
    """
    for place, row in read_rows(name, config, split, [field], index):
        if field not in row:
            raise ValueError(f"{place} has no column {field!r}, only {shown(row)}: name another field")
        yield row[field]


def read_rows(
    name: str, config: str | None, split: str, fields: Collection[str], index: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and content of every row in a shard of a dataset, or in all; labels by their names.

    Only ``fields`` are looked at.

    Raises:
        ValueError: if the dataset cannot be read, or a label has no name.
    """
    data_set, files = _opened(name, config, split)
    names = data_set.column_names or []
    if chosen := [column for column in names if column in fields]:
        data_set = data_set.select_columns(chosen)
    kinds = {column: kind for column, kind in (data_set.features or {}).items() if column in fields}
    for shard in range(data_set.num_shards) if index is None else [index]:
        origin = files[shard] if files else f"hf:{name}"
        rows = iter(data_set.shard(num_shards=data_set.num_shards, index=shard))
        for number in count(1):
            place = f"{origin}: row {number}"
            try:
                if number == 1:
                    _check_lines(origin)
                row = next(rows, None)
            except Exception as error:  # noqa: BLE001 (the library raises many kinds)
                raise ValueError(
                    f"{place} cannot be read ({reason(error)}): repair it or leave it out"
                ) from None
            if row is None:
                break
            yield place, dict.fromkeys(names) | row | named_labels(place, kinds, row)


def named_labels(place: str, kinds: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, str]:
    """The names of those values of a row that are stored as numbers of labels.

    Args:
        place: file and row, for error messages.
        kinds: the columns' types, features of ``datasets``.
        row: the values.

    Raises:
        ValueError: for a number without a label.
    """
    named = {}
    for column, kind in kinds.items():
        if hasattr(kind, "int2str") and isinstance(row.get(column), int):
            if not 0 <= row[column] < kind.num_classes:
                raise ValueError(
                    f"{place} has the label {row[column]} in {column!r}, and labels are 0 … "
                    f"{kind.num_classes - 1}: label it or leave it out"
                )
            named[column] = kind.int2str(row[column])
    return named
