"""Read text files as documents, and say which documents are held out."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

SUFFIXES = (".txt", ".md", ".rst", ".py")
LONG_FILE = 64 * 1024  # bytes; a longer file is cut into pieces
PIECE = 16 * 1024  # bytes, the largest piece that is cut off a long file
BLOCK = 1024 * 1024  # bytes that are read at a time


class Readable(Protocol):
    """What gives bytes: at most so many, and none at the end."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""


@dataclass(frozen=True)
class Document:
    """One text, and the file that it came from."""

    source: str
    text: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the UTF-8 text, in hexadecimal: the document's identity on every machine."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


def read_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """Yield the documents of text files and folders (recursive, sorted), each distinct text once.

    Long files come as several documents (see `cut`). Raises FileNotFoundError for a missing path;
    ValueError for a file that is not UTF-8 text, an empty single file or a folder without text.
    """
    seen: set[str] = set()
    for path in paths:
        for file in list_files(path):
            empty = True
            with file.open("rb") as stream:
                for piece in cut(stream, str(file)):
                    document = Document(source=str(file), text=piece)
                    if is_blank(piece):
                        continue
                    empty = False
                    if document.digest not in seen:
                        seen.add(document.digest)
                        yield document
            if empty and file == path:
                raise ValueError(f"{path} is empty: give a file with text in it")


def list_files(path: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the file itself, or a folder's files with these suffixes, sorted by path.

    Links to folders are not followed, so that a loop of links cannot trap the walk.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a text file or a folder of them")
    if not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder: give a text file or a folder")
    found = [
        file
        for folder, _, names in os.walk(path, followlinks=False)
        for file in (Path(folder, name) for name in names if name.endswith(tuple(suffixes)))
        if file.is_file()
    ]
    if not found:
        raise ValueError(f"no {' '.join(suffixes)} files under {path}: give a folder with text")
    return sorted(found)


def cut(stream: Readable, name: str) -> Iterator[str]:
    """Yield a long text in pieces of about 16 KiB; joined, they are the text again, exactly.

    A text of at most 64 KiB stays whole, and never more than about 1 MiB is held. Without this, a
    corpus of one file (a novel) would be one document and could have no held-out part. Raises
    ValueError for bytes that are not UTF-8 text; `name` says whose they are.
    """
    data = _read_up_to(stream, LONG_FILE + 1)
    if len(data) <= LONG_FILE:
        yield _decode(data, name, 0)
        return
    done = start = 0  # bytes that were dropped from the front of data; where the next piece begins
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
    """Return UTF-8 text in pieces of at most `size` bytes, cut where a long file would be cut."""
    pieces = []
    start = 0
    while len(text) - start > size:
        end = _cut_point(text, start + size // 2, start + size)
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return pieces


def is_blank(text: str) -> bool:
    """Say whether there is nothing but white space, or nothing at all."""
    return not text or text.isspace()


def is_held_out(document: Document, fraction: float) -> bool:
    """Say whether a document belongs to the validation split.

    A pure function of the document's text: neither the order of documents nor the machine nor the
    rest of the corpus matters, so anybody can tell which documents were held out.
    """
    return digest_is_held_out(bytes.fromhex(document.digest), fraction)


def digest_is_held_out(digest: bytes, fraction: float) -> bool:
    """Say the same from the SHA-256 of the document's UTF-8 text."""
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _read_up_to(stream: Readable, size: int) -> bytes:
    """Read until there are `size` bytes or no more: one call may give fewer."""
    data = b""
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


def _cut_point(data: bytes, low: int, high: int) -> int:
    """Return where to cut in (low, high]: after a blank line, a newline or else a character."""
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
    """Decode bytes as they are: no translation of line ends, no guess at an encoding."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 text (byte {offset + error.start}): convert it to UTF-8 or leave it out"
        ) from None
    if "\0" in text:
        raise ValueError(f"{name} has a NUL byte, so it is not text: leave it out")
    return text
