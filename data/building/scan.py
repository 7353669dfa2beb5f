"""The first step: read the sources, and spill their documents by key."""

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

TASK_BYTES = 64 * 1024 * 1024  # of small files that are read by one task


class ScannedFile(BaseModel):
    """A file of a source: its path there, its size in bytes and its SHA-256."""

    name: str
    bytes: int
    sha256: str


class ScannedSource(BaseModel):
    """What a task found in one source: documents, empty texts, those that broke a rule (by its
    name), and the files that it read first.

    `held_out` and `train` count occurrences before duplicates are known.
    """

    documents: int = 0
    empty: int = 0
    filtered: dict[str, int] = {}
    held_out: int = 0
    train: int = 0
    files: list[ScannedFile] = []


class Scanned(BaseModel):
    """What a task found, by source number; `bytes` are those of its parts, as they were estimated."""

    sources: dict[int, ScannedSource]
    bytes: int


@dataclass(frozen=True)
class ScanTask(Task[Scanned]):
    """Reads some parts, and writes their documents' occurrences for `data.building.spill`.

    Where near duplicates are to be left out, it writes what `data.building.near` compares, too.
    """

    parts: tuple[Part, ...]
    held_out: float
    seed: int
    filters: Filters | None = None

    suffixes: ClassVar[tuple[str, ...]] = (".spill", ".index", ".signatures")
    result: ClassVar[type[BaseModel]] = Scanned

    @property
    def spill(self) -> Spill:
        """Where the documents are."""
        return Spill(self.file(".spill"), self.file(".index"))

    def work(self) -> Scanned:
        """Read every text once, in the parts' order."""
        sources: dict[int, ScannedSource] = {}
        with self.writing(".spill") as file, self.writing(".signatures") as signatures:
            writer = SpillWriter(file)
            for part in self.parts:
                found = sources.setdefault(part.source, ScannedSource())
                with fetched(part, self.folder) as path:
                    self._read(part, path, writer, signatures, found)
            index = writer.close()
        with self.writing(".index") as file:
            np.save(file, index, allow_pickle=False)
        return Scanned(sources=sources, bytes=sum(part.bytes for part in self.parts))

    def _read(
        self, part: Part, path: str, writer: SpillWriter, signatures: BinaryIO, found: ScannedSource
    ) -> None:
        contents, size = hashlib.sha256(), 0
        for text in texts(part, path):
            if is_blank(text):
                found.empty += 1
                continue
            data = text.encode("utf-8")
            if self.filters and (rule := broken_rule(self.filters, text, len(data))):
                found.filtered[rule] = found.filtered.get(rule, 0) + 1
                continue
            digest = hashlib.sha256(data).digest()
            held_out = digest_is_held_out(digest, self.held_out)
            copies = 1 if held_out else copies_of(digest, part.weight)
            found.documents += 1
            found.held_out += held_out
            found.train += 0 if held_out else copies
            if self.filters and self.filters.near_duplicates and copies:  # others are in no split
                signatures.write(sign(digest, part.source, copies, text))
            for copy in range(max(1, copies)):
                key = document_key(digest, self.seed, copy)
                writer.add(Record(key, part.source, held_out, copy == 0, data if copies else None))
            if part.kind == "hf":
                contents.update(digest)
                size += len(data)
        if part.kind == "hf":  # what it is made of is the library's business; the texts are ours
            found.files.append(ScannedFile(name=part.name, bytes=size, sha256=contents.hexdigest()))
        elif part.is_first:
            size = Path(path).stat().st_size
            found.files.append(ScannedFile(name=part.name, bytes=size, sha256=file_digest(Path(path))))


def copies_of(digest: bytes, weight: float) -> int:
    """Return how often a training document occurs: the weight, rounded up or down by the text's digest.

    Like being held out, it depends on the text alone; a larger weight never gives fewer.
    """
    fraction = int.from_bytes(digest[8:16], "big") / 2**64
    return int(weight + fraction)


def scan_tasks(
    folder: Path, parts: Sequence[Part], held_out: float, seed: int, filters: Filters | None
) -> list[ScanTask]:
    """Return the tasks that read all parts: a large part has its own, small ones share one."""
    groups: list[list[Part]] = [[]]
    held = 0
    for part in parts:
        if held and held + part.bytes > TASK_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(part)
        held += part.bytes
    return [
        ScanTask(folder, f"scan-{index:06d}", tuple(group), held_out, seed, filters)
        for index, group in enumerate(groups)
    ]


def source_digest(files: Sequence[ScannedFile], alone: bool) -> str:
    """Return the digest of a source: its only file's, or that of the lines which `sha256sum` prints."""
    if alone:
        return files[0].sha256
    listing = "".join(f"{file.sha256}  {Path(file.name).as_posix()}\n" for file in files)
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
