"""The parts that sources are read in: files, ranges of large files, and shards of datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from data.building import hugging_face
from data.building.packed import COMPRESSIONS, compression_of
from data.building.sources import TextSource
from data.corpus import SUFFIXES, is_hidden, list_files
from odeformer.files.errors import reason

Kind = Literal["text", "jsonl", "parquet", "tar", "hf"]

PART_BYTES = 64 * 1024 * 1024
"""Bytes of a part of a large JSONL or Parquet file."""

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(SUFFIXES, "text"),
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tar": "tar",
}
KNOWN_SUFFIXES = (
    *_KINDS,
    *(kind + packed for kind in _KINDS if kind != ".parquet" for packed in COMPRESSIONS),
)


@dataclass(frozen=True)
class Part:
    """A part of a source, with the source's options."""

    source: int
    """The number of the source."""
    kind: Kind
    path: str
    """The path or address of the file, or the name of the dataset."""
    name: str
    """The file's path in its source."""
    bytes: int
    """Bytes of the part as stored, possibly compressed."""
    stamp: str
    """A string that changes when the file does."""
    field: str
    weight: float
    split: str = ""
    config: str | None = None
    start: int = 0
    """The first byte of a range of a JSONL file (all lines that begin in it), the first row group of a range
    of a Parquet file, or the number of a dataset's shard."""
    end: int | None = None
    """The end of the range, or the number of the dataset's shards; None means the whole file."""

    @property
    def compression(self) -> str | None:
        """The compression (``gzip``, ``zstd`` or None), from the file's suffix."""
        return compression_of(urlsplit(self.path).path if self.is_remote else self.path)

    @property
    def is_remote(self) -> bool:
        """Whether the file has to be downloaded."""
        return self.kind != "hf" and "://" in self.path

    @property
    def is_first(self) -> bool:
        """Whether this is the first range of a file, a whole file, or a shard of a dataset."""
        return self.kind == "hf" or self.start == 0


def list_parts(index: int, source: TextSource) -> list[Part]:
    """The parts of source number ``index``, in an order that depends on the source alone.

    Raises:
        FileNotFoundError: for a missing path.
        ValueError: for a file of an unknown kind, or a folder without files of a known kind.
        OSError: if a remote store does not answer.
    """
    if source.is_hugging_face:
        return _of_data_set(index, source)
    if source.is_remote:
        return list(_of_address(index, source))
    root = Path(source.path)
    parts: list[Part] = []
    for file in list_files(root, KNOWN_SUFFIXES):
        name = file.name if file == root else str(file.relative_to(root))
        parts += _of_file(index, source, file, name)
    return parts


def kind_of(name: str) -> Kind:
    """The kind of a file, from its name.

    Raises:
        ValueError: for an unknown suffix.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        suffix = Path(path.stem).suffix.lower()
        if suffix != ".parquet" and suffix in _KINDS:
            return _KINDS[suffix]
    elif suffix in _KINDS:
        return _KINDS[suffix]
    raise ValueError(
        f"{name} ends in {path.suffix or 'no suffix'}: give {', '.join(_KINDS)}, all but .parquet also with "
        f"{' or '.join(COMPRESSIONS)} after it"
    )


def _of_file(index: int, source: TextSource, file: Path, name: str) -> Iterator[Part]:
    kind = kind_of(str(file))
    facts = file.stat()
    part = Part(
        source=index,
        kind=kind,
        path=os.path.abspath(file),  # noqa: PTH100 (resolving a link would change its suffix)
        name=name,
        bytes=facts.st_size,
        stamp=f"{facts.st_size} {facts.st_mtime_ns}",
        field=source.field,
        weight=source.weight,
    )
    if kind == "parquet":
        from data.building.records import row_group_ranges

        ranges = row_group_ranges(part.path, PART_BYTES)
    elif kind == "jsonl" and part.compression is None:
        ranges = [(start, start + PART_BYTES) for start in range(0, max(1, part.bytes), PART_BYTES)]
    else:
        yield part
        return
    for start, end in ranges:
        yield replace(part, start=start, end=end, bytes=part.bytes // len(ranges))


def _of_address(index: int, source: TextSource) -> Iterator[Part]:
    import fsspec

    try:
        store, root = fsspec.url_to_fs(source.path)
        files = [root] if source.path.startswith("http") else sorted(store.find(root))
        facts = [store.info(file) for file in files]
    except FileNotFoundError:
        raise FileNotFoundError(f"{_public(source.path)} does not exist: correct the address") from None
    except ImportError as error:
        raise ValueError(
            f"{_public(source.path)} cannot be read here ({error}): install that library"
        ) from None
    except Exception as error:  # noqa: BLE001 (every store has its own errors)
        raise OSError(
            f"{_public(source.path)} cannot be listed ({reason(error)}): check address and rights"
        ) from None
    if not files:
        raise FileNotFoundError(f"{_public(source.path)} does not exist: correct the address")
    alone = len(files) == 1 and files[0] == root
    chosen = [
        (file, fact)
        for file, fact in zip(files, facts, strict=True)
        if alone or (file.lower().endswith(KNOWN_SUFFIXES) and not is_hidden(file.removeprefix(root)))
    ]
    if not chosen:
        raise ValueError(f"no {' '.join(KNOWN_SUFFIXES)} files under {_public(source.path)}: give others")
    for file, fact in chosen:
        address = store.unstrip_protocol(file)
        path = urlsplit(address).path
        yield Part(
            source=index,
            kind=kind_of(path),
            path=address,
            name=Path(path).name if alone else file.removeprefix(root).lstrip("/"),
            bytes=fact.get("size") or 0,
            stamp=" ".join(str(fact.get(key, "")) for key in ("size", "ETag", "LastModified", "mtime")),
            field=source.field,
            weight=source.weight,
        )


def _of_data_set(index: int, source: TextSource) -> list[Part]:
    name = source.path.removeprefix("hf:")
    folder = Path(name)
    path = os.path.abspath(folder) if folder.is_dir() else name  # noqa: PTH100
    opened = hugging_face.open_data_set(path, source.config, source.split)
    size, stamp = hugging_face.size_and_stamp(path, opened)
    count = opened.num_shards
    return [
        Part(
            source=index,
            kind="hf",
            path=path,
            name=f"{shard:06d}",
            bytes=size // count,
            stamp=stamp,
            field=source.field,
            weight=source.weight,
            split=source.split,
            config=source.config,
            start=shard,
            end=count,
        )
        for shard in range(count)
    ]


def _public(address: str) -> str:
    """An address without user, password and query, which may be secret."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
