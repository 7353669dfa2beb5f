"""Read text files as documents, and say which documents are held out."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data.manifest import Source

SUFFIXES = (".txt", ".md", ".rst", ".py")
LONG_FILE = 64 * 1024  # bytes; a longer file is cut into pieces
PIECE = 16 * 1024  # bytes, the largest piece that is cut off a long file


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
    """Yield the documents of files and folders (recursive, sorted), each distinct text once.

    Long files come as several documents (see `cut`). Raises FileNotFoundError for a missing path;
    ValueError for a file that is not UTF-8 text, an empty single file or a folder without text.
    """
    seen: set[str] = set()
    for path in paths:
        for file in list_files(path):
            text = _read_text(file)
            if not text.strip():
                if file == path:
                    raise ValueError(f"{path} is empty: give a file with text in it")
                continue
            for piece in cut(text):
                document = Document(source=str(file), text=piece)
                if document.digest not in seen:
                    seen.add(document.digest)
                    yield document


def describe_source(path: Path) -> Source:
    """Return the size and digest of a file or of a folder's text files, to be recorded."""
    files = list_files(path)
    size = 0
    lines = []
    for file in files:
        data = file.read_bytes()
        size += len(data)
        lines.append((hashlib.sha256(data).hexdigest(), file))
    if path.is_file():
        digest = lines[0][0]
    else:
        listing = "".join(f"{sha}  {file.relative_to(path).as_posix()}\n" for sha, file in lines)
        digest = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
    return Source(path=path.resolve().name, bytes=size, sha256=digest)


def list_files(path: Path) -> list[Path]:
    """Return the file itself, or a folder's text files, sorted by path.

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
        for file in (Path(folder, name) for name in names)
        if file.suffix in SUFFIXES and file.is_file()
    ]
    if not found:
        raise ValueError(f"no {' '.join(SUFFIXES)} files under {path}: give a folder with text")
    return sorted(found)


def cut(text: str) -> list[str]:
    """Cut a long text into pieces of about 16 KiB; joined, they are the text again, exactly.

    A text of at most 64 KiB stays whole. Without this, a corpus of one file (a novel) would be
    one document and could have no held-out part.
    """
    data = text.encode("utf-8")
    if len(data) <= LONG_FILE:
        return [text]
    pieces = []
    start = 0
    while len(data) - start > PIECE:
        end = _cut_point(data, start + PIECE // 2, start + PIECE)
        pieces.append(data[start:end].decode("utf-8"))
        start = end
    pieces.append(data[start:].decode("utf-8"))
    return pieces


def is_held_out(document: Document, fraction: float) -> bool:
    """Say whether a document belongs to the validation split.

    A pure function of the document's text: neither the order of documents nor the machine nor the
    rest of the corpus matters, so anybody can tell which documents were held out.
    """
    return int(document.digest[:16], 16) < fraction * 2**64


def _cut_point(data: bytes, low: int, high: int) -> int:
    """Return where to cut in (low, high]: after a blank line, a newline or else a character."""
    blank = max(data.rfind(b"\n\n", low, high) + 2, data.rfind(b"\n\r\n", low, high) + 3)
    if blank > low:
        return blank
    newline = data.rfind(b"\n", low, high) + 1
    if newline > low:
        return newline
    while data[high] & 0b1100_0000 == 0b1000_0000:  # never inside a character's bytes
        high -= 1
    return high


def _read_text(file: Path) -> str:
    """Decode a file as it is: no translation of line ends, no guess at an encoding."""
    data = file.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 text (byte {error.start}): convert it to UTF-8 or leave it out"
        ) from None
    if "\0" in text:
        raise ValueError(f"{file} has a NUL byte, so it is not text: leave it out")
    return text
