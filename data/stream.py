"""Endless streams of batches in one global order, whatever the number of ranks."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.files import CACHE_BYTES, CachedFiles, open_files
from data.manifest import SplitName
from data.order import BLOCK, STREAMS, GlobalOrder, order_digest
from data.reader import ShardReader

PREFETCHED = 4  # batches that are made before they are asked for
THREADS = 2


class Batch(NamedTuple):
    """What one rank sees of one global batch.

    `tokens` int64 [batch, sequence_length + 1]: inputs are all but the last, targets all but the
    first. `sample_ids` int64 [batch]. `loss_mask` bool [batch, sequence_length] says which targets
    count; None means that all do. `damaged` has a reason for each sample that could not be read.
    """

    tokens: torch.Tensor
    sample_ids: torch.Tensor
    loss_mask: torch.Tensor | None = None
    damaged: tuple[str, ...] = ()


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
        """Yield batches for ever, from the cursor on; a batch may straddle two epochs.

        Background threads make the next ones. What they cannot read is raised when its batch is due.
        """
        ahead: deque[Future[Batch]] = deque()
        expected = scheduled = self._cursor
        with ThreadPoolExecutor(THREADS, thread_name_prefix="batches") as pool:
            while True:
                if expected != self._cursor:  # a state was loaded meanwhile
                    ahead.clear()
                    expected = scheduled = self._cursor
                while len(ahead) <= PREFETCHED:
                    ahead.append(pool.submit(self._make, scheduled))
                    scheduled += self._global_batch
                batch = ahead.popleft().result()
                # Before the yield: whoever saves the state while using a batch has consumed it.
                self._cursor = expected = expected + self._global_batch
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

    def _make(self, cursor: int) -> Batch:
        return self._batch(self._own_ids(cursor))

    def _own_ids(self, cursor: int) -> np.ndarray:
        """Return int64 [share]: this rank's samples of the global batch at this cursor."""
        return self._order.batch(cursor, self._global_batch)[self._first : self._first + self._share]

    @abstractmethod
    def _batch(self, ids: np.ndarray) -> Batch:
        """Return the batch with these sample ids, int64 [n]."""


class ShardStream(ElasticStream):
    """Pretraining batches out of a folder of shards, here or behind an address."""

    def __init__(
        self,
        manifest_path: Path | str,
        *,
        rank: int,
        world_size: int,
        global_batch: int,
        sequence_length: int,
        seed: int,
        split: SplitName = "train",
        skip_damaged: bool = False,
        cache: Path = Path("~/.cache/odeformer/shards"),
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Open a folder of shards (or its manifest.json); every local file is checked for its size.

        With `skip_damaged` a sample whose bytes are not those of the manifest keeps its place in the
        batch, as end-of-text that does not count in the loss; without it the batch is not given.
        Copies of remote shards take up to `cache_bytes` in the folder `cache`.

        Raises FileNotFoundError without a manifest; ValueError for damaged files, another sequence
        length than the data was built with, or a batch that the ranks cannot share.
        """
        manifest, self._files = open_files(
            str(manifest_path), split, cache.expanduser(), cache_bytes, STREAMS, f"{rank}-of-{world_size}"
        )
        if sequence_length != manifest.sequence_length:
            raise ValueError(
                f"sequence length {sequence_length} was asked for, but {manifest_path} holds "
                f"sequences of {manifest.sequence_length}: rebuild the data with "
                f"--sequence-length {sequence_length}"
            )
        sizes = [shard.sequences for shard in manifest.splits[split].shards]
        digest = order_digest(manifest.digest(), seed, split)
        super().__init__(GlobalOrder(sizes, seed), digest, rank, world_size, global_batch)
        self._reader = ShardReader(manifest, split, self._files.file)
        self._skip_damaged = skip_damaged

    def sequence_rows(self, ids: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return int64 [n, sequence_length + 1]: the rows with these sample ids (int64 [n])."""
        return torch.from_numpy(self._reader.rows(np.asarray(ids)))

    def _make(self, cursor: int) -> Batch:
        if isinstance(self._files, CachedFiles):
            # Every batch is looked at once, this long before it is due.
            for later in (cursor, cursor + STREAMS * BLOCK):
                self._files.fetch_ahead(self._order.shards_of(self._own_ids(later)))
        return super()._make(cursor)

    def _batch(self, ids: np.ndarray) -> Batch:
        rows, damage = self._reader.whole_rows(ids)
        if not damage:
            return Batch(torch.from_numpy(rows), torch.from_numpy(ids))
        if not self._skip_damaged:
            raise next(iter(damage.values()))
        mask = torch.ones(len(ids), rows.shape[1] - 1, dtype=torch.bool)
        mask[list(damage)] = False
        reasons = tuple(f"sample {ids[place]}: {error}" for place, error in damage.items())
        return Batch(torch.from_numpy(rows), torch.from_numpy(ids), mask, reasons)
