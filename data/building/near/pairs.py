"""Which documents are alike: only those are compared that share a band of hashes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data.building.near.signatures import HASHES, Signatures
from data.building.scratch import Task

MISSED = (
    0.98  # what a missed pair weighs against one that is compared in vain: at the threshold 2 % are missed
)
_AT_ONCE = 4096  # documents that are compared with one


class Found(BaseModel):
    """How many pairs a task found."""

    pairs: int


@dataclass(frozen=True)
class BandTask(Task[Found]):
    """Compares the documents that have the same hashes number first … first + count - 1.

    Takes 32 bytes of memory a document; the pairs that it writes are enough to connect all that are alike.
    """

    signatures: tuple[Path, ...]
    first: int
    count: int
    threshold: float

    suffixes: ClassVar[tuple[str, ...]] = (".pairs",)
    result: ClassVar[type[BaseModel]] = Found

    def work(self) -> Found:
        """Write `.pairs`, int64 [pairs, 2]: numbers of documents."""
        signatures = Signatures(self.signatures)
        found = [
            pair
            for rows in _buckets(signatures.bands(self.first, self.count))
            for pair in alike(signatures, rows, self.threshold)
        ]
        pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
        with self.writing(".pairs") as file:
            np.save(file, pairs, allow_pickle=False)
        return Found(pairs=len(pairs))


def band_tasks(folder: Path, signatures: Sequence[Path], threshold: float) -> list[BandTask]:
    """Return the tasks that find the pairs, as many and as narrow as the library finds best."""
    from datasketch import MinHashLSH

    best = MinHashLSH(threshold, HASHES, weights=(1 - MISSED, MISSED))
    return [
        BandTask(folder, f"band-{band:03d}", tuple(signatures), band * best.r, best.r, threshold)
        for band in range(best.b)
    ]


def _buckets(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the positions of each value that occurs more than once."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    for bucket in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[bucket] : edges[bucket + 1]]


def alike(signatures: Signatures, rows: np.ndarray, threshold: float) -> Iterator[np.ndarray]:
    """Yield pairs [n, 2] that connect all of the rows that are alike, directly or through others.

    Who is connected already is not compared with those who are: a thousand copies of one page take a
    thousand comparisons, not a million.
    """
    reached, waiting = [rows[0]], rows[1:]
    while len(waiting):
        if not reached:
            reached, waiting = [waiting[0]], waiting[1:]
        one = reached.pop()
        hashes = signatures.field("hashes", np.array([one]))
        shared = [
            (signatures.field("hashes", waiting[at : at + _AT_ONCE]) == hashes).sum(axis=1)
            for at in range(0, len(waiting), _AT_ONCE)
        ]
        is_alike = np.concatenate([np.empty(0), *shared]) >= threshold * HASHES
        found = waiting[is_alike]
        yield np.stack([np.full_like(found, one), found], axis=1)
        reached.extend(found)
        waiting = waiting[~is_alike]
