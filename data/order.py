"""The global order of samples: a pure function of the shards' sizes and a seed."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

STREAMS = 64  # canonical streams; every batch takes from them in turn
BLOCK = 256  # samples of one stream that are mixed with each other
ORDER_VERSION = 2  # part of every order's digest: a new rule must not continue an old cursor


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
    shards are permuted and laid end to end, and this line is cut into `STREAMS` pieces of equal
    length, which are permuted too. Position p of the epoch is the next sample of piece p mod
    `STREAMS`; inside a piece each `BLOCK` samples are permuted. So a reader holds `STREAMS` blocks at
    a time, whatever the size of the corpus, every epoch visits each sample once, and neither the
    number of ranks nor the batch plays a part. The idea of streams that are the same whatever reads
    them is MosaicML Streaming's.

    Why it is enough: documents are shuffled when shards are built, so that only sequences of one
    document are alike. Neighbours in the order come from different pieces; two of one document meet
    at a multiple of `STREAMS` positions, and only among the `BLOCK` samples they are mixed with.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int) -> None:
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])  # int64 [shards + 1]
        self.sequences = int(self.offsets[-1])
        self._lengths = self.sequences // STREAMS + (np.arange(STREAMS) < self.sequences % STREAMS)
        self._seed = seed
        self._line = lru_cache(maxsize=2)(self._compute_line)
        self._block = lru_cache(maxsize=4 * STREAMS)(self._compute_block)

    def ids(self, positions: np.ndarray) -> np.ndarray:
        """Return int64 [n]: the sample ids at these global positions, int64 [n]."""
        epochs, places = np.divmod(positions, self.sequences)
        found = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            found[of_epoch] = self._ids(int(epoch), places[of_epoch])
        return found

    def batches(self, start: int, size: int, count: int) -> np.ndarray:
        """Return int64 [count, size]: the ids of `count` batches, from the global position `start` on.

        In each row those of a stream stand together. A rank that takes a contiguous part of every row
        then reads from its part of the streams alone, where `size` is a multiple or a divisor of
        `STREAMS`.
        """
        positions = np.arange(start, start + size * count).reshape(count, size)
        epochs, places = np.divmod(positions, self.sequences)
        together = np.argsort(epochs * STREAMS + places % STREAMS, axis=1, kind="stable")
        return self.ids(np.take_along_axis(positions, together, axis=1).reshape(-1)).reshape(count, size)

    def shards_of(self, ids: np.ndarray) -> list[int]:
        """Return the shards that hold these samples."""
        return np.unique(np.searchsorted(self.offsets, ids, side="right") - 1).tolist()

    def _ids(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Return the ids at these positions of one epoch."""
        streams, indices = places % STREAMS, places // STREAMS
        blocks = indices // BLOCK
        lines = np.empty(len(places), dtype=np.int64)
        shards, starts, firsts = self._line(epoch)
        for group in groups(streams + STREAMS * blocks):
            stream, block = int(streams[group[0]]), int(blocks[group[0]])
            start = block * BLOCK
            size = min(BLOCK, int(self._lengths[stream]) - start)
            mixed = self._block(epoch, stream, block, size)
            lines[group] = firsts[stream] + start + mixed[indices[group] - start]
        which = np.searchsorted(starts, lines, side="right") - 1
        ids: np.ndarray = self.offsets[shards[which]] + lines - starts[which]
        return ids

    def _compute_line(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return an epoch's shards in their order, where on the line each begins, and each stream."""
        shards = permutation(len(self.sizes), "shards", self._seed, epoch)
        streams = permutation(STREAMS, "streams", self._seed, epoch)
        firsts = np.empty(STREAMS, dtype=np.int64)
        firsts[streams] = _begins(self._lengths[streams])
        return shards, _begins(self.sizes[shards]), firsts

    def _compute_block(self, epoch: int, stream: int, block: int, size: int) -> np.ndarray:
        return permutation(size, "samples", self._seed, epoch, stream, block)


def _begins(lengths: np.ndarray) -> np.ndarray:
    """Return where each of these begins when they lie end to end."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]])


def groups(keys: np.ndarray) -> list[np.ndarray]:
    """Return the places of each distinct key in `keys`, int64 [n], in ascending order of the keys."""
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order])) + 1
    return np.split(order, borders) if len(keys) else []
