"""The global order of samples: a pure function of the shards' sizes and a seed."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

STREAMS = 64  # canonical streams; every batch takes from them in turn
BLOCK_BYTES = 2**18  # samples of one stream that are mixed with each other
ROUNDS = 256  # whose turns are drawn together
ORDER_VERSION = 2  # part of every order's digest: a new rule must not continue an old cursor


def permutation(size: int, *key: int | str) -> np.ndarray:
    """Return int64 [size], a permutation that depends on the key alone.

    It sorts the raw output of Philox, which numpy keeps the same for ever; numpy's own
    `permutation` may change with a version, and a resumed run would then repeat samples.
    """
    return np.argsort(_raw(size, *key), kind="stable")


def _raw(size: int, *key: int | str) -> np.ndarray:
    """Return uint64 [size], at random by the key."""
    text = "/".join(str(part) for part in key)
    generator = np.random.Philox(key=int(hashlib.sha256(text.encode()).hexdigest()[:32], 16))
    return generator.random_raw(size)


def order_digest(*key: int | str) -> str:
    """Return the name of an order: a cursor only means something together with it."""
    text = "/".join(str(part) for part in (ORDER_VERSION, *key))
    return hashlib.sha256(text.encode()).hexdigest()


def block_size(sample_bytes: int) -> int:
    """Return how many samples of so many bytes are mixed with each other."""
    return max(1, BLOCK_BYTES // sample_bytes)


class GlobalOrder:
    """The endless sequence of sample ids, epoch after epoch.

    A sample's id is its position in the split: the shard's offset plus the row. In each epoch the
    shards are permuted and laid end to end, and this line is cut into `STREAMS` streams of equal
    length, whose every `block` samples are permuted. In rounds the streams give a sample each, in an
    order that is drawn for each round. So a reader holds `STREAMS` blocks at a time, whatever the size
    of the corpus, every epoch visits each sample once, and neither the number of ranks nor the batch
    plays a part. The idea of streams that are the same whatever reads them is MosaicML Streaming's.

    Why it is enough: documents are shuffled when shards are built, so that only sequences of one
    document are alike. Two of them meet only if they are in one stream, at least a round apart at the
    mean, and among all the samples of their block. `benchmarks.data.shuffle` measures what is left.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, block: int) -> None:
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])  # int64 [shards + 1]
        self.sequences = int(self.offsets[-1])
        self._seed, self._block_size = seed, block
        self._line = lru_cache(maxsize=2)(self._compute_line)
        self._turns = lru_cache(maxsize=8)(self._compute_turns)
        self._block = lru_cache(maxsize=4 * STREAMS)(self._compute_block)

    def ids(self, positions: np.ndarray) -> np.ndarray:
        """Return int64 [n]: the sample ids at these global positions, int64 [n]."""
        epochs, places = np.divmod(positions, self.sequences)
        found = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            found[mine] = self._ids(epoch, places[mine], self._streams(epoch, places[mine]))
        return found

    def batches(self, start: int, size: int, count: int) -> np.ndarray:
        """Return int64 [count, size]: the ids of `count` batches, from the global position `start` on.

        In each row those of a stream stand together. A rank that takes a contiguous part of every row
        then reads from its part of the streams alone, where `size` is a multiple of `STREAMS`.
        """
        epochs, places = np.divmod(np.arange(start, start + size * count), self.sequences)
        keys, ids = np.empty_like(places), np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            streams = self._streams(epoch, places[mine])
            keys[mine] = epoch * STREAMS + streams
            ids[mine] = self._ids(epoch, places[mine], streams)
        together = np.argsort(keys.reshape(count, size), axis=1, kind="stable")
        return np.take_along_axis(ids.reshape(count, size), together, axis=1)

    def shards_of(self, ids: np.ndarray) -> list[int]:
        """Return the shards that hold these samples."""
        return np.unique(np.searchsorted(self.offsets, ids, side="right") - 1).tolist()

    def _streams(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Return whose turn it is at these positions of one epoch."""
        rounds, slots = np.divmod(places, STREAMS)
        streams = np.empty(len(places), dtype=np.int64)
        for group in groups(rounds // ROUNDS):
            turns = self._turns(epoch, int(rounds[group[0]]) // ROUNDS)
            streams[group] = turns[rounds[group] % ROUNDS, slots[group]]
        return streams

    def _ids(self, epoch: int, places: np.ndarray, streams: np.ndarray) -> np.ndarray:
        """Return the ids at these positions of one epoch, of these streams."""
        indices = places // STREAMS
        blocks = indices // self._block_size
        lines = np.empty(len(places), dtype=np.int64)
        shards, starts, firsts = self._line(epoch)
        for group in groups(streams + STREAMS * blocks):
            stream, block = int(streams[group[0]]), int(blocks[group[0]])
            start = int(firsts[stream]) + block * self._block_size
            size = min(self._block_size, int(firsts[stream + 1]) - start)
            mixed = self._block(epoch, stream, block, size)
            lines[group] = start + mixed[indices[group] - block * self._block_size]
        which = np.searchsorted(starts, lines, side="right") - 1
        ids: np.ndarray = self.offsets[shards[which]] + lines - starts[which]
        return ids

    def _compute_line(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return an epoch's shards in their order, where on the line each begins, and each stream.

        The last of the `STREAMS` + 1 begins of streams is the line's end.
        """
        shards = permutation(len(self.sizes), "shards", self._seed, epoch)
        rounds, rest = divmod(self.sequences, STREAMS)
        lengths = np.full(STREAMS, rounds, dtype=np.int64)
        # In the last round not every stream has its turn.
        lengths[self._turns(epoch, rounds // ROUNDS)[rounds % ROUNDS, :rest]] += 1
        starts = np.cumsum(self.sizes[shards]) - self.sizes[shards]
        return shards, starts, np.concatenate([[0], np.cumsum(lengths)])

    def _compute_turns(self, epoch: int, chunk: int) -> np.ndarray:
        """Return int64 [ROUNDS, STREAMS]: the order of the streams in each of these rounds."""
        raw = _raw(ROUNDS * STREAMS, "turns", self._seed, epoch, chunk)
        return np.argsort(raw.reshape(ROUNDS, STREAMS), axis=1, kind="stable")

    def _compute_block(self, epoch: int, stream: int, block: int, size: int) -> np.ndarray:
        return permutation(size, "samples", self._seed, epoch, stream, block)


def groups(keys: np.ndarray) -> list[np.ndarray]:
    """Return the places of each distinct key in `keys`, int64 [n], in ascending order of the keys."""
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order])) + 1
    return np.split(order, borders) if len(keys) else []
