"""Files that may be compressed."""

from __future__ import annotations

import io
from pathlib import Path

COMPRESSIONS: dict[str, str] = {".gz": "gzip", ".zst": "zstd"}
"""The compressions that are read, by suffix."""
BLOCK = 1024 * 1024
"""Bytes that are decompressed at a time."""


def compression_of(name: str) -> str | None:
    """The compression of a file (``gzip``, ``zstd`` or None), from its suffix."""
    return COMPRESSIONS.get(Path(name).suffix.lower())


def opened(path: str, compression: str | None) -> io.BufferedReader:
    """Open a file, with decompression. A damaged file raises OSError when it is read."""
    if compression is None:
        return Path(path).open("rb")
    import pyarrow as pa

    # Unlike the reader of zstandard, this one detects a truncated zstd file.
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(path), compression), BLOCK)
