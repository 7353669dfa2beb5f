"""Clusters of near duplicates, and the choice of the document that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data.building.near.signatures import Signatures
from data.building.scratch import Task
from data.building.spill import document_key, range_of

KEY_BYTES = 32
"""Bytes of a document's key."""


class Clustered(BaseModel):
    """The number of clusters, and the number of keys that are left out."""

    clusters: int
    keys: int


@dataclass(frozen=True)
class ClusterTask(Task[Clustered]):
    """Connects similar pairs to clusters, and chooses the document of each cluster to keep.

    It is the one with the smallest key in the first source. Keys are independent of splits, so held-out
    documents are kept as often as others. Memory is needed for documents in clusters only.
    """

    signatures: tuple[Path, ...]
    pairs: tuple[Path, ...]
    seed: int

    suffixes: ClassVar[tuple[str, ...]] = (".left_out",)
    result: ClassVar[type[BaseModel]] = Clustered

    def work(self) -> Clustered:
        """Write ``.left_out``, the sorted keys of all occurrences of the other documents."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.concatenate([np.load(path, allow_pickle=False) for path in self.pairs])
        rows, ends = np.unique(pairs, return_inverse=True)
        ends = ends.reshape(-1, 2)
        graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(len(rows), len(rows)))
        labels = connected_components(graph, directed=False)[1] if len(rows) else np.empty(0, np.int64)

        signatures = Signatures(self.signatures)
        digests = [row.tobytes() for row in signatures.field("digest", rows)]
        members = sorted(
            zip(
                labels.tolist(),
                signatures.field("source", rows).tolist(),
                (document_key(digest, self.seed, 0) for digest in digests),
                digests,
                signatures.field("copies", rows).tolist(),
                strict=True,
            )
        )
        keys: set[bytes] = set()
        clusters = 0
        for _, cluster in groupby(members, key=lambda member: member[0]):
            kept, *others = cluster
            clusters += 1
            for _, _, _, digest, copies in others:
                if digest != kept[3]:  # exact duplicates of the kept document have its key
                    keys.update(document_key(digest, self.seed, copy) for copy in range(copies))
        with self.writing(".left_out") as file:
            file.write(b"".join(sorted(keys)))
        return Clustered(clusters=clusters, keys=len(keys))


def keys_left_out(files: Sequence[Path], low: int, high: int) -> frozenset[bytes]:
    """The keys to leave out in the ranges ``low`` … ``high`` − 1, from the files of cluster tasks."""
    keys: list[bytes] = []
    for path in files:
        data = np.fromfile(path, np.uint8).reshape(-1, KEY_BYTES)
        ranges = range_of(data[:, 0].astype(np.int64) * 256 + data[:, 1])
        keys += (row.tobytes() for row in data[(low <= ranges) & (ranges < high)])
    return frozenset(keys)
