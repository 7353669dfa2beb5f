"""Endless streams of batches, in a global order that does not depend on the number of ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from data.order import GlobalOrder
from data.reader import DamagedError
from data.schedule import MixedOrder

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
    sources: torch.Tensor | None = None
    """Index of each sample's source in a mixture, int64 [batch]."""


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
        order: GlobalOrder | MixedOrder,
        digest: str,
        rank: int,
        world_size: int,
        global_batch: int,
        *,
        at_once: int = 1,
        skip_damaged: bool = False,
    ) -> None:
        """Start at the beginning of the global order.

        Arguments that are not listed are those of :class:`data.stream.MixedStream`.

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
        order = self._order
        with ThreadPoolExecutor(THREADS, thread_name_prefix="batches") as pool:
            while True:
                if expected != self._cursor or order is not self._order:  # a state has been loaded
                    ahead.clear()
                    ready.clear()
                    expected, order = self._cursor, self._order
                    scheduled = expected
                while len(ahead) < PREFETCHED:
                    ahead.append(pool.submit(self._make, scheduled))
                    scheduled += self._at_once * self._global_batch
                if not ready:
                    ready.extend(ahead.popleft().result())
                if not ready:
                    raise ValueError(f"the data end after {expected} samples: {self.why_ended()}")
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
        """This rank's parts of the next global batches from a cursor on; none where the data have ended."""
        ids = self._own_ids(cursor)
        return self._batches(ids) if len(ids) else []

    def _own_ids(self, cursor: int) -> np.ndarray:
        """This rank's sample ids of the next global batches from a cursor on: int64 [batches, share]."""
        batches = self._order.batches(cursor, self._global_batch, self._at_once)
        return batches[:, self._first : self._first + self._share]

    def why_ended(self) -> str:
        """The reason for the end of the data, after which there is no further batch."""
        raise NotImplementedError  # most orders have no end

    @abstractmethod
    def _batches(self, ids: np.ndarray) -> list[Batch]:
        """A batch for each row of sample ids, int64 [batches, share]."""
