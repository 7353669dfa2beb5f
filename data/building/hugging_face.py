"""Reading data sets with the library ``datasets``, one row at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odeformer.files.errors import reason

SHARD_BYTES = 64 * 1024 * 1024
"""Shard size for data sets that were saved with ``save_to_disk``."""


def open_data_set(name: str, config: str | None, split: str) -> Any:
    """Open a data set of the hub or of a folder for streaming, as an ``IterableDataset``.

    Code in the data set is never run.

    Raises:
        ValueError: if it cannot be opened.
    """
    import datasets

    folder = Path(name)
    try:
        if (folder / "state.json").is_file():
            saved = datasets.load_from_disk(name)
        elif (folder / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(name)[split]
        else:
            return datasets.load_dataset(name, config, split=split, streaming=True)
        return saved.to_iterable_dataset(num_shards=max(1, min(len(saved), saved.data.nbytes // SHARD_BYTES)))
    except Exception as error:  # noqa: BLE001 (the library raises many kinds)
        raise ValueError(
            f"hf:{name} cannot be opened ({reason(error)}): correct name, config and split"
        ) from None


def size_and_stamp(name: str, data_set: Any) -> tuple[int, str]:
    """The approximate bytes of a data set, 0 if unknown, and a string that changes when the data set does."""
    folder = Path(name)
    if not folder.is_dir():
        size = data_set.info.dataset_size or 0 if data_set.info else 0
        return size, f"{data_set.info.version} {size}"
    facts = [(file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    stamp = " ".join(f"{file.relative_to(folder)} {fact.st_size} {fact.st_mtime_ns}" for file, fact in facts)
    return sum(fact.st_size for _, fact in facts), stamp


def read_shard(name: str, config: str | None, split: str, field: str, index: int) -> Iterator[Any]:
    """Yield one field of every row in a shard of a data set.

    Raises:
        ValueError: if the data set lacks the field or cannot be read.
    """
    data_set = open_data_set(name, config, split)
    shown = f"hf:{name}"
    if data_set.column_names is not None and field not in data_set.column_names:
        raise ValueError(
            f"{shown} has no column {field!r}, only {', '.join(data_set.column_names)}: name another field"
        )
    rows = iter(data_set.shard(num_shards=data_set.num_shards, index=index))
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # noqa: BLE001 (the library raises many kinds)
            raise ValueError(f"{shown} cannot be read ({reason(error)}): repair it or leave it out") from None
        if row is None:
            return
        if field not in row:
            raise ValueError(
                f"{shown} has a row without {field!r}, only {', '.join(row)}: name another field"
            )
        yield row[field]
