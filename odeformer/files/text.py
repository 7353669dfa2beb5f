"""Texts as they are on the disk."""

from __future__ import annotations

from pathlib import Path


def read_exactly(file: Path) -> str:
    """The text of a UTF-8 file with the line ends that it has, as data is built from it.

    Raises:
        ValueError: if it is not UTF-8, naming the first byte that is not.
    """
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}): convert it to UTF-8") from None
