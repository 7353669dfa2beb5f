"""Documents on disk, sorted roughly by key: the half-way house of a shuffle that needs no memory."""

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

RANGES = 4096  # of keys, by their first twelve bits
RUN_BYTES = 64 * 1024 * 1024  # of documents that a writer holds before it sorts them to disk

Number = TypeVar("Number", int, np.ndarray)

_HEADER = struct.Struct("<32sIBQ")
_HELD_OUT, _FIRST, _HAS_TEXT = 1, 2, 4


class Record(NamedTuple):
    """One occurrence of a document.

    `key` places it in the order of all; the same text's same copy has the same key wherever it comes
    from. `is_first` marks copy 0, which stands for the document where documents are counted. `text` is
    UTF-8, or None where the weight of the source leaves the document out.
    """

    key: bytes
    source: int
    held_out: bool
    is_first: bool
    text: bytes | None


def document_key(digest: bytes, seed: int, copy: int) -> bytes:
    """Return where an occurrence stands in the order of all: they are sorted by this."""
    return hashlib.sha256(f"{seed}/{copy}/".encode() + digest).digest()


def range_of(front: Number) -> Number:
    """Return the range of a key, or of several, by the number that its first two bytes are."""
    return front * RANGES >> 16


class SpillWriter:
    """Writes records in runs; in each run, those of the same range of keys lie together."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._held = [bytearray() for _ in range(RANGES)]
        self._size = 0
        self._runs: list[np.ndarray] = []

    def add(self, record: Record) -> None:
        """Keep a record, and write a run when there are enough."""
        text = record.text or b""
        flags = _HELD_OUT * record.held_out + _FIRST * record.is_first + _HAS_TEXT * (record.text is not None)
        held = self._held[range_of(int.from_bytes(record.key[:2], "big"))]
        held += _HEADER.pack(record.key, record.source, flags, len(text))
        held += text
        self._size += _HEADER.size + len(text)
        if self._size >= RUN_BYTES:
            self._write_run()

    def close(self) -> np.ndarray:
        """Write what is left; return the index, int64 [runs, RANGES + 1]: where each range begins."""
        self._write_run()
        return np.array(self._runs, dtype=np.int64).reshape(-1, RANGES + 1)

    def _write_run(self) -> None:
        if self._size:
            sizes = [len(held) for held in self._held]
            self._runs.append(np.cumsum([self._file.tell(), *sizes]))
            for held in self._held:
                self._file.write(held)
            self._held = [bytearray() for _ in range(RANGES)]
            self._size = 0


class Spill(NamedTuple):
    """A file of records and its index."""

    records: Path
    offsets: Path


def read_records(spills: Sequence[Spill], low: int, high: int) -> list[Record]:
    """Return the records of the ranges low … high - 1, sorted by key; equal keys by source, texts first."""
    records: list[Record] = []
    for spill in spills:
        with spill.records.open("rb") as file:
            for run in np.load(spill.offsets, allow_pickle=False):
                file.seek(run[low], os.SEEK_SET)
                _parse(file.read(run[high] - run[low]), records)
    records.sort(key=lambda record: (record.key, record.source, record.text is None))
    return records


def range_sizes(spills: Sequence[Spill]) -> np.ndarray:
    """Return int64 [RANGES]: the bytes of each range of keys, over all files."""
    sizes = np.zeros(RANGES, dtype=np.int64)
    for spill in spills:
        sizes += np.diff(np.load(spill.offsets, allow_pickle=False), axis=1).sum(axis=0)
    return sizes


def group_ranges(sizes: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Return consecutive groups of ranges [low, high) that hold at most `most` bytes, or a single range."""
    groups: list[tuple[int, int]] = []
    low = held = 0
    for index, size in enumerate(sizes):
        if held and held + size > most:
            groups.append((low, index))
            low, held = index, 0
        held += int(size)
    return [*groups, (low, RANGES)]


def _parse(data: bytes, records: list[Record]) -> None:
    offset = 0
    while offset < len(data):
        key, source, flags, size = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        text = data[offset : offset + size] if flags & _HAS_TEXT else None
        offset += size
        records.append(Record(key, source, bool(flags & _HELD_OUT), bool(flags & _FIRST), text))
