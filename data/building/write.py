"""The last step: writing streams of tokens as shards."""

from __future__ import annotations

import hashlib
import io
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

MEMBER_BYTES = 256 * 1024
"""Bytes of a member. With one member per sequence of 2 KB, tar headers would be half of the file."""
SHARD_BYTES = 64 * 1024 * 1024
"""Maximum bytes of a shard; larger ones would take long to download and to check."""
LEAST_MEMBERS = 8
"""Minimum number of members of a shard, except for the last one of a split."""
SHARDS = 64
"""Number of a split's shards before they grow: shuffling needs several, even for a small corpus."""
_MEMBER_FRAME = 1024 + tarfile.BLOCKSIZE  # headers of tar and numpy, and padding
_END_MARK = 2 * tarfile.BLOCKSIZE


class Stretch(NamedTuple):
    """Consecutive tokens in a file of raw tokens, from token number ``start`` on."""

    file: Path
    start: int
    tokens: int


@dataclass(frozen=True)
class ShardTask(Task[Shard]):
    """Writes a shard with the sequences in consecutive stretches of a token stream."""

    stretches: tuple[Stretch, ...]
    sequence_length: int
    dtype: str
    first_member: int

    suffixes: ClassVar[tuple[str, ...]] = (".tar",)
    result: ClassVar[type[BaseModel]] = Shard

    def work(self) -> Shard:
        """Write ``.tar``, and return the shard's entry in the manifest."""
        size = np.dtype(self.dtype).itemsize
        stretches = [np.fromfile(s.file, self.dtype, s.tokens, offset=s.start * size) for s in self.stretches]
        tokens = np.concatenate(stretches)
        data, members = _tar(cut_sequences(tokens, self.sequence_length), self.first_member)
        with self.writing(".tar") as file:
            file.write(data)
        return Shard(name=f"{self.name}.tar", bytes=len(data), sha256=_sha256(data), members=tuple(members))


class Size(BaseModel):
    """A number of bytes."""

    bytes: int


@dataclass(frozen=True)
class GzipTask(Task[Size]):
    """Measures the gzipped size (level 9) of files, concatenated."""

    files: tuple[Path, ...]

    result: ClassVar[type[BaseModel]] = Size

    def work(self) -> Size:
        """The size of the gzip file, which is not written."""
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
    """The tasks that cut a split's token stream into shards.

    The stream is cut into sequences of ``sequence_length`` + 1 tokens that overlap by one; an incomplete last
    sequence is dropped.

    Args:
        folder: the folder of the tasks.
        split: the split.
        streams: the files of the stream, with the number of tokens in each.
        sequence_length: number of predicted tokens per sequence.
        dtype: dtype of the tokens.
        shard_sequences: sequences per shard; when not given, shards grow with the corpus.

    Raises:
        ValueError: if there are not enough tokens for one sequence.
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
    """A view of tokens [n] as sequences [(n − 1) // sequence_length, sequence_length + 1].

    The last token of a sequence is also the first of the next, so every token but the first is predicted
    exactly once.
    """
    count = (len(tokens) - 1) // sequence_length
    windows = np.lib.stride_tricks.sliding_window_view(tokens, sequence_length + 1)
    return windows[::sequence_length][:count]


def sequences_per_member(sequence_length: int, dtype: str) -> int:
    """The number of sequences in a member, about 256 KiB."""
    return max(1, MEMBER_BYTES // ((sequence_length + 1) * np.dtype(dtype).itemsize))


def _sequences_per_shard(sequences: int, sequence_length: int, dtype: str) -> int:
    """The number of sequences in a shard: whole members, at most 64 MiB, and fewer for a small corpus."""
    per_member = sequences_per_member(sequence_length, dtype)
    payload = per_member * (sequence_length + 1) * np.dtype(dtype).itemsize
    most = (SHARD_BYTES - _END_MARK) // (payload + _MEMBER_FRAME)
    members = max(LEAST_MEMBERS, sequences // SHARDS // per_member)
    return per_member * max(1, min(members, most))


def _stretches(streams: Sequence[tuple[Path, int]], start: int, count: int) -> Iterator[Stretch]:
    """Yield the stretches that hold ``count`` tokens of the concatenated streams from token ``start`` on."""
    for file, tokens in streams:
        if count and start < tokens:
            length = min(count, tokens - start)
            yield Stretch(file, start, length)
            start, count = start + length, count - length
        start -= tokens


def _tar(rows: np.ndarray, first_member: int) -> tuple[bytes, list[Member]]:
    """A WebDataset shard with these rows, and its members; the same rows give the same bytes."""
    from webdataset.writer import TarWriter  # imports torch, so errors in sources come faster without

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
    # tar pads archives after the end mark with up to 10 KB of zeros, which are dropped.
    return data[: sum(member.bytes for member in members) + _END_MARK], members


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
