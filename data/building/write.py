"""The last step: streams of tokens become shards."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel

from data.building.scratch import Task
from data.corpus import BLOCK
from data.manifest import Member, Shard, SplitName

os.environ.setdefault("WDS_SECURE", "1")  # before webdataset: no commands, no pickle

MEMBER_BYTES = 256 * 1024  # a tar header per 2 KB sequence would waste half of the file
SHARD_BYTES = 64 * 1024 * 1024  # a shard of more would take long to fetch and to check
LEAST_MEMBERS = 8  # of a shard that is not a split's last
_MEMBER_FRAME = 1024 + tarfile.BLOCKSIZE  # headers of tar and numpy, and what fills the last block
_END_MARK = 2 * tarfile.BLOCKSIZE
SHARDS = 64  # of a split, before they grow: an order mixes several, and a small corpus needs some to mix


class Stretch(NamedTuple):
    """So many tokens of a file of raw tokens, from number `start` on."""

    file: Path
    start: int
    tokens: int


@dataclass(frozen=True)
class ShardTask(Task[Shard]):
    """Writes one shard: the sequences in some stretches of the stream, which follow one another."""

    stretches: tuple[Stretch, ...]
    sequence_length: int
    dtype: str
    first_member: int

    suffixes: ClassVar[tuple[str, ...]] = (".tar",)
    result: ClassVar[type[BaseModel]] = Shard

    def work(self) -> Shard:
        """Return the shard's entry in the manifest."""
        tokens = np.concatenate(
            [
                np.fromfile(s.file, self.dtype, s.tokens, offset=s.start * np.dtype(self.dtype).itemsize)
                for s in self.stretches
            ]
        )
        data, members = _tar(cut_sequences(tokens, self.sequence_length), self.first_member)
        with self.writing(".tar") as file:
            file.write(data)
        return Shard(name=f"{self.name}.tar", bytes=len(data), sha256=_sha256(data), members=tuple(members))


class Size(BaseModel):
    """A number of bytes."""

    bytes: int


@dataclass(frozen=True)
class GzipTask(Task[Size]):
    """Measures how small the files are, joined, under gzip level 9."""

    files: tuple[Path, ...]

    result: ClassVar[type[BaseModel]] = Size

    def work(self) -> Size:
        """Return the size of the gzip file that is not written."""
        zipper = zlib.compressobj(9, wbits=31)
        size = 0
        for path in self.files:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    size += len(zipper.compress(block))
        return Size(bytes=size + len(zipper.flush()))


def shard_tasks(
    folder: Path,
    split: SplitName,
    streams: Sequence[tuple[Path, int]],
    sequence_length: int,
    dtype: str,
    shard_sequences: int | None,
) -> list[ShardTask]:
    """Return the tasks that cut a split into shards: each its file and how many tokens are in it.

    The stream, over all files, is cut into sequences of `sequence_length` + 1 tokens that overlap by
    one; the tail that does not fill one is dropped. Raises ValueError if there is not even one.
    """
    total = sum(count for _, count in streams)
    sequences = (total - 1) // sequence_length
    if sequences < 1:
        raise ValueError(
            f"text too small: the {split} split has {total} tokens, but one sequence takes "
            f"{sequence_length} + 1: give more text or a smaller sequence length"
        )
    per_member = sequences_per_member(sequence_length, dtype)
    per_shard = shard_sequences or _sequences_per_shard(sequences, sequence_length, dtype)
    tasks = []
    for index, first in enumerate(range(0, sequences, per_shard)):
        count = min(per_shard, sequences - first)
        stretches = _stretches(streams, first * sequence_length, count * sequence_length + 1)
        member = index * -(-per_shard // per_member)
        tasks.append(
            ShardTask(folder, f"{split}-{index:06d}", tuple(stretches), sequence_length, dtype, member)
        )
    return tasks


def cut_sequences(tokens: np.ndarray, sequence_length: int) -> np.ndarray:
    """View tokens [n] as sequences [(n - 1) // sequence_length, sequence_length + 1].

    Neighbours share one token, the last of one and the first of the next: every token but the first is
    predicted exactly once.
    """
    count = (len(tokens) - 1) // sequence_length
    windows = np.lib.stride_tricks.sliding_window_view(tokens, sequence_length + 1)
    return windows[::sequence_length][:count]


def sequences_per_member(sequence_length: int, dtype: str) -> int:
    """Return how many sequences a member of a shard holds: about 256 KiB of them."""
    return max(1, MEMBER_BYTES // ((sequence_length + 1) * np.dtype(dtype).itemsize))


def _sequences_per_shard(sequences: int, sequence_length: int, dtype: str) -> int:
    """Return a number that gives whole members, of at most 64 MiB, and small shards at first."""
    per_member = sequences_per_member(sequence_length, dtype)
    payload = per_member * (sequence_length + 1) * np.dtype(dtype).itemsize
    most = (SHARD_BYTES - _END_MARK) // (payload + _MEMBER_FRAME)
    members = max(LEAST_MEMBERS, sequences // SHARDS // per_member)
    return per_member * max(1, min(members, most))


def _stretches(streams: Sequence[tuple[Path, int]], start: int, count: int) -> Iterator[Stretch]:
    """Yield where `count` tokens of the joined streams are, from number `start` on."""
    for file, tokens in streams:
        if count and start < tokens:
            taken = min(count, tokens - start)
            yield Stretch(file, start, taken)
            start, count = start + taken, count - taken
        start -= tokens


def _tar(rows: np.ndarray, first_member: int) -> tuple[bytes, list[Member]]:
    """Return a WebDataset shard and its members; the same rows, the same bytes."""
    from webdataset.writer import TarWriter  # it brings torch: sources without text are told of before

    stream = io.BytesIO()
    per_member = sequences_per_member(rows.shape[1] - 1, str(rows.dtype))
    starts = range(0, len(rows), per_member)
    with TarWriter(stream, encoder=False, mtime=0) as writer:
        for index, start in enumerate(starts, first_member):
            array = io.BytesIO()
            np.save(array, np.ascontiguousarray(rows[start : start + per_member]), allow_pickle=False)
            writer.write({"__key__": f"{index:08d}", "tokens.npy": array.getvalue()})
    data = stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        entries = tar.getmembers()
    members = []
    for entry, start in zip(entries, starts, strict=True):
        end = entry.offset_data + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        piece = data[entry.offset : end]
        members.append(Member(len(piece), len(rows[start : start + per_member]), _sha256(piece)))
    # Behind the end mark are up to 10 KB of zeros, for tape drives.
    return data[: sum(member.bytes for member in members) + _END_MARK], members


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
