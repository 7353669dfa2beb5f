"""Endless streams of batches in one global order, whatever the number of ranks."""

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

TOKENS_AT_ONCE = 2**20  # of one rank; what is done once for many batches costs less of each
PREFETCHED = 2  # times that many tokens are made before they are asked for
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


def documents_of(tokens: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """Return int64 [batch, tokens]: which document of its row each token belongs to, counted from 0.

    `tokens` int64 [batch, tokens]. An end-of-text belongs to the document that it ends.
    """
    ends = (tokens == end_of_text).long()
    return ends.cumsum(dim=1) - ends


class ElasticStream(ABC):
    """One integer cursor over one global order; each rank takes its contiguous part of a batch.

    The cursor counts the samples that all ranks together have consumed, so a state saved by four
    ranks continues on one, and the other way round.
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
        """`at_once` batches are made together. Raises ValueError if the ranks cannot share the batch."""
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
        """Yield batches for ever, from the cursor on; a batch may straddle two epochs.

        Background threads make the next ones. What they cannot read is raised when its batch is due.
        """
        ahead: deque[Future[list[Batch]]] = deque()
        ready: deque[Batch] = deque()
        expected = scheduled = self._cursor
        with ThreadPoolExecutor(THREADS, thread_name_prefix="batches") as pool:
            while True:
                if expected != self._cursor:  # a state was loaded meanwhile
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

    def _make(self, cursor: int) -> list[Batch]:
        """Return this rank's parts of the next global batches from this cursor on."""
        return self._batches(self._own_ids(cursor))

    def _own_ids(self, cursor: int) -> np.ndarray:
        """Return int64 [batches, share]: this rank's samples of the global batches from this cursor on."""
        batches = self._order.batches(cursor, self._global_batch, self._at_once)
        return batches[:, self._first : self._first + self._share]

    @abstractmethod
    def _batches(self, ids: np.ndarray) -> list[Batch]:
        """Return a batch for each row of sample ids, int64 [batches, share]."""


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
        start: int = 0,
        skip_damaged: bool = False,
        cache: Path = Path("~/.cache/odeformer/shards"),
        cache_bytes: int = CACHE_BYTES,
        described: Description | None = None,
    ) -> None:
        """Open a folder of shards (or its manifest.json); every local file is checked for its size.

        With `skip_damaged` a sample whose bytes are not those of the manifest keeps its place in the
        batch, as end-of-text that does not count in the loss; without it the batch is not given.
        Copies of remote shards take up to `cache_bytes` in the folder `cache`.

        The first `start` samples of the order are passed over. A folder that has been `described`
        already is not read and validated again.

        Raises FileNotFoundError without a manifest; ValueError for damaged files, another sequence
        length than the data was built with, or a batch that the ranks cannot share.
        """
        location = str(manifest_path)
        described = described or describe(location, cache.expanduser())
        manifest = described.manifest
        self._files = open_files(location, described, split, cache_bytes, STREAMS, f"{rank}-of-{world_size}")
        if sequence_length != manifest.sequence_length:
            raise ValueError(
                f"sequence length {sequence_length} was asked for, but {manifest_path} holds "
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
        """Return int64 [n, sequence_length + 1]: the rows with these sample ids (int64 [n])."""
        return torch.from_numpy(self._reader.rows(np.asarray(ids)))

    def _make(self, cursor: int) -> list[Batch]:
        if isinstance(self._files, CachedFiles):
            # Every batch is looked at once, this long before it is due.
            for later in (cursor, cursor + STREAMS * self._block):
                self._files.fetch_ahead(self._order.shards_of(self._own_ids(later).reshape(-1)))
        return super()._make(cursor)

    def _batches(self, ids: np.ndarray) -> list[Batch]:
        rows, damage = self._reader.whole_rows(ids.reshape(-1))
        reasons = [{} for _ in ids]  # type: list[dict[int, str]]
        for place, error in damage.items():
            batch, row = divmod(place, ids.shape[1])
            reasons[batch][row] = f"sample {ids[batch, row]}: {error}"
        return [_batch(*parts) for parts in zip(rows.reshape(*ids.shape, -1), ids, reasons, strict=True)]


def _batch(rows: np.ndarray, ids: np.ndarray, damaged: dict[int, str]) -> Batch:
    """Return rows [share, sequence_length + 1] as a batch in which damaged ones do not count."""
    mask = None
    if damaged:
        mask = torch.ones(len(ids), rows.shape[1] - 1, dtype=torch.bool)
        mask[list(damaged)] = False
    return Batch(torch.from_numpy(rows), torch.from_numpy(ids), mask, tuple(damaged.values()))
