"""Endless streams of batches in one global order, whatever the number of ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.manifest import SplitName, load_manifest
from data.order import GlobalOrder, order_digest
from data.reader import ShardReader


class Batch(NamedTuple):
    """What one rank sees of one global batch.

    `tokens` int64 [batch, sequence_length + 1]: inputs are all but the last, targets all but the
    first. `sample_ids` int64 [batch]. `loss_mask` bool [batch, sequence_length] says which targets
    count; None means that all do.
    """

    tokens: torch.Tensor
    sample_ids: torch.Tensor
    loss_mask: torch.Tensor | None = None


class ElasticStream(ABC):
    """One integer cursor over one global order; each rank takes its contiguous part of a batch.

    The cursor counts the samples that all ranks together have consumed, so a state saved by four
    ranks continues on one, and the other way round.
    """

    def __init__(
        self, order: GlobalOrder, digest: str, rank: int, world_size: int, global_batch: int
    ) -> None:
        """Raises ValueError if the ranks cannot share the batch evenly."""
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}: ranks go from 0 to world_size - 1")
        if global_batch < 1 or global_batch % world_size != 0:
            raise ValueError(
                f"a global batch of {global_batch} cannot be shared by {world_size} ranks: "
                f"{global_batch} = {global_batch // world_size} × {world_size} + "
                f"{global_batch % world_size}; choose a multiple of {world_size}"
            )
        self.sequences = order.sequences
        self._order = order
        self._digest = digest
        self._share = global_batch // world_size
        self._first = rank * self._share
        self._global_batch = global_batch
        self._cursor = 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches for ever, from the cursor on; a batch may straddle two epochs."""
        while True:
            ids = self._order.ids(self._cursor + self._first, self._share)
            batch = self._batch(ids)
            # Before the yield: whoever saves the state while using a batch has consumed it.
            self._cursor += self._global_batch
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return {"cursor": samples consumed by all ranks, "order": the order's digest}."""
        return {"cursor": self._cursor, "order": self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was saved. Raises ValueError for a state of another order."""
        order, cursor = state.get("order"), state.get("cursor")
        if order != self._digest:
            raise ValueError(
                f"the saved position belongs to data order {order}, this is "
                f"{self._digest}: use the same data folder, split and seed, or start anew"
            )
        if not isinstance(cursor, int) or cursor < 0:
            raise ValueError(f"the saved cursor is {cursor!r}: it must be an integer ≥ 0")
        self._cursor = cursor

    @abstractmethod
    def _batch(self, ids: np.ndarray) -> Batch:
        """Return the batch with these sample ids, int64 [n]."""


class ShardStream(ElasticStream):
    """Pretraining batches out of a folder of shards."""

    def __init__(
        self,
        manifest_path: Path,
        *,
        rank: int,
        world_size: int,
        global_batch: int,
        sequence_length: int,
        seed: int,
        split: SplitName = "train",
        start: int = 0,
    ) -> None:
        """Open a folder of shards (or its manifest.json); every file is checked for its size.

        The first `start` samples of the order are passed over.

        Raises FileNotFoundError without a manifest; ValueError for damaged files, another sequence
        length than the data was built with, or a batch that the ranks cannot share.
        """
        manifest = load_manifest(manifest_path)
        if sequence_length != manifest.sequence_length:
            raise ValueError(
                f"sequence length {sequence_length} was asked for, but {manifest_path} holds "
                f"sequences of {manifest.sequence_length}: rebuild the data with "
                f"--sequence-length {sequence_length}"
            )
        folder = manifest_path if manifest_path.is_dir() else manifest_path.parent
        self._reader = ShardReader(folder, manifest, split)
        sizes = [shard.sequences for shard in self._reader.shards]
        digest = order_digest(manifest.digest(), seed, split)
        super().__init__(GlobalOrder(sizes, seed), digest, rank, world_size, global_batch)
        self._cursor = start

    def sequence_rows(self, ids: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return int64 [n, sequence_length + 1]: the rows with these sample ids (int64 [n])."""
        return torch.from_numpy(self._reader.rows(np.asarray(ids)))

    def _batch(self, ids: np.ndarray) -> Batch:
        return Batch(self.sequence_rows(ids), torch.from_numpy(ids))
