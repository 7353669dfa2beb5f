"""Read rows of tokens out of shards, after checking every byte against the manifest."""

import hashlib
import io
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from data import tokenizer
from data.manifest import Manifest, Shard, SplitName
from data.order import WINDOW

os.environ.setdefault("WDS_SECURE", "1")  # before webdataset: no commands, no pickle
from webdataset.tariterators import group_by_keys, tar_file_expander


class ShardReader:
    """The rows of one split, by sample id; the shards of two windows stay decoded in memory."""

    def __init__(self, folder: Path, manifest: Manifest, split: SplitName) -> None:
        """Check that every file is there with its size, before any work is started.

        Raises ValueError for an unknown split, and for missing or wrong files, all of them named.
        """
        if split not in manifest.splits:
            raise ValueError(f"split is {split!r}: choose one of {', '.join(manifest.splits)}")
        self._folder = folder
        self._manifest = manifest
        self.shards = manifest.splits[split].shards
        self._offsets = np.cumsum([0] + [shard.sequences for shard in self.shards])
        self._shard_rows = lru_cache(maxsize=2 * WINDOW)(self._read)
        self._check_files()

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return int64 [n, sequence_length + 1]: the rows with these sample ids (int64 [n]).

        Raises ValueError for an id outside the split and for a shard that is not as it was built.
        """
        ids = np.asarray(ids, dtype=np.int64)
        total = int(self._offsets[-1])
        if len(ids) and not (ids.min() >= 0 and ids.max() < total):
            raise ValueError(f"sample ids {ids.min()} … {ids.max()}: they must be 0 … {total - 1}")
        rows = np.empty((len(ids), self._manifest.sequence_length + 1), dtype=np.int64)
        shard_of = np.searchsorted(self._offsets, ids, side="right") - 1
        for index in np.unique(shard_of):
            mine = shard_of == index
            rows[mine] = self._shard_rows(int(index))[ids[mine] - self._offsets[index]]
        return rows

    def _check_files(self) -> None:
        wrong = []
        for shard in self.shards:
            file = self._folder / shard.name
            if not file.is_file():
                wrong.append(f"{shard.name} is missing")
            elif file.stat().st_size != shard.bytes:
                wrong.append(f"{shard.name} has {file.stat().st_size} bytes, not {shard.bytes}")
        file = self._folder / tokenizer.FILE_NAME
        if not file.is_file():
            wrong.append(f"{file.name} is missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != self._manifest.tokenizer_sha256:
            wrong.append(f"{file.name} is not the one in the manifest")
        if wrong:
            shown = "; ".join(wrong[:20]) + (f"; and {len(wrong) - 20} more" * (len(wrong) > 20))
            raise ValueError(f"{self._folder} is damaged: {shown}: copy or build it again")

    def _read(self, index: int) -> np.ndarray:
        """Return one shard's rows, [sequences, sequence_length + 1] in the manifest's dtype."""
        shard = self.shards[index]
        file = self._folder / shard.name
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise ValueError(f"{file} has gone since the start: copy or build it again") from None
        if len(data) != shard.bytes:
            raise ValueError(
                f"{file} has {len(data)} bytes, the manifest says {shard.bytes}: copy or build it again"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != shard.sha256:
            raise ValueError(
                f"{file} has SHA-256 {digest}, the manifest says {shard.sha256}: copy or build it again"
            )
        return _decode(file, data, shard, self._manifest)


def _decode(file: Path, data: bytes, shard: Shard, manifest: Manifest) -> np.ndarray:
    """Parse the bytes of a tar file with webdataset's own pipeline, from memory."""
    files = tar_file_expander([{"url": shard.name, "stream": io.BytesIO(data)}])
    members = [
        np.load(io.BytesIO(sample["tokens.npy"]), allow_pickle=False) for sample in group_by_keys(files)
    ]
    width = manifest.sequence_length + 1
    for member in members:
        if member.dtype != np.dtype(manifest.dtype) or member.shape[1:] != (width,):
            raise ValueError(
                f"{file} holds {member.dtype} {list(member.shape)}, the manifest says "
                f"{manifest.dtype} [n, {width}]: build it again"
            )
    count = sum(len(member) for member in members)
    if count != shard.sequences:
        raise ValueError(
            f"{file} holds {count} sequences, the manifest says {shard.sequences}: build it again"
        )
    return np.concatenate(members)
