"""Reading rows of tokens from shards, with a check of every byte against the manifest."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from data.manifest import Manifest, Member, SplitName
from data.order import STREAMS, block_size, groups

OPENED_AT_MOST = 3
"""Number of times that a file is looked for."""


class DamagedError(ValueError):
    """Bytes that differ from the manifest; the message names the file."""


class ShardReader:
    """The rows of one split, by sample id; thread-safe.

    It reads members, not whole shards, and keeps as many decoded members as the global order needs at a time,
    so its memory does not grow with the corpus.

    Args:
        manifest: the manifest.
        split: the split.
        file_of: a function from the index of a shard in the split to its local file.

    Raises:
        ValueError: for an unknown split.
    """

    def __init__(self, manifest: Manifest, split: SplitName, file_of: Callable[[int], Path]) -> None:
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
        # The maximum number of members in memory, and these members.
        self.room = STREAMS * (-(-block_size(manifest.sequence_bytes) // max(rows)) + 2)
        self.kept: OrderedDict[int, Future[np.ndarray]] = OrderedDict()
        self._lock = Lock()

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The rows of sample ids: int64 [n] → int64 [n, sequence_length + 1].

        Raises:
            ValueError: for an id outside the split.
            DamagedError: for a damaged member.
        """
        rows, damage = self.whole_rows(ids)
        if damage:
            raise next(iter(damage.values()))
        return rows

    def whole_rows(self, ids: np.ndarray) -> tuple[np.ndarray, dict[int, DamagedError]]:
        """The rows of sample ids as in :meth:`rows`, and an error for each position in ``ids`` with damage.

        Damaged rows are filled with end-of-text.
        """
        ids = np.asarray(ids, dtype=np.int64)
        # Gathering in the stored dtype and converting once takes half the time.
        rows = np.empty((len(ids), self._manifest.sequence_length + 1), dtype=self._manifest.dtype)
        damage = self.read_into(rows, np.arange(len(ids)), ids)
        return rows.astype(np.int64), damage

    def read_into(self, rows: np.ndarray, places: np.ndarray, ids: np.ndarray) -> dict[int, DamagedError]:
        """Read samples into rows of an array [rows, sequence_length + 1] of the stored dtype.

        Returns:
            An error for each of these rows that is damaged, which is filled with end-of-text.

        Raises:
            ValueError: for an id outside the split.
        """
        total = int(self._offsets[-1])
        if len(ids) and not (ids.min() >= 0 and ids.max() < total):
            raise ValueError(f"sample ids {ids.min()} … {ids.max()}: they must be 0 … {total - 1}")
        damage: dict[int, DamagedError] = {}
        member_of = np.searchsorted(self._offsets, ids, side="right") - 1
        for group in groups(member_of):
            index = int(member_of[group[0]])
            try:
                rows[places[group]] = self._member(index)[ids[group] - self._offsets[index]]
            except DamagedError as error:
                damage |= dict.fromkeys(places[group].tolist(), error)
                rows[places[group]] = self._manifest.end_of_text
        return damage

    def _member(self, index: int) -> np.ndarray:
        """A member's rows. If several threads need it at the same time, one reads it and the others wait."""
        with self._lock:
            rows = self.kept.get(index)
            is_new = rows is None
            if rows is None:
                rows = self.kept[index] = Future()
                if len(self.kept) > self.room:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(index)
        if is_new:
            try:
                rows.set_result(self._read(*self._members[index]))
            except DamagedError as error:
                rows.set_exception(error)
            except BaseException as error:
                rows.set_exception(error)
                with self._lock:
                    self.kept.pop(index, None)  # a temporary error: the next call tries again
                raise
        return rows.result()

    def _read(self, shard: int, start: int, member: Member) -> np.ndarray:
        """A member's rows, [sequences, sequence_length + 1] in the manifest's dtype."""
        for _ in range(OPENED_AT_MOST):
            file = self._file_of(shard)
            try:
                with file.open("rb") as stream:
                    stream.seek(start)
                    data = stream.read(member.bytes)
                break
            except FileNotFoundError:  # of a copy that was removed meanwhile, there will be a new one
                continue
        else:
            raise DamagedError(f"{file} has gone since the start: copy or build it again")
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
    """The rows in a member's bytes, which webdataset parses in memory.

    Args:
        place: the name of the member, for error messages.
        data: the bytes.
        member: the manifest's entry.
        manifest: the manifest.

    Raises:
        DamagedError: for rows that do not have the manifest's shape and dtype, or hold tokens outside its
            vocabulary.
    """
    files = tar_file_expander([{"url": place, "stream": io.BytesIO(data)}])
    arrays = [sample["tokens.npy"] for sample in group_by_keys(files) if "tokens.npy" in sample]
    shape = (member.sequences, manifest.sequence_length + 1)
    # The header is compared with the expected one: numpy would parse it with Python's compiler, which is not
    # thread-safe in some versions.
    header = _npy_header(manifest.dtype, shape)
    if len(arrays) != 1 or not arrays[0].startswith(header):
        raise DamagedError(
            f"{place} does not hold {manifest.dtype} {list(shape)}, as the manifest says: build it again"
        )
    rows = np.frombuffer(arrays[0], manifest.dtype, offset=len(header)).reshape(shape)
    if rows.max() >= manifest.vocabulary_size:
        raise DamagedError(
            f"{place} holds token id {rows.max()}, but the vocabulary has {manifest.vocabulary_size} tokens"
        )
    return rows


@lru_cache(maxsize=16)
def _npy_header(dtype: str, shape: tuple[int, int]) -> bytes:
    """The header of a .npy file with such an array."""
    stream = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        stream, {"descr": description, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()
