"""Texts out of WebDataset tars. Nothing in them is ever unpickled."""

import os
import tarfile
from collections import deque
from collections.abc import Iterator
from typing import Any

from data.building.records import text_of_line
from data.corpus import Readable

os.environ.setdefault("WDS_SECURE", "1")  # before webdataset: no commands, no pickle

PICKLED = ("pyd", "pickle", "pkl", "pth", "pt")
LONGEST_MEMBER = 256 * 1024 * 1024  # bytes; a member has to be held whole


def tar_texts(stream: Readable, name: str, field: str) -> Iterator[tuple[str, str]]:
    """Yield each sample's key and text: that of its .txt, or the field of its .json.

    `name` says whose bytes they are. Raises ValueError for a broken archive, a sample without text and
    anything pickled.
    """
    from webdataset.tariterators import group_by_keys  # it brings torch, which other sources do not need

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
                found = ", ".join(f".{part}" for part in sample if not part.startswith("__"))
                raise ValueError(f"{name}: sample {key} has no .txt or .json, only {found}: leave it out")
    except tarfile.TarError as error:
        raise ValueError(f"{name} is a broken tar file ({error}): fetch it again or leave it out") from None


def _members(stream: "_Watched", name: str) -> Iterator[dict[str, Any]]:
    """Yield the files of an archive as webdataset groups them, and insist on its end mark.

    Without that, an archive that was cut between two files, or whose next header is damaged, would
    silently be a shorter one.
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
            tar.members.clear()  # it would keep every name it has seen
        if stream.bytes_from(end, 2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {end}")


class _Watched:
    """A stream that remembers its last blocks: tarfile has read past the end before it notices."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._blocks: deque[bytes] = deque(maxlen=4)
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        block = self._stream.read(size)
        self._blocks.append(block)
        self._position += len(block)
        return block

    def bytes_from(self, offset: int, count: int) -> bytes:
        """Return so many bytes from an offset in what was read last, or from there on."""
        while self._position < offset + count and self.read(count):
            pass
        held = b"".join(self._blocks)
        first = offset - (self._position - len(held))
        return held[first : first + count] if first >= 0 else b""
