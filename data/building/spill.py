"""Documents on disk, grouped by ranges of random keys: the first half of an external shuffle."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

RANGES = 4096
"""Number of ranges of keys, by their first twelve bits."""
RUN_BYTES = 64 * 1024 * 1024
"""Bytes of documents that a writer holds before it writes them to disk as a run."""

Number = TypeVar("Number", int, np.ndarray)

_HEADER = struct.Struct("<32sIBQ")
_HELD_OUT, _FIRST, _HAS_TEXT = 1, 2, 4


class Record(NamedTuple):
    """An occurrence of a document."""

    key: bytes
    """The occurrence's place in the order of all, the same for the same copy of a text in any source."""
    source: int
    """The number of the source."""
    held_out: bool
    is_first: bool
    """Whether this is copy 0, by which documents are counted."""
    text: bytes | None
    """The text in UTF-8, or None if the weight of the source leaves the document out."""


def document_key(digest: bytes, seed: int, copy: int) -> bytes:
    """The key of an occurrence, by which all occurrences are sorted, and thus shuffled."""
    return hashlib.sha256(f"{seed}/{copy}/".encode() + digest).digest()


def range_of(front: Number) -> Number:
    """The range of a key, or of several, from the number in its first two bytes."""
    return front * RANGES >> 16


class SpillWriter:
    """Writes records in runs, in each of which the records of the same key range are adjacent."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._held = [bytearray() for _ in range(RANGES)]
        self._size = 0
        self._runs: list[np.ndarray] = []

    def add(self, record: Record) -> None:
        """Add a record, and write a run if there are enough."""
        text = record.text or b""
        flags = _HELD_OUT * record.held_out + _FIRST * record.is_first + _HAS_TEXT * (record.text is not None)
        held = self._held[range_of(int.from_bytes(record.key[:2], "big"))]
        held += _HEADER.pack(record.key, record.source, flags, len(text))
        held += text
        self._size += _HEADER.size + len(text)
        if self._size >= RUN_BYTES:
            self._write_run()

    def close(self) -> np.ndarray:
        """Write the last run, and return the offsets of all ranges: int64 [runs, RANGES + 1]."""
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
    """The files of a :class:`SpillWriter`: records, and the offsets of their ranges."""

    records: Path
    offsets: Path


def read_records(spills: Sequence[Spill], low: int, high: int) -> list[Record]:
    """The records of the ranges ``low`` … ``high`` − 1, by key, then by source, those with text first."""
    records: list[Record] = []
    for spill in spills:
        with spill.records.open("rb") as file:
            for run in np.load(spill.offsets, allow_pickle=False):
                file.seek(run[low], os.SEEK_SET)
                _parse(file.read(run[high] - run[low]), records)
    records.sort(key=lambda record: (record.key, record.source, record.text is None))
    return records


def range_sizes(spills: Sequence[Spill]) -> np.ndarray:
    """The bytes of each range of keys in all files: int64 [RANGES]."""
    sizes = np.zeros(RANGES, dtype=np.int64)
    for spill in spills:
        sizes += np.diff(np.load(spill.offsets, allow_pickle=False), axis=1).sum(axis=0)
    return sizes


def group_ranges(sizes: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Consecutive groups of ranges [low, high), each a single range or of at most ``most`` bytes."""
    groups: list[tuple[int, int]] = []
    low = total = 0
    for index, size in enumerate(sizes):
        if total and total + size > most:
            groups.append((low, index))
            low, total = index, 0
        total += int(size)
    return [*groups, (low, RANGES)]


def _parse(data: bytes, records: list[Record]) -> None:
    offset = 0
    while offset < len(data):
        key, source, flags, size = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        text = data[offset : offset + size] if flags & _HAS_TEXT else None
        offset += size
        records.append(Record(key, source, bool(flags & _HELD_OUT), bool(flags & _FIRST), text))
