"""Checks of input and output paths, made before any work is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CHECKPOINT_EXPECTED = "a checkpoint folder is expected"
TRANSFORMERS_EXPECTED = "a checkpoint folder of transformers is expected"


def check_is_there(file: Path, instead: str) -> None:
    """Refuse a missing file.

    Raises:
        FileNotFoundError: naming the file, and what should have been given instead.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {instead}")


def check_output(folder: Path, sources: Iterable[Path], overwrite: bool) -> None:
    """Refuse an output folder where writing would destroy something.

    Raises:
        ValueError: for a file, one of the ``sources`` that are read, or a non-empty folder without
        ``overwrite``.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give another --out")
    if any(folder.resolve() == source.resolve() for source in sources):
        raise ValueError(f"{folder} is the folder to read from: give another --out")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} is there already: give another --out, or --overwrite to replace it")


def check_output_file(file: Path, sources: Iterable[Path], overwrite: bool) -> None:
    """Refuse an output file where writing would destroy something.

    Raises:
        ValueError: for a folder, a file in one of the ``sources`` that are read, or an existing file without
            ``overwrite``.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give --out a file's name")
    if any(file.resolve().parent == source.resolve() for source in sources):
        raise ValueError(f"{file.parent} is the folder to read from: give another --out")
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: give another --out, or --overwrite to replace it")
