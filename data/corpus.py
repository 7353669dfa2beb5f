"""Reading text files as documents, and the choice of held-out documents."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

SUFFIXES = (".txt", ".md", ".rst", ".py")
"""Suffixes of text files."""
LONG_FILE = 64 * 1024
"""Bytes above which a file is cut into pieces."""
PIECE = 16 * 1024
"""Maximum bytes of a piece of a long file."""
BLOCK = 1024 * 1024
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class Document:
    """A text and the file that it comes from."""

    source: str
    text: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the UTF-8 text, in hexadecimal, which identifies the document."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


def read_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """Yield the documents of text files and folders (recursive, sorted), each distinct text once.

    Long files are several documents (see :func:`cut`).

    Raises:
        FileNotFoundError: for a missing path.
        ValueError: for a file that is not UTF-8 text, an empty file, or a folder without text.
    """
    seen: set[str] = set()
    for path in paths:
        for file in list_files(path):
            is_empty = True
            with file.open("rb") as stream:
                for piece in cut(stream, str(file)):
                    document = Document(source=str(file), text=piece)
                    if is_blank(piece):
                        continue
                    is_empty = False
                    if document.digest not in seen:
                        seen.add(document.digest)
                        yield document
            if is_empty and file == path:
                raise ValueError(f"{path} is empty: give a file with text in it")


def list_files(path: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The file itself, or a folder's files with these suffixes in any case, sorted by path.

    Hidden files and folders are passed over. A folder that is linked to is read too, each one once, so that a
    cycle of links cannot trap the walk. Files with other suffixes are counted in one line of the log.

    Raises:
        FileNotFoundError, ValueError: for a missing path, or a folder without such files.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a text file or a folder of them")
    if not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder: give a text file or a folder")
    there = list(all_files(path))
    files = sorted(file for file in there if file.name.lower().endswith(tuple(suffixes)) and file.is_file())
    if not files:
        raise ValueError(f"no {' '.join(suffixes)} files under {path}: give a folder with text")
    chosen = set(files)
    others = Counter(file.suffix.lower() or "no suffix" for file in there if file not in chosen)
    if others:
        most = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))
        kinds = ", ".join(f"{number} × {suffix}" for suffix, number in most[:5])
        _say_once(f"{path}: files that are not read: {kinds}{', …' * (len(others) > 5)}")
    return files


def is_hidden(name: str) -> bool:
    """Whether a path below a source is hidden or a cache, such as what macOS, notebooks and Python leave."""
    parts = name.split("/")
    return any((part.startswith(".") and part not in (".", "..")) or part == "__pycache__" for part in parts)


def all_files(root: Path) -> Iterator[Path]:
    """Yield all files below a folder but hidden ones, in a fixed order."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = Path(folder).stat()
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(folder, name) for name in names if not is_hidden(name))


@cache
def _say_once(line: str) -> None:
    logger.warning(line)


def cut(stream: BinaryIO, name: str) -> Iterator[str]:
    """Cut a text of more than 64 KiB into pieces of about 16 KiB, which joined give exactly the text.

    Otherwise a corpus of one file, such as a novel, would be a single document and could have no held-out
    part. At most about 1 MiB is held in memory.

    Args:
        stream: the text in UTF-8.
        name: the name of the text, for error messages.

    Raises:
        ValueError: for bytes that are not UTF-8 text.
    """
    data = _read_up_to(stream, LONG_FILE + 1)
    if len(data) <= LONG_FILE:
        yield _decode(data, name, 0)
        return

    done = 0  # bytes dropped from the front of data
    start = 0  # start of the next piece in data
    while True:
        more = stream.read(BLOCK)
        while len(data) - start > PIECE:
            end = _cut_point(data, start + PIECE // 2, start + PIECE)
            yield _decode(data[start:end], name, done + start)
            start = end
        if not more:
            break
        done, start, data = done + start, 0, data[start:] + more
    yield _decode(data[start:], name, done + start)


def cut_text(text: bytes, size: int) -> list[bytes]:
    """UTF-8 text in pieces of at most ``size`` bytes, cut like a long file."""
    pieces = []
    start = 0
    while len(text) - start > size:
        end = _cut_point(text, start + size // 2, start + size)
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return pieces


def is_blank(text: str) -> bool:
    """Whether a text is empty or nothing but white space."""
    return not text or text.isspace()


def is_held_out(document: Document, fraction: float) -> bool:
    """Whether a document belongs to the validation split.

    It depends on the document's text alone, not on the rest of the corpus or the machine, so anybody can tell
    which documents were held out.
    """
    return digest_is_held_out(bytes.fromhex(document.digest), fraction)


def digest_is_held_out(digest: bytes, fraction: float) -> bool:
    """Whether the document whose UTF-8 text has this SHA-256 belongs to the validation split."""
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _read_up_to(stream: BinaryIO, size: int) -> bytes:
    """The next ``size`` bytes, or all that are left; a single call may return fewer."""
    data = b""
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


def _cut_point(data: bytes, low: int, high: int) -> int:
    """The place to cut in (low, high]: after a blank line, else after a newline, else after a character."""
    blank = max(data.rfind(b"\n\n", low, high) + 2, data.rfind(b"\n\r\n", low, high) + 3)
    if blank > low:
        return blank
    newline = data.rfind(b"\n", low, high) + 1
    if newline > low:
        return newline
    for end in range(high, high - 4, -1):  # never inside a character, which has at most four bytes
        if data[end] & 0b1100_0000 != 0b1000_0000:
            return end
    return high  # not UTF-8: decoding will say so


def _decode(data: bytes, name: str, offset: int) -> str:
    """The bytes as UTF-8 text, without translation of line ends."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 text (byte {offset + error.start}): convert it to UTF-8 or leave it out"
        ) from None
    if "\0" in text:
        raise ValueError(f"{name} has a NUL byte, so it is not text: leave it out")
    return text
