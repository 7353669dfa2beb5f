"""A folder, or a file, as one thing: written whole or not at all; and a folder's digest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

CHECKPOINT_EXPECTED = "a checkpoint folder is expected"
TRANSFORMERS_EXPECTED = "a checkpoint folder of transformers is expected"


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, hidden ones aside: its identity."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write beside, make durable, then rename: a reader sees the whole folder or none."""
    beside, aside = (folder.with_name(f".{folder.name}.{state}") for state in ("incomplete", "replaced"))
    if aside.exists() and not folder.exists():  # killed between the two renames below
        aside.rename(folder)
    for left_over in (beside, aside):
        shutil.rmtree(left_over, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        write(beside)
        for path in (*beside.iterdir(), beside):
            flush(path)
        if folder.exists():
            folder.rename(aside)
        beside.rename(folder)
        flush(folder.parent)
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        for left_over in (beside, aside):
            shutil.rmtree(left_over, ignore_errors=True)


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """As :func:`replace_folder`, of a single file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.incomplete")
    try:
        write(beside)
        flush(beside)
        beside.replace(file)
        flush(file.parent)
    finally:
        beside.unlink(missing_ok=True)


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


def flush(path: Path) -> None:
    """Make a file, or a folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
