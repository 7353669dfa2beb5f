"""A machine's cache of downloaded versions, shared by all its processes.

Weights are memory-mapped, so jobs of one base share them in memory as well.
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
from odeformer.files.user import home

UNUSED_SECONDS = 30 * 86400
"""Time after which an unused copy is removed, when the next one is downloaded."""


def place() -> Path:
    """The cache folder: ``versions`` in ``$ODEFORMER_CACHE``, or in ``~/.cache/odeformer``."""
    return Path(os.environ.get("ODEFORMER_CACHE") or home() / ".cache" / "odeformer") / "versions"


def shared_copy(digest: str, download: Callable[[Path], None], check: Callable[[Path], None]) -> Path:
    """The cached folder of the files with a digest, downloaded once even if several processes ask.

    Args:
        digest: the digest, as :func:`~odeformer.files.digest.folder_digest` computes it.
        download: writes the files into an empty folder.
        check: raises ``ValueError`` for a folder with other files, which are then downloaded again.

    Raises:
        ValueError: for a malformed digest (it comes from a tag and becomes a folder's name), or by ``check``
            for files that have just been downloaded.
        OSError: when the cache cannot be written.
    """
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"its digest {digest!r} is malformed")
    copies = place()
    copies.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = copies / digest
    with locked(copies / f".{digest}.lock"):
        if not _is_valid(folder, check):
            _remove_unused(copies)
            with new_folder(folder) as empty:
                download(empty)
            check(folder)
        os.utime(folder)
    return folder


def _is_valid(folder: Path, check: Callable[[Path], None]) -> bool:
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
