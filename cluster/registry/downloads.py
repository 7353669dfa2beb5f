"""Files of versions that came from afar: one copy for each machine, which all its processes read.

Weights are mapped into memory, not read, so jobs of one base share them there, too.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from odeformer.files.atomic import new_folder
from odeformer.files.lock import locked

UNUSED_SECONDS = 30 * 86400
"""A copy that nobody has used for so long goes when the next one comes."""


def place() -> Path:
    """Where the copies are: in the folder ``ODEFORMER_CACHE``, else in ``~/.cache/odeformer``."""
    return Path(os.environ.get("ODEFORMER_CACHE") or Path.home() / ".cache" / "odeformer") / "versions"


def shared_copy(digest: str, download: Callable[[Path], None], check: Callable[[Path], None]) -> Path:
    """The folder of the files that have ``digest``: downloaded unless they are here, once however many ask.

    Args:
        digest: as :func:`~odeformer.files.digest.folder_digest` makes it.
        download: writes the files into an empty folder.
        check: raises ``ValueError`` for a folder with other files, which are then downloaded again.

    Raises:
        ValueError: for what is no digest: it comes from a tag, and becomes a folder's name. And what
            ``check`` raises of files that have just been downloaded.
        OSError: where nothing can be written.
    """
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"its digest is {digest!r}, which is none")
    copies = place()
    copies.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = copies / digest
    with locked(copies / f".{digest}.lock"):
        if not _is_there(folder, check):
            _remove_unused(copies)
            with new_folder(folder) as empty:
                download(empty)
            check(folder)
        os.utime(folder)
    return folder


def _is_there(folder: Path, check: Callable[[Path], None]) -> bool:
    if not folder.is_dir():
        return False
    try:
        check(folder)
    except ValueError:
        return False
    return True


def _remove_unused(copies: Path) -> None:
    for folder in copies.iterdir():
        with suppress(OSError):  # another process was faster
            if folder.is_dir() and time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(folder)
