"""Data sets that the library `datasets` reads, a row at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARD_BYTES = 64 * 1024 * 1024  # of a data set that was saved with save_to_disk


def open_data_set(name: str, config: str | None, split: str) -> Any:
    """Open a data set of the hub or of a folder for streaming, as an `IterableDataset`.

    No program out of it is run. Raises ValueError, in one line, if it cannot be opened.
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"hf:{name} cannot be opened ({reason}): correct name, config and split") from None


def size_and_stamp(name: str, data_set: Any) -> tuple[int, str]:
    """Return about how many bytes it has (0 if nobody knows), and what changes when it does."""
    folder = Path(name)
    if not folder.is_dir():
        size = data_set.info.dataset_size or 0 if data_set.info else 0
        return size, f"{data_set.info.version} {size}"
    facts = [(file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    stamp = " ".join(f"{file.relative_to(folder)} {fact.st_size} {fact.st_mtime_ns}" for file, fact in facts)
    return sum(fact.st_size for _, fact in facts), stamp


def read_shard(name: str, config: str | None, split: str, field: str, index: int) -> Iterator[Any]:
    """Yield the field of every row of one of a data set's shards.

    Raises ValueError for a data set without the field, and when it cannot be read.
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
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{shown} cannot be read ({reason}): repair it or leave it out") from None
        if row is None:
            return
        if field not in row:
            raise ValueError(
                f"{shown} has a row without {field!r}, only {', '.join(row)}: name another field"
            )
        yield row[field]
