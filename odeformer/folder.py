"""A folder as one thing: written whole or not at all, and known by its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, hidden ones aside: its identity."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


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
            _flush(path)
        if folder.exists():
            folder.rename(aside)
        beside.rename(folder)
        _flush(folder.parent)
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        for left_over in (beside, aside):
            shutil.rmtree(left_over, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
