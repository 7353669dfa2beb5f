"""Endless streams of batches, in a global order that does not depend on the number of ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.files import CACHE_BYTES, CachedFiles, Description, describe, open_files
from data.manifest import SplitName
from data.order import STREAMS, GlobalOrder, block_size, order_digest
from data.reader import DamagedError, ShardReader

TOKENS_AT_ONCE = 2**20
"""Tokens that a rank reads together, since reading many batches at once is faster."""
PREFETCHED = 2
"""Number of such reads ahead of the current batch."""
THREADS = 2
"""Number of reading threads."""


class Batch(NamedTuple):
    """A rank's part of a global batch."""

    tokens: torch.Tensor
    """Token ids, int64 [batch, sequence_length + 1]: inputs all but the last, targets all but the first."""
    sample_ids: torch.Tensor
    """Ids of the samples, int64 [batch]."""
    loss_mask: torch.Tensor | None = None
    """Mask of the targets that count in the loss, bool [batch, sequence_length]; None means all."""
    damaged: tuple[str, ...] = ()
    """An error message for each sample that could not be read."""
    documents: torch.Tensor | None = None
    """Number of each token's document in its row, int64 like ``tokens``, if attention is to keep to it."""


def documents_of(tokens: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """The number of each token's document in its row, from 0: int64 [batch, tokens] → int64 [batch, tokens].

    An end-of-text token belongs to the document that it ends.
    """
    ends = (tokens == end_of_text).long()
    return ends.cumsum(dim=1) - ends


class ElasticStream(ABC):
    """A stream of batches whose state is a single integer, a cursor in the global order.

    The cursor counts the samples that all ranks together have consumed, and each rank takes a contiguous part
    of every global batch. A state saved by four ranks can thus be continued by one, and vice versa.
    """

    def __init__(
        self,
        order: GlobalOrder,
        digest: str,
        rank: int,
        world_size: int,
        global_batch: int,
        *,
        at_once: int = 1,
        skip_damaged: bool = False,
    ) -> None:
        """Start at the beginning of the global order. Arguments not listed are as in :class:`ShardStream`.

        Args:
            order: the global order of the samples.
            digest: the digest of ``order``, which a saved state must match.
            at_once: number of batches to read together.

        Raises:
            ValueError: if the ranks cannot share a batch equally.
        """
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
        self._at_once, self._skip_damaged = at_once, skip_damaged
        self._cursor = 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches endlessly, from the cursor on; a batch may span two epochs.

        Background threads read ahead. A read error is raised when its batch is due.
        """
        ahead: deque[Future[list[Batch]]] = deque()
        ready: deque[Batch] = deque()
        expected = scheduled = self._cursor
        with ThreadPoolExecutor(THREADS, thread_name_prefix="batches") as pool:
            while True:
                if expected != self._cursor:  # a state has been loaded
                    ahead.clear()
                    ready.clear()
                    expected = scheduled = self._cursor
                while len(ahead) < PREFETCHED:
                    ahead.append(pool.submit(self._make, scheduled))
                    scheduled += self._at_once * self._global_batch
                if not ready:
                    ready.extend(ahead.popleft().result())
                batch = ready.popleft()
                if batch.damaged and not self._skip_damaged:
                    raise DamagedError(batch.damaged[0])
                # Before the yield, so that a state saved while a batch is in use counts it as consumed.
                self._cursor = expected = expected + self._global_batch
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """The cursor (samples consumed by all ranks) and the order's digest."""
        return {"cursor": self._cursor, "order": self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: for a state of another order.
        """
        order, cursor = state.get("order"), state.get("cursor")
        if order != self._digest:
            raise ValueError(
                f"the saved position belongs to data order {order}, but this is "
                f"{self._digest}: use the same data folder, split and seed, or start a new run"
            )
        if not isinstance(cursor, int) or cursor < 0:
            raise ValueError(f"the saved cursor is {cursor!r}: it must be an integer ≥ 0")
        self._cursor = cursor

    def _make(self, cursor: int) -> list[Batch]:
        """This rank's parts of the next global batches from a cursor on."""
        return self._batches(self._own_ids(cursor))

    def _own_ids(self, cursor: int) -> np.ndarray:
        """This rank's sample ids of the next global batches from a cursor on: int64 [batches, share]."""
        batches = self._order.batches(cursor, self._global_batch, self._at_once)
        return batches[:, self._first : self._first + self._share]

    @abstractmethod
    def _batches(self, ids: np.ndarray) -> list[Batch]:
        """A batch for each row of sample ids, int64 [batches, share]."""


class ShardStream(ElasticStream):
    """Pretraining batches from a data folder, which may be remote."""

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
        start: int = 0,
        skip_damaged: bool = False,
        cache: Path = Path("~/.cache/odeformer/shards"),
        cache_bytes: int = CACHE_BYTES,
        described: Description | None = None,
    ) -> None:
        """Open a data folder, and check the sizes of local files.

        Args:
            manifest_path: path or URL of the folder or its manifest.json.
            rank: this rank, from 0 to ``world_size`` − 1.
            world_size: number of ranks.
            global_batch: samples per batch, over all ranks.
            sequence_length: targets per sequence, as in the manifest.
            seed: seed of the sample order.
            split: ``train`` or ``validation``.
            start: number of samples to skip at the start of the order.
            skip_damaged: whether to replace a damaged sample by end-of-text tokens that do not count in the
                loss; otherwise it is an error.
            cache: folder for the cache of remote shards.
            cache_bytes: maximum size of the cache in bytes.
            described: the folder's manifest, if it has been read and validated already.

        Raises:
            FileNotFoundError: if there is no manifest.
            ValueError: for damaged files, a sequence length other than the manifest's, or a batch that the
                ranks cannot share equally.
        """
        location = str(manifest_path)
        described = described or describe(location, cache.expanduser())
        manifest = described.manifest
        self._files = open_files(location, described, split, cache_bytes, STREAMS, f"{rank}-of-{world_size}")
        if sequence_length != manifest.sequence_length:
            raise ValueError(
                f"sequence length {sequence_length} was requested, but {manifest_path} holds "
                f"sequences of {manifest.sequence_length}: rebuild the data with "
                f"--sequence-length {sequence_length}"
            )
        sizes = [shard.sequences for shard in manifest.splits[split].shards]
        digest = order_digest(manifest.digest(), seed, split)
        self._block = block_size(manifest.sequence_bytes)
        rows = min(sum(sizes), TOKENS_AT_ONCE // sequence_length)
        super().__init__(
            GlobalOrder(sizes, seed, self._block),
            digest,
            rank,
            world_size,
            global_batch,
            at_once=max(1, rows * world_size // max(1, global_batch)),
            skip_damaged=skip_damaged,
        )
        self._reader = ShardReader(manifest, split, self._files.file)
        self._cursor = start

    def sequence_rows(self, ids: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The tokens of the samples with these ids: int64 [n] → int64 [n, sequence_length + 1]."""
        return torch.from_numpy(self._reader.rows(np.asarray(ids)))

    def _make(self, cursor: int) -> list[Batch]:
        if isinstance(self._files, CachedFiles):
            # Each batch's shards are requested this long before it is due.
            for later in (cursor, cursor + STREAMS * self._block):
                self._files.fetch_ahead(self._order.shards_of(self._own_ids(later).reshape(-1)))
        return super()._make(cursor)

    def _batches(self, ids: np.ndarray) -> list[Batch]:
        rows, damage = self._reader.whole_rows(ids.reshape(-1))
        reasons: list[dict[int, str]] = [{} for _ in ids]
        for place, error in damage.items():
            batch, row = divmod(place, ids.shape[1])
            reasons[batch][row] = f"sample {ids[batch, row]}: {error}"
        return [_batch(*parts) for parts in zip(rows.reshape(*ids.shape, -1), ids, reasons, strict=True)]


def _batch(rows: np.ndarray, ids: np.ndarray, damaged: dict[int, str]) -> Batch:
    """Rows [share, sequence_length + 1] as a batch, whose loss mask excludes the damaged ones."""
    mask = None
    if damaged:
        mask = torch.ones(len(ids), rows.shape[1] - 1, dtype=torch.bool)
        mask[list(damaged)] = False
    return Batch(torch.from_numpy(rows), torch.from_numpy(ids), mask, tuple(damaged.values()))
