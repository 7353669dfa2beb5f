"""Texts from WebDataset tar files. Nothing in them is ever unpickled."""

from __future__ import annotations

import tarfile
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

from data.building.records import text_of_line

PICKLED = ("pyd", "pickle", "pkl", "pth", "pt")
"""Suffixes of pickled files."""
LONGEST_MEMBER = 256 * 1024 * 1024
"""Maximum bytes of a file in an archive, which is held in memory."""


def tar_texts(stream: BinaryIO, name: str, field: str) -> Iterator[tuple[str, str]]:
    """Yield each sample's key and text, which is its .txt or a field of its .json.

    Args:
        stream: the archive.
        name: its name, for error messages.
        field: the field with the text.

    Raises:
        ValueError: for a damaged archive, a sample without text, or a pickled file.
    """
    from webdataset.tariterators import group_by_keys  # imports torch, which other sources do not need

    try:
        for sample in group_by_keys(_members(_Watched(stream), name)):
            key = sample["__key__"]
            if "txt" in sample:
                try:
                    yield key, sample["txt"].decode("utf-8")
                except UnicodeDecodeError:
                    raise ValueError(f"{name}: {key}.txt is not UTF-8 text: convert it to UTF-8") from None
            elif "json" in sample:
                try:
                    yield key, text_of_line(sample["json"], field)
                except ValueError as error:
                    raise ValueError(f"{name}: {key}.json {error}") from None
            else:
                suffixes = ", ".join(f".{part}" for part in sample if not part.startswith("__"))
                raise ValueError(f"{name}: sample {key} has no .txt or .json, only {suffixes}: leave it out")
    except tarfile.TarError as error:
        raise ValueError(f"{name} is a broken tar file ({error}): fetch it again or leave it out") from None


def _members(stream: _Watched, name: str) -> Iterator[dict[str, Any]]:
    """Yield the files of an archive in webdataset's format, and check the end mark.

    Without this check, an archive that is truncated between two files, or has a damaged header, would
    silently appear to be a shorter one.
    """
    end = 0
    with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            if member.isfile():
                if member.name.rpartition(".")[2].lower() in PICKLED:
                    raise ValueError(f"{name}: {member.name} is pickled, which is never read: leave it out")
                if member.size > LONGEST_MEMBER:
                    raise ValueError(f"{name}: {member.name} has {member.size} bytes: cut it into several")
                content = tar.extractfile(member)
                data = content.read() if content else b""
                yield {"fname": member.name, "data": data, "__url__": name}
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            tar.members.clear()  # otherwise it would keep the names of all files
        if stream.bytes_from(end, 2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {end}")


class _Watched:
    """A stream that keeps its last blocks, since tarfile reads past the end of the archive."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._blocks: deque[bytes] = deque(maxlen=4)
        self._position = 0

    def read(self, size: int) -> bytes:
        """The next bytes."""
        block = self._stream.read(size)
        self._blocks.append(block)
        self._position += len(block)
        return block

    def bytes_from(self, offset: int, count: int) -> bytes:
        """The ``count`` bytes from ``offset`` on, which must be in the last blocks or after them."""
        while self._position < offset + count and self.read(count):
            pass
        held = b"".join(self._blocks)
        first = offset - (self._position - len(held))
        return held[first : first + count] if first >= 0 else b""
