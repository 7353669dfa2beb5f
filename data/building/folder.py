"""A folder of shards appears whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.manifest import FILE_NAME


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse, with ValueError, to touch a folder that somebody may need."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out} exists: choose another folder, or overwrite it explicitly")
    if not (out / FILE_NAME).is_file():
        raise ValueError(f"{out} exists and is not a data folder (no manifest): choose another")


@contextmanager
def folder_that_appears_whole(out: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside `out` to write in; rename it to `out` at the end, or leave nothing."""
    incomplete = out.with_name(f".{out.name}.incomplete")
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir(parents=True)
    try:
        yield incomplete
        _fsync(incomplete)
        check_free(out, overwrite)  # somebody may have written it meanwhile
        if out.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            out.rename(replaced)
        incomplete.rename(out)
        _fsync(out.parent)
    except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, down to the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
