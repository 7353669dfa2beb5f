"""The global order of samples: a pure function of the shards' sizes and a seed."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

WINDOW = 4  # shards whose samples are mixed with each other
ORDER_VERSION = 1  # part of every order's digest: a new rule must not continue an old cursor


def permutation(size: int, *key: int | str) -> np.ndarray:
    """Return int64 [size], a permutation that depends on the key alone.

    It sorts the raw output of Philox, which numpy keeps the same for ever; numpy's own
    `permutation` may change with a version, and a resumed run would then repeat samples.
    """
    text = "/".join(str(part) for part in key)
    generator = np.random.Philox(key=int(hashlib.sha256(text.encode()).hexdigest()[:32], 16))
    return np.argsort(generator.random_raw(size), kind="stable")


def order_digest(*key: int | str) -> str:
    """Return the name of an order: a cursor only means something together with it."""
    text = "/".join(str(part) for part in (ORDER_VERSION, *key))
    return hashlib.sha256(text.encode()).hexdigest()


class GlobalOrder:
    """The endless sequence of sample ids, epoch after epoch.

    A sample's id is its position in the split: the shard's offset plus the row. In each epoch the
    shards are permuted, cut into windows of `WINDOW`, and the samples permuted inside each window:
    a reader needs only a window's shards at a time, and every epoch visits each sample once.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int) -> None:
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])  # int64 [shards + 1]
        self.sequences = int(self.offsets[-1])
        self._seed = seed
        self._windows = lru_cache(maxsize=2)(self._compute_windows)
        self._window_ids = lru_cache(maxsize=2)(self._compute_window_ids)

    def ids(self, start: int, count: int) -> np.ndarray:
        """Return int64 [count]: the sample ids at global positions start … start + count - 1."""
        parts = []
        while count > 0:
            epoch, position = divmod(start, self.sequences)
            _, starts = self._windows(epoch)
            window = bisect_right(starts, position) - 1
            first = position - starts[window]
            part = self._window_ids(epoch, window)[first : first + count]
            parts.append(part)
            start += len(part)
            count -= len(part)
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _compute_windows(self, epoch: int) -> tuple[list[np.ndarray], list[int]]:
        """Return the shards of each window of an epoch, and each window's first position."""
        shards = permutation(len(self.sizes), "shards", self._seed, epoch)
        windows = [shards[i : i + WINDOW] for i in range(0, len(shards), WINDOW)]
        lengths = [int(self.sizes[window].sum()) for window in windows]
        return windows, list(accumulate(lengths[:-1], initial=0))

    def _compute_window_ids(self, epoch: int, window: int) -> np.ndarray:
        shards = self._windows(epoch)[0][window]
        ids = np.concatenate([np.arange(self.offsets[s], self.offsets[s + 1]) for s in shards])
        mixed: np.ndarray = ids[permutation(len(ids), "samples", self._seed, epoch, window)]
        return mixed
