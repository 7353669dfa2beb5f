"""The first step: reading the sources and writing their documents to disk by key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
from pydantic import BaseModel

from data.building.filters import broken_rule
from data.building.near.signatures import sign
from data.building.parts import Part
from data.building.reading import fetched, texts
from data.building.scratch import Task
from data.building.spill import Record, Spill, SpillWriter, document_key
from data.corpus import digest_is_held_out, is_blank
from data.manifest import Filters
from odeformer.files.digest import file_digest

TASK_BYTES = 64 * 1024 * 1024
"""Bytes of small files that one task reads."""


class ScannedFile(BaseModel):
    """The path of a file in its source, its size in bytes and its SHA-256."""

    name: str
    bytes: int
    sha256: str


class ScannedSource(BaseModel):
    """Counts of the texts that a task read from one source, before duplicates are known."""

    documents: int = 0
    empty: int = 0
    filtered: dict[str, int] = {}
    """Number of texts that broke a filter rule, by the rule's name."""
    held_out: int = 0
    train: int = 0
    """Number of occurrences in training, with the source's weight taken into account."""
    files: list[ScannedFile] = []
    """The files of which the task read the beginning."""


class Scanned(BaseModel):
    """The result of a scanning task."""

    sources: dict[int, ScannedSource]
    """Counts by the number of the source."""
    bytes: int
    """Estimated bytes of the task's parts."""


@dataclass(frozen=True)
class ScanTask(Task[Scanned]):
    """Reads parts of sources, and writes their documents in the format of :mod:`data.building.spill`.

    If near duplicates are to be left out, it also writes signatures for :mod:`data.building.near`.
    """

    parts: tuple[Part, ...]
    held_out: float
    seed: int
    filters: Filters | None = None

    suffixes: ClassVar[tuple[str, ...]] = (".spill", ".index", ".signatures")
    result: ClassVar[type[BaseModel]] = Scanned

    @property
    def spill(self) -> Spill:
        """The files with the task's documents."""
        return Spill(self.file(".spill"), self.file(".index"))

    def work(self) -> Scanned:
        """Read every text once, in the order of the parts."""
        sources: dict[int, ScannedSource] = {}
        with self.writing(".spill") as file, self.writing(".signatures") as signatures:
            writer = SpillWriter(file)
            for part in self.parts:
                counts = sources.setdefault(part.source, ScannedSource())
                with fetched(part, self.folder) as path:
                    self._read(part, path, writer, signatures, counts)
            index = writer.close()
        with self.writing(".index") as file:
            np.save(file, index, allow_pickle=False)
        return Scanned(sources=sources, bytes=sum(part.bytes for part in self.parts))

    def _read(
        self, part: Part, path: str, writer: SpillWriter, signatures: BinaryIO, counts: ScannedSource
    ) -> None:
        contents, size = hashlib.sha256(), 0
        for text in texts(part, path):
            if is_blank(text):
                counts.empty += 1
                continue
            data = text.encode("utf-8")
            if self.filters and (rule := broken_rule(self.filters, text, len(data))):
                counts.filtered[rule] = counts.filtered.get(rule, 0) + 1
                continue

            digest = hashlib.sha256(data).digest()
            held_out = digest_is_held_out(digest, self.held_out)
            copies = 1 if held_out else copies_of(digest, part.weight)
            counts.documents += 1
            counts.held_out += held_out
            counts.train += 0 if held_out else copies
            if self.filters and self.filters.near_duplicates and copies:  # others are in no split
                signatures.write(sign(digest, part.source, copies, text))
            for copy in range(max(1, copies)):
                key = document_key(digest, self.seed, copy)
                writer.add(Record(key, part.source, held_out, copy == 0, data if copies else None))
            if part.kind == "hf":
                contents.update(digest)
                size += len(data)

        if part.kind == "hf":  # the files' format is the library's business, so the digest is of the texts
            counts.files.append(ScannedFile(name=part.name, bytes=size, sha256=contents.hexdigest()))
        elif part.is_first:
            size = Path(path).stat().st_size
            counts.files.append(ScannedFile(name=part.name, bytes=size, sha256=file_digest(Path(path))))


def copies_of(digest: bytes, weight: float) -> int:
    """The number of occurrences of a training document: its weight, rounded up or down by its digest.

    It depends on the text and the weight alone, and never falls when the weight grows.
    """
    fraction = int.from_bytes(digest[8:16], "big") / 2**64
    return int(weight + fraction)


def scan_tasks(
    folder: Path, parts: Sequence[Part], held_out: float, seed: int, filters: Filters | None
) -> list[ScanTask]:
    """The tasks that read all parts; small parts share a task."""
    groups: list[list[Part]] = [[]]
    total = 0
    for part in parts:
        if total and total + part.bytes > TASK_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(part)
        total += part.bytes
    return [
        ScanTask(folder, f"scan-{index:06d}", tuple(group), held_out, seed, filters)
        for index, group in enumerate(groups)
    ]


def source_digest(files: Sequence[ScannedFile], alone: bool) -> str:
    """The digest of a source: that of its single file, or of the lines that ``sha256sum`` prints."""
    if alone:
        return files[0].sha256
    listing = "".join(f"{file.sha256}  {Path(file.name).as_posix()}\n" for file in files)
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
