"""Texts from WebDataset tar files. Nothing in them is ever unpickled."""

from __future__ import annotations

import tarfile
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO, NamedTuple

from data.building.records import object_of_line, shown, text_of
from data.corpus import is_hidden
from odeformer.files.errors import reason

PICKLED = ("pyd", "pickle", "pkl", "pth", "pt")
"""Suffixes of pickled files."""
LONGEST_MEMBER = 256 * 1024 * 1024
"""Maximum bytes of the texts of a sample, which are held in memory."""
LONGEST_HEADER = 1024 * 1024
"""Maximum bytes of the headers before a file, such as those with a long name."""


def tar_texts(stream: BinaryIO, name: str, field: str) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each text: the .txt files of a sample, else a field of its .json files.

    As in WebDataset, a sample is adjacent files with the same name up to the first dot; those with other
    suffixes tell more about it.

    Args:
        stream: the archive.
        name: its name, for error messages.
        field: the field with the text.

    Raises:
        ValueError: for a damaged archive, a sample without text, or a pickled file.
    """
    try:
        for _, sample in groupby(_members(_Watched(stream, name), name), key=lambda member: member.key):
            yield from _texts(list(sample), name, field)
    except (tarfile.TarError, RecursionError) as error:
        raise ValueError(
            f"{name} is a broken tar file ({reason(error)}): fetch it again or leave it out"
        ) from None


class _Member(NamedTuple):
    """A file of an archive, whose content is read if it may be text."""

    path: str
    data: bytes | None

    @property
    def key(self) -> str:
        folder, slash, file = self.path.rpartition("/")
        return folder + slash + file.partition(".")[0]


def _texts(sample: list[_Member], name: str, field: str) -> Iterator[tuple[str, str]]:
    """Yield the texts of a sample."""
    plain = [member for member in sample if member.path.lower().endswith(".txt")]
    rows = [member for member in sample if member.path.lower().endswith(".json")]
    for path, data in plain:
        try:
            yield path, (data or b"").decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{name}: {shown([path])} is not UTF-8 text: convert it to UTF-8") from None
    if plain:
        return
    if not rows:
        suffixes = shown(member.path.removeprefix(member.key) or "no suffix" for member in sample)
        raise ValueError(
            f"{name}: sample {shown([sample[0].key])} has no .txt or .json, only {suffixes}: leave it out"
        )
    for path, data in rows:
        try:
            row = object_of_line(data or b"")
            if field in row or len(rows) == 1:
                yield path, text_of(row, field)
        except ValueError as error:
            raise ValueError(f"{name}: {shown([path])} {error}") from None


def _members(stream: _Watched, name: str) -> Iterator[_Member]:
    """Yield the files of an archive but hidden ones, and check the end mark.

    Without this check, an archive that is truncated between two files, or has a damaged header, would
    silently appear to be a shorter one.
    """
    end = held = 0
    key = ""
    with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            stream.header_from = end
            tar.members.clear()  # otherwise it would keep the names of all files
            if not member.isfile() or is_hidden(member.name):
                continue
            suffix = member.name.rpartition(".")[2].lower()
            if suffix in PICKLED:
                raise ValueError(
                    f"{name}: {shown([member.name])} is pickled, which is never read: leave it out"
                )
            found = _Member(member.name, None)
            if suffix in ("txt", "json"):
                held = member.size + (held if found.key == key else 0)
                key = found.key
                if held > LONGEST_MEMBER or member.issparse():
                    raise ValueError(
                        f"{name}: {shown([member.name])} has {member.size} bytes: cut it into several"
                    )
                content = tar.extractfile(member)
                found = _Member(member.name, content.read() if content else b"")
            yield found
        if stream.bytes_from(end, 2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {end}")


class _Watched:
    """A stream that keeps its last blocks, since tarfile reads past the end of the archive."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        self.header_from = 0
        """The end of the last file; what follows is a header, which tarfile holds in memory."""
        self._blocks: deque[bytes] = deque(maxlen=4)
        self._position = 0

    def read(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            ValueError: for an implausibly long header.
        """
        if self._position > self.header_from + LONGEST_HEADER:
            raise ValueError(
                f"{self._name} has a header of more than {LONGEST_HEADER} bytes at byte {self.header_from}: "
                "leave it out"
            )
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
