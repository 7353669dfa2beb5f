"""Refuse, before any work is done, a file that is missing or a place where something would be lost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CHECKPOINT_EXPECTED = "a checkpoint folder is expected"
TRANSFORMERS_EXPECTED = "a checkpoint folder of transformers is expected"


def check_is_there(file: Path, instead: str) -> None:
    """Refuse a file that is not there.

    Args:
        instead: what should have been given, for the error.

    Raises:
        FileNotFoundError: naming the file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {instead}")


def check_output(folder: Path, sources: Iterable[Path], overwrite: bool) -> None:
    """Refuse a place to write to where something else would be lost.

    Raises:
        ValueError: for what is no folder, one that is read from, or one that is there without ``overwrite``.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give another --out")
    if any(folder.resolve() == source.resolve() for source in sources):
        raise ValueError(f"{folder} is what is read from: give another --out")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} is there already: give another --out, or --overwrite to replace it")


def check_output_file(file: Path, sources: Iterable[Path], overwrite: bool) -> None:
    """As :func:`check_output`, of a single file.

    Raises:
        ValueError: for a folder, a file in a folder that is read from, or one that is there without
            ``overwrite``.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give --out a file's name")
    if any(file.resolve().parent == source.resolve() for source in sources):
        raise ValueError(f"{file.parent} is what is read from: give another --out")
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: give another --out, or --overwrite to replace it")
