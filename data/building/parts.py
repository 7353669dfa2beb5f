"""The parts of a source that tasks read one by one: files, ranges of large ones, shards of data sets."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from data.building import hugging_face
from data.building.sources import TextSource
from data.corpus import SUFFIXES, list_files

Kind = Literal["text", "jsonl", "parquet", "tar", "hf"]

PART_BYTES = 64 * 1024 * 1024  # a larger JSONL or Parquet file is read by several tasks

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(SUFFIXES, "text"),
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tar": "tar",
}
_COMPRESSIONS: dict[str, str] = {".gz": "gzip", ".zst": "zstd"}
KNOWN_SUFFIXES = (
    *_KINDS,
    *(kind + packed for kind in _KINDS if kind != ".parquet" for packed in _COMPRESSIONS),
)


@dataclass(frozen=True)
class Part:
    """What is read in one go, and the source's settings that it is read with.

    `name` is the file's path in its source. `bytes` are those of the file as it is stored. `stamp`
    changes when the file does. `start` and `end` choose bytes of a JSONL file (the lines that begin
    there), row groups of a Parquet file, or the shard `start` of `end` of a Hugging Face data set.
    """

    source: int
    kind: Kind
    path: str
    name: str
    bytes: int
    stamp: str
    field: str
    weight: float
    split: str
    config: str | None
    start: int = 0
    end: int | None = None

    @property
    def compression(self) -> str | None:
        """`gzip`, `zstd` or None, by the file's suffix."""
        return _COMPRESSIONS.get(Path(urlsplit(self.path).path if self.is_remote else self.path).suffix)

    @property
    def is_remote(self) -> bool:
        """Whether the file has to be fetched."""
        return self.kind != "hf" and "://" in self.path

    @property
    def is_first(self) -> bool:
        """Whether it is the file's first range, or all of the file."""
        return self.kind == "hf" or self.start == 0


def list_parts(index: int, source: TextSource) -> list[Part]:
    """Return the parts of source number `index`, in an order that depends on the source alone.

    Raises FileNotFoundError for a missing path; ValueError for a file of no known kind and for a folder
    without any; OSError when a remote store does not answer.
    """
    if source.is_hugging_face:
        return _of_data_set(index, source)
    if source.is_remote:
        return list(_of_address(index, source))
    root = Path(source.path)
    return [
        part
        for file in list_files(root, KNOWN_SUFFIXES)
        for part in _of_file(index, source, file, file.name if file == root else str(file.relative_to(root)))
    ]


def kind_of(name: str) -> Kind:
    """Return how to read a file, by its name. Raises ValueError for an unknown suffix."""
    path = Path(name)
    suffix = path.suffix
    if suffix in _COMPRESSIONS:
        suffix = Path(path.stem).suffix
        if suffix != ".parquet" and suffix in _KINDS:
            return _KINDS[suffix]
    elif suffix in _KINDS:
        return _KINDS[suffix]
    raise ValueError(
        f"{name} ends in {path.suffix or 'no suffix'}: give {', '.join(_KINDS)}, all but .parquet also with "
        f"{' or '.join(_COMPRESSIONS)} behind it"
    )


def _of_file(index: int, source: TextSource, file: Path, name: str) -> Iterator[Part]:
    kind = kind_of(str(file))
    facts = file.stat()
    part = Part(
        source=index,
        kind=kind,
        path=os.path.abspath(file),  # noqa: PTH100 (a link keeps its own suffix)
        name=name,
        bytes=facts.st_size,
        stamp=f"{facts.st_size} {facts.st_mtime_ns}",
        field=source.field,
        weight=source.weight,
        split="",
        config=None,
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
    except Exception as error:  # noqa: BLE001 (each store has errors of its own)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"{_public(source.path)} cannot be listed ({reason}): check address and rights"
        ) from None
    if not files:
        raise FileNotFoundError(f"{_public(source.path)} does not exist: correct the address")
    alone = len(files) == 1 and files[0] == root
    chosen = [
        (file, fact)
        for file, fact in zip(files, facts, strict=True)
        if alone or file.endswith(KNOWN_SUFFIXES)
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
            split="",
            config=None,
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
    """An address without what may be secret in it: user, password and query."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
