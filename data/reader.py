"""Read rows of tokens out of shards, after checking every byte against the manifest."""

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock

import numpy as np

from data.manifest import Manifest, Member, SplitName
from data.order import STREAMS, block_size, groups

os.environ.setdefault("WDS_SECURE", "1")  # before webdataset: no commands, no pickle
from webdataset.tariterators import group_by_keys, tar_file_expander


class DamagedError(ValueError):
    """Bytes that are not those of the manifest; the message names the file."""


class ShardReader:
    """The rows of one split, by sample id. May be used by several threads at once.

    It reads members, not shards, and keeps as many of them decoded as the global order needs at a
    time: what it takes does not grow with the corpus.
    """

    def __init__(self, manifest: Manifest, split: SplitName, file_of: Callable[[int], Path]) -> None:
        """Raises ValueError for an unknown split.

        `file_of` returns the file of the split's shard with this index.
        """
        if split not in manifest.splits:
            raise ValueError(f"split is {split!r}: choose one of {', '.join(manifest.splits)}")
        self._manifest, self._file_of = manifest, file_of
        self._shards = manifest.splits[split].shards
        self._members: list[tuple[int, int, Member]] = []  # shard, first byte, member
        for index, shard in enumerate(self._shards):
            starts = accumulate((member.bytes for member in shard.members[:-1]), initial=0)
            self._members += [(index, at, member) for at, member in zip(starts, shard.members, strict=True)]
        rows = [member.sequences for _, _, member in self._members]
        self._offsets = np.cumsum([0] + rows)
        # Members that stay in memory, at most, and those that do.
        self.room = STREAMS * (-(-block_size(manifest.sequence_bytes) // max(rows)) + 2)
        self.kept: OrderedDict[int, Future[np.ndarray]] = OrderedDict()
        self._lock = Lock()

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return int64 [n, sequence_length + 1]: the rows with these sample ids (int64 [n]).

        Raises ValueError for an id outside the split, DamagedError for members that are not as they
        were built.
        """
        rows, damage = self.whole_rows(ids)
        if damage:
            raise next(iter(damage.values()))
        return rows

    def whole_rows(self, ids: np.ndarray) -> tuple[np.ndarray, dict[int, DamagedError]]:
        """Return the rows as above, and for each place in `ids` whose member is damaged the reason.

        A damaged row is full of end-of-text.
        """
        ids = np.asarray(ids, dtype=np.int64)
        total = int(self._offsets[-1])
        if len(ids) and not (ids.min() >= 0 and ids.max() < total):
            raise ValueError(f"sample ids {ids.min()} … {ids.max()}: they must be 0 … {total - 1}")
        shape = (len(ids), self._manifest.sequence_length + 1)
        # Gathered as they are stored and widened once, which takes half the time.
        rows = np.empty(shape, dtype=self._manifest.dtype)
        damage: dict[int, DamagedError] = {}
        member_of = np.searchsorted(self._offsets, ids, side="right") - 1
        for places in groups(member_of):
            index = int(member_of[places[0]])
            try:
                rows[places] = self._member(index)[ids[places] - self._offsets[index]]
            except DamagedError as error:
                damage |= dict.fromkeys(places.tolist(), error)
                rows[places] = self._manifest.end_of_text
        return rows.astype(np.int64), damage

    def _member(self, index: int) -> np.ndarray:
        """Return a member's rows; of several threads that want it at once one reads it."""
        with self._lock:
            found = self.kept.get(index)
            mine = found is None
            if found is None:
                found = self.kept[index] = Future()
                if len(self.kept) > self.room:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(index)
        if mine:
            try:
                found.set_result(self._read(*self._members[index]))
            except DamagedError as error:
                found.set_exception(error)
            except BaseException as error:
                found.set_exception(error)
                with self._lock:
                    self.kept.pop(index, None)  # what was away may be there the next time
                raise
        return found.result()

    def _read(self, shard: int, start: int, member: Member) -> np.ndarray:
        """Return one member's rows, [sequences, sequence_length + 1] in the manifest's dtype."""
        file = self._file_of(shard)
        try:
            with file.open("rb") as stream:
                stream.seek(start)
                data = stream.read(member.bytes)
        except FileNotFoundError:
            raise DamagedError(f"{file} has gone since the start: copy or build it again") from None
        place = f"{file}, bytes {start} … {start + member.bytes}"
        if len(data) != member.bytes:
            raise DamagedError(f"{place}: {len(data)} of {member.bytes} are there: copy or build it again")
        digest = hashlib.sha256(data).hexdigest()
        if digest != member.sha256:
            raise DamagedError(
                f"{place}: SHA-256 is {digest}, the manifest says {member.sha256}: copy or build it again"
            )
        return decode(place, data, member, self._manifest)


def decode(place: str, data: bytes, member: Member, manifest: Manifest) -> np.ndarray:
    """Parse a member's bytes with webdataset's own pipeline, from memory.

    Raises DamagedError, naming `place`, for rows that are not those of the manifest.
    """
    files = tar_file_expander([{"url": place, "stream": io.BytesIO(data)}])
    arrays = [sample["tokens.npy"] for sample in group_by_keys(files) if "tokens.npy" in sample]
    shape = (member.sequences, manifest.sequence_length + 1)
    # Compared with the header that must be there, not parsed: numpy parses by Python's own compiler,
    # which some versions cannot run in two threads at once.
    header = _npy_header(manifest.dtype, shape)
    if len(arrays) != 1 or not arrays[0].startswith(header):
        raise DamagedError(
            f"{place} does not hold {manifest.dtype} {list(shape)}, as the manifest says: build it again"
        )
    return np.frombuffer(arrays[0], manifest.dtype, offset=len(header)).reshape(shape)


@lru_cache(maxsize=16)
def _npy_header(dtype: str, shape: tuple[int, int]) -> bytes:
    """Return how a .npy file of such an array begins."""
    stream = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        stream, {"descr": description, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()
