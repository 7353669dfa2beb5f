"""Pairs of similar documents, by locality-sensitive hashing: only those that share a band are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data.building.near.signatures import HASHES, Signatures
from data.building.scratch import Task

MISSED = 0.98
"""Weight of a missed pair against a useless comparison; at the threshold 2 % of the pairs are missed."""
_AT_ONCE = 4096  # documents that are compared with one document at a time


class Found(BaseModel):
    """The number of pairs that a task found."""

    pairs: int


@dataclass(frozen=True)
class BandTask(Task[Found]):
    """Compares documents with the same band of hashes, numbers ``first`` … ``first + count − 1``.

    The pairs that it writes suffice to connect all similar documents. It takes 32 bytes per document.
    """

    signatures: tuple[Path, ...]
    first: int
    count: int
    threshold: float

    suffixes: ClassVar[tuple[str, ...]] = (".pairs",)
    result: ClassVar[type[BaseModel]] = Found

    def work(self) -> Found:
        """Write ``.pairs``, the numbers of documents, int64 [pairs, 2]."""
        signatures = Signatures(self.signatures)
        chunks = [np.empty((0, 2), np.int64)]
        for rows in _buckets(signatures.bands(self.first, self.count)):
            chunks += alike(signatures, rows, self.threshold)
        pairs = np.concatenate(chunks)
        with self.writing(".pairs") as file:
            np.save(file, pairs, allow_pickle=False)
        return Found(pairs=len(pairs))


def band_tasks(folder: Path, signatures: Sequence[Path], threshold: float) -> list[BandTask]:
    """The tasks that find pairs, with the number and width of bands that the library finds optimal."""
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
    """Yield pairs [n, 2] that connect all similar rows, directly or through others.

    Rows that are connected already are not compared with each other: a thousand copies of one page take a
    thousand comparisons, not a million.
    """
    reached, waiting = [rows[0]], rows[1:]
    while len(waiting):
        if not reached:
            reached, waiting = [waiting[0]], waiting[1:]
        row = reached.pop()
        hashes = signatures.field("hashes", np.array([row]))
        shared = [
            (signatures.field("hashes", waiting[at : at + _AT_ONCE]) == hashes).sum(axis=1)
            for at in range(0, len(waiting), _AT_ONCE)
        ]
        is_alike = np.concatenate([np.empty(0), *shared]) >= threshold * HASHES
        similar = waiting[is_alike]
        yield np.stack([np.full_like(similar, row), similar], axis=1)
        reached.extend(similar)
        waiting = waiting[~is_alike]
